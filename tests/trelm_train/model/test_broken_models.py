"""Models that do not fit together are refused at every door of the trainer, before any work."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from schemas.checksums import seal
from schemas.errors import ConfigError
from tests.broken_models import BROKEN, break_model
from tests.trelm_train.conftest import request_for
from trelm_train.checkpoints.export import export_checkpoint, load_weights
from trelm_train.evaluate import paraphrase_items
from trelm_train.evaluate.forgetting import TextRequest, measure_text
from trelm_train.evaluate.lama import Options
from trelm_train.evaluate.lama_items import probe
from trelm_train.evaluate.mlm_items import measure
from trelm_train.evaluate.paraphrases import ParaphraseOptions
from trelm_train.model import masked_lm
from trelm_train.model.masked_lm import MaskedLm, load_pretrained, load_tokenizer
from trelm_train.training.resource_estimate import estimate_request
from trelm_train.training.train import resume, run

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def finished(shards_path: Path, model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a checkpoint."""
    out = tmp_path_factory.mktemp("finished") / "run"
    run(request_for(shards_path, model_path, out, "train.steps=1", "train.checkpoint_every=1"))
    return out


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_model_is_refused_at_each_door(
    model_path: Path, shards_path: Path, finished: Path, tmp_path: Path, how: str
) -> None:
    folder, out = break_model(model_path, tmp_path / "broken", how), tmp_path / "out"
    begun = Path(shutil.copytree(finished, tmp_path / "begun"))
    shutil.rmtree(begun / "initial")
    break_model(model_path, begun / "initial", how)
    # It was broken when the run began: its checksums are right.
    seal(begun / "initial")
    checkpoint = next((begun / "checkpoints").glob("step-*"))
    before = {path: path.stat().st_mtime_ns for path in begun.rglob("*") if path.is_file()}
    probes = Options(probes=tmp_path, relations=tmp_path)
    in_other_words = ParaphraseOptions(probes=tmp_path, patterns=tmp_path)
    doors: tuple[Callable[[], object], ...] = (
        lambda: load_pretrained(str(folder), CPU),
        lambda: run(request_for(shards_path, folder, out)),
        lambda: estimate_request(request_for(shards_path, folder, out)),
        lambda: probe(str(folder), "cpu", probes),
        lambda: paraphrase_items.probe(str(folder), "cpu", in_other_words),
        lambda: measure(str(folder), shards_path, device="cpu"),
        lambda: measure_text(str(folder), TextRequest(path=tmp_path), "cpu"),
        lambda: resume(begun),
        lambda: export_checkpoint(checkpoint, out),
    )
    for number, door in enumerate(doors):
        with pytest.raises(ConfigError, match=BROKEN[how]):
            door()
        assert not out.exists(), number
    assert before == {path: path.stat().st_mtime_ns for path in begun.rglob("*") if path.is_file()}


@pytest.mark.parametrize("how", ["hidden_size", "other weights", "pickle", "cut off"])
def test_what_no_check_saw_is_no_traceback(
    model_path: Path, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = break_model(model_path, tmp_path / "broken", how)
    monkeypatch.setattr(masked_lm, "model_problem", lambda _: "")
    with pytest.raises(ConfigError, match="broken: cannot load its weights .*copy the model again"):
        load_pretrained(str(folder), CPU)


def test_a_tokenizer_with_more_tokens_than_the_model(
    model: MaskedLm, model_path: Path, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(str(model_path), model)
    tokenizer.add_tokens(["zzzz"])
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=BROKEN["long tokenizer"]):
        load_tokenizer(str(tmp_path), model)
    assert load_tokenizer(str(tmp_path))


def test_weights_of_another_shape_are_no_traceback(model: MaskedLm) -> None:
    tensors = {name: value.detach() for name, value in model.hf.named_parameters()}
    name = next(iter(tensors))
    with pytest.raises(ConfigError, match="weights of another model: .* has the shape"):
        load_weights(model, tensors | {name: tensors[name][:-1]})
