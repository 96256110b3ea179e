"""Run the trainer on a device beside the processor: the checks of `gpu_check` that compare losses.

Each function runs in a process of its own (`benchmarks.child`) and returns a `verdict`. Runs are
those of `trelm-train run`, through its Python entry: loop, plan, checkpoints and export are the
product's. Dropout is 0, since each device draws its own.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_check_data import made_model, made_shards
from benchmarks.gpu_check_verdict import (
    LOSSES,
    TOLERANCES,
    Step,
    Tolerance,
    at_most,
    differences,
    loss_aims,
    verdict,
)
from benchmarks.harness import ROOT
from trelm_train.checkpoints.checkpoint import CHECKPOINTS, latest_checkpoint
from trelm_train.config import load_config
from trelm_train.model import encoder
from trelm_train.ranks import CONNECT_ONE, joined
from trelm_train.training.session import RunRequest
from trelm_train.training.train import resume as resume_run
from trelm_train.training.train import run

# Weights that spread this far make attention matter from the first step on: with the 0.02 of a new
# BERT a wrong mask would change the loss by less than bfloat16 does.
SPREAD = 0.1
COMMON = (
    "train.max_tokens=128", "train.validate=false", "train.loggers=[]", "train.log_every=1",
    "train.dropout=0", "train.learning_rate=0.0003", "train.checkpoint_every=100000",
)  # fmt: skip
# Of single numbers of attention, and of its gradients, which are about 1: bfloat16 has 8 bits.
MOST_ATTENTION_APART = 0.06
# Of the logits of an exported model, which are about 10: another order of sums.
MOST_LOGITS_APART = 1e-2


def described(error: BaseException) -> str:
    """Return an error as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:600]


class Trainings:
    """Train one model on one set of shards again and again; runs of the same settings are made once."""

    def __init__(self, out: Path, sizes: Mapping[str, Any], steps: int) -> None:
        self.out, self.steps = out, steps
        self.common = (
            *COMMON, f"train.steps={steps}", f"train.batch_tokens={sizes['batch_tokens']}",
        )  # fmt: skip
        data = Path(sizes["data"])
        self.shards = made_shards(data, sizes["vocabulary"], sizes["sentences"])
        self.model = made_model(data, sizes["shape"], self.shards, SPREAD)
        self._losses: dict[tuple[str, ...], list[Step]] = {}

    def request(self, folder: Path, *sets: str) -> RunRequest:
        """Return the request of a run in a folder."""
        config = load_config(None, [*self.common, *sets])
        return RunRequest(shards=Path(self.shards), model=self.model, out=folder, config=config)

    def losses(self, *sets: str) -> list[Step]:
        """Return the losses of every step of a run with these settings."""
        if sets not in self._losses:
            folder = self.out / f"run-{len(self._losses)}"
            with _compiling(sets):
                run(self.request(folder, *sets))
            self._losses[sets] = losses_of(folder)
            # Only the losses count, and a checkpoint of a large model takes a gigabyte.
            shutil.rmtree(folder)
        return self._losses[sets]


def _compiling(sets: Sequence[str]) -> Any:  # noqa: ANN401 - torch's context manager has no type
    """Compile on GPUs alone: on a processor it takes a minute, and what is wrapped runs as it is."""
    if "train.compile=true" in sets and not torch.cuda.is_available():
        return torch.compiler.set_stance("force_eager")
    return nullcontext()


def losses_of(folder: Path) -> list[Step]:
    """Return the losses of every step that a run has logged."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [
        {name: step[name] for name in LOSSES if name in step} for step in map(json.loads, lines)
    ]


def compare(
    out: Path, device: str, steps: int, arms: Mapping[str, Sequence[str]], sizes: Mapping[str, Any]
) -> dict[str, Any]:
    """Compare the losses of arms on a device with those of the processor in float32.

    Args:
        out: an empty folder.
        device: cpu or cuda.
        steps: of every run.
        arms: name to settings. The reference of an arm has the same, but for those that change how
            something is computed and not what.
        sizes: of data and model.
    """
    trainings, aims, errors, figures = Trainings(out, sizes, steps), [], {}, {}
    for name, sets in arms.items():
        sets = list(sets)
        half = "train.precision=bfloat16" in sets
        plain = [one for one in sets if not one.startswith(ONLY_ON_DEVICE)]
        try:
            reference = trainings.losses(*plain, "train.precision=float32", "train.device=cpu")
            here = trainings.losses(
                *sets, *(() if half else ("train.precision=float32",)), f"train.device={device}"
            )
        except Exception as error:  # noqa: BLE001 - the other arms go on; the record says what failed
            errors[name] = described(error)
            continue
        apart = differences(reference, here)
        aims += loss_aims(name, reference, here, TOLERANCES["bfloat16" if half else "float32"])
        figures[name] = {
            "losses": [step["loss"] for step in here],
            "on_processor": [step["loss"] for step in reference],
            "apart": apart,
        }
    return verdict(aims, errors, arms=figures, steps=steps, shape=sizes["shape"])


# Settings that change how something is computed, and not what: the reference has none of them.
ONLY_ON_DEVICE = ("train.precision=", "train.attention=", "train.compile=", "memory.storage=")


def attention(out: Path, device: str, sentences: int) -> dict[str, Any]:  # noqa: ARG001
    """Compare attention by sentence, in bfloat16 on the device, with the processor's in float32.

    Losses are means, in which a sentence that sees a token of its neighbour is hardly noticed; here
    every number counts, those of the backward pass too.
    """
    torch.manual_seed(0)
    lengths = torch.randint(1, 70, (sentences,))
    borders = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]).int()
    longest, size = int(lengths.max()), (3, int(borders[-1]), 4, 64)
    qkv = torch.randn(size).bfloat16()

    def attended(device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        inputs = qkv.to(device, dtype).requires_grad_()
        mixed = encoder.sentence_attention(*inputs.unbind(), borders.to(device), longest)
        torch.autograd.backward(mixed, torch.ones_like(mixed))
        assert inputs.grad is not None
        return mixed.detach().float().cpu(), inputs.grad.float().cpu()

    reference, here = attended("cpu", torch.float32), attended(device, torch.bfloat16)
    apart = {
        name: float((left - right).abs().max())
        for name, left, right in zip(("forward", "backward"), reference, here, strict=True)
    }
    aims = [at_most(name, value, MOST_ATTENTION_APART) for name, value in apart.items()]
    return verdict(aims, apart=apart, tokens=int(borders[-1]))


def resume(out: Path, device: str, steps: int, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Resume from a checkpoint in the middle of a run; load the exported model on the processor."""
    trainings, aims, errors = Trainings(out, sizes, steps), [], {}
    ways = {
        # Bit for bit. It comes first: cuBLAS reads its setting when it is first used.
        "deterministic": ("train.deterministic=true", Tolerance(first=0.0, any_step=0.0)),
        "plain": ("train.deterministic=false", TOLERANCES["float32"]),
    }
    figures = {}
    for name, (setting, tolerance) in ways.items():
        folder = out / name
        try:
            whole, continued = _resumed(trainings, folder, device, setting)
        except Exception as error:  # noqa: BLE001 - the other way goes on
            errors[name] = described(error)
            continue
        aims += loss_aims(name, whole, continued, tolerance)
        figures[name] = {"apart": differences(whole, continued), "steps": len(continued)}

    if "plain" in figures:
        apart = _logits_apart(out / "plain" / "model", device)
        aims.append(at_most("exported.logits", apart, MOST_LOGITS_APART))
    return verdict(aims, errors, ways=figures, logits_apart=figures and apart)


