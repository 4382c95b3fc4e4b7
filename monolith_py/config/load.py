"""Columns of the tables that `monolith load` reads: one TOML file beside the job's."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from monolith_py.config.explain import explain
from monolith_py.config.fields import FilePath, Name, Settings
from monolith_py.errors import ConfigError


class EntityColumns(Settings):
    """Table of users or items: one row each."""

    # Column of the id: integers, or texts that are hashed to fids.
    id: FilePath
    # Column of each feature; a feature left out is in the column of its own name, "" leaves it out of the store.
    features: dict[Name, str] = {}


class UserColumns(EntityColumns):
    """Table of users."""

    id: FilePath = "user_id"


class ItemColumns(EntityColumns):
    """Table of items."""

    id: FilePath = "item_id"


class ImpressionColumns(Settings):
    """Table of impressions: one row a candidate, or one row a request if the column of items has lists."""

    # Column of the request's id. "": rows of one user and one time are a request.
    request_id: str = "request_id"
    # Column of the event time: integers in milliseconds since the epoch, or timestamps (UTC without a zone).
    time: FilePath = "time_ms"
    # Column of the user's id.
    user: FilePath = "user_id"
    # Column of the candidate's id, or of a list of them.
    item: FilePath = "item_id"
    # Column of each feature as it was served. One left out is in the column of its own name; without that it is read from the store.
    features: dict[Name, str] = {}
    # Column of each kind of action, for tables with labels: a value above 0 is an action at the time of its request.
    actions: dict[str, str] = {}


class ActionColumns(Settings):
    """Table of actions: one row each."""

    # Column of the request's id.
    request_id: FilePath = "request_id"
    # Column of the candidate's id.
    item: FilePath = "item_id"
    # Column of the kind.
    kind: FilePath = "kind"
    # Column of the event time, as for impressions.
    time: FilePath = "time_ms"
    # Column of the value; "": every value is 1.
    value: str = ""


class LoadColumns(Settings):
    """Columns of all tables of one load."""

    users: UserColumns = UserColumns()
    items: ItemColumns = ItemColumns()
    impressions: ImpressionColumns = ImpressionColumns()
    actions: ActionColumns = ActionColumns()


def parse_columns(document: Mapping[str, Any]) -> LoadColumns:
    """Return the columns of `document`, a parsed TOML file.

    Raises:
        ConfigError: a key is unknown or of the wrong type; the message names each.
    """
    try:
        return LoadColumns.model_validate(document)
    except ValidationError as error:
        raise ConfigError("\n".join(explain(one, document, LoadColumns) for one in error.errors())) from None


def read_columns(path: Path) -> LoadColumns:
    """Return the columns of the TOML file at `path`.

    Raises:
        ConfigError: the file is no TOML, or breaks a rule.
    """
    try:
        return parse_columns(tomllib.loads(path.read_text()))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ConfigError) as error:
        raise ConfigError(f"{path}: {error}") from None
