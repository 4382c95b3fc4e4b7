"""Reference of all settings: a TOML document with the comment, range and default of each, made from the models."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen, MultipleOf
from pydantic.fields import FieldInfo

from monolith_py.config.fields import Settings, section_of

_HEAD = """\
# All settings of a job, with their defaults. A setting marked "required" has none: the text behind it is an example.
# A setting behind "#" is left out by default. `monolith check-config --config job.toml` checks the values.
"""
_WIDTH = 118
# Examples of required settings, by path.
_EXAMPLES = {
    "name": '"shop"',
    "log.url": '"sqlite:///log"',
    "kv.url": '"sqlite:///kv.db"',
    "features.name": '"user_id"',
    "features.source": '"user_id"',
    "dense_features.name": '"age"',
    "dense_features.source": '"user"',
    "tasks.name": '"is_click"',
    "joiner.negative_rates.feature": '"country"',
    "joiner.negative_rates.value": '"de"',
    "joiner.negative_rates.rate": "0.1",
    "trainer.checkpoint_dir": '"checkpoints"',
}
_SIGNS = ((Gt, "gt", ">"), (Ge, "ge", ">="), (Lt, "lt", "<"), (Le, "le", "<="))


def settings_reference(model: type[Settings]) -> str:
    """Return the TOML document of `model`; parsed, it is a job of the examples with every default."""
    return "\n".join([_HEAD, *_section(model, "")]).rstrip() + "\n"


def _section(model: type[Settings], path: str) -> Iterator[str]:
    """Yield the lines of the plain settings of a section, then those of the sections in it."""
    comments = field_comments(model)
    for name, field in model.model_fields.items():
        if section_of(field.annotation) is None:
            yield from _setting(f"{path}{name}", name, field, comments.get(name, ""))
    for name, field in model.model_fields.items():
        section = section_of(field.annotation)
        if section is None:
            continue
        inner, is_array = f"{path}{name}", get_origin(field.annotation) is tuple
        note = f" Repeat [[{inner}]] for each{'' if field.is_required() else '; none by default'}." if is_array else ""
        yield from ("", f"# {(section.__doc__ or '').splitlines()[0]}{note}")
        is_optional = field.default is None and not field.is_required()
        lines = [f"[[{inner}]]" if is_array else f"[{inner}]", *_section(section, f"{inner}.")]
        yield from lines if field.is_required() or not (is_array or is_optional) else (f"# {line.removeprefix('# ')}" for line in lines)


def _setting(path: str, name: str, field: FieldInfo, comment: str) -> Iterator[str]:
    """Yield the comment, range and default of one setting."""
    text, values = comment, _range(field)
    if values and len(comment) + len(values) < _WIDTH:
        text, values = f"{comment} {values}", ""
    yield from (f"# {line}" for line in (*_wrapped(text), *_wrapped(values)))
    if field.is_required():
        yield f"{name} = {_EXAMPLES[path]}  # required"
    elif field.default is None:
        yield f"# {name} ="
    else:
        yield f"{name} = {_toml(field.default)}"


def field_comments(model: type[Settings]) -> dict[str, str]:
    """Return the comment above each field of `model`, from its source or that of its base."""
    base = model.__mro__[1]
    found = field_comments(base) if issubclass(base, Settings) and base is not Settings else {}
    lines: list[str] = []
    for line in inspect.getsource(model).splitlines():
        if match := re.fullmatch(r"    # (.*)", line):
            lines.append(match[1])
            continue
        if (match := re.match(r"    (\w+): ", line)) and match[1] in model.model_fields:
            found[match[1]] = " ".join(lines)
        lines = []
    return found


def _range(field: FieldInfo) -> str:
    """Return the allowed values in brackets, "" if every value of the type is allowed."""
    rules = list(_metadata(field))
    kinds = {get_origin(part) is Literal: part for part in (field.annotation, *get_args(field.annotation))}
    parts = [" or ".join(json.dumps(value) for value in get_args(kinds[True]))] if True in kinds else []
    for kind, attribute, sign in _SIGNS:
        parts += [f"{sign} {_number(getattr(rule, attribute))}" for rule in rules if isinstance(rule, kind)]
    parts += [f"a multiple of {rule.multiple_of}" for rule in rules if isinstance(rule, MultipleOf)]
    parts += [f"matches {rule.pattern}" for rule in rules if getattr(rule, "pattern", None)]
    parts += [f"length >= {rule.min_length}" for rule in rules if isinstance(rule, MinLen)]
    parts += [f"length <= {rule.max_length}" for rule in rules if isinstance(rule, MaxLen)]
    return f"[{', '.join(parts)}]" if parts else ""


def _metadata(field: FieldInfo) -> Iterator[Any]:
    """Yield the rules of a field, also of `T | None` and of the items of an array."""
    yield from field.metadata
    pending = [field.annotation]
    while pending:
        kind = pending.pop()
        for rule in getattr(kind, "__metadata__", ()):
            yield from getattr(rule, "metadata", [rule])
        pending += [part for part in get_args(kind) if get_origin(kind) is not Literal]


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool | str):
        return json.dumps(value)
    return repr(value)


def _number(value: Any) -> str:
    return str(value) if isinstance(value, int) else f"{value:.10g}"


def _wrapped(text: str, width: int = _WIDTH) -> Iterator[str]:
    line = ""
    for word in text.split():
        if line and len(line) + len(word) >= width:
            yield line
            line = word
        else:
            line = f"{line} {word}".strip()
    if line:
        yield line
