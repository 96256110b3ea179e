import json
from pathlib import Path

import pytest
import torch

from schemas.errors import ConfigError, TrelmError
from tests.pausing import wait_until
from trelm_train.checkpoints import checkpoint
from trelm_train.checkpoints.checkpoint import (
    CheckpointWriter,
    best_checkpoint,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
)

GROUPS = {
    "model": {"a.weight": torch.randn(5, 3), "a.bias": torch.zeros(3)},
    "optimiser": {"a.weight/step": torch.tensor(7.0), "a.weight/exp_avg": torch.randn(5, 3)},
    "bank": {"row": torch.arange(4), "note": torch.randn(4, 2, 3).half()},
    "sparse": {"1/index": torch.zeros(0, dtype=torch.int64)},
}


@pytest.mark.parametrize("background", [False, True])
def test_everything_comes_back(*, background: bool, tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path, keep=2, background=background)
    writer.save(7, GROUPS, {"step": 7, "note": "ünïcode"})
    writer.finish()
    found = load_checkpoint(tmp_path / "step-00000007")
    assert found.state == {"step": 7, "note": "ünïcode"}
    assert {name: set(group) for name, group in found.tensors.items()} == {
        k: set(v) for k, v in GROUPS.items()
    }
    for name, group in GROUPS.items():
        for key, value in group.items():
            assert found.tensors[name][key].dtype == value.dtype
            assert torch.equal(found.tensors[name][key], value)
    assert set(load_checkpoint(tmp_path / "step-00000007", ("model",)).tensors) == {"model"}


def test_nothing_is_pickled(tmp_path: Path) -> None:
    CheckpointWriter(tmp_path, keep=1).save(1, GROUPS, {})
    files = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {".safetensors", ".json"}


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    """What is written is the state at `save`, whatever happens to the tensors after it."""
    weight, state = torch.ones(1000, 100), {"sums": {"loss": 1.0}}
    writer = CheckpointWriter(tmp_path, keep=1, background=True)
    writer.save(1, {"model": {"w": weight}}, state)
    weight.zero_()
    state["sums"]["loss"] = 2.0
    writer.finish()
    found = load_checkpoint(tmp_path / "step-00000001")
    assert bool((found.tensors["model"]["w"] == 1).all())
    assert found.state == {"sums": {"loss": 1.0}}


def test_old_ones_go_and_the_best_stays(tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path, keep=2)
    for step in (1, 2, 3, 3, 4, 5):
        writer.save(step, {"model": {"x": torch.ones(1)}}, {"step": step})
        if step == 2:
            writer.mark_best(2, "loss", 1.5)
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        "step-00000002",
        "step-00000004",
        "step-00000005",
    ]
    assert best_checkpoint(tmp_path) == tmp_path / "step-00000002"
    writer.mark_best(5, "loss", 1.25)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000004", "step-00000005"]
    assert json.loads((tmp_path / "best.json").read_text())["value"] == 1.25


def test_half_written_checkpoints_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "step-00000003").mkdir()
    (tmp_path / ".step-00000004.partial" / "tensors").mkdir(parents=True)
    assert latest_checkpoint(tmp_path) is None
    assert latest_checkpoint(tmp_path / "nowhere") is None
    assert best_checkpoint(tmp_path) is None
    CheckpointWriter(tmp_path, keep=2).save(5, GROUPS, {"step": 5})
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000005"]
    assert not list(tmp_path.glob(".*.partial"))  # what a killed process left is removed


def _save_and_finish(writer: CheckpointWriter) -> None:
    writer.save(2, GROUPS, {"step": 2})
    writer.finish()


