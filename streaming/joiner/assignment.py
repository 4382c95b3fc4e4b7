"""Assignment of partitions to the members of a group: balanced, with few moves, and the same wherever it is computed."""

from __future__ import annotations

from collections.abc import Collection, Mapping


def assign(members: Collection[str], num_partitions: int, owners: Mapping[int, str]) -> dict[int, str]:
    """Return the member of each partition; `owners` has those that own one now.

    Each member gets as many partitions as any other one, or one more. A member keeps what it owns up to its number, and the partitions
    that are left over go to the members that own most, so a member that comes or goes moves only the partitions that it gets or leaves.

    >>> assign({"a", "b"}, 3, {0: "a", 1: "a", 2: "a"})
    {0: 'a', 1: 'a', 2: 'b'}
    """
    if not members:
        return {}
    owned: dict[str, list[int]] = {member: [] for member in sorted(members)}
    for partition in range(num_partitions):
        if owners.get(partition) in owned:
            owned[owners[partition]].append(partition)
    least, num_larger = divmod(num_partitions, len(owned))
    by_size = sorted(owned, key=lambda member: (-len(owned[member]), member))
    sizes = {member: least + (rank < num_larger) for rank, member in enumerate(by_size)}
    assigned = {partition: member for member, partitions in owned.items() for partition in partitions[: sizes[member]]}
    free = (partition for partition in range(num_partitions) if partition not in assigned)
    lacking = [member for member in owned for _ in range(sizes[member] - len(owned[member]))]
    assigned.update(zip(list(free), lacking, strict=True))
    return dict(sorted(assigned.items()))
