"""Write the rows of one evaluation to a Parquet file that the user names, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from schemas import buckets
from schemas.buckets import Location
from schemas.durable import publish
from schemas.errors import ConfigError, TrelmError
from schemas.outputs import check_output
from schemas.regular_files import is_special


def check_items_path(path: Location | None, inputs: Iterable[Path] = ()) -> None:
    """Refuse a file without a folder, one that must not be written over, and what is no file.

    Args:
        path: of the file; None for none.
        inputs: files that the command reads.

    Raises:
        ConfigError: names the folder that is not there, or what would be lost.
    """
    # A bucket has no folders that would have to be there.
    if not isinstance(path, Path):
        return
    check_output(path, "--items", inputs)
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"--items {path}: no folder {path.parent}; make it first")
    if is_special(path):
        raise ConfigError(f"--items {path}: a pipe or a device; give the name of a file")


def write_items(rows: pa.Table, path: Location) -> None:
    """Write rows in place of the file, or the object, that may be there.

    A link stays, and the file that it leads to is written. A device or a named pipe is written to,
    never replaced.

    Raises:
        TrelmError: the file cannot be written; an earlier one is as it was.
    """
    if not isinstance(path, Path):
        content = pa.BufferOutputStream()
        pq.write_table(rows, content, compression="zstd")
        buckets.write(path, content.getvalue().to_pybytes())
        return
    # A name of its own per process, in the same folder: the renaming is one act.
    target = path.resolve() if path.is_symlink() else path
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        if is_special(target):
            # Through memory: Arrow asks a file for its place, which a pipe has none of.
            sink = pa.BufferOutputStream()
            pq.write_table(rows, sink, compression="zstd")
            target.write_bytes(sink.getvalue())
            return
        pq.write_table(rows, partial, compression="zstd")
        publish(partial, target)
    except (OSError, pa.ArrowException) as error:
        raise TrelmError(f"--items {path}: cannot write it ({error}); give another file") from error
    finally:
        # It is there no more where all went well.
        partial.unlink(missing_ok=True)
