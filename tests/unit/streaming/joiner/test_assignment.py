"""The assignment of partitions is balanced, sticky, and the same for every member that computes it."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from monolith_streaming.joiner.assignment import assign

NAMES = [f"m{number}" for number in range(8)]
Owners = dict[int, str]


@st.composite
def cases(draw: st.DrawFn) -> tuple[set[str], int, Owners]:
    """Return members, a number of partitions, and owners, some of whom are dead or own partitions of a topic that is gone."""
    members = draw(st.sets(st.sampled_from(NAMES), min_size=1))
    num_partitions = draw(st.integers(1, 40))
    owners = draw(st.dictionaries(st.integers(0, num_partitions + 2), st.sampled_from(NAMES)))
    return members, num_partitions, owners


@given(cases())
def test_each_partition_has_one_owner_and_sizes_differ_by_at_most_one(case: tuple[set[str], int, Owners]) -> None:
    members, num_partitions, owners = case
    assigned = assign(members, num_partitions, owners)
    assert list(assigned) == list(range(num_partitions))
    sizes = Counter(dict.fromkeys(members, 0))
    sizes.update(assigned.values())
    assert set(sizes) == members
    assert max(sizes.values()) - min(sizes.values()) <= 1


@given(cases(), st.integers())
def test_the_order_of_the_members_makes_no_difference(case: tuple[set[str], int, Owners], seed: int) -> None:
    members, num_partitions, owners = case
    shuffled = sorted(members)
    random.Random(seed).shuffle(shuffled)
    assert assign(shuffled, num_partitions, owners) == assign(members, num_partitions, owners)


@given(cases())
def test_an_assignment_that_is_carried_out_stays(case: tuple[set[str], int, Owners]) -> None:
    members, num_partitions, owners = case
    assigned = assign(members, num_partitions, owners)
    assert assign(members, num_partitions, assigned) == assigned


@given(cases(), st.sampled_from(NAMES))
def test_a_member_that_comes_or_goes_moves_only_its_own_partitions(case: tuple[set[str], int, Owners], name: str) -> None:
    members, num_partitions, owners = case
    others = members - {name}
    if not others:
        return
    without = assign(others, num_partitions, owners)
    joined = assign(others | {name}, num_partitions, without)
    assert all(joined[number] in (owner, name) for number, owner in without.items())
    left = assign(others, num_partitions, joined)
    assert all(left[number] == owner for number, owner in joined.items() if owner != name)


def test_partitions_that_are_added_move_no_other_one() -> None:
    before = assign({"a", "b"}, 4, {})
    after = assign({"a", "b"}, 6, before)
    assert {number: after[number] for number in before} == before


def test_no_member_has_no_assignment() -> None:
    assert assign([], 4, {0: "gone"}) == {}
