"""Job files of one run: a template of deploy/configs with the run's paths and ports, one variant for each kind of process."""

from __future__ import annotations

import copy
import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monolith_py.config import JobConfig, load_job

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TEMPLATE = CONFIGS / "demo.toml"


@dataclass(frozen=True)
class Services:
    """URLs of log and store of a run, and the ports of its processes."""

    log_url: str
    kv_url: str
    live_port: int
    frozen_port: int
    joiner_metrics: int
    trainer_metrics: int
    live_metrics: int
    batch_ports: tuple[int, ...] = field(default=(), kw_only=True)  # of the replicas that are refreshed in batches


@dataclass(frozen=True)
class JobFiles:
    """Paths of the job files of one run."""

    history: Path  # joiner and trainer of history; all cores
    live: Path  # joiner, trainer and live replica
    frozen: Path  # replica that stays at the end of history
    batch: dict[str, Path] = field(default_factory=dict)  # replicas that are refreshed in batches, by name
    shadow: Path | None = None  # second model that scores what the live replica serves; None without one
    follower: Path | None = None  # replica that follows the live trainer, logs nothing and measures nothing

    @property
    def replicas(self) -> dict[str, Path]:
        """Return the job files of all replicas by name, the live one first and the frozen one last."""
        return {"live": self.live, **self.batch, "frozen": self.frozen}

    @property
    def job(self) -> JobConfig:
        """Return the live job."""
        return load_job(self.live)


def write_job_files(
    run: Path, services: Services, *, counters: bool = False, template: Path = TEMPLATE, batch: Sequence[str] = ()
) -> JobFiles:
    """Write the job files into the folder `run` and return their paths; `batch` names the replicas that are refreshed in batches."""
    live = tomllib.loads(template.read_text())
    live["log"]["url"], live["kv"]["url"] = services.log_url, services.kv_url
    live.setdefault("counters", {})["enabled"] = counters
    live["trainer"]["checkpoint_dir"] = str(run / "checkpoints")
    live["serving"].update(port=services.live_port, freshness_log=str(run / "freshness.log"))
    live["observe"] = {
        "joiner_port": services.joiner_metrics,
        "trainer_port": services.trainer_metrics,
        "serving_port": services.live_metrics,
    }
    history = copy.deepcopy(live)
    history["trainer"]["num_threads"] = 0
    documents = {"history": history, "live": live, "frozen": _apart(live, run, "frozen", services.frozen_port)}
    for name, port in zip(batch, services.batch_ports, strict=True):
        documents[name] = _apart(live, run, name, port)
        documents[name]["serving"]["follow_checkpoints"] = True
    if not batch:
        documents["shadow"] = _shadow(documents["frozen"])
        documents["follower"] = copy.deepcopy(live)
        documents["follower"]["serving"]["log_impressions"] = False
        del documents["follower"]["serving"]["freshness_log"], documents["follower"]["observe"]
    paths = {name: run / f"{name}.toml" for name in documents}
    for name, document in documents.items():
        paths[name].write_text(to_toml(document))
        load_job(paths[name])
    of_batch = {name: paths[name] for name in batch}
    return JobFiles(paths["history"], paths["live"], paths["frozen"], of_batch, paths.get("shadow"), paths.get("follower"))


def _shadow(frozen: dict[str, Any]) -> dict[str, Any]:
    """Return the job of a shadow with the model of the frozen replica, which never learns a label: it may come late."""
    document = copy.deepcopy(frozen)
    document["log"]["model_prefix"] = "shadow."
    document["serving"]["arm"] = "frozen"
    document["shadow"] = {"max_lag_s": 60.0}
    return document


def _apart(live: dict[str, Any], run: Path, name: str, port: int) -> dict[str, Any]:
    """Return the job of a replica that has checkpoints of its own, follows no updates and logs nothing."""
    document = copy.deepcopy(live)
    document["trainer"]["checkpoint_dir"] = str(run / f"checkpoints-{name}")
    document["serving"].update(port=port, follow_updates=False, log_impressions=False)
    del document["serving"]["freshness_log"], document["observe"]
    return document


def to_toml(document: dict[str, Any]) -> str:
    """Return `document` as TOML: plain values, tables up to two levels deep, arrays of flat tables.

    >>> print(to_toml({"name": "a", "log": {"partitions": 1}, "tasks": [{"name": "t"}]}), end="")
    name = "a"
    <BLANKLINE>
    [log]
    partitions = 1
    <BLANKLINE>
    [[tasks]]
    name = "t"
    """
    plain = {key: value for key, value in document.items() if not _is_table(value) and not _is_tables(value)}
    lines = _pairs(plain)
    for key, value in document.items():
        if _is_table(value):
            nested = {name: inner for name, inner in value.items() if _is_table(inner)}
            lines += ["", f"[{key}]", *_pairs({name: inner for name, inner in value.items() if name not in nested})]
            for name, inner in nested.items():
                lines += ["", f"[{key}.{name}]", *_pairs(inner)]
        elif _is_tables(value):
            for table in value:
                lines += ["", f"[[{key}]]", *_pairs(table)]
    return "\n".join(lines) + "\n"


def _pairs(table: dict[str, Any]) -> list[str]:
    # Strings, numbers, booleans and arrays have the same syntax in JSON and TOML.
    return [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in table.items()]


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)
