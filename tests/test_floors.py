"""The house's floors: who may import whom, which third party comes in through which door, what may read the clock."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Folder -> the name under which it is installed.
PACKAGES = {"monolith_py": "monolith_py", "streaming": "monolith_streaming", "serving": "monolith_serving"}
SOURCES = sorted(path for folder in PACKAGES for path in (ROOT / folder).rglob("*.py"))

# Third party, or what is compiled from protos/ -> the files that may import it. Each maps its errors and types to ours.
DOORS = {
    "kafka": ["monolith_py/io/log/kafka*.py"],
    "redis": ["monolith_py/io/kv/redis.py"],
    "sqlite3": ["monolith_py/io/log/sqlite_partition.py", "monolith_py/io/sqlite_file.py"],
    "pyarrow": [
        "monolith_py/io/archive/*.py",
        "monolith_py/io/codec/examples.py",
        "monolith_py/io/codec/joined.py",
        "monolith_py/io/codec/served_columns.py",
        "monolith_py/io/objects/s3.py",
        "monolith_py/table/rows_file.py",
        "streaming/backtest/scores_file.py",
        "streaming/load/table_file.py",
    ],
    "google": ["monolith_py/io/codec/messages.py", "monolith_py/sync/delta.py", "monolith_py/sync/dense/requests.py"],
    "monolith_py.pb": [
        "monolith_py/io/codec/*.py",
        "monolith_py/sync/delta*.py",
        "monolith_py/sync/rows.py",
        "monolith_py/sync/verdicts.py",
        "monolith_py/sync/dense/*.py",
        "serving/client.py",
        "serving/front_calls.py",
        "serving/front_cpp.py",
        "serving/process.py",
        "serving/service.py",
        "serving/ranking/request.py",
    ],
    "crc32c": [
        "monolith_py/sync/delta_checksum.py",
        "monolith_py/sync/digest.py",
        "monolith_py/sync/dense/*.py",
        "monolith_py/training/checkpoint/fingerprint.py",
    ],
    "safetensors": [
        "monolith_py/sync/dense/update.py",
        "monolith_py/table/trained_weights.py",
        "monolith_py/training/checkpoint/layout.py",
    ],
    "rich": [
        "monolith_py/cli/*.py",
        "monolith_py/training/inspection/view.py",
        "streaming/backtest/view.py",
        "streaming/compare/view.py",
        "streaming/trainer/versions_view.py",
        "streaming/dead_letters/view.py",
        "streaming/retention/view.py",
        "serving/probe/view.py",
    ],
    "matplotlib": ["streaming/backtest/plots.py"],
    "prometheus_client": ["monolith_py/observe/metrics.py"],
    "typer": ["monolith_py/cli/*.py"],
    "apache_beam": ["streaming/replay/beam.py"],
    "grpc": [
        "serving/channel.py",
        "serving/client.py",
        "serving/direct_server.py",
        "serving/front.py",
        "serving/front_calls.py",
        "serving/front_cpp.py",
        "serving/interceptors.py",
        "serving/process.py",
        "serving/security.py",
    ],
    "grpc_health": ["serving/front.py", "serving/process.py"],
    "grpc_reflection": ["serving/process.py"],
    "fbgemm_gpu": ["serving/replica/row_store.py"],
}
# What of `streaming` may load torch; all else there joins, and so does `monolith_py.io`.
TRAINS = (
    "monolith_streaming.backtest",
    "monolith_streaming.compare",
    "monolith_streaming.retention",
    "monolith_streaming.trainer.forget_requests",
    "monolith_streaming.trainer.handover",
    "monolith_streaming.trainer.held_updates",
    "monolith_streaming.trainer.learner",
    "monolith_streaming.trainer.loop",
    "monolith_streaming.trainer.process",
    "monolith_streaming.trainer.rows",
    "monolith_streaming.trainer.shared_rows",
    "monolith_streaming.trainer.start",
    "monolith_streaming.trainer.versions",
)


def imports(path: Path) -> Iterator[str]:
    """Yield the full name of every module that the file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_of(path: Path) -> str:
    folder, *parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join((PACKAGES[folder], *parts)).removesuffix(".__init__")


