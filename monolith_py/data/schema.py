"""The schema of a job: its sparse and dense features and its tasks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from monolith_py.config import DenseFeatureConfig, FeatureConfig, JobConfig, TaskConfig
from monolith_py.data.columns import InputForm


@dataclass(frozen=True)
class Schema:
    """Features and tasks, in the order that trainer and replica share."""

    features: tuple[FeatureConfig, ...]
    dense_features: tuple[DenseFeatureConfig, ...]
    tasks: tuple[str, ...]  # names of labels and scores: a multiclass task has one for each class
    settings: tuple[TaskConfig, ...] = ()  # of the tasks; () if all are binary

    @staticmethod
    def of(job: JobConfig) -> Schema:
        """Return the schema of `job`; enabled live counters are the last dense features, `counter_<key>`."""
        names = tuple(name for task in job.tasks for name in task.outputs)
        counters = tuple(
            DenseFeatureConfig(name=f"counter_{key}", source="counter", dim=1 + len(names))
            for key in (job.counters.keys if job.counters.enabled else ())
        )
        settings = job.tasks if any(task.kind != "binary" for task in job.tasks) else ()
        return Schema(job.features, job.dense_features + counters, names, settings)

    @cached_property
    def scales(self) -> tuple[str | None, ...]:
        """Return the scale of each label of a regression, None for one whose score is a probability."""
        if not self.settings:
            return (None,) * len(self.tasks)
        return tuple(task.scale if task.kind == "regression" else None for task in self.settings for _ in task.outputs)

    @cached_property
    def all_features(self) -> tuple[FeatureConfig | DenseFeatureConfig, ...]:
        """Sparse features, then dense ones."""
        return (*self.features, *self.dense_features)

    @cached_property
    def sparse_names(self) -> tuple[str, ...]:
        """Names of the sparse features, in order."""
        return tuple(feature.name for feature in self.features)

    @cached_property
    def dense_names(self) -> tuple[str, ...]:
        """Names of the dense features, in order."""
        return tuple(feature.name for feature in self.dense_features)

    @cached_property
    def dense_dims(self) -> dict[str, int]:
        """Dim of each dense feature."""
        return {feature.name: feature.dim for feature in self.dense_features}

    @cached_property
    def input_form(self) -> InputForm:
        """Features in the order of the model input."""
        return InputForm(self.sparse_names, tuple(self.dense_dims.items()))

    @property
    def row_dims(self) -> tuple[int, ...]:
        """Dims of the pooled rows of an example, side by side: one row a feature, or `length` rows with pooling = "first"."""
        return tuple(feature.dim for feature in self.features for _ in range(feature.num_rows))

    @property
    def input_dims(self) -> tuple[int, ...]:
        """Dims of the rows that the model reads: those of `row_dims`, with one row in the place of a sequence with attention."""
        return tuple(feature.dim for feature in self.features for _ in range(1 if feature.attend_to else feature.num_rows))

    @property
    def sparse_width(self) -> int:
        """Sum of the dims of the rows that the model reads."""
        return sum(self.input_dims)

    @property
    def dense_width(self) -> int:
        """Sum of the dense features' dims."""
        return sum(feature.dim for feature in self.dense_features)
