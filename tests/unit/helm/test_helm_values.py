"""Values of the chart: each has a comment and a schema entry, and a wrong one is refused."""

from __future__ import annotations

import json

import pytest
import yaml


def leaves(values, schema, path=()):
    """Yield (path, schema) of every leaf value."""
    for key, value in values.items():
        entry = schema["properties"].get(key)
        assert entry is not None, f"no schema entry: {'.'.join((*path, key))}"
        if "properties" in entry:
            yield from leaves(value, entry, (*path, key))
        else:
            yield (*path, key)


@pytest.fixture(scope="module")
def chart(request):
    return request.config.rootpath / "helm" / "monolith"


@pytest.fixture(scope="module")
def schema(chart):
    return json.loads((chart / "values.schema.json").read_text())


def test_every_value_has_a_schema_entry_and_every_entry_a_value(default_values, schema):
    def entries(node, path=()):
        for key, entry in node["properties"].items():
            yield from entries(entry, (*path, key)) if "properties" in entry else [(*path, key)]

    # "global" belongs to Helm.
    assert set(leaves(default_values, schema)) == set(entries(schema)) - {("global",)}


def test_every_value_has_a_comment_above_it(chart, default_values, schema):
    lines = (chart / "values.yaml").read_text().splitlines()
    for path in leaves(default_values, schema):
        line = _line_of(chart, path)
        assert lines[line - 1].lstrip().startswith("# "), f"no comment above {'.'.join(path)}"


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"replicas": 3}, "replicas"),
        ({"serving": {"replicas": "two"}}, "replicas"),
        ({"securityContext": {"runAsUser": 0}}, "runAsUser"),
        ({"checkpoints": {"accessMode": "ReadWriteOften"}}, "accessMode"),
        ({"checkpoints": {"size": "20 GB"}}, "size"),
        ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
        ({"serving": {"autoscaling": {"targetCPUPercent": 170}}}, "targetCPUPercent"),
        ({"serving": {"podDisruptionBudget": {"maxUnavailable": "half"}}}, "maxUnavailable"),
        ({"job": ""}, "job"),
    ],
)
def test_an_unknown_or_wrong_value_is_refused_by_name(refusal, values, field):
    assert field in refusal(values)


def _line_of(chart, path):
    """Return the line, from 0, of the key at `path` in values.yaml."""
    node = yaml.compose((chart / "values.yaml").read_text())
    for name in path:
        ((key, node),) = [pair for pair in node.value if pair[0].value == name]
    return key.start_mark.line
