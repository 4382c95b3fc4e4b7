"""Streams in order of time on which one recipe of sparse towers has to hold: five of data, and generated ones whose items matter late.

Letters: n examples in order of time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from online_data import generated_stream, mind_stream, obd_stream
from online_streams import OnlineStream
from streams import Int64Array
from tower_streams import TowerStream, criteo_stream, kuairand_stream

from monolith_py.data.columns import SparseColumn

_CRITEO_FILE = "criteo1tb_80k.parquet"
LATE_EXAMPLES = 160_000


@dataclass(frozen=True)
class Source:
    """A stream by name, how it is made from the folder of the data, and the rate of all that is dense.

    Rates of rows and of dense parameters are the best of a few tried for the dense tower. `is_chosen_on`: the recipe was chosen on it; the
    others were first looked at with the recipe as it is.
    """

    name: str
    about: str
    make: Callable[[Path, int | None], TowerStream]
    file: str | None = None  # in the folder of the data
    lr: float = 1e-3
    is_chosen_on: bool = False


def flat(stream: OnlineStream, task: str, row_lr: float, batch_size: int, limit: int | None) -> TowerStream:
    """Return the candidates of a stream of requests one after the other, rows of dim 16; the second half is scored."""
    count = len(stream.items) if limit is None else min(limit, len(stream.items))
    features = {name: column.slice(0, count) for name, column in stream.features(range(len(stream))).sparse.items()}
    request_of = stream.request_of[:count]
    return TowerStream(
        _settings(stream.name, tuple(features), row_lr, batch_size),
        features,
        stream.labels[task][:count].astype(np.float32),
        stream.times_ms[request_of] // 1000,
        np.unique(stream.groups[request_of], return_inverse=True)[1],
        (("warm", count // 2, count),),
    )


def late_stream(seed: int, limit: int | None = None, *, begins: float = 0.4, num_users: int = 3000, num_items: int = 2000) -> TowerStream:
    """Return a generated stream whose items and cities say nothing until the share `begins` of it, and most of all afterwards.

    Before, a place and a device decide, and a taste of the user for places. Eight features are noise.
    """
    generator = np.random.default_rng(seed)
    count = LATE_EXAMPLES if limit is None else limit

    def drawn(size: int) -> Int64Array:
        chances = 1 / np.arange(1, size + 1) ** 0.8
        return np.asarray(generator.choice(size, count, p=chances / chances.sum()), np.int64)

    users, items, cities = drawn(num_users), drawn(num_items), drawn(300)
    places, devices = generator.integers(0, 20, count), generator.integers(0, 4, count)
    columns = {"place": places, "device": devices, "user": users, "item": items, "city": cities}
    columns |= {f"noise{number}": generator.integers(0, 4 * 3 ** (number % 6), count) for number in range(8)}
    of_user, of_item = generator.normal(size=(num_users, 3)), generator.normal(size=(num_items, 4))
    of_city, sign = generator.normal(size=300), generator.choice([-1, 1], (20, 4))[places, devices]
    logits = -1.0 - 0.1 * places + 0.5 * generator.normal(size=4)[devices] + 0.5 * np.tanh(of_user[users, 0] * sign)
    late = 0.8 * of_item[items, 1] + 0.7 * np.tanh(of_item[items, 0] * of_user[users, 1])
    late += 0.7 * np.tanh(of_item[items, 2] * of_user[users, 2]) * sign + 0.4 * of_city[cities] * np.sign(of_item[items, 3])
    logits += np.where(np.arange(count) > begins * count, late, 0.0)
    ones = np.ones(count, np.int32)
    return TowerStream(
        _settings("late", tuple(columns), 0.02, 256),
        {name: SparseColumn(values + 1, ones) for name, values in columns.items()},
        (generator.random(count) < 1 / (1 + np.exp(-logits))).astype(np.float32),
        np.arange(count),
        np.unique(users, return_inverse=True)[1],
        (("warm", count // 2, count),),
    )


def clicks_of_kuairand(limit: int | None) -> TowerStream:
    """Return KuaiRand with user, video and tab alone."""
    stream = kuairand_stream(limit)
    names = ("user_id", "video_id", "tab")
    settings = {name: section for name, section in stream.settings.items() if name != "counters"}
    settings["features"] = [entry for entry in settings["features"] if entry["name"] in names]
    return dataclasses.replace(stream, settings=settings, features={name: stream.features[name] for name in names})


def _settings(name: str, features: tuple[str, ...], row_lr: float, batch_size: int) -> dict[str, object]:
    return {
        "name": name,
        "log": {"url": "sqlite:///unused"},
        "kv": {"url": "memory:"},
        "features": [{"name": feature, "source": "item", "dim": 16} for feature in features],
        "tasks": [{"name": "label", "action": "click"}],
        "optimizer": {"sparse": {"kind": "adagrad", "lr": row_lr, "initial_accumulator": 0.01}},
        "trainer": {"checkpoint_dir": "unused", "batch_size": batch_size},
    }


SOURCES = (
    Source("kuairand", "KuaiRand-Pure, 28 features, label long_view", lambda _, limit: kuairand_stream(limit), is_chosen_on=True),
    Source(
        "late",
        "generated: items and cities matter from 40 % of the stream on",
        lambda _, limit: late_stream(0, limit),
        lr=2e-3,
        is_chosen_on=True,
    ),
    Source(
        "criteo", "Criteo, 80,000 examples", lambda data, limit: criteo_stream(data / _CRITEO_FILE, limit), _CRITEO_FILE, is_chosen_on=True
    ),
    Source(
        "mind",
        "MIND-small news, 5,000 requests one candidate after the other",
        lambda data, limit: flat(mind_stream(data, 0), "click", 0.05, 256, limit),
        "mind_5k.parquet",
        is_chosen_on=True,
    ),
    Source(
        "obd",
        "Open Bandit, 60,000 single items with 288 clicks",
        lambda data, limit: flat(obd_stream(data, 0), "click", 0.02, 128, limit),
        "obd_60k.parquet",
    ),
    Source("kuairand_ids", "KuaiRand with user, video and tab alone", lambda _, limit: clicks_of_kuairand(limit)),
    Source(
        "late_ids",
        "generated: items matter from 60 % on, 20,000 users and 5,000 items",
        lambda _, limit: late_stream(7, limit, begins=0.6, num_users=20_000, num_items=5_000),
        lr=2e-3,
    ),
    Source(
        "lists",
        "generated news lists with drift (deploy/demo/dataset/listwise.py)",
        lambda _, limit: flat(generated_stream(0, 12_000 if limit is None else 400), "click", 0.02, 256, limit),
    ),
)
