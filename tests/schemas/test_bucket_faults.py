"""Each request of an operation on a bucket fails once: the operation does what it says all the same.

Of Google's batches, which remove many objects at once, nothing is known here: its stand-in has none.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from schemas import buckets
from schemas.bucket_lock import hold, refuse_if_lost
from schemas.buckets import ObjectWriter
from tests.bucket_servers import connected
from tests.fault_proxy import KINDS, fault_proxy

# Of aiohttp, about what gcsfs gives it.
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
# The variable with a server's address.
ADDRESSES = {"s3": "AWS_ENDPOINT_URL", "gs": "STORAGE_EMULATOR_HOST"}
THERE = {"a": b"of a", "b": b"of b", "deep/c": b"of c"}
SMALL = b"small"
# In parts: clients send one at once from 5 MB on.
LARGE = os.urandom(6 << 20)


@dataclass
class Plan:
    """Let one request fail, once."""

    kind: str = ""
    # Requests until the one that fails, itself included.
    num_left: int = 0

    def __call__(self, _: int) -> str:
        self.num_left -= 1
        return self.kind if self.num_left == 0 else ""

    def start(self, kind: str, number: int) -> None:
        self.kind, self.num_left = kind, number

    def stop(self) -> bool:
        """Let every request pass, and say whether one has failed."""
        has_failed, self.num_left = self.num_left <= 0, 0
        return has_failed


@pytest.fixture(scope="module", params=["s3", "gs"])
def faulty(request: pytest.FixtureRequest) -> Iterator[tuple[str, Plan]]:
    """A bucket behind a proxy, and which request fails there."""
    scheme, plan = request.param, Plan()
    with (
        connected(scheme) as server,
        fault_proxy(server.environment[ADDRESSES[scheme]], plan) as proxy,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv(ADDRESSES[scheme], proxy.address)
        # For both clients: none waits before it asks again.
        patch.setattr("asyncio.sleep", no_wait)
        buckets.file_system(server.root).clear_instance_cache()
        yield server.root, plan


SLEEP = asyncio.sleep


async def no_wait(_: float, result: object = None) -> object:
    """Let the other tasks run, and wait for nothing."""
    await SLEEP(0)
    return result


@dataclass(frozen=True, kw_only=True)
class Operation:
    """What is done in a folder of a bucket and one of this machine, and what comes of it."""

    do: Callable[[str, Path], object]
    answer: object = None
    # Objects beside those that are always there.
    needs: dict[str, bytes] = field(default_factory=dict)
    writes: dict[str, bytes] = field(default_factory=dict)
    removes: tuple[str, ...] = ()


def download(folder: str, here: Path) -> bytes:
    buckets.download(f"{folder}/a", here / "copy")
    return (here / "copy").read_bytes()


def read_the_end(folder: str, _: Path) -> bytes:
    with buckets.open_read(f"{folder}/a") as file:
        file.seek(-1, 2)
        return file.read()


def read_in_blocks(folder: str, _: Path) -> bytes:
    with buckets.open_read(f"{folder}/large") as file:
        return file.read()


def look(folder: str, _: Path) -> int:
    found = buckets.look(f"{folder}/a")
    assert found is not None
    return found.num_bytes


def create(folder: str, _: Path) -> None:
    """Where the answer is lost, nothing is the answer: whoever asks must look whose the object is."""
    assert buckets.create(f"{folder}/new", SMALL) in ("", version(f"{folder}/new"))


def replace(folder: str, _: Path) -> None:
    """As of `create`."""
    assert buckets.replace(f"{folder}/a", SMALL, version(f"{folder}/a")) in (
        "",
        version(f"{folder}/a"),
    )


def version(path: str) -> str:
    found = buckets.look(path)
    return found.version if found is not None else ""


def hold_and_write(folder: str, _: Path) -> None:
    with hold(folder, "test"):
        refuse_if_lost(folder)
        buckets.write(f"{folder}/new", SMALL)


def list_names(folder: str, _: Path) -> list[str]:
    return [entry.path.removeprefix(f"{folder}/") for entry in buckets.below(folder, deep=True)]


def write_new(content: bytes) -> Callable[[str, Path], None]:
    def write(folder: str, _: Path) -> None:
        out = ObjectWriter(f"{folder}/new")
        out.write(content)
        out.close()

    return write


def upload_new(content: bytes) -> Callable[[str, Path], None]:
    def upload(folder: str, here: Path) -> None:
        (here / "file").write_bytes(content)
        buckets.upload(here / "file", f"{folder}/new")

    return upload


OPERATIONS = {
    "read": Operation(do=lambda folder, _: buckets.read(f"{folder}/a"), answer=b"of a"),
    "read_absent": Operation(do=lambda folder, _: buckets.read_if_there(f"{folder}/absent")),
    "read_the_end": Operation(do=read_the_end, answer=b"a"),
    "read_in_blocks": Operation(do=read_in_blocks, answer=LARGE, needs={"large": LARGE}),
    "look": Operation(do=look, answer=len(b"of a")),
    "download": Operation(do=download, answer=b"of a"),
    "exists": Operation(do=lambda folder, _: buckets.exists(f"{folder}/deep"), answer=True),
    "list": Operation(do=list_names, answer=sorted(THERE)),
    "write": Operation(
        do=lambda folder, _: buckets.write(f"{folder}/a", SMALL), writes={"a": SMALL}
    ),
    "create": Operation(do=create, writes={"new": SMALL}),
    "replace": Operation(do=replace, writes={"a": SMALL}),
    "hold": Operation(do=hold_and_write, writes={"new": SMALL}),
    "writer": Operation(do=write_new(SMALL), writes={"new": SMALL}),
    "writer_of_parts": Operation(do=write_new(LARGE * 4), writes={"new": LARGE * 4}),
    "upload": Operation(do=upload_new(SMALL), writes={"new": SMALL}),
    "upload_of_parts": Operation(do=upload_new(LARGE), writes={"new": LARGE}),
    "move": Operation(
        do=lambda folder, _: buckets.move(f"{folder}/a", f"{folder}/new"),
        writes={"new": b"of a"},
        removes=("a",),
    ),
    "remove": Operation(do=lambda folder, _: buckets.remove(f"{folder}/deep"), removes=("deep/c",)),
    "remove_objects": Operation(
        do=lambda folder, _: buckets.remove_objects([f"{folder}/a", f"{folder}/b"]),
        removes=("a", "b"),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_outlives_the_failure_of_any_request(
    faulty: tuple[str, Plan], name: str, kind: str, tmp_path: Path
) -> None:
    root, plan = faulty
    operation = OPERATIONS[name]
    there = THERE | operation.needs
    expected = {key: of for key, of in there.items() if key not in operation.removes}
    expected |= operation.writes
    for number in itertools.count(1):
        folder = f"{root}/{name}-{kind.replace(' ', '-')}-{number}"
        for of, content in there.items():
            buckets.write(f"{folder}/{of}", content)

        plan.start(kind, number)
        answer = operation.do(folder, tmp_path)
        has_failed = plan.stop()

        found = {of: buckets.read(f"{folder}/{of}") for of in list_names(folder, tmp_path)}
        assert (answer, found) == (operation.answer, expected), number
        if not has_failed:
            # It had fewer requests.
            assert number > 1
            return
