import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from schemas.errors import ConfigError, TrelmError
from tests.trelm_train import world
from tests.trelm_train.conftest import request_for
from trelm_train.checkpoints.bucket_run import RunFolder
from trelm_train.checkpoints.checkpoint import list_checkpoints, load_checkpoint
from trelm_train.checkpoints.export import (
    entities_of,
    export_bank,
    export_checkpoint,
    export_model,
    find_bank,
    load_weights,
)
from trelm_train.cli import cli
from trelm_train.config import MemoryConfig
from trelm_train.data.knowledge import Knowledge
from trelm_train.memory.bank_file import write_bank
from trelm_train.memory.memory_bank import MemoryBank, Notes
from trelm_train.model.masked_lm import MaskedLm, load_pretrained
from trelm_train.training.inspect import knowledge_path, nearest
from trelm_train.training.session import resume_run
from trelm_train.training.train import resume, run


def saved(bank: MemoryBank, folder: Path) -> Path:
    """A bank's file as a checkpoint holds it."""
    path = folder / "saved.safetensors"
    write_bank(bank, path)
    return path


@pytest.fixture(scope="module")
def out(shards_path: Path, model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "out"
    run(request_for(shards_path, model_path, folder, "train.steps=4", "train.checkpoint_every=2"))
    return folder


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


HARMS: dict[str, Callable[[Path], None]] = {
    "changed": flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-3]) and None,
    "lost": Path.unlink,
}