def test_imports_go_down_the_floors() -> None:
    linter = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([str(linter), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_module_has_its_floor() -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    placed = {name.strip(" ()").split(".")[1] for layer in contract["layers"] for name in re.split("[|:]", layer) if "." in name}
    there = {path.stem for path in (ROOT / "monolith_py").iterdir() if path.is_dir() or path.suffix in (".py", ".pyi")}
    # core is C++; pb holds what the build compiles from protos/.
    assert there - {"__init__", "__pycache__", "core", "pb", "py"} == placed


def test_joining_loads_no_torch() -> None:
    joins = [
        name
        for name in map(module_of, SOURCES)
        if name.startswith(("monolith_py.io", "monolith_streaming")) and not name.startswith(TRAINS)
    ]
    assert {"monolith_streaming.joiner.process", "monolith_streaming.joiner.sampling", "monolith_py.io.log"} <= set(joins)
    code = f"import sys, {', '.join(['monolith_py.data.examples', *joins])}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not [name for name in loaded if name.partition(".")[0] in ("torch", "torchrec", "fbgemm_gpu")]


@pytest.mark.parametrize("third_party", DOORS)
def test_a_third_party_comes_in_through_its_door_alone(third_party: str) -> None:
    strangers = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in SOURCES
        if not any(path.relative_to(ROOT).match(door) for door in DOORS[third_party])
        for name in imports(path)
        if name == third_party or name.startswith(f"{third_party}.")
    ]
    assert not strangers


@pytest.mark.parametrize(("third_party", "door"), [(third_party, door) for third_party, doors in DOORS.items() for door in doors])
def test_every_door_is_in_use(third_party: str, door: str) -> None:
    used = {name for path in SOURCES if path.relative_to(ROOT).match(door) for name in imports(path)}
    assert any(name == third_party or name.startswith(f"{third_party}.") for name in used)


def test_compiled_services_are_used_where_grpc_is() -> None:
    users = {path.relative_to(ROOT).as_posix() for path in SOURCES for name in imports(path) if "_pb2_grpc" in name}
    assert users <= {*DOORS["grpc"], "serving/service.py"}


def test_nanobind_comes_in_through_the_bindings_alone() -> None:
    core = sorted(path for path in (ROOT / "monolith_py" / "core").rglob("*") if path.suffix in (".cpp", ".hpp"))
    users = [path.parent.name for path in core if re.search(r"#include\s*<nanobind", path.read_text())]
    assert set(users) == {"bindings"}


def test_the_core_knows_nothing_of_torch() -> None:
    core = (path for path in (ROOT / "monolith_py" / "core").rglob("*") if path.suffix in (".cpp", ".hpp", ".txt"))
    assert not [path.name for path in core if re.search(r"#include\s*<(torch|ATen|c10)|find_package\(Torch", path.read_text())]


def lists_of_names() -> list[Path]:
    return [path for path in SOURCES if re.search(r"^__all__\b", path.read_text(), re.MULTILINE)]


@pytest.mark.parametrize("path", lists_of_names(), ids=module_of)
def test_what_a_package_offers_is_sorted_and_imported(path: Path) -> None:
    tree = ast.parse(path.read_text())
    (offered,) = (
        ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    assert offered == sorted(offered, key=lambda name: (not name.isupper(), not name[0].isupper(), name)), "constants, classes, functions"
    nodes = [*tree.body, *(node for lazy in tree.body if isinstance(lazy, ast.If) for node in lazy.body)]
    names = {alias.asname or alias.name for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom)) for alias in node.names}
    assert set(offered) <= names


@pytest.mark.parametrize("path", [path for path in SOURCES if path.name == "__init__.py"], ids=module_of)
def test_a_package_only_re_exports(path: Path) -> None:
    for node in ast.parse(path.read_text()).body:
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_about_itself = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("__all__", "__version__")
        assert is_docstring or is_about_itself or isinstance(node, ast.ImportFrom) or is_lazy(node), ast.unparse(node)


def is_lazy(node: ast.stmt) -> bool:
    """Return whether a statement exports names at first use: the same ones as for the type checker."""
    if not isinstance(node, ast.If) or ast.unparse(node.test) != "TYPE_CHECKING":
        return False
    (export,) = node.orelse
    assert isinstance(export, ast.Assign) and ast.unparse(export).startswith("__getattr__ = lazy_exports(__name__, "), ast.unparse(export)
    assert isinstance(export.value, ast.Call)
    typed = {alias.name for one in node.body if isinstance(one, ast.ImportFrom) for alias in one.names}
    return typed == set(ast.literal_eval(export.value.args[1]))


def test_only_the_clock_reads_the_wall_clock() -> None:
    reads = re.compile(r"\btime\.time(_ns)?\(|\bdatetime\.(now|today|utcnow)\(")
    readers = [path.relative_to(ROOT).as_posix() for path in SOURCES if reads.search(path.read_text())]
    assert readers == ["monolith_py/clock.py"]


def test_code_is_ascii() -> None:
    core = (ROOT / "monolith_py" / "core").rglob("*.?pp")
    assert not [path.relative_to(ROOT).as_posix() for path in [*SOURCES, *core] if not path.read_bytes().isascii()]


def test_a_long_file_says_why() -> None:
    files = [
        ROOT / name for name in subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    ]
    long = [
        path for path in files if path.suffix in (".py", ".hpp", ".cpp") and path.is_file() and len(path.read_text().splitlines()) > 300
    ]
    assert not [
        path.relative_to(ROOT).as_posix() for path in long if "Longer than 300 lines:" not in "\n".join(path.read_text().splitlines()[:8])
    ]
