"""Exceptions: their tree equals the drawn one, and each has its data in its message and as attributes."""

from __future__ import annotations

import re
from pathlib import Path

from monolith_py import errors
from monolith_py.errors import CheckpointVersion, DeltaGap, DenseGap, MonolithError, OffsetTrimmed, ProbeFailed, RankFailed, TopicMissing


def test_the_tree_is_the_one_that_the_module_draws() -> None:
    drawn: dict[str, str] = {}
    above = ["MonolithError"]
    for indent, name in re.findall(r"^    ([| ]*)\+-- (\w+)", errors.__doc__ or "", re.MULTILINE):
        depth = 1 + len(indent) // 4
        above[depth:] = [name]
        drawn[name] = above[depth - 1]
    real = {
        name: kind.__base__.__name__
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, MonolithError) and kind is not MonolithError
    }
    assert drawn == real


def test_errors_carry_what_they_say_as_attributes() -> None:
    missing = TopicMissing("clicks")
    assert (str(missing), missing.topic) == ("topic 'clicks' does not exist: create it with `monolith topics`", "clicks")
    trimmed = OffsetTrimmed("clicks", 1, 5, 9)
    assert str(trimmed) == "'clicks'[1]: offset 5 is gone, the log starts at 9"
    assert (trimmed.topic, trimmed.partition, trimmed.offset, trimmed.start) == ("clicks", 1, 5, 9)
    gap = DeltaGap((2, 7), (2, 9))
    assert (str(gap), gap.expected, gap.got) == ("delta gap: expected (generation, seq) (2, 7), got (2, 9)", (2, 7), (2, 9))
    dense_gap = DenseGap(0xAB, 2)
    assert str(dense_gap) == "dense gap: expected fingerprint 000000ab, got 00000002"
    assert (dense_gap.expected, dense_gap.got) == (0xAB, 2)
    version = CheckpointVersion(Path("/c/step-1"), 2, 1)
    assert str(version) == "/c/step-1: format version must be 2, got 1: it was written by another release of monolith-py"
    assert (version.path, version.expected, version.got) == (Path("/c/step-1"), 2, 1)
    probe = ProbeFailed("join", "a record must come within 30 s, got none")
    assert (str(probe), probe.part) == ("join: a record must come within 30 s, got none", "join")
    failed = RankFailed("UNAVAILABLE", "no connection")
    assert (str(failed), failed.code, failed.details) == ("UNAVAILABLE: no connection", "UNAVAILABLE", "no connection")
