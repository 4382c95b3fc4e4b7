"""Values of options that are more than a word: numbers, times, offsets."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import typer

# Digits of dates such as 20220501, and of the times of today in seconds: as milliseconds both are in 1970.
_NO_MS_DIGITS = range(8, 12)


def integers(field: str, text: str) -> list[int]:
    """Return integers of 64 bits separated by commas."""
    try:
        found = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = [1 << 64]
    if not all(-(1 << 63) <= number < 1 << 63 for number in found):
        raise typer.BadParameter(f"{field} must be integers of 64 bits separated by commas, got {text!r}")
    return found


def numbers(field: str, text: str) -> list[float]:
    """Return numbers separated by commas."""
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise typer.BadParameter(f"{field} must be numbers separated by commas, got {text!r}") from None


def offset_ranges(texts: list[str]) -> dict[int, tuple[int, int]]:
    """Return [start, stop) of the offsets of each partition."""
    found = [re.fullmatch(r"(\d+):(\d+)-(\d+)", text) for text in texts]
    if not all(found):
        raise typer.BadParameter(f"offsets must be PARTITION:START-STOP, got {texts}")
    return {int(one[1]): (int(one[2]), int(one[3])) for one in found if one}


def feature_file(field: str, text: str) -> tuple[str, Path]:
    """Return the feature and the file of FEATURE=FILE."""
    feature, sign, path = text.partition("=")
    if not (feature and sign and path):
        raise typer.BadParameter(f"{field} must be FEATURE=FILE, got {text!r}")
    return feature, Path(path)


def time_or_offsets(field: str, text: str) -> int | dict[int, int]:
    """Return an event time in milliseconds, or the offset of each partition."""
    if re.fullmatch(r"\d+:\d+(,\d+:\d+)*", text):
        return {int(partition): int(offset) for partition, offset in (part.split(":") for part in text.split(","))}
    return time_ms(field, text)


def time_ms(field: str, text: str) -> int:
    """Return an event time in milliseconds: of ISO 8601, UTC unless it says otherwise, or as it is."""
    if text.isdecimal() and len(text) not in _NO_MS_DIGITS and int(text) < 1 << 63:
        return int(text)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{field} must be ISO 8601 or milliseconds since the epoch, got {text!r}") from None
    return int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)
