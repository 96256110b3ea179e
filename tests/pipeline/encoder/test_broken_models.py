"""Models that do not fit together are refused at every door of the pipeline, before any work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.encoder import sentence_encoder
from pipeline.encoder import tokenizer as tokenizers
from pipeline.encoder.sentence_encoder import SentenceEncoder
from pipeline.encoder.tokenizer import TextTokenizer, check_model
from pipeline.engine.errors import StageError
from schemas.model_folder import longer_tokenizer, model_problem
from tests.broken_models import BROKEN, break_model
from tests.pipeline import tiny_model
from tests.pipeline.cases import in_process


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.make(tmp_path_factory.mktemp("model") / "sound")


def test_sound_models_have_no_problem(model: Path, tmp_path: Path) -> None:
    assert model_problem(model) == ""
    assert model_problem(tiny_model.make_roberta_model(tmp_path / "roberta")) == ""
    # Weights in several files.
    shutil.copytree(model, tmp_path / "parts")
    sentence_encoder._load_encoder(str(model)).save_pretrained(
        tmp_path / "parts", max_shard_size="20KB"
    )
    (tmp_path / "parts" / "model.safetensors").unlink()
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    assert model_problem(tmp_path / "parts") == ""
    next((tmp_path / "parts").glob("*.safetensors")).unlink()
    assert "is missing, and model.safetensors.index.json names it" in model_problem(
        tmp_path / "parts"
    )


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_model_is_refused_at_each_door(
    model: Path, sample_run: Path, tmp_path: Path, how: str
) -> None:
    folder = str(break_model(model, tmp_path / "broken", how))
    for kind in ("masked", "encoder", "tokenizer"):
        with pytest.raises(StageError, match=BROKEN[how]):
            check_model(folder, kind)
    before = sorted(sample_run.rglob("*"))
    for command in (
        ("importance", "--model", folder),
        ("shards", "--model", folder),
        ("link", "--rerank-model", folder, "--set", "link.weights=by-hand"),
        ("link train-reranker", "--model", folder, "--out", str(tmp_path / "out")),
    ):
        done = in_process(*command[0].split(), "--run", str(sample_run), *command[1:])
        assert done.returncode == 1, command
        assert folder in done.stderr
        assert "Traceback" not in done.stderr
    assert sorted(sample_run.rglob("*")) == before
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("how", ["hidden_size", "other weights", "pickle", "cut off"])
def test_what_no_check_saw_is_no_traceback(
    model: Path, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a model that is given by its name: its files are not looked at before."""
    folder = str(break_model(model, tmp_path / "broken", how))
    monkeypatch.setattr(sentence_encoder, "weights_problem", lambda _: "")
    for kind in ("masked", "encoder"):
        with pytest.raises(StageError, match="broken: its .* cannot be loaded"):
            SentenceEncoder(folder, "cpu", 1, kind=kind)


def test_a_tokenizer_that_is_too_long_is_refused_when_it_is_loaded(
    model: Path, tmp_path: Path
) -> None:
    folder = break_model(model, tmp_path / "broken", "long tokenizer")
    with pytest.raises(StageError, match=BROKEN["long tokenizer"]):
        TextTokenizer(str(folder))
    # Tokens of another file than tokenizer.json, which only the library knows.
    (tmp_path / "added").mkdir()
    shutil.copytree(model, tmp_path / "added", dirs_exist_ok=True)
    loaded = TextTokenizer(str(model))._tokenizer
    loaded.add_tokens(["zzzz"])
    loaded.save_pretrained(tmp_path / "added")
    with pytest.raises(StageError, match=BROKEN["long tokenizer"]):
        TextTokenizer(str(tmp_path / "added"))
    settings = json.loads((model / "config.json").read_text())
    assert tokenizers._vocab_size(str(model)) == settings["vocab_size"]
    assert longer_tokenizer("m", 5, 5) == longer_tokenizer("m", 5, None) == ""
    assert longer_tokenizer("m", 6, 5)
