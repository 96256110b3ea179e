"""Give a model in a bucket as a folder of this machine, with the errors that stages raise."""

from __future__ import annotations

from pipeline.engine.files import told
from schemas import bucket_copies
from schemas.bucket_fetch import CopiedFile


def local_model(model: str) -> str:
    """Return the folder of a model in a bucket as a folder of this machine; other names as they are.

    Raises:
        ConfigError: there is no model.
        StageError: it cannot be copied.
    """
    with told():
        return bucket_copies.local_model(model)


def model_files_of(model: str) -> list[CopiedFile]:
    """List the objects of a model in a bucket.

    Raises:
        StageError: they cannot be listed.
    """
    with told():
        return bucket_copies.model_files(model)
