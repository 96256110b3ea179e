import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pausing import PATIENCE_S
from trelm_train.data.loader import BatchStream, Position
from trelm_train.data.prefetch import prefetch


def names() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@given(st.lists(st.integers(), max_size=30), st.integers(0, 5), st.integers(0, 31))
@settings(max_examples=60)
def test_order_and_values_are_those_of_the_iterator(
    items: list[int], depth: int, stop: int
) -> None:
    seen = []
    with prefetch(iter(items), depth) as ready:
        for number, item in enumerate(ready):
            if number == stop:
                break
            seen.append(item)
    assert seen == items[:stop]
    assert not names()


def test_batches_are_the_same(stream: BatchStream) -> None:
    plain = stream.iterate(Position())
    with prefetch(stream.iterate(Position()), 3) as ready:
        for _ in range(60):
            (left, after), (right, behind) = next(plain), next(ready)
            assert after == behind
            assert left.position == right.position
            assert left.input_ids_RS.tolist() == right.input_ids_RS.tolist()
    assert not names()


def test_it_is_made_ahead_and_no_further_than_the_depth() -> None:
    made: list[int] = []
    enough = threading.Event()

    def items() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            if number == 4:
                enough.set()
            yield number

    with prefetch(items(), 3) as ready:
        assert [next(ready), next(ready)] == [0, 1]
        assert enough.wait(10), "three more are made while nobody asks"
        time.sleep(0.05)
        assert made == [0, 1, 2, 3, 4]
        assert threading.current_thread().name not in names()
        assert len(names()) == 1


def failing(closed: list[str]) -> Iterator[int]:
    try:
        yield 1
        yield 2
        raise OSError("disk gone")
    finally:
        closed.append("closed")


def test_an_exception_comes_where_its_item_would_have() -> None:
    closed: list[str] = []
    with prefetch(failing(closed), 5) as ready:
        assert [next(ready), next(ready)] == [1, 2]
        with pytest.raises(OSError, match="disk gone"):
            next(ready)
        assert list(ready) == []
    assert closed == ["closed"]
    assert not names()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError], ids=["ctrl-c", "error"])
def test_the_consumer_s_own_exception_ends_the_thread(error: type[BaseException]) -> None:
    closed: list[str] = []

    def endless() -> Iterator[int]:
        try:
            number = 0
            while True:
                yield number
                number += 1
        finally:
            closed.append("closed")

    def consume() -> None:
        with prefetch(endless(), 2) as ready:
            next(ready)
            raise error

    with pytest.raises(error):
        consume()
    assert closed == ["closed"]
    assert not names()


CTRL_C = """
import os, signal, threading
from trelm_train.data.prefetch import prefetch

ended = threading.Event()
made = []

def slow():
    yield 0
    os.kill(os.getpid(), signal.SIGINT)
    ended.wait()  # the consumer has been interrupted while it waited for this item
    for number in range(100):
        made.append(number)
        yield number

def interrupted(number, frame):
    ended.set()
    raise KeyboardInterrupt

signal.signal(signal.SIGINT, interrupted)
try:
    with prefetch(slow(), 8) as ready:
        list(ready)
except KeyboardInterrupt:
    print(len(made) <= 1, len(ready._ready), [one.name for one in threading.enumerate() if one.name.startswith("prefetch")])
"""


def test_ctrl_c_while_waiting() -> None:
    """The signal comes while an item is awaited: the thread ends after the one it makes, of eight
    that were asked for.
    """
    done = subprocess.run(
        [sys.executable, "-c", CTRL_C],
        check=True,
        text=True,
        capture_output=True,
        timeout=PATIENCE_S,
    )
    assert done.stdout.split() == ["True", "0", "[]"]
    assert not done.stderr


def test_depth() -> None:
    with prefetch(range(3), 0) as ready:
        assert list(ready) == [0, 1, 2]
        assert not names()
    with pytest.raises(ValueError, match="depth is -1"):
        prefetch(range(3), -1)
