"""Row ids are reclaimed only once no reader can hold them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from monolith_serving.replica.reclaim import EpochReclaimer


def test_a_reader_that_began_after_the_retirement_holds_nothing_back():
    reclaimer = EpochReclaimer()
    reclaimer.retire(np.array([1, 2]))
    with reclaimer.reading():
        assert reclaimer.reclaim().tolist() == [1, 2]


def test_the_oldest_reader_holds_back_all_that_was_retired_since_it_began():
    reclaimer = EpochReclaimer()
    reclaimer.retire(np.array([1]))
    old = reclaimer.reading()
    old.__enter__()
    reclaimer.retire(np.array([2]))
    with reclaimer.reading():
        reclaimer.retire(np.array([3]))
        assert reclaimer.reclaim().tolist() == [1]
    assert reclaimer.reclaim().tolist() == []
    old.__exit__(None, None, None)
    assert reclaimer.reclaim().tolist() == [2, 3]


@given(st.lists(st.sampled_from(["enter", "leave", "retire", "reclaim"]), max_size=60))
def test_no_id_is_reclaimed_while_a_reader_that_saw_it_mapped_runs_and_none_is_lost(operations):
    reclaimer, held, next_id, reclaimed = EpochReclaimer(), {}, 0, []
    readers, num_readers = {}, 0  # by number
    for operation in operations:
        if operation == "enter":
            readers[num_readers] = reclaimer.reading()
            readers[num_readers].__enter__()
            num_readers += 1
        elif operation == "leave" and readers:
            readers.pop(min(readers)).__exit__(None, None, None)
        elif operation == "retire":
            held[next_id] = set(readers)
            reclaimer.retire(np.array([next_id]))
            next_id += 1
        elif operation == "reclaim":
            free = reclaimer.reclaim().tolist()
            assert not any(held[one] & set(readers) for one in free)
            reclaimed += free
    for reader in readers.values():
        reader.__exit__(None, None, None)
    assert reclaimed + reclaimer.reclaim().tolist() == list(range(next_id))
