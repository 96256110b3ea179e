"""The frozen encoder: the plain mean of the last layer, whatever the batches, threads and number
format.
"""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM

from pipeline.encoder import tokenizer as tokenizers
from pipeline.encoder.flat_forward import FlatForward
from pipeline.encoder.sentence_encoder import SentenceEncoder, best_dtype
from pipeline.encoder.sequences import Sequences, cosines
from pipeline.engine.errors import StageError
from pipeline.engine.worker_threads import LOCAL_WORKERS, threads_of_a_worker
from schemas import processor
from tests.pipeline import tiny_model

FAMILIES = ("bert", "roberta")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    bert, roberta = (
        tiny_model.make(folder / "bert"),
        tiny_model.make_roberta_model(folder / "roberta"),
    )
    return dict(zip(FAMILIES, (bert, roberta), strict=True))


def sequences(count: int = 60, longest: int = 40) -> Sequences:
    random = np.random.default_rng(0)
    return Sequences.of(
        [random.integers(5, 100, size=size) for size in random.integers(1, longest, size=count)]
    )


def plain_vectors(model: Path, rows: Sequences) -> np.ndarray:
    """One sequence at a time, as the model's authors would."""
    loaded = AutoModelForMaskedLM.from_pretrained(model).eval().base_model
    opening, closing = tokenizers.TextTokenizer(str(model)).frame
    vectors = []
    with torch.no_grad():
        for low, high in zip(rows.offsets[:-1], rows.offsets[1:], strict=True):
            ids = torch.tensor([[opening, *rows.ids[low:high].tolist(), closing]])
            states = loaded(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
            vectors.append(states[0, 1:-1].mean(0).numpy())
    return np.array(vectors)


@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_are_the_mean_of_the_last_layer(models: dict[str, Path], family: str) -> None:
    rows = sequences()
    found = SentenceEncoder(str(models[family]), "cpu", 2).encode(rows, 256)
    assert found.dtype == np.float32
    assert np.abs(found - plain_vectors(models[family], rows)).max() < 1e-5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_batches_and_threads_change_nothing(
    models: dict[str, Path], family: str, dtype: str
) -> None:
    """Not more than the last bits, that is: on the machines where it was tried, nothing at all."""
    rows, encoder = sequences(), SentenceEncoder(str(models[family]), "cpu", 1, dtype)
    wanted = encoder.encode(rows, 16)
    for num_threads, batch_tokens in ((1, 100_000), (2, 256), (3, 64)):
        encoder.num_threads = num_threads
        found = encoder.encode(rows, batch_tokens)
        assert np.abs(found - wanted).max() < 1e-5
    one = rows.take(np.array([7]))
    assert np.abs(encoder.encode(one, 64) - wanted[7]).max() < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_agrees_with_float32(models: dict[str, Path], family: str) -> None:
    rows = sequences()
    full, half = (
        SentenceEncoder(str(models[family]), "cpu", 1, dtype) for dtype in ("float32", "bfloat16")
    )
    vectors, rounded = full.encode(rows, 256), half.encode(rows, 256)
    assert rounded.dtype == np.float32
    assert np.abs(rounded - vectors).max() > 1e-5  # it is another format
    assert cosines(rounded, vectors).min() > 0.9999


def test_equal_sequences_are_encoded_once(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = sequences(5)
    twice = rows.take(np.array([0, 1, 2, 3, 4, 2, 0]))
    encoder, sizes = SentenceEncoder(str(models["bert"]), "cpu", 1), []
    means = encoder._forward.means

    def counted(rows: Sequences, batch: np.ndarray, budget: int) -> np.ndarray:
        sizes.append(len(batch))
        return means(rows, batch, budget)

    monkeypatch.setattr(encoder._forward, "means", counted)
    found = encoder.encode(twice, 256)
    assert sum(sizes) == 5
    assert np.array_equal(found[[0, 2]], found[[6, 5]])


def test_empty_sequences_have_a_zero_vector(models: dict[str, Path]) -> None:
    encoder = SentenceEncoder(str(models["bert"]), "cpu", 1)
    found = encoder.encode(Sequences.of([np.array([7, 8]), np.array([], np.int64)]), 64)
    assert found[0].any()
    assert not found[1].any()
    assert encoder.encode(Sequences.of([]), 64).shape == (0, 32)


def test_progress_comes_to_the_end(models: dict[str, Path]) -> None:
    shares: list[float] = []
    rows = sequences(600)
    SentenceEncoder(str(models["bert"]), "cpu", 2).encode(rows, 64, shares.append)
    assert shares == sorted(shares)
    assert len(shares) > 10
    assert shares[-1] == 1


def test_an_error_ends_the_threads(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, calls = SentenceEncoder(str(models["bert"]), "cpu", 2), []

    def broken(rows: Sequences, batch: np.ndarray, budget: int) -> np.ndarray:
        calls.append(batch)
        time.sleep(0.01)  # or all are done before the first error is seen
        raise MemoryError("no room")

    monkeypatch.setattr(encoder._forward, "means", broken)
    rows, before = sequences(2000), threading.active_count()
    with pytest.raises(MemoryError, match="no room"):
        encoder.encode(sequences(), 16)
    assert threading.active_count() <= before, (
        "threads of earlier tests may end meanwhile, ours must"
    )
    assert len(calls) < len(list(encoder._forward.batches(rows, 16)))


def test_positions(models: dict[str, Path]) -> None:
    """RoBERTa numbers its positions from the padding token's id on."""
    limits = {
        family: SentenceEncoder(str(models[family]), "cpu", 1).max_tokens for family in FAMILIES
    }
    assert limits == {"bert": 128, "roberta": 126}
    longest = Sequences.of([np.arange(5, 5 + 124)])
    assert SentenceEncoder(str(models["roberta"]), "cpu", 1).encode(longest, 8).any()


def test_threads_are_shared_by_the_processes(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizers.os, "sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.setenv(LOCAL_WORKERS, "3")
    assert threads_of_a_worker() == 2
    monkeypatch.setenv(LOCAL_WORKERS, "20")
    assert threads_of_a_worker() == 1
    assert SentenceEncoder(str(models["bert"]), "cpu").num_threads == 1
    assert SentenceEncoder(str(models["bert"]), "cpu", 5).num_threads == 5


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ("flags\t\t: fpu sse2 avx512f avx512_bf16\n", "bfloat16"),
        ("flags\t\t: fpu amx_bf16\n", "bfloat16"),
        ("flags\t\t: fpu avx512f avx2\n", "float32"),
        ("Features\t: fp asimd bf16\n", "float32"),  # no figures for others than x86
        (None, "float32"),
    ],
)
def test_the_number_format_of_a_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str | None, wanted: str
) -> None:
    monkeypatch.setattr(processor, "CPU_INFO", tmp_path / "cpuinfo")
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{flags}\nbugs\t: none\n")
    assert best_dtype("cpu") == wanted
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert best_dtype("auto") == wanted
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert best_dtype("auto") == best_dtype("cuda") == "float32"
    assert best_dtype("cpu") == wanted


def test_a_model_without_its_head_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    headless = Path(shutil.copytree(models["bert"], tmp_path / "headless"))
    weights = {
        name: value
        for name, value in load_file(headless / "model.safetensors").items()
        if "cls." not in name
    }
    save_file(weights, headless / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StageError, match="weights are not in it"):
        SentenceEncoder(str(headless), "cpu", 1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(
    models: dict[str, Path], value: float, tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(models["bert"], tmp_path / "broken"))
    weights = load_file(broken / "model.safetensors")
    weights["bert.encoder.layer.0.output.dense.bias"][1] = value
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StageError, match=f"{broken}: .*'bert.encoder.layer.0.output.dense.bias'"):
        SentenceEncoder(str(broken), "cpu", 1)


def test_vectors_that_are_not_finite_are_an_error(models: dict[str, Path]) -> None:
    """The cosine of a NaN is 0, so its mention would be the most important of all."""
    encoder = SentenceEncoder(str(models["bert"]), "cpu", 1)
    assert isinstance(encoder._forward, FlatForward)
    with torch.no_grad():
        encoder._forward._layers[-1].norm.weight[0] = torch.inf
    with pytest.raises(
        StageError, match=f"{models['bert']}: gives NaN or infinite vectors in float32"
    ):
        encoder.encode(Sequences.of([np.array([7, 9, 8])]), 64)
