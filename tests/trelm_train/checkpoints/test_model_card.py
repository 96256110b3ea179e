"""The card of an exported model says what the run did, and is read by the hub's own library."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForMaskedLM, AutoTokenizer

from tests.trelm_train.conftest import request_for
from trelm_train.checkpoints.export import export_checkpoint
from trelm_train.checkpoints.model_card import TrainedModel, card_of
from trelm_train.config import load_config
from trelm_train.data.shards import open_shards
from trelm_train.model.masked_lm import load_pretrained
from trelm_train.training.train import run

SETS = (
    "train.steps=4", "train.checkpoint_every=2", "routing.share=0.25", "card.name=Alps", "card.license=apache-2.0",
    "card.language=en", "card.text=Our own sentences, CC0", "train.keep_checkpoints=9",
)  # fmt: skip


@pytest.fixture(scope="module")
def out(shards_path: Path, model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("card") / "out"
    run(request_for(shards_path, model_path, folder, *SETS))
    return folder


def rows(card: str) -> dict[str, list[str]]:
    """Return the rows of all tables of a card, by their first cell."""
    cells = [line.strip("| ").split(" | ") for line in card.splitlines() if line.startswith("|")]
    return {first: rest for first, *rest in cells}


def trained(**more: Any) -> TrainedModel:
    settings = {
        "run": {"model": "bert-base-uncased", "fingerprint": "f1"},
        "config": load_config(None),
        "step": 2_000,
        "tokens": 8_000_000,
        "before": {},
        "after": {},
        "has_bank": False,
        "summary": {},
    }
    return TrainedModel(**{**settings, **more})


def test_header_is_read_by_the_hub_and_the_folder_by_transformers(out: Path) -> None:
    card = ModelCard.load(out / "model" / "README.md")

    assert card.data.license == "apache-2.0"
    assert card.data.language == "en"
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "fill-mask")
    # The start is a folder of this machine, which no reader can follow.
    assert card.data.base_model is None
    _, info = AutoModelForMaskedLM.from_pretrained(out / "model", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert len(AutoTokenizer.from_pretrained(out / "model"))


def test_figures_are_those_of_the_run(out: Path, shards_path: Path, model_path: Path) -> None:
    summary = json.loads((out / "summary.json").read_text())
    fingerprint = open_shards(shards_path).fingerprint
    text = (out / "model" / "README.md").read_text()
    found = rows(text)

    loss = [f"{summary[f'validation_{when}']['loss']:.3f}" for when in ("before", "after")]
    assert found["masked-LM loss, nats per masked token"] == loss
    assert found["fingerprint of the shards"] == [f"`{fingerprint}`"]
    assert found["text"] == ["Our own sentences, CC0"]
    assert f"4 steps, {summary['tokens']:,} tokens" in text
    assert "routing.share = 0.25" in text
    # What changes nothing that is learned, and where things lay, is nobody's business.
    assert "keep_checkpoints" not in text
    assert str(model_path.parent) not in text


def test_checkpoint_has_a_card_without_figures_of_the_end(out: Path, tmp_path: Path) -> None:
    export_checkpoint(out / "checkpoints" / "step-00000002", tmp_path / "model")

    text = (tmp_path / "model" / "README.md").read_text()
    assert "2 steps" in text
    assert rows(text)["masked-LM loss, nats per masked token"][1] == "not stated"


def test_a_folder_that_looks_like_a_hub_name_is_no_link_from_elsewhere(
    shards_path: Path, model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(model_path, tmp_path / "demo" / "pretrained")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    request = request_for(shards_path, model_path, tmp_path / "out", *SETS)
    run(replace(request, model="demo/pretrained"))
    monkeypatch.chdir(elsewhere)
    export_checkpoint(tmp_path / "out" / "checkpoints" / "step-00000002", elsewhere / "model")
    for folder in (tmp_path / "out" / "model", elsewhere / "model"):
        assert ModelCard.load(folder / "README.md").data.base_model is None


def test_settings_of_another_version_cost_the_card_alone(
    out: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = shutil.copytree(out, tmp_path / "out")
    text = (copy / "config.toml").read_text()
    (copy / "config.toml").write_text(text.replace("[cka]", "[cka]\nfact_share = 0.5"))
    export_checkpoint(copy / "checkpoints" / "step-00000002", tmp_path / "model")
    assert not (tmp_path / "model" / "README.md").exists()
    assert "the model gets no card" in caplog.text
    load_pretrained(str(tmp_path / "model"), torch.device("cpu"))


def test_words_stay_in_their_place() -> None:
    sets = ('card.name=A "b"\n# c', "card.text=a | b\n\n# d", "card.license=x: y\n---\nz")
    card = card_of(trained(config=load_config(None, sets)))
    assert '\n# A "b" # c\n' in card
    assert 'model="A \\"b\\" # c")' in card
    assert "| text | a \\| b # d |" in card
    assert "| this model | x: y --- z |" in card


def test_an_edited_card_is_no_damage(out: Path) -> None:
    path = out / "model" / "README.md"
    path.write_text(path.read_text() + "\nMore.\n")
    load_pretrained(str(out / "model"), torch.device("cpu"))


@pytest.mark.parametrize(
    ("model", "named", "base"),
    [
        ("google-bert/bert-base-uncased", "google-bert/bert-base-uncased", True),
        ("/data/models/mine", "mine", False),
        ("s3://bucket/models/mine/", "mine", False),
        ("../mine", "mine", False),
    ],
)
def test_start_is_named_without_its_place(model: str, named: str, base: bool) -> None:  # noqa: FBT001
    card = card_of(trained(run={"model": model, "fingerprint": "f1"}))

    assert f"continued from `{named}` by" in card
    assert (f"base_model: {model}" in card) == base
    assert base or model not in card


def test_says_what_is_not_stated() -> None:
    card = card_of(trained())

    assert "Not measured on the validation split." in card
    assert rows(card)["this model"] == ["not stated; state it before you publish"]
    assert "```toml\n# none\n```" in card
    assert "license:" not in card


def test_objective_says_what_is_on() -> None:
    sets = ["facts.enabled=false", "memory.enabled=true", "injection.enabled=true"]
    words = card_of(replace(trained(), config=load_config(None, sets))).split("## Objective")[1]

    assert words.strip().startswith("masked-LM training, ")
    assert "injection of relations, a memory bank of notes" in words
    assert "asked at masks" not in words