def _resumed(
    trainings: Trainings, folder: Path, device: str, setting: str
) -> tuple[list[Step], list[Step]]:
    """Return the losses after the middle: of a run, and of what goes on from its checkpoint there."""
    middle = trainings.steps // 2
    sets = (
        "memory.enabled=true", "injection.enabled=true", "injection.policy=all", setting,
        f"train.checkpoint_every={middle}", "train.keep_checkpoints=9", f"train.device={device}",
    )  # fmt: skip
    run(trainings.request(folder, *sets))
    whole = losses_of(folder)
    # As if the run had been killed after the middle.
    while (newest := latest_checkpoint(folder / CHECKPOINTS)) and not newest.name.endswith(
        f"{middle:08d}"
    ):
        shutil.rmtree(newest)
    for name in ("model", "summary.json"):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    resume_run(folder)
    return whole[middle:], losses_of(folder)[middle:]


def _logits_apart(model: Path, device: str) -> float:
    """Return the largest difference of logits: plain transformers here, the trainer's on the device."""
    from transformers import AutoModelForMaskedLM

    from trelm_train.model.masked_lm import load_pretrained

    plain = AutoModelForMaskedLM.from_pretrained(model).eval()
    ours = load_pretrained(str(model), torch.device(device)).hf.eval()
    ids = torch.arange(5, 5 + 32)[None]
    with torch.inference_mode():
        left, right = plain(input_ids=ids).logits, ours(input_ids=ids.to(device)).logits
    return float((left - right.cpu()).abs().max())


def one_rank(out: Path, device: str, steps: int, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Train as the only rank of `torchrun`, which sends its messages to itself, and without it."""
    trainings = Trainings(out, sizes, steps)
    sets = (f"train.device={device}", "train.precision=float32")
    alone = trainings.losses(*sets)
    folder, words = out / "torchrun", []
    for one in (*trainings.common, *sets):
        words += ["--set", one]
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1",
        "-m", "trelm_train", "run", "--shards", trainings.shards, "--model", trainings.model,
        "--out", str(folder), *words,
    ]  # fmt: skip
    environment = {**os.environ, CONNECT_ONE: "1"}
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, cwd=ROOT, env=environment
    )
    if done.returncode:
        return verdict([], {"torchrun": (done.stdout + done.stderr)[-1500:]})

    connected = losses_of(folder)
    figures = _messages(device)
    aims = [
        *loss_aims("torchrun", alone, connected, TOLERANCES["float32"]),
        at_most("wrong_messages", figures["wrong"], 0),
    ]
    return verdict(aims, apart=differences(alone, connected), **figures)


def _messages(device: str) -> dict[str, Any]:
    """Send every kind of message as a single rank; return the back end, and how many came back wrong."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    os.environ |= {
        "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), CONNECT_ONE: "1",
    }  # fmt: skip
    with joined(device) as ranks:
        weight = torch.nn.Parameter(torch.zeros(3, device=device))
        weight.grad = torch.arange(3.0, device=device)
        ranks.sum_gradients([weight])
        tensor = torch.full((2,), 7.0, device=device)
        ranks.sum_tensors([tensor])
        rows = torch.eye(2, device=device)
        right = [
            weight.grad is not None and weight.grad.tolist() == [0.0, 1.0, 2.0],
            tensor.tolist() == [7.0, 7.0],
            bool(torch.equal(ranks.gather(rows), rows)),
            ranks.sum([1.5]) == [1.5],
            ranks.highest(4) == 4,
        ]
        ranks.wait()
        backend = torch.distributed.get_backend_config()
    return {"backend": backend, "wrong": right.count(False)}
