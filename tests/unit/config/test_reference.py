"""The reference of settings has each setting with its comment, range and default, and is itself a job."""

from __future__ import annotations

import tomllib

import pytest

from monolith_py.config import JobConfig, parse_job
from monolith_py.config.fields import Settings, section_of, sections
from monolith_py.config.reference import field_comments, settings_reference

REFERENCE = settings_reference(JobConfig)
MODELS = [("job", JobConfig), *sections(JobConfig)]


@pytest.mark.parametrize(("path", "model"), MODELS, ids=[path for path, _ in MODELS])
def test_every_setting_has_a_comment(path: str, model: type[Settings]) -> None:
    plain = {name for name, field in model.model_fields.items() if section_of(field.annotation) is None}
    assert {name for name, comment in field_comments(model).items() if comment} >= plain
    assert model.__doc__, path
    for name in plain:
        assert f"\n{name} = " in REFERENCE or f"\n# {name} =" in REFERENCE


def test_the_reference_is_a_job_of_defaults() -> None:
    job = parse_job(tomllib.loads(REFERENCE))
    smallest = {name: getattr(job, name) for name, field in JobConfig.model_fields.items() if field.is_required()}
    assert job.model_dump() == JobConfig(**smallest).model_dump()
    assert (job.features[0].dim, job.joiner.window_s, job.trainer.checkpoint_dir) == (16, 600.0, "checkpoints")


@pytest.mark.parametrize(
    "lines",
    [
        "# 4, as all have with FBGEMM (serving.engine, CUDA).\n# [>= 1, <= 1024]\ndim = 16\n",
        "[>= 1, <= 3155760000]\n# ttl_s =\n",
        '# ["sum" or "mean" or "first"]\npooling = "sum"\n',
        "# Decay of the first moment of adam. [>= 0, < 1]\nbeta1 = 0.9\n",
        "# Folder of the job's checkpoints, read by the replicas too; or s3://BUCKET/PREFIX, see [objects]. [length >= 1]\n"
        'checkpoint_dir = "checkpoints"  # required\n',
        "# One dense feature: `dim` float32 values. Repeat [[dense_features]] for each; none by default.\n# [[dense_features]]\n",
    ],
)
def test_a_setting_stands_with_comment_range_and_default(lines: str) -> None:
    assert lines in REFERENCE
