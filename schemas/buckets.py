"""Read and write objects in buckets, gs:// and s3://, for both programs.

A bucket has no folders: a folder is what the names of objects begin with. It is there if anything is
below it, and gone with the last object below it. An object appears whole when its writer is closed,
and never half. `create` and `replace` write under a condition: of two programs one succeeds. No
listing is kept: another program may have changed the bucket since.

Credentials and addresses come from where the clouds' own tools take them: GOOGLE_APPLICATION_CREDENTIALS,
AWS_ACCESS_KEY_ID, AWS_PROFILE, AWS_ENDPOINT_URL, STORAGE_EMULATOR_HOST, FSSPEC_GS_…, FSSPEC_S3_….
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from schemas.errors import TrelmError

# The second is the variable that names the folder of copies (`bucket_cache`).
MARK, CACHE = "://", "TRELM_CACHE"
# A path of this machine, or an address in a bucket as text: a Path would lose one of its slashes.
Location = Path | str
# The extra of this package that brings the client of a kind of storage.
EXTRAS = {"gs": "gcp", "gcs": "gcp", "s3": "aws", "s3a": "aws"}
# What may go wrong between us and a bucket, beside OSError: by scheme, as module:name.
_FAILURES = {
    "gs": (
        "gcsfs.retry:HttpError",
        "google.auth.exceptions:GoogleAuthError",
        "aiohttp:ClientError",
    ),
    "s3": ("botocore.exceptions:BotoCoreError", "aiohttp:ClientError"),
}
_CREDENTIALS = {
    "gs": "`gcloud auth application-default login`, or GOOGLE_APPLICATION_CREDENTIALS with a key file",
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
}
# The answer to an upload's end may be lost, and then S3 says again what it became. Stores like MinIO
# say that there is no such upload.
_NO_UPLOAD = "multipart upload"
# With several requests at once, s3fs asks for the length of each small object before it reads it.
_OPTIONS: dict[str, dict[str, int]] = {"s3": {"max_concurrency": 1}, "s3a": {"max_concurrency": 1}}
# Bytes that one request fetches when a file is read in order.
_BLOCK_BYTES = 4 << 20
# Bytes that are kept before a part of a large object is sent: S3 takes 10,000 parts, 160 GB.
_PART_BYTES = 16 << 20


class BucketError(TrelmError):
    """Say what is wrong with an object, a bucket or the way to it, and what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectEntry:
    """Hold what a bucket says of an object."""

    path: str
    num_bytes: int
    # Changes whenever the object is written: its generation, or its entity tag.
    version: str


def is_bucket(path: str) -> bool:
    """Say whether a path is one of a bucket, not of this machine."""
    return MARK in path


def location_of(path: str) -> Location:
    """Return what a text names: a path of this machine, or an address in a bucket."""
    return path if is_bucket(path) else Path(path)


def file_system(path: str) -> Any:  # noqa: ANN401 - fsspec has no types
    """Return the client of a path's storage: the same in a process for all its paths.

    Raises:
        BucketError: no such kind of storage, or its client is not installed.
    """
    scheme = path.partition(MARK)[0]
    if scheme not in EXTRAS:
        raise BucketError(
            f"{path}: {scheme}:// is no kind of storage that can be read and written here; gs:// and "
            "s3:// are, and paths of this machine: mount it, or copy the files"
        )
    # gcsfs would ask every bucket for its kind with a second client, which needs other credentials.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    # It writes a traceback for each request that it gives up; the error itself reaches the user.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    try:
        import fsspec

        return fsspec.filesystem(scheme, use_listings_cache=False, **_OPTIONS.get(scheme, {}))
    except ImportError as error:
        raise BucketError(
            f"{path}: the client of {scheme}:// is not installed; pip install 'trelm[{EXTRAS[scheme]}]'"
        ) from error
    except _failures(scheme) as error:
        raise _plain(path, error, is_write=False) from error


def look(path: str) -> ObjectEntry | None:
    """Return the entry of an object; None where there is none. One request."""
    with _plainly(path):
        try:
            found = file_system(path).info(path)
        except FileNotFoundError:
            return None
    return _entry(path, found) if found["type"] == "file" else None


def exists(path: str) -> bool:
    """Say whether there is an object of this name, or one below it. One or two requests."""
    with _plainly(path):
        try:
            file_system(path).info(path)
        except FileNotFoundError:
            return False
    return True


