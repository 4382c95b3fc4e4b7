"""Memory limits of control groups, v1 and v2, in a container and outside."""

from __future__ import annotations

from pathlib import Path

import pytest

from monolith_py.observe.memory import find_cgroup, resident_bytes

V1_NONE = str((1 << 63) - 4096)


def make(root: Path, cgroup: str, files: dict[str, str]) -> None:
    for name, text in {"proc/self/cgroup": cgroup, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")


def test_the_least_limit_of_v2_above_the_process_counts_without_dropped_cache(tmp_path: Path) -> None:
    at = "sys/fs/cgroup/kube/pod"
    files = {f"{at}/memory.max": "9000", f"{at}/app/memory.max": "max", "sys/fs/cgroup/kube/memory.max": "20000"}
    make(tmp_path, "0::/kube/pod/app", {**files, f"{at}/memory.current": "5000", f"{at}/memory.stat": "anon 1\ninactive_file 1500"})
    found = find_cgroup(tmp_path)
    assert found is not None and (found.limit_bytes, found.used_bytes()) == (9000, 3500)


def test_a_container_sees_its_own_group_at_the_root(tmp_path: Path) -> None:
    at = "sys/fs/cgroup"
    make(tmp_path, "0::/", {f"{at}/memory.max": "700", f"{at}/memory.current": "90", f"{at}/memory.stat": "inactive_file 40"})
    found = find_cgroup(tmp_path)
    assert found is not None and (found.limit_bytes, found.used_bytes()) == (700, 50)


def test_a_group_of_v1_is_found_by_its_controller(tmp_path: Path) -> None:
    at = "sys/fs/cgroup/memory"
    files = {
        f"{at}/memory.limit_in_bytes": "800",
        f"{at}/memory.usage_in_bytes": "600",
        f"{at}/memory.stat": "total_inactive_file 100",
    }
    make(tmp_path, "4:memory:/docker/abc\n3:cpuset:/\n0::/", files)  # the path is that of the host
    found = find_cgroup(tmp_path)
    assert found is not None and (found.limit_bytes, found.used_bytes()) == (800, 500)


@pytest.mark.parametrize(
    ("cgroup", "files"),
    [
        ("0::/", {"sys/fs/cgroup/memory.max": "max"}),
        ("4:memory:/", {"sys/fs/cgroup/memory/memory.limit_in_bytes": V1_NONE}),
        ("0::/gone", {}),
    ],
)
def test_no_limit_is_none(cgroup: str, files: dict[str, str], tmp_path: Path) -> None:
    make(tmp_path, cgroup, files)
    assert find_cgroup(tmp_path) is None


def test_a_system_without_groups_has_no_limit(tmp_path: Path) -> None:
    assert find_cgroup(tmp_path) is None
    assert resident_bytes() > 1 << 20
