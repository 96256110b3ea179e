"""Measure tokens per second and memory on a device: the checks of `gpu_check` that need no reference.

Each function runs in a process of its own (`benchmarks.child`) and returns a `verdict`. Speed itself
is not judged here: `gpu_check` puts the figures of several processes side by side.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.child import own_peak_rss_mb
from benchmarks.gpu_check_data import made_model, made_shards, sentence_ids
from benchmarks.gpu_check_runs import COMMON, described
from benchmarks.gpu_check_verdict import at_least, at_most, between, verdict
from benchmarks.train_data import SHAPES
from benchmarks.train_limit import StepProducts, seconds_per_call, step_flops
from benchmarks.train_ours import PLAIN, throughput
from trelm_train.config import load_config
from trelm_train.model.masked_lm import load_pretrained
from trelm_train.training.session import RunRequest
from trelm_train.training.train import PLAN_NAME, run

MB = 1e6
# Planned over measured memory. Wide: on a GPU it has never been measured.
PLAN_BOUNDS = (0.7, 1.5)
# Of cosines to those of the processor in float32.
MOST_APART = {"float32": 1e-4, "bfloat16": 3e-2}


def environment(out: Path, device: str) -> dict[str, Any]:  # noqa: ARG001 - all checks get a folder
    """Say what the device is and what it multiplies; a device that is asked for has to be there."""
    figures: dict[str, Any] = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "float32_products": torch.get_float32_matmul_precision(),
    }
    if device == "cpu":
        return verdict([], name="processor", threads=torch.get_num_threads(), **figures)
    if not torch.cuda.is_available():
        return verdict([], {"gpu": "torch sees none"}, **figures)

    about = torch.cuda.get_device_properties(0)
    return verdict(
        # TF32 would make float32 a coarser format than the tolerances are for.
        [at_most("tf32_is_on", int(figures["float32_products"] != "highest"), 0)],
        name=about.name,
        compute_capability=f"{about.major}.{about.minor}",
        memory_mb=about.total_memory / MB,
        processors=about.multi_processor_count,
        multiplies_bfloat16=torch.cuda.is_bf16_supported(including_emulation=False),
        nccl=_nccl(),
        driver=_driver(),
        **figures,
    )


def _nccl() -> str:
    if not torch.distributed.is_nccl_available():
        return "not in this build of torch"
    return ".".join(map(str, torch.cuda.nccl.version()))


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    if shutil.which(command[0]) is None:
        return "unknown: there is no nvidia-smi"
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip()


def _threads(device: str) -> int:
    """Return the threads of a run: one where the processor computes, since that is small work."""
    return torch.get_num_threads() if device == "cuda" else 1


def _data(sizes: Mapping[str, Any]) -> tuple[str, str]:
    """Return shards and model, made where they are not there."""
    data = Path(sizes["data"])
    shards = made_shards(data, sizes["vocabulary"], sizes["sentences"])
    return shards, made_model(data, sizes["shape"], shards)


def _plain_sets(device: str, sizes: Mapping[str, Any]) -> list[str]:
    return [
        *PLAIN, "train.max_tokens=128", "train.steps=100000", "train.precision=bfloat16", "train.dropout=0",
        f"train.batch_tokens={sizes['batch_tokens']}", f"train.device={device}",
    ]  # fmt: skip


def ours(
    out: Path, device: str, steps: int, arms: Mapping[str, Sequence[str]], sizes: Mapping[str, Any]
) -> dict[str, Any]:
    """Train plain masked LM in bfloat16 by our loop; return tokens/s by way of computing."""
    shards, model = _data(sizes)
    rates, errors, tokens = {}, {}, {}
    for name, sets in arms.items():
        folder = out / name
        request = {"shards": shards, "model": model, "threads": _threads(device), "steps": steps}
        try:
            measured = throughput(folder, **request, sets=[*_plain_sets(device, sizes), *sets])
        except Exception as error:  # noqa: BLE001 - the other ways go on; the record says what failed
            errors[name] = described(error)
            continue
        rates[name] = measured["tokens"] / measured["seconds"]
        tokens[name] = measured["tokens"] / steps
    aims = [at_least(f"{name}.tokens_per_s", rate, 1) for name, rate in rates.items()]
    return verdict(aims, errors, tokens_per_s=rates, tokens_per_step=tokens)


def trainer(
    out: Path, device: str, steps: int, rows: Sequence[int], sizes: Mapping[str, Any]
) -> dict[str, Any]:
    """Train the same by Hugging Face's Trainer, in bfloat16 and with batches grouped by length.

    Several numbers of rows per batch are tried. Those for which memory is too small are left out:
    the Trainer computes the logits of every token.
    """
    from benchmarks import train_hf

    shards, model = _data(sizes)
    rates, tokens, too_large = {}, {}, {}
    for count in rows:
        try:
            measured = train_hf.trainer(
                out / str(count), shards=shards, model=model, threads=_threads(device), steps=steps, width=128,
                batch_size=count, bf16=True, grouped=True, blocks=False, device=device,
            )  # fmt: skip
        except torch.OutOfMemoryError as error:
            too_large[str(count)] = described(error)
            continue
        rates[str(count)] = measured["tokens"] / measured["seconds"]
        tokens[str(count)] = measured["tokens"] / steps
    aims = [at_least("tokens_per_s", max(rates.values(), default=None), 1)]
    return verdict(aims, tokens_per_s=rates, tokens_per_step=tokens, too_large=too_large)


def limit(out: Path, device: str, steps: int, sizes: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG001
    """Run matrix products and attention of a step alone, forward and backward, nothing padded.

    Attention is torch's kernel for sentences of any length (flash attention on a GPU). There is no
    LayerNorm, activation, dropout, mask, loss or optimiser. `products` leaves attention out too, and
    `peak` is one large product.
    """
    hidden, layers = SHAPES[sizes["shape"]]
    lengths = _lengths(sizes)
    tokens = int(lengths.sum())
    work = StepProducts(hidden, layers, sizes["vocabulary"], lengths, device)
    seconds = {
        "with_attention": seconds_per_call(work.with_attention, steps, device),
        "products": seconds_per_call(work.products, steps, device),
    }
    flops = step_flops(hidden, layers, sizes["vocabulary"], lengths)
    side = 8192 if device == "cuda" else 256
    square = torch.ones(side, side, dtype=torch.bfloat16, device=device)
    peak = 2 * side**3 / seconds_per_call(lambda: square @ square, steps, device)
    return verdict(
        [at_least(name, value, 1e-9) for name, value in seconds.items()],
        tokens_per_s={name: tokens / value for name, value in seconds.items()},
        tokens_per_step=tokens,
        flops_per_token=flops / tokens,
        peak_tflops=peak / 1e12,
    )


def _lengths(sizes: Mapping[str, Any]) -> np.ndarray:
    """Return the lengths of as many sentences as fill a batch."""
    words = sentence_ids(sizes["vocabulary"], sizes["sentences"])
    lengths = np.asarray([len(one) + 2 for one in words])
    return lengths[np.cumsum(lengths) <= sizes["batch_tokens"]]


def memory(out: Path, device: str, steps: int, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Compare the peak of a default run with its plan: device memory, or that of the process."""
    shards, model = _data(sizes)
    sets = [
        *COMMON, f"train.steps={steps}", f"train.batch_tokens={sizes['batch_tokens']}", f"train.device={device}",
    ]  # fmt: skip
    folder = out / "run"
    run(RunRequest(shards=Path(shards), model=model, out=folder, config=load_config(None, sets)))
    plan = json.loads((folder / PLAN_NAME).read_text(encoding="utf-8"))
    weights = sum(
        value.numel() * value.element_size()
        for value in load_pretrained(model, torch.device("cpu")).hf.parameters()
    )
    if device == "cuda":
        peak, planned = torch.cuda.max_memory_allocated() / MB, device_plan_mb(plan, weights / MB)
        figures = {"reserved_mb": torch.cuda.max_memory_reserved() / MB}
    else:
        peak, planned, figures = own_peak_rss_mb(), plan["peak_memory_mb"], {}
    return verdict(
        [between("planned_to_peak", planned / peak, *PLAN_BOUNDS)],
        planned_mb=planned, peak_mb=peak, plan=plan, **figures,
    )  # fmt: skip