@pytest.mark.parametrize("background", [False, True])
def test_an_end_in_the_middle_of_a_checkpoint(
    *, background: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors written, process gone before the folder got its name: the one before is the newest."""
    writer = CheckpointWriter(tmp_path, keep=2, background=background)
    writer.save(1, GROUPS, {"step": 1})
    writer.finish()

    def gone(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint, "_settle", gone)
    with pytest.raises(
        TrelmError,
        match="step-00000002: cannot write the checkpoint.*the last one before it is whole",
    ):
        _save_and_finish(writer)
    assert latest_checkpoint(tmp_path) == tmp_path / "step-00000001"
    monkeypatch.undo()
    writer.save(3, GROUPS, {"step": 3})
    writer.finish()
    assert load_checkpoint(tmp_path / "step-00000003").state == {"step": 3}


@pytest.mark.parametrize("background", [False, True])
def test_a_checkpoint_that_cannot_be_written(*, background: bool, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    writer = CheckpointWriter(tmp_path / "file", keep=1, background=background)
    with pytest.raises(TrelmError, match="cannot write the checkpoint"):
        writer.save(1, {}, {})


def test_a_folder_that_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a checkpoint"):
        load_checkpoint(tmp_path)
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(ConfigError, match="damaged.*no folder tensors"):
        load_checkpoint(tmp_path)


def test_a_checkpoint_that_stands_is_not_touched(tmp_path: Path) -> None:
    """The last step is often one that was saved already: the newest checkpoint must not be taken down to be put up again."""
    writer = CheckpointWriter(tmp_path, keep=1)
    writer.save(4, GROUPS, {"step": 4})
    before = (tmp_path / "step-00000004").stat().st_ino
    writer.save(4, GROUPS, {"step": 4})
    assert (tmp_path / "step-00000004").stat().st_ino == before
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000004"]


def test_a_checkpoint_gets_its_name_soon_after_it_is_written(tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path, keep=2, background=True)
    writer.save(1, GROUPS, {"step": 1})
    wait_until(lambda: writer.poll() or latest_checkpoint(tmp_path))
    writer.poll()
    assert load_checkpoint(tmp_path / "step-00000001").state == {"step": 1}


def test_a_half_removed_checkpoint_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = CheckpointWriter(tmp_path, keep=1)
    writer.save(1, GROUPS, {"step": 1})

    def stuck(_path: Path) -> None:
        raise OSError("killed here")

    monkeypatch.setattr(checkpoint.shutil, "rmtree", stuck)
    with pytest.raises(TrelmError, match="killed here"):
        writer.save(2, GROUPS, {"step": 2})
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000002"]


@pytest.mark.parametrize("text", ["[]", "{", "{}", "7", '{"checkpoint": []}', ""])
def test_a_damaged_mark_of_the_best_is_named(tmp_path: Path, text: str) -> None:
    """Without the mark the best one would be removed as an old one."""
    writer = CheckpointWriter(tmp_path, keep=1)
    writer.save(1, GROUPS, {"step": 1})
    writer.mark_best(1, "loss", 1.0)
    (tmp_path / "best.json").write_text(text)
    with pytest.raises(ConfigError, match=r"best\.json: damaged .*or remove it"):
        best_checkpoint(tmp_path)
    with pytest.raises(ConfigError, match="damaged"):
        writer.save(2, GROUPS, {"step": 2})
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000001", "step-00000002"]


def test_more_files(tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path, keep=1, background=True)
    writer.save(1, GROUPS, {}, lambda folder: (folder / "more.bin").write_bytes(b"x") and None)
    writer.finish()
    assert (tmp_path / "step-00000001" / "more.bin").read_bytes() == b"x"


def test_any_changed_byte_is_noticed(tmp_path: Path) -> None:
    """A number in the state, or a bit of a weight, would change without a word."""
    CheckpointWriter(tmp_path, keep=1).save(1, GROUPS, {"step": 123})
    folder = tmp_path / "step-00000001"
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        good = path.read_bytes()
        for place in range(0, len(good), max(len(good) // 25, 1)):
            changed = bytearray(good)
            changed[place] ^= 1 << (place % 7)
            path.write_bytes(changed)
            with pytest.raises(ConfigError, match="damaged"):
                load_checkpoint(folder)
        path.write_bytes(good[:-3])
        with pytest.raises(ConfigError, match="damaged"):
            load_checkpoint(folder)
        path.write_bytes(good)
    assert load_checkpoint(folder).state == {"step": 123}


def test_missing_checksums_are_damage_where_there_were_some(tmp_path: Path) -> None:
    CheckpointWriter(tmp_path, keep=1).save(1, GROUPS, {"step": 1})
    folder = tmp_path / "step-00000001"
    (folder / "checksums.json").unlink()
    with pytest.raises(ConfigError, match=r"damaged .*checksums\.json is missing"):
        load_checkpoint(folder)
    # One of an older version, which says nothing of them.
    (folder / "state.json").write_text('{"step": 1}')
    assert load_checkpoint(folder).state == {"step": 1}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("group", "name"),
    [("model", "a.weight"), ("optimiser", "a.weight/exp_avg"), ("bank", "note")],
)
def test_tensors_that_are_not_finite_are_refused(
    group: str, name: str, value: float, tmp_path: Path
) -> None:
    groups = {key: dict(tensors) for key, tensors in GROUPS.items()}
    groups[group][name] = groups[group][name].clone()
    groups[group][name].view(-1)[-1] = value
    CheckpointWriter(tmp_path, keep=1).save(5, groups, {"step": 5})
    path = tmp_path / "step-00000005"
    match = f"{path}: 1 tensor.s. such as '{group}/{name}' hold NaN .*; remove this folder, and"
    with pytest.raises(ConfigError, match=match):
        load_checkpoint(path)
    # Groups that are not asked for are not judged.
    assert load_checkpoint(path, ("sparse",)).state == {"step": 5}
