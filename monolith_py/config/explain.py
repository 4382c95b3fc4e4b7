"""Messages of broken rules: "field must RULE, got VALUE", with a suggestion for an unknown key."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from monolith_py.config.fields import Settings, section_of, sections

# Rules by pydantic's types of errors, with the fields of their context.
_RULES = {
    "rule": "{rule}",
    "greater_than": "be > {gt}",
    "greater_than_equal": "be >= {ge}",
    "less_than": "be < {lt}",
    "less_than_equal": "be <= {le}",
    "multiple_of": "be a multiple of {multiple_of}",
    "finite_number": "be finite",
    "literal_error": "be {expected}",
    "int_type": "be an integer",
    "int_from_float": "be an integer",
    "int_parsing_size": "be an integer of 64 bits",
    "float_type": "be a number",
    "bool_type": "be true or false",
    "string_type": "be a string",
    "string_pattern_mismatch": "match {pattern}",
    "string_too_short": "have at least {min_length} character(s)",
    "string_too_long": "have at most {max_length} characters",
    "tuple_type": "be an array",
    "too_short": "have at least {min_length} item(s)",
    "too_long": "have at most {max_length} item(s)",
    "model_type": "be a table of settings",
    "missing": "be set",
}


def explain(error: Any, document: Any, model: type[Settings]) -> str:
    """Return the message of one of pydantic's errors about `document`, parsed as `model`."""
    location, kind, context = tuple(error["loc"]), error["type"], error.get("ctx", {})
    field = field_name(location, document)
    if kind == "extra_forbidden":
        return f"{field} is not a setting{_suggestion(location, model)}"  # without the value: it may be a misplaced password
    if kind == "renamed":
        return "\n".join(f"{field}.{old} is not a setting any more: it is now {field}.{new}" for old, new in context["renamed"].items())
    if kind == "value_error":
        return str(context["error"])
    if kind == "missing":
        return f"{field} must be set, got no value"
    bounds = {name: int(value) if isinstance(value, float) and value.is_integer() else value for name, value in context.items()}
    rule = _RULES[kind].format(**bounds) if kind in _RULES else f"satisfy: {error['msg']}"
    return f"{field} must {rule}, got {context.get('actual_length', shown(error['input']))}"


def field_name(location: Sequence[int | str], document: Any) -> str:
    """Return the dotted name of a field; an item of an array goes by its `name`, else by its number from 1.

    >>> document = {"features": ({"name": "user_id"}, {})}
    >>> field_name(("features", 0, "dim"), document), field_name(("features", 1, "name"), document)
    ('features.user_id.dim', 'features.#2.name')
    """
    parts = []
    for part in location:
        document = _inside(document, part)
        if isinstance(part, int):
            name = document.get("name") if isinstance(document, Mapping) else None
            parts.append(name if isinstance(name, str) and name else f"#{part + 1}")
        else:
            parts.append(part)
    return ".".join(parts) or "job"


def shown(value: Any) -> str:
    """Return the text of a wrong value, at most 200 characters, without the user and password of a URL."""
    text = repr(value)
    return mask_url(text if len(text) <= 200 else f"{text[:200]}...")


def mask_url(text: str) -> str:
    """Return `text` with what stands between "//" and the last "@" masked: a password may hold "/" or "@".

    >>> mask_url("redis://:p@ss/word@host:6379/0")
    'redis://***@host:6379/0'
    """
    return re.sub(r"//.*@", "//***@", text)


def _inside(document: Any, part: int | str) -> Any:
    try:
        return document[part]
    except (LookupError, TypeError):
        return None


def _suggestion(location: Sequence[int | str], model: type[Settings]) -> str:
    """Return ": did you mean ...?" for an unknown key: a similar one of its section, or the same in another section."""
    *path, key = (part for part in location if isinstance(part, str))
    section = model
    for part in path:
        inner = section_of(section.model_fields[part].annotation)
        assert inner is not None, location
        section = inner
    similar = get_close_matches(key, section.model_fields, n=1, cutoff=0.7)
    elsewhere = [f"{name}.{key}" for name, other in sections(model) if key in other.model_fields]
    found = similar or elsewhere[:1] or get_close_matches(key, section.model_fields, n=1)
    return f": did you mean {found[0]}?" if found else ""
