"""Write the rows of one evaluation to a Parquet file that the user names, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.durable import publish
from schemas.errors import ConfigError, TrelmError
from schemas.regular_files import is_special


def check_items_path(path: Path | None) -> None:
    """Refuse a file without a folder, and what is no file, before a model is asked anything.

    Raises:
        ConfigError: names the folder that is not there.
    """
    if path is None:
        return
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"--items {path}: no folder {path.parent}; make it first")
    if is_special(path):
        raise ConfigError(f"--items {path}: a pipe or a device; give the name of a file")


def write_items(rows: pa.Table, path: Path) -> None:
    """Write rows in place of the file that may be there.

    Raises:
        TrelmError: the file cannot be written; an earlier one is as it was.
    """
    # A name of its own per process, in the same folder: the renaming is one act.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        pq.write_table(rows, partial, compression="zstd")
        publish(partial, path)
    except (OSError, pa.ArrowException) as error:
        raise TrelmError(f"--items {path}: cannot write it ({error}); give another file") from error
    finally:
        # It is there no more where all went well.
        partial.unlink(missing_ok=True)
