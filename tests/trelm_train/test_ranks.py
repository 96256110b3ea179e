"""Several processes train as one: the same losses, weights and memory bank, up to the order of
sums.
"""

import json
import socket
from collections.abc import Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from schemas.errors import ConfigError
from tests.pausing import PATIENCE_S, Pause
from tests.trelm_train import forked
from tests.trelm_train.conftest import SMALL, request_for
from trelm_train.checkpoints.checkpoint import latest_checkpoint, load_checkpoint
from trelm_train.ranks import CONNECT_ONE, Ranks, joined
from trelm_train.training.session import prepare_run
from trelm_train.training.train import resume, run

STEPS = 6
SETS = (
    # In bfloat16 a difference in the last bit of a float32 sum may become one of 1 in 256.
    "train.precision=float32",
    "train.micro_batches=3",
    "train.checkpoint_every=3",
    "train.log_every=1",
    "train.loggers=[]",
)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def variables_of_ranks(count: int) -> list[dict[str, str]]:
    """What torchrun would tell each rank on this machine."""
    common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = [str(rank) for rank in range(count)]
    return [{**common, "OMP_NUM_THREADS": "1", "RANK": rank, "LOCAL_RANK": rank} for rank in ranks]


def start(
    count: int, words: list[str], folder: Path, environment: Mapping[str, str] | None = None
) -> list[ForkServerProcess]:
    """Start ranks whose output goes to `rank-N` in a folder."""
    return [
        forked.start(words, folder / f"rank-{rank}", {**(environment or {}), **variables})
        for rank, variables in enumerate(variables_of_ranks(count))
    ]


def assert_ended(processes: list[ForkServerProcess], code: int, folder: Path) -> None:
    for process in processes:
        process.join(PATIENCE_S)
    codes = [process.exitcode for process in processes]
    assert codes == [code] * len(codes), (folder / "rank-0" / "stderr").read_text()


def arguments(shards: Path, model: Path, out: Path, *sets: str) -> list[str]:
    return ["run", "--shards", str(shards), "--model", str(model), "--out", str(out)] + [
        part for one in (*SMALL, *SETS, f"train.steps={STEPS}", *sets) for part in ("--set", one)
    ]