def device_plan_mb(plan: Mapping[str, float], weights_mb: float) -> float:
    """Return what of a plan lies on a GPU; the rest of it is the process in main memory."""
    parts = ("gradients_mb", "optimiser_mb", "activations_mb", "head_mb")
    return weights_mb + sum(plan[part] for part in parts)


def importance(out: Path, device: str, mentions: int, sizes: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG001
    """Compare cosines of sentences and of the same with another entity to the processor's."""
    from pipeline.encoder.sentence_encoder import SentenceEncoder
    from pipeline.encoder.sequences import Sequences

    shards = made_shards(Path(sizes["data"]), sizes["vocabulary"], sizes["sentences"])
    model = made_model(Path(sizes["data"]), sizes["shape"], shards, 0.1)
    sentences = sentence_ids(sizes["vocabulary"], mentions)
    # The given name of the head is another one.
    replaced = [np.concatenate([ids[:1], [5 + (ids[1] - 4) % 30], ids[2:]]) for ids in sentences]
    sequences = Sequences.of([*sentences, *replaced])

    def cosines(device: str, dtype: str) -> tuple[np.ndarray, float]:
        encoder = SentenceEncoder(model, device=device, dtype=dtype)
        encoder.encode(sequences.take(np.arange(8)), 8192)
        start = time.perf_counter()
        vectors = encoder.encode(sequences, 8192)
        seconds = time.perf_counter() - start
        left, right = np.split(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), 2)
        return (left * right).sum(1), mentions / seconds

    reference, rate = cosines("cpu", "float32")
    rates, apart = {"processor_float32": rate}, {}
    for dtype in MOST_APART:
        found, rates[dtype] = cosines(device, dtype)
        apart[dtype] = float(np.abs(found - reference).max())
    # Cosines that hardly differ among themselves would agree whatever was computed.
    spread = float(reference.std())
    return verdict(
        [
            *(at_most(f"{dtype}.cosine", apart[dtype], bound) for dtype, bound in MOST_APART.items()),
            at_least("spread_of_cosines", spread, 1e-3),
        ],
        mentions_per_s=rates, mentions=mentions, largest_difference=apart,
    )  # fmt: skip
