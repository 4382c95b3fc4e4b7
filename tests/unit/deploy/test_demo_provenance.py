"""Provenance of a run: date, commit and machine."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from monolith_demo.report.provenance import Provenance, commit_of, provenance


def git(folder: Path, *arguments: str) -> str:
    settings = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", "-C", str(folder), *settings, *arguments], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with one commit of the file `tracked`."""
    (tmp_path / "tracked").write_text("1")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "tracked")
    git(tmp_path, "commit", "-qm", "one")
    return tmp_path


def test_the_commit_is_that_of_the_checkout_that_tracks_the_file(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")[:12]
    assert commit_of(checkout / "tracked") == commit
    (checkout / "untracked").touch()
    assert commit_of(checkout / "untracked") is None
    (checkout / "tracked").write_text("2")
    assert commit_of(checkout / "tracked") == f"{commit} + changes"


def test_a_file_outside_a_checkout_or_without_git_has_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(checkout))
    (checkout / ".git").rename(checkout / "moved")
    assert commit_of(checkout / "tracked") is None
    (checkout / "moved").rename(checkout / ".git")
    monkeypatch.setenv("PATH", str(checkout))
    assert commit_of(checkout / "tracked") is None


def test_the_date_is_in_utc_and_the_machine_names_its_cpus() -> None:
    here = provenance(datetime(2026, 11, 29, 9, 30, tzinfo=timezone(timedelta(hours=2))))
    assert here.date == "2026-11-29 07:30 UTC"
    assert f"{len(os.sched_getaffinity(0))} CPUs" in here.machine
    assert str(Provenance("2026-11-29", None, "A CPU")) == "2026-11-29. A CPU"
    assert str(Provenance("2026-11-29", "abc", "A CPU")) == "2026-11-29. Commit abc. A CPU"
    assert provenance().date[:4] >= str(datetime(2026, 1, 1, tzinfo=UTC).year)
