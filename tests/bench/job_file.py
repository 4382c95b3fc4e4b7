"""Job of a bench: its file and its topics, in a folder with all that its processes write."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from monolith_py.config import JobConfig, load_job
from monolith_py.io import open_log
from monolith_py.io.log.topics import create_topics

Setting = str | float | bool | Sequence[str] | Sequence[int]
Tables = Mapping[str, Mapping[str, Setting]]


def write_job(
    path: Path,
    features: Sequence[tuple[str, str]],  # name and source
    tasks: Mapping[str, str],  # name to action
    settings: Tables | None = None,
    *,
    feature_settings: Mapping[str, Setting] | None = None,  # of each sparse feature
    dense: Sequence[tuple[str, str]] = (),  # name and source of dense features of one value
) -> JobConfig:
    """Write a job file, create the topics, and return the job.

    Log, store, checkpoints and the file with the port lie beside the file; one trainer thread, int8 rows, any free port. `settings` adds to
    these, section by section.
    """
    folder = path.parent
    sections: dict[str, dict[str, Setting]] = {
        "log": {"url": f"sqlite:///{folder}/log"},
        "kv": {"url": f"sqlite:///{folder}/kv.db"},
        "trainer": {"checkpoint_dir": f"{folder}/checkpoints", "num_threads": 1},
        "sync": {"encoding": "int8"},
        "serving": {"port": 0, "port_file": f"{folder}/port"},
    }
    for name, section in (settings or {}).items():
        sections[name] = {**sections.get(name, {}), **section}
    lists = {
        "features": [{"name": name, "source": source, **(feature_settings or {})} for name, source in features],
        "dense_features": [{"name": name, "source": source} for name, source in dense],
        "tasks": [{"name": name, "action": action} for name, action in tasks.items()],
    }
    tables = [(f"[[{name}]]", entry) for name, entries in lists.items() for entry in entries]
    sections["serving"] = sections.pop("serving")  # last: a bench may add lines to it
    tables += [(f"[{name}]", section) for name, section in sections.items()]
    path.write_text('name = "bench"\n' + "".join(_table(header, entries) for header, entries in tables))
    job = load_job(path)
    with closing(open_log(job.log)) as log:
        create_topics(log, job.log)
    return job


def _table(header: str, entries: Mapping[str, Setting]) -> str:
    """Return a table of TOML; JSON writes these values as TOML does."""
    return "\n".join([header, *(f"{key} = {json.dumps(value)}" for key, value in entries.items()), ""])
