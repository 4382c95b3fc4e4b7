"""Columns of `monolith load`: each setting is explained, and a wrong one is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from monolith_py.config.fields import Settings
from monolith_py.config.load import ActionColumns, EntityColumns, ImpressionColumns, LoadColumns, parse_columns, read_columns
from monolith_py.config.reference import field_comments
from monolith_py.errors import ConfigError


@pytest.mark.parametrize("model", [EntityColumns, ImpressionColumns, ActionColumns])
def test_every_setting_has_a_comment(model: type[Settings]) -> None:
    assert {name for name, comment in field_comments(model).items() if comment} >= set(model.model_fields)


def test_columns_left_out_have_their_usual_names(tmp_path: Path) -> None:
    (tmp_path / "columns.toml").write_text('[users]\nid = "uid"\n')
    columns = read_columns(tmp_path / "columns.toml")
    assert (columns.users.id, columns.items.id, columns.impressions.time, columns.actions.value) == ("uid", "item_id", "time_ms", "")
    assert parse_columns({}) == LoadColumns()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[users]\nkey = 1", r"users\.key is not a setting"),
        ("[users]\nid = 1", r"users\.id must be a string, got 1"),
        ('[users]\nid = ""', r"users\.id must have at least 1 character\(s\), got ''"),
        ('[actions.kind]\nx = "y"', r"actions\.kind must be a string"),
        ("[users", "columns.toml: "),
    ],
)
def test_a_wrong_file_is_named_with_its_setting(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "columns.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_columns(path)
