"""Settings of the object store of checkpoints."""

from __future__ import annotations

from monolith_py.config.fields import FilePath, Settings


class ObjectsConfig(Settings):
    """The object store, if trainer.checkpoint_dir is s3://BUCKET/PREFIX. Credentials come from the environment, as AWS_ACCESS_KEY_ID."""

    # URL of a store with an S3 API, http://HOST:PORT or https://HOST; by default Amazon's.
    endpoint: FilePath | None = None
    # Region of the bucket; by default that of the environment.
    region: FilePath | None = None
    # Folder for local copies of checkpoints, each process in one of its own; by default in the temporary folder of the machine.
    cache_dir: FilePath | None = None