def lines_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(shards_path: Path, model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ranks") / "alone"
    run(request_for(shards_path, model_path, out, *SETS, f"train.steps={STEPS}"))
    return out


def assert_same_run(left: Path, right: Path) -> None:
    """Equal up to the order of sums, whose rounding AdamW's first updates multiply step by step.

    A rank's gradient with a wrong weight would differ in the second digit of the first step.
    """
    for a, b in zip(lines_of(left), lines_of(right), strict=True):
        for name in ("loss", "mlm_loss", "fact_loss", "cka_loss", "grad_norm"):
            assert a[name] == pytest.approx(b[name], rel=1e-5 * 3 ** a["step"]), (a["step"], name)
        for name in ("tokens", "targets", "facts", "injected", "padding"):
            assert a[name] == b[name], (a["step"], name)
    saved = [
        load_checkpoint(latest_checkpoint(out / "checkpoints") or out).tensors
        for out in (left, right)
    ]
    assert saved[0].keys() == saved[1].keys()
    for one, out in zip(saved, (left, right), strict=True):
        one["bank"] = load_file(
            (latest_checkpoint(out / "checkpoints") or out) / "bank.safetensors"
        )
    for group in ("model", "bank", "cka"):
        assert saved[0][group].keys() == saved[1][group].keys()
        for name, value in saved[0][group].items():
            near = (
                4e-3 if value.dtype == torch.float16 else 2e-4
            )  # of notes around 2, a unit of float16 is 2e-3
            assert torch.allclose(value.double(), saved[1][group][name].double(), atol=near), (
                f"{group}/{name}"
            )
    layers = [{k: v for k, v in one["sparse"].items() if k.endswith("/index")} for one in saved]
    assert layers[0].keys() == layers[1].keys()
    assert all(torch.equal(layers[0][name], layers[1][name]) for name in layers[0])


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_ranks_train_as_one(
    count: int, alone: Path, shards_path: Path, model_path: Path, tmp_path: Path
) -> None:
    """Three batches per step on two ranks (one makes two of them) or on three: what one process
    does.
    """
    words = arguments(shards_path, model_path, tmp_path / "out")
    assert_ended(start(count, words, tmp_path), 0, tmp_path)
    printed = [(tmp_path / f"rank-{rank}" / "stdout").read_text() for rank in range(count)]
    assert "training loss" in printed[0]
    assert not any(printed[1:])  # the first rank alone speaks
    assert_same_run(alone, tmp_path / "out")


@pytest.mark.slow
def test_a_single_rank_can_talk_to_itself(
    alone: Path, shards_path: Path, model_path: Path, tmp_path: Path
) -> None:
    """What a machine with one GPU can show of the messages."""
    words = arguments(shards_path, model_path, tmp_path / "out")
    assert_ended(start(1, words, tmp_path, {CONNECT_ONE: "1"}), 0, tmp_path)
    assert_same_run(alone, tmp_path / "out")


def test_without_torchrun_there_is_nothing_to_connect_by(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in variables_of_ranks(1)[0]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(CONNECT_ONE, "1")
    with joined("cpu") as ranks:
        assert ranks.is_alone


def test_a_single_rank_is_alone_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables_of_ranks(1)[0].items():
        monkeypatch.setenv(name, value)
    with joined("cpu") as ranks:
        assert ranks.is_alone
        assert not torch.distributed.is_initialized()
    monkeypatch.setenv(CONNECT_ONE, "1")
    with joined("cpu") as ranks:
        assert not ranks.is_alone
        assert torch.distributed.is_initialized()
        weight = torch.nn.Parameter(torch.zeros(2))
        weight.grad = torch.tensor([1.0, 2.0])
        ranks.sum_gradients([weight])
        assert weight.grad.tolist() == [1.0, 2.0]


@pytest.mark.slow
def test_another_number_of_ranks_goes_on(
    shards_path: Path, model_path: Path, tmp_path: Path
) -> None:
    """Two ranks, stopped by a signal to one of them, then one process: no batch twice, none left
    out.
    """
    sets = ("train.validate=false", "train.steps=40", "train.learning_rate=0.0005")
    run(request_for(shards_path, model_path, tmp_path / "alone", *SETS, *sets))
    out = tmp_path / "out"
    pause = Pause.at(
        "trelm_train.training.train:train_step", call=20, folder=tmp_path / "pause", after=False
    )
    words = arguments(shards_path, model_path, out, *sets)
    processes = start(2, words, tmp_path, pause.settings())
    pause.wait(*processes)
    processes[1].terminate()
    pause.release(*processes)
    assert_ended(processes, 143, tmp_path)
    assert 0 < load_checkpoint(latest_checkpoint(out / "checkpoints") or out).state["step"] < 40
    resume(out)
    for a, b in zip(lines_of(tmp_path / "alone"), lines_of(out), strict=True):
        for name in ("step", "tokens", "targets", "facts", "injected"):
            assert a[name] == b[name]
        assert a["loss"] == pytest.approx(b["loss"], rel=0.01)  # rounding grows over the steps


def test_more_ranks_than_batches_are_refused(
    shards_path: Path, model_path: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="4 ranks share 3 batch.*micro_batches=4"):
        prepare_run(request_for(shards_path, model_path, tmp_path, *SETS), Ranks(rank=0, size=4))


def test_half_of_torchruns_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match="WORLD_SIZE is 2, but 'RANK'"), joined("cpu"):
        pass


def test_one_rank_needs_nobody() -> None:
    with joined("cpu") as ranks:
        assert ranks.is_first
        assert ranks.sum([1.5, 2.0]) == [1.5, 2.0]
        assert ranks.highest(3) == 3
        rows = torch.ones(2, 3)
        assert ranks.gather(rows) is rows


def test_a_tensor_without_gradient_anywhere_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """AdamW skips it; zeros it would decay and move by old moments, and one rank would differ from
    two.
    """
    from trelm_train import ranks

    monkeypatch.setattr(
        ranks.dist, "all_reduce", lambda tensor: tensor
    )  # the other rank has what this one has
    without, having = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(3))
    having.grad = torch.full((3,), 2.0)
    Ranks(rank=0, size=2).sum_gradients([without, having])
    assert without.grad is None
    assert torch.equal(having.grad, torch.full((3,), 2.0))
    monkeypatch.setattr(
        ranks.dist,
        "all_reduce",
        lambda tensor: tensor.add_(1 if tensor.dtype == torch.int64 else 0),
    )
    Ranks(rank=0, size=2).sum_gradients([without, having])  # the other rank has one for both
    assert torch.equal(without.grad, torch.zeros(2))
