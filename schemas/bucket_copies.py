"""Give what lies in a bucket as files of this machine: a stage, a model, a folder, a file.

Goes in: a path of this machine, which is returned as it is, or an address in a bucket. Comes out: a
path of this machine. Costs one or two requests where the copy is there already (`bucket_cache`).
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from schemas import buckets
from schemas.bucket_cache import copy_of
from schemas.bucket_fetch import CopiedFile, folder_files
from schemas.buckets import BucketError, Location, is_bucket
from schemas.checksums import CHECKSUMS_NAME
from schemas.errors import ConfigError
from schemas.manifest import MANIFEST_NAME, Manifest
from schemas.model_folder import CONFIG

_THREADS = 4
# In which sentence-transformers says how a model makes a vector of its states.
POOLING_FILE = "1_Pooling/config.json"
# Weights of other forms, which are never read.
_UNREAD = frozenset(".bin .ckpt .h5 .msgpack .onnx .ot .pb .pt .pth .tflite".split())


def joined(location: Location, *parts: str) -> Location:
    """Return the location of something below a folder."""
    if isinstance(location, Path):
        return location.joinpath(*parts)
    return "/".join([location.rstrip("/"), *parts])


def folder_of(location: Location) -> Location:
    """Return the folder in which something lies."""
    if isinstance(location, Path):
        return location.parent
    return location.rstrip("/").rpartition("/")[0]


def local_stage(folder: Location, tables: Collection[str] = ()) -> Path:
    """Return the folder of a finished stage: all files that its manifest lists, compared with it.

    Args:
        folder: of the stage.
        tables: those that are needed, where that is not all there is.

    Raises:
        ConfigError: no stage has finished there.
        BucketError: it cannot be copied.
    """
    if isinstance(folder, Path):
        return folder
    address = folder.rstrip("/")
    place = f"{address}/{MANIFEST_NAME}"
    content = buckets.read_if_there(place)
    if content is None:
        raise ConfigError(
            f"{address}: no {MANIFEST_NAME} there; give the folder of a finished stage, such as "
            "…/run/shards"
        )
    try:
        manifest = Manifest.from_json(content.decode(), place)
    except ValueError as error:
        raise ConfigError(str(error)) from error

    digest = hashlib.sha256(content).hexdigest()
    files = {
        MANIFEST_NAME: CopiedFile(
            name=MANIFEST_NAME, address=place, num_bytes=len(content), version=digest, sha256=digest
        )
    }
    wanted = [manifest.tables[name].files for name in tables if name in manifest.tables]
    for entry in itertools.chain(*wanted) if tables else manifest.files:
        files[entry.path] = CopiedFile(
            name=entry.path,
            address=f"{address}/{entry.path}",
            num_bytes=entry.num_bytes,
            version=entry.sha256,
            sha256=entry.sha256,
        )
    # Manifests of older versions do not list the tokenizer's files.
    tokenizer = manifest.extra.get("tokenizer", "")
    if tokenizer and not tables and not any(name.startswith(f"{tokenizer}/") for name in files):
        for file in folder_files(f"{address}/{tokenizer}", deep=True):
            name = f"{tokenizer}/{file.name}"
            files[name] = CopiedFile(
                name=name, address=file.address, num_bytes=file.num_bytes, version=file.version
            )
    return copy_of(address, list(files.values()))


def local_model(model: str) -> str:
    """Return the folder of a model in a bucket as a folder of this machine; other names as they are.

    Raises:
        ConfigError: there is no model.
        BucketError: it cannot be copied.
    """
    if not is_bucket(model):
        return model
    files = model_files(model)
    names = {file.name for file in files}
    if CONFIG not in names:
        raise ConfigError(f"{model}: no {CONFIG} in this folder, so it is no model; check the path")
    if CHECKSUMS_NAME not in names:
        files = [file for file in files if Path(file.name).suffix not in _UNREAD]
    return str(copy_of(model.rstrip("/"), files))


def model_files(model: str) -> list[CopiedFile]:
    """List the objects of a model in a bucket: those in its folder, and how it makes one vector."""
    return [
        file
        for file in folder_files(model, deep=True)
        if "/" not in file.name or file.name == POOLING_FILE
    ]


def local_folder(folder: Location) -> Path:
    """Return a folder with all that is below it.

    Raises:
        ConfigError: there is nothing.
        BucketError: it cannot be copied.
    """
    if isinstance(folder, Path):
        return folder
    files = folder_files(folder, deep=True)
    if not files:
        raise ConfigError(f"{folder}: no such folder, or an empty one; check the path")
    return copy_of(folder.rstrip("/"), files)


def local_file(path: Location) -> Path:
    """Return a file.

    Raises:
        ConfigError: there is none.
        BucketError: it cannot be copied.
    """
    if isinstance(path, Path):
        return path
    found = buckets.look(path)
    if found is None:
        raise ConfigError(f"{path}: no such file; check the path")
    name = path.rpartition("/")[2]
    if not name:
        raise BucketError(f"{path}: names no file; check the path")
    file = CopiedFile(name=name, address=path, num_bytes=found.num_bytes, version=found.version)
    return copy_of(path, [file]) / name


def send_folder(folder: Path, address: str, *, first: str = "", last: str = "") -> None:
    """Copy all files of a folder of this machine into a bucket, several at a time.

    Args:
        folder: of this machine.
        address: of the folder in the bucket.
        first: name of a file that is there before all others.
        last: name of a file that is there after all others.

    Raises:
        BucketError: it cannot be written.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    groups: list[list[Path]] = [[], [], []]
    for path in paths:
        name = path.relative_to(folder).as_posix()
        groups[0 if name == first else 2 if name == last else 1].append(path)
    for group in groups:
        with ThreadPoolExecutor(_THREADS) as pool:
            list(
                pool.map(
                    lambda path: buckets.upload(
                        path, f"{address}/{path.relative_to(folder).as_posix()}"
                    ),
                    group,
                )
            )
