"""`monolith forget` and `monolith export-rows` refuse by name, and write what a trainer reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from monolith_py.cli import app
from monolith_py.data.ids import fid_from_text
from monolith_py.io import Log
from monolith_py.io.codec import decode_forget_request

TOML = """
name = "shop"
log = {{ url = "sqlite:///{folder}/log", topic_prefix = "shop.", model_prefix = "wide." }}
kv = {{ url = "memory:" }}
serving = {{ arm = "wide" }}
features = [{{ name = "user", source = "user_id" }}]
tasks = [{{ name = "is_click", action = "click" }}]
trainer = {{ checkpoint_dir = "{folder}/checkpoints" }}
"""


@pytest.fixture
def job(tmp_path: Path) -> str:
    path = tmp_path / "job.toml"
    path.write_text(TOML.format(folder=tmp_path))
    return str(path)


def test_ids_of_all_kinds_are_one_request_to_all_models_of_the_log(job: str, tmp_path: Path, make_log: Callable[..., Log]) -> None:
    (tmp_path / "ids").write_text("5\n-3\n5\n")
    ids = ["--fid", "7", "--fid", "-3", "--value", "alice", "--fids-from", str(tmp_path / "ids")]
    done = CliRunner().invoke(app, ["forget", "--config", job, "--feature", "user", *ids, "--until", "1700000000000"])
    assert (done.exit_code, done.output) == (0, "4 ids of user will be forgotten: shop.forget_requests up to offset 1\n")
    (record,) = make_log().read("shop.forget_requests", 0, 0, 10)
    request = decode_forget_request(record.value)
    assert (request.feature, set(request.fids)) == ("user", {7, -3, 5, fid_from_text("alice")})
    assert request.time_ms == record.time_ms == 1_700_000_000_000


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (["--feature", "shop", "--fid", "1"], "--feature must be one of ['user'], got 'shop'"),
        (["--feature", "user"], "--fid, --value or --fids-from must name an id, got none"),
        (["--feature", "user", "--fid", str(1 << 63)], f"--fid must be a 64-bit integer, got {1 << 63}"),
        (["--feature", "user", "--value", "\udcff"], r"--value must be UTF-8, got '\udcff'"),
        (["--feature", "user", "--fids-from", "{folder}/ids"], "--fids-from must name a file of text, got"),
        (["--feature", "user", "--fids-from", "{folder}"], "is a directory"),
        (["--feature", "user", "--fid", "1", "--until", "9" * 20], "until must be ISO 8601 or milliseconds since the epoch"),
    ],
)
def test_a_wrong_request_is_refused(options: list[str], rule: str, job: str, tmp_path: Path) -> None:
    (tmp_path / "ids").write_bytes(b"\xff\xfe1")
    done = CliRunner().invoke(app, ["forget", "--config", job, *(one.format(folder=tmp_path) for one in options)], env={"COLUMNS": "300"})
    assert done.exit_code in (1, 2) and rule in " ".join(done.output.split())


def test_an_export_without_a_checkpoint_is_refused(job: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export-rows", "--config", job, "--feature", "user", "--output", str(tmp_path / "rows")])
    assert done.exit_code == 1 and "trainer.checkpoint_dir must hold an intact checkpoint" in done.output