def below(folder: str, *, deep: bool) -> list[ObjectEntry]:
    """List the objects below a folder, sorted; one request for a thousand.

    Args:
        folder: the folder.
        deep: whether those of the folders in it are listed too.
    """
    scheme = folder.partition(MARK)[0]
    with _plainly(folder):
        client = file_system(folder)
        try:
            found = (
                client.find(folder, detail=True).values()
                if deep
                else client.ls(folder, detail=True)
            )
        except FileNotFoundError:
            return []
    entries = (
        _entry(f"{scheme}{MARK}{info['name']}", info) for info in found if info["type"] == "file"
    )
    return sorted(entries, key=lambda entry: entry.path)


def _entry(path: str, info: Mapping[str, Any]) -> ObjectEntry:
    version = info.get("generation") or info.get("ETag") or ""
    return ObjectEntry(path=path, num_bytes=int(info["size"]), version=str(version).strip('"'))


def read(path: str) -> bytes:
    """Read a whole small object. One request."""
    with _plainly(path):
        return cast(bytes, file_system(path).cat_file(path))


def read_if_there(path: str) -> bytes | None:
    """Read a whole small object; None where there is none. One request."""
    with _plainly(path):
        try:
            return cast(bytes, file_system(path).cat_file(path))
        except FileNotFoundError:
            return None


def open_read(path: str) -> IO[bytes]:
    """Open an object for reading at any place."""
    with _plainly(path):
        # The same kind of cache for all storages: gcsfs's own starts tasks that outlive the file.
        file = file_system(path).open(path, "rb", block_size=_BLOCK_BYTES, cache_type="readahead")
    return cast(IO[bytes], io.BufferedReader(_Reader(path, file), buffer_size=1 << 16))


class _Reader(io.RawIOBase):
    """Read an object; an error says which."""

    def __init__(self, path: str, file: Any) -> None:  # noqa: ANN401 - fsspec has no types
        super().__init__()
        self._path = path
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, target: Any) -> int:  # noqa: ANN401 - any writable buffer
        with _plainly(self._path):
            content = self._file.read(len(target))
        target[: len(content)] = content
        return len(content)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


class ObjectWriter:
    """Write an object that appears when this is closed, and never where it is abandoned."""

    def __init__(self, path: str) -> None:
        self._path = path
        with _plainly(path, is_write=True):
            self._file = file_system(path).open(path, "wb", block_size=_PART_BYTES)

    @property
    def closed(self) -> bool:
        """Say whether it was closed or abandoned."""
        return bool(self._file.closed)

    def write(self, content: bytes) -> int:
        """Add bytes; those of a large object are sent on the way."""
        with _plainly(self._path, is_write=True):
            return int(self._file.write(content))

    def close(self) -> None:
        """Make the object appear."""
        with _plainly(self._path, is_write=True):
            self._file.close()

    def abandon(self) -> None:
        """Forget what was written."""
        if self.closed:
            return
        # Nothing more can be done about parts that were sent: a rule of the bucket removes them.
        with contextlib.suppress(BucketError), _plainly(self._path, is_write=True):
            self._file.discard()
        self._file.closed = True

    def __del__(self) -> None:
        # The client's own file would be finished when it is forgotten.
        if hasattr(self, "_file"):
            self.abandon()


def write(path: str, content: bytes) -> None:
    """Write a small object. One request."""
    with _plainly(path, is_write=True):
        file_system(path).pipe_file(path, content)


def create(path: str, content: bytes) -> str:
    """Write a small object if there is none of this name; return its version, or nothing.

    Nothing is also the answer where that to a first request was lost: ask then whose the object is.
    """
    with _plainly(path, is_write=True):
        try:
            file_system(path).pipe_file(path, content, mode="create")
        except FileExistsError:
            return ""
    found = look(path)
    return found.version if found else ""


def replace(path: str, content: bytes, version: str) -> str:
    """Write a small object if it still has a version; return the new one, or nothing.

    Nothing is also the answer where that to a first request was lost: ask then whose the object is.
    """
    scheme = path.partition(MARK)[0]
    put = _replace_s3 if EXTRAS.get(scheme) == "aws" else _replace_gs
    with _plainly(path, is_write=True):
        return put(file_system(path), path, content, version)


def _replace_s3(client: Any, path: str, content: bytes, version: str) -> str:  # noqa: ANN401
    bucket, key, _ = client.split_path(path)
    try:
        answer = client.call_s3(
            "put_object", Bucket=bucket, Key=key, Body=content, IfMatch=f'"{version}"'
        )
    except OSError as error:
        # s3fs has no error of its own for it; the cause is that of botocore.
        answer = getattr(error.__cause__, "response", {})
        code = answer.get("Error", {}).get("Code", "")
        if code in ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"):
            return ""
        raise
    return str(answer["ETag"]).strip('"')


