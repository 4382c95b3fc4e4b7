"""Row ids rest until no reader can hold them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from monolith_serving.replica.reclaim import Grace


def test_a_reader_that_began_after_the_retirement_holds_nothing_back():
    grace = Grace()
    grace.retire(np.array([1, 2]))
    with grace.reading():
        assert grace.reclaim().tolist() == [1, 2]


def test_the_oldest_reader_holds_back_all_that_was_retired_since_it_began():
    grace = Grace()
    grace.retire(np.array([1]))
    old = grace.reading()
    old.__enter__()
    grace.retire(np.array([2]))
    with grace.reading():
        grace.retire(np.array([3]))
        assert grace.reclaim().tolist() == [1]
    assert grace.reclaim().tolist() == []
    old.__exit__(None, None, None)
    assert grace.reclaim().tolist() == [2, 3]


@given(st.lists(st.sampled_from(["enter", "leave", "retire", "reclaim"]), max_size=60))
def test_no_id_is_reclaimed_while_a_reader_that_saw_it_mapped_runs_and_none_is_lost(operations):
    grace, held, next_id, reclaimed = Grace(), {}, 0, []
    readers, num_readers = {}, 0  # by number
    for operation in operations:
        if operation == "enter":
            readers[num_readers] = grace.reading()
            readers[num_readers].__enter__()
            num_readers += 1
        elif operation == "leave" and readers:
            readers.pop(min(readers)).__exit__(None, None, None)
        elif operation == "retire":
            held[next_id] = set(readers)
            grace.retire(np.array([next_id]))
            next_id += 1
        elif operation == "reclaim":
            free = grace.reclaim().tolist()
            assert not any(held[one] & set(readers) for one in free)
            reclaimed += free
    for reader in readers.values():
        reader.__exit__(None, None, None)
    assert reclaimed + grace.reclaim().tolist() == list(range(next_id))
