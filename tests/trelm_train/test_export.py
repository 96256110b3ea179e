import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from tests.trelm_train.conftest import request_for
from trelm_train.checkpoint import list_checkpoints, load_checkpoint
from trelm_train.cli import cli
from trelm_train.errors import ConfigError, TrelmError
from trelm_train.export import export_checkpoint, export_model, find_bank, load_weights
from trelm_train.inspect import knowledge_path, nearest
from trelm_train.model import MaskedLm
from trelm_train.train import run


@pytest.fixture(scope="module")
def out(shards_path: Path, model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "out"
    run(request_for(shards_path, model_path, folder, "train.steps=4", "train.checkpoint_every=2"))
    return folder


def test_the_export_loads_with_no_key_missing_or_unexpected(out: Path) -> None:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    model, info = AutoModelForMaskedLM.from_pretrained(out / "model", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert AutoTokenizer.from_pretrained(out / "model").mask_token == "[MASK]"
    names = load_file(out / "model" / "model.safetensors").keys()
    assert not any("projection" in name for name in names), "W_q exists in training only"


def test_a_checkpoint_becomes_the_same_model(out: Path, tmp_path: Path) -> None:
    last = list_checkpoints(out / "checkpoints")[-1]
    result = CliRunner().invoke(
        cli, ["export", "--checkpoint", str(last), "--out", str(tmp_path / "m")], catch_exceptions=False
    )
    assert "model of step 4" in result.output
    assert (tmp_path / "m" / "bank" / "entities.json").read_text() == (
        out / "model" / "bank" / "entities.json"
    ).read_text()
    ours, theirs = load_file(tmp_path / "m" / "model.safetensors"), load_file(out / "model" / "model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert find_bank(tmp_path / "m") == tmp_path / "m" / "bank"


def test_a_checkpoint_outside_its_run(out: Path, tmp_path: Path) -> None:
    moved = tmp_path / "a" / "b"
    shutil.copytree(list_checkpoints(out / "checkpoints")[-1], moved)
    with pytest.raises(ConfigError, match="outside its run"):
        export_checkpoint(moved, tmp_path / "m")


def test_the_bank_lies_beside_the_model(out: Path) -> None:
    entities = json.loads((out / "model" / "bank" / "entities.json").read_text())
    bank = load_file(out / "model" / "bank" / "bank.safetensors")
    assert len(entities) == len(bank["count"]) == 20
    assert entities[0] == {"id": "Q100", "label": "Ruritania"}
    assert bank["local"].dtype == torch.float16


def test_nearest_entities(out: Path) -> None:
    asked, found = nearest(out, "zenda", top=3)
    assert asked.label == "Zenda"
    assert asked.cosine == pytest.approx(1.0, abs=1e-5)
    assert len(found) == 3
    assert [item.cosine for item in found] == sorted((item.cosine for item in found), reverse=True)
    assert nearest(out, asked.id, top=3)[0] == asked
    with pytest.raises(ConfigError, match="not in the memory bank"):
        nearest(out, "Atlantis", top=3)
    with pytest.raises(ConfigError, match="no memory bank there"):
        nearest(out / "nowhere", "Zenda", top=3)


def test_an_entity_that_nothing_was_written_about(out: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = tmp_path / "bank"
    folder.mkdir()
    tensors = load_file(out / "model" / "bank" / "bank.safetensors")
    tensors["count"][0] = 0
    save_file(tensors, folder / "bank.safetensors")
    (folder / "entities.json").write_text((out / "model" / "bank" / "entities.json").read_text())
    with pytest.raises(ConfigError, match="no sentence has written it"):
        nearest(tmp_path, "Q100", top=1)


def test_inspect_commands(out: Path) -> None:
    runner = CliRunner()
    text = runner.invoke(cli, ["inspect", "bank", "--run", str(out), "--entity", "Q110", "--top", "2"]).output
    assert text.startswith("Q110 Mertz: written")
    assert len(text.splitlines()) == 3
    text = runner.invoke(cli, ["inspect", "path", "--run", str(out)]).output
    assert text.startswith("policy ig, chosen before step 3")
    assert "layer  2" in text
    data = json.loads(runner.invoke(cli, ["inspect", "path", "--run", str(out), "--json"]).stdout)
    assert data == knowledge_path(out)
    with pytest.raises(ConfigError, match="no routing.json"):
        knowledge_path(out / "nowhere")


def test_wrong_inputs(out: Path, model: MaskedLm, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a checkpoint"):
        load_checkpoint(tmp_path)
    with pytest.raises(ConfigError, match="weights of another model"):
        load_weights(model, {"x": torch.ones(1)})
    (tmp_path / "file").write_text("")
    with pytest.raises(TrelmError, match="cannot write the model"):
        export_model(model, out / "initial", tmp_path / "file")