def _replace_gs(client: Any, path: str, content: bytes, version: str) -> str:  # noqa: ANN401
    from urllib.parse import quote

    bucket, key, _ = client.split_path(path)
    try:
        answer = client.call(
            "POST",
            f"{client._location}/upload/storage/v1/b/{quote(bucket)}/o",
            uploadType="media",
            name=key,
            ifGenerationMatch=version,
            headers={"Content-Type": "application/octet-stream"},
            data=content,
            json_out=True,
        )
    except FileExistsError:
        return ""
    return str(answer["generation"])


def download(path: str, target: Path) -> None:
    """Copy an object to a local file. One request."""
    with _plainly(path):
        file_system(path).get_file(path, str(target))


def upload(source: Path, path: str) -> None:
    """Copy a local file to an object, which appears whole. One request, more for a large file."""
    with _plainly(path, is_write=True):
        file_system(path).put_file(str(source), path)


def move(source: str, target: str) -> None:
    """Give an object another name: a copy within the storage, then a removal.

    Raises:
        BucketError: there is no such object, or it cannot be written.
    """
    with _plainly(target, is_write=True):
        client = file_system(target)
        try:
            client.cp_file(source, target)
        except FileNotFoundError as error:
            raise BucketError(
                f"{source}: no such file, or no such bucket; has another program removed it?"
            ) from error
        # The client asks again where an answer was lost. Then the object has gone already.
        with contextlib.suppress(FileNotFoundError):
            client.rm_file(source)


def remove(path: str) -> None:
    """Remove an object and all below it, if there are any. Two or three requests for a thousand."""
    # Two programs may remove the same.
    with _plainly(path, is_write=True), contextlib.suppress(FileNotFoundError):
        client = file_system(path)
        own, found = client._strip_protocol(path), client.find(path)
        if found:
            # Clients list what is below an object, and then not the object itself.
            is_left_out = own not in found and look(path) is not None
            client.rm([*found, own] if is_left_out else found)


def remove_objects(paths: list[str]) -> None:
    """Remove some objects that are there, and nothing else."""
    if paths:
        # Another program may have been faster.
        with _plainly(paths[0], is_write=True), contextlib.suppress(FileNotFoundError):
            file_system(paths[0]).rm(paths)


@contextlib.contextmanager
def _plainly(path: str, *, is_write: bool = False) -> Iterator[None]:
    """Say in plain English what went wrong with a path.

    Raises:
        BucketError: instead of the client's errors.
    """
    try:
        yield
    except BucketError:
        raise
    except _failures(path.partition(MARK)[0]) as error:
        raise _plain(path, error, is_write=is_write) from error


@functools.cache
def _failures(scheme: str) -> tuple[type[BaseException], ...]:
    """Return the errors that a client raises for what is not a fault of this program."""
    found: list[type[BaseException]] = [OSError]
    kind = {"gcs": "gs", "s3a": "s3"}.get(scheme, scheme)
    for name in _FAILURES.get(kind, ()):
        module, _, attribute = name.partition(":")
        with contextlib.suppress(ImportError):
            found.append(getattr(importlib.import_module(module), attribute))
    return tuple(found)


def _plain(path: str, error: BaseException, *, is_write: bool) -> BucketError:
    scheme, _, rest = path.partition(MARK)
    bucket = f"{scheme}{MARK}{rest.partition('/')[0]}"
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    lowered = f"{type(error).__name__} {text}".lower()
    if isinstance(error, FileNotFoundError):
        # An object can be written wherever there is a bucket.
        if (is_write and _NO_UPLOAD not in lowered) or "bucket" in lowered:
            return BucketError(
                f"{path}: there is no bucket {bucket}; create it, or correct its name"
            )
        if not is_write:
            return BucketError(f"{path}: no such file; check the path")
    if "credential" in lowered or "anonymous" in lowered or "token" in lowered:
        kind = {"gcs": "gs", "s3a": "s3"}.get(scheme, scheme)
        remedy = _CREDENTIALS.get(kind, "those of its storage")
        return BucketError(f"{path}: no valid credentials for {bucket} ({text}); give {remedy}")
    if isinstance(error, PermissionError) or "forbidden" in lowered or "access denied" in lowered:
        needed = "write" if is_write else "read"
        return BucketError(
            f"{path}: {bucket} may not be used ({text}); ask for the right to {needed} there"
        )
    done = "written" if is_write else "read"
    return BucketError(
        f"{path}: cannot be {done} ({text}); check the network and the address of the storage, and the "
        "same command goes on"
    )