def test_weights_that_a_killed_program_left_by_half_are_removed(out: Path, tmp_path: Path) -> None:
    """As a kill inside of safetensors leaves them in OUT/model; what else is there stays."""
    again = Path(shutil.copytree(out, tmp_path / "out"))
    (again / "model" / ".tmpYj8gfp").write_bytes(b"half of the weights")
    mine = {"notes.txt", ".tmp-notes", ".tmp.notes.txt"}
    for name in mine:
        (again / "model" / name).write_text("mine")
    (again / "model" / ".tmpfolder").mkdir()
    resume(again)
    names = {path.name for path in (again / "model").iterdir()}
    made = {path.name for path in (out / "model").iterdir()}
    assert names == made | mine | {".tmpfolder"}
    assert ".tmpYj8gfp" not in (again / "model" / "checksums.json").read_text()


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "checksums.json"])
def test_a_damaged_export_is_refused(out: Path, tmp_path: Path, name: str, harm: str) -> None:
    copy = Path(shutil.copytree(out, tmp_path / "out"))
    load_pretrained(str(copy / "model"), torch.device("cpu"))
    HARMS[harm](copy / "model" / name)
    match = "no weights" if (harm, name) == ("lost", "model.safetensors") else name
    with pytest.raises(ConfigError, match=match):
        load_pretrained(str(copy / "model"), torch.device("cpu"))


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("name", ["bank.safetensors", "entities.parquet", "checksums.json"])
def test_a_damaged_bank_is_refused(out: Path, tmp_path: Path, name: str, harm: str) -> None:
    copy = Path(shutil.copytree(out, tmp_path / "out"))
    folder = copy / "model" / "bank"
    nearest(copy, "zenda", top=1)
    HARMS[harm](folder / name)
    match = "no memory bank" if (harm, name) == ("lost", "bank.safetensors") else name
    with pytest.raises(ConfigError, match=match):
        nearest(copy, "zenda", top=1)
    # A bank of an older version has no checksums beside it; the file itself has one.
    if (harm, name) == ("changed", "bank.safetensors"):
        (folder / "checksums.json").unlink()
        (copy / "run.json").unlink()
        with pytest.raises(ConfigError, match="was changed after it was written"):
            nearest(copy, "zenda", top=1)


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("name", ["model.safetensors", "checksums.json"])
def test_a_damaged_beginning_is_refused(out: Path, tmp_path: Path, name: str, harm: str) -> None:
    copy = Path(shutil.copytree(out, tmp_path / "out"))
    HARMS[harm](copy / "initial" / name)
    with pytest.raises(ConfigError, match=f"initial: damaged .*{name}.*restore this copy"):
        resume_run(RunFolder(folder=copy), None)


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
        cli,
        ["export", "--checkpoint", str(last), "--out", str(tmp_path / "m")],
        catch_exceptions=False,
    )
    assert "model of step 4" in result.output
    for name in ("entities.parquet", "bank.safetensors"):
        assert (tmp_path / "m" / "bank" / name).read_bytes() == (
            out / "model" / "bank" / name
        ).read_bytes()
    ours, theirs = (
        load_file(tmp_path / "m" / "model.safetensors"),
        load_file(out / "model" / "model.safetensors"),
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert find_bank(tmp_path / "m") == tmp_path / "m" / "bank"


def test_an_export_overwrites_nothing(out: Path, tmp_path: Path) -> None:
    last = list_checkpoints(out / "checkpoints")[-1]
    for folder in (out / "model", out):
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
        with pytest.raises(ConfigError, match="exists already; give a new or an empty folder"):
            export_checkpoint(last, folder)
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    (tmp_path / "empty").mkdir()
    assert export_checkpoint(last, tmp_path / "empty") == 4


def test_a_checkpoint_outside_its_run(out: Path, tmp_path: Path) -> None:
    moved = tmp_path / "a" / "b"
    shutil.copytree(list_checkpoints(out / "checkpoints")[-1], moved)
    with pytest.raises(ConfigError, match="outside its run"):
        export_checkpoint(moved, tmp_path / "m")


def test_the_bank_lies_beside_the_model(out: Path) -> None:
    entities = pq.read_table(out / "model" / "bank" / "entities.parquet")
    bank = load_file(out / "model" / "bank" / "bank.safetensors")
    assert entities.column_names == ["row", "id", "label"]
    assert entities["row"].to_pylist() == bank["row"].tolist()
    assert 0 < len(entities) <= 20
    assert entities.slice(0, 1).to_pylist() == [{"row": 0, "id": 100, "label": "Ruritania"}]
    assert bank["note"].dtype == torch.float16
    assert bank["note"].shape[:2] == (len(entities), 2)
    assert (bank["count"] > 0).all()
    assert pq.read_table(out / "entities.parquet")["label"].to_pylist() == world.ENTITIES


def test_a_bank_in_a_file_gives_the_same_run(
    out: Path, shards_path: Path, model_path: Path, tmp_path: Path
) -> None:
    """The same bank and the same weights, bit for bit; the run's folder holds no file of the bank."""
    run(
        request_for(
            shards_path, model_path, tmp_path / "out",
            "train.steps=4", "train.checkpoint_every=2", "train.validate=false", "memory.storage=file",
        )
    )  # fmt: skip
    for name in ("model.safetensors", "bank/bank.safetensors"):
        assert (tmp_path / "out" / "model" / name).read_bytes() == (
            out / "model" / name
        ).read_bytes()


def test_only_written_rows_are_exported(knowledge: Knowledge, tmp_path: Path) -> None:
    bank = MemoryBank(knowledge.num_bank_rows, 4, MemoryConfig())
    names = torch.tensor([[13, 5, 0, 0], [2, 6, 0, 0]])
    bank.write(Notes.from_tensors(names, torch.ones(2, 2, 4)))
    export_bank(saved(bank, tmp_path), entities_of(knowledge), tmp_path)
    assert pq.read_table(tmp_path / "bank" / "entities.parquet")["row"].to_pylist() == [2, 13]
    asked, found = nearest(tmp_path, "Q102", top=5)
    assert (asked.label, asked.count, len(found)) == ("Genovia", 1, 1)
    with pytest.raises(ConfigError, match="no sentence has written it"):
        nearest(tmp_path, "Q100", top=1)


def test_names_follow_the_bank_rows(knowledge: Knowledge) -> None:
    turned = replace(
        knowledge, bank_row=np.where(knowledge.bank_row >= 0, 19 - knowledge.bank_row, -1)
    )
    entities = entities_of(turned)
    assert entities["row"].to_pylist() == list(range(20))
    assert entities["label"].to_pylist() == world.ENTITIES[::-1]


def test_the_nearest_are_found_piece_by_piece(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, whole = nearest(out, "Q110", top=30)
    monkeypatch.setattr("trelm_train.training.inspect.PIECE", 3)
    _, pieces = nearest(out, "Q110", top=30)
    assert [item.id for item in pieces] == [item.id for item in whole]
    assert [item.cosine for item in pieces] == pytest.approx(
        [item.cosine for item in whole], abs=1e-6
    )


def test_a_cosine_is_that_of_the_mixed_notes(out: Path) -> None:
    bank = load_file(out / "model" / "bank" / "bank.safetensors")
    mixed = bank["note"].float().mean(1)
    _, (first, *_) = nearest(out, "Q110", top=1)
    rows = dict(zip(world.ENTITIES, range(20), strict=True))
    places = [bank["row"].tolist().index(rows[label]) for label in ("Mertz", first.label)]
    assert first.cosine == pytest.approx(
        float(torch.cosine_similarity(*mixed[places], dim=0)), abs=1e-6
    )


def test_a_disk_that_is_full(out: Path, knowledge: Knowledge, tmp_path: Path) -> None:
    (tmp_path / "bank").write_text("a file where a folder should be")
    bank = MemoryBank(knowledge.num_bank_rows, 4, MemoryConfig())
    with pytest.raises(TrelmError, match="cannot write the memory bank"):
        export_bank(saved(bank, tmp_path), entities_of(knowledge), tmp_path)


def test_nearest_entities(out: Path) -> None:
    asked, found = nearest(out, "zenda", top=3)
    assert asked.label == "Zenda"
    assert asked.cosine == pytest.approx(1.0, abs=1e-5)
    assert len(found) == 3
    assert [item.cosine for item in found] == sorted((item.cosine for item in found), reverse=True)
    assert nearest(out, asked.id, top=3)[0] == asked
    with pytest.raises(ConfigError, match="no sentence has written it"):
        nearest(out, "Atlantis", top=3)
    with pytest.raises(ConfigError, match="no memory bank there"):
        nearest(out / "nowhere", "Zenda", top=3)


def test_notes_that_are_not_finite_have_no_neighbours(knowledge: Knowledge, tmp_path: Path) -> None:
    """A NaN would be nearest to everything: torch sorts it above all numbers."""
    bank = MemoryBank(knowledge.num_bank_rows, 4, MemoryConfig())
    notes = torch.ones(2, 2, 4)
    notes[1, 0, 2] = torch.nan
    bank.write(Notes.from_tensors(torch.tensor([[13, 5, 0, 0], [2, 6, 0, 0]]), notes))
    export_bank(saved(bank, tmp_path), entities_of(knowledge), tmp_path)
    with pytest.raises(ConfigError, match="some of its notes hold NaN or infinite numbers"):
        nearest(tmp_path, "Q113", top=1)


def test_inspect_commands(out: Path) -> None:
    runner = CliRunner()
    text = runner.invoke(
        cli, ["inspect", "bank", "--run", str(out), "--entity", "Q110", "--top", "2"]
    ).output
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
