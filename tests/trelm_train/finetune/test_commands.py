"""The two commands: options, presets, output, and small cuts of the kit's real rows."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.trelm_train.finetune.conftest import relation_rows, write_list
from trelm_train.cli import cli
from trelm_train.finetune.fit import Setting
from trelm_train.finetune_commands import RELATION_PRESETS, TYPING_PRESETS, _request

QUICK = (
    "--device",
    "cpu",
    "--length",
    "48",
    "--batch",
    "8",
    "--precision",
    "float32",
    "--seed",
    "0",
)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["evaluate", *map(str, arguments)], catch_exceptions=True)


def given(**options: Any) -> dict[str, Any]:
    """The options of a command line, as click gives them."""
    plain: dict[str, Any] = {
        "preset": "kp-plm", "rates": (), "epochs": (), "steps": (), "seeds": (0, 1, 2), "batch": None, "length": None,
        "pool": "cls", "patience": 0, "precision": "auto", "limit": 0, "device": "auto", "model": "m", "out": Path("o"),
        "train": None, "dev": None, "test": None, "data": Path("rows.json"),
    }  # fmt: skip
    return plain | options


def test_presets_are_the_published_settings() -> None:
    """Length, batch, rate and epochs or steps, as in the code of KEPLER and KP-PLM."""
    expected = {
        ("typing", "kepler"): (128, 32, Setting(rate=3e-5, epochs=40)),
        ("typing", "kp-plm"): (128, 16, Setting(rate=2e-5, epochs=20)),
        ("relation", "kepler"): (512, 16, Setting(rate=3e-5, steps=7000)),
        ("relation", "kp-plm"): (256, 32, Setting(rate=2e-5, epochs=5)),
    }
    presets = {"typing": TYPING_PRESETS, "relation": RELATION_PRESETS}
    for (task, name), (length, batch, setting) in expected.items():
        request = _request(presets[task], given(preset=name))
        assert (request.recipe.length, request.recipe.batch) == (length, batch)
        assert request.grid.settings == (setting,)
        assert request.grid.seeds == (0, 1, 2)
        assert request.recipe.patience == 0


def test_options_change_a_preset_and_make_a_grid() -> None:
    options = given(preset="kepler", rates=(1e-5, 2e-5, 1e-5), epochs=(3, 4), pool="entities", batch=4)  # fmt: skip
    request = _request(RELATION_PRESETS, options)
    assert request.grid.settings == (
        Setting(rate=1e-5, epochs=3), Setting(rate=1e-5, epochs=4), Setting(rate=2e-5, epochs=3), Setting(rate=2e-5, epochs=4),
    )  # fmt: skip
    assert (request.recipe.batch, request.recipe.length) == (4, 512)
    assert request.recipe.reads_marks
    assert request.files == {"data": Path("rows.json")}


def test_typing_by_command(model_path: Path, typing_files: dict[str, Path], tmp_path: Path) -> None:
    files = [argument for name, path in typing_files.items() for argument in (f"--{name}", path)]
    command = ("typing", "--model", model_path, "--out", tmp_path / "out", "--steps", 3, *files, *QUICK)  # fmt: skip
    shown = invoke(*command, "--rate", 1e-3, "--rate", 2e-3)
    assert shown.exit_code == 0, shown.output
    assert "dev    rate 0.001, 3 steps  micro_f1 " in shown.stdout
    assert "test   loose_macro_f1" in shown.stdout
    assert "chance best constant answer" in shown.stdout
    printed = json.loads(invoke(*command, "--rate", 1e-3, "--rate", 2e-3, "--json").stdout)
    assert printed == json.loads((tmp_path / "out" / "results.json").read_text())


def test_relation_by_command_in_one_file(model_path: Path, tmp_path: Path) -> None:
    rows = write_list(tmp_path / "rows.json", relation_rows(200, 0, negative="NA"))
    command = ("relation", "--model", model_path, "--out", tmp_path / "out", "--data", rows, "--epochs", 1, *QUICK)  # fmt: skip
    result = json.loads(invoke(*command, "--limit", 20, "--json").stdout)
    assert result["negative"] == "NA"
    assert "TACRED" not in result["protocol"]
    assert result["data"]["files"]["data"]["format"] == "rows in TACRED's form"
    assert result["data"]["parts"]["train"]["rows"] == 20


@pytest.mark.parametrize(
    ("more", "part"),
    [
        (("--epochs", 1, "--steps", 1), "--epochs and --steps: give one of them"),
        (("--negative", "NA"), "give --negative 'no_relation'"),
        (("--length", 500), "reads 64 tokens at most"),
        (("--rate", "nan"), "--rate: must be a finite number"),
        (("--rate", "inf"), "--rate: must be a finite number"),
        (("--seed", 1 << 63), "9223372036854775807 or less"),
    ],
)
def test_wrong_options_are_refused(
    model_path: Path, relation_files: dict[str, Path], tmp_path: Path, more: Any, part: str
) -> None:
    files = [argument for name, path in relation_files.items() for argument in (f"--{name}", path)]
    done = invoke("relation", "--model", model_path, "--out", tmp_path / "out", *files, *QUICK, *more)  # fmt: skip
    assert done.exit_code != 0
    assert part in str(done.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.kit
def test_the_kits_rows_are_read_and_learned_from(kit: Path, tmp_path: Path) -> None:
    model = kit / "model" / "splade-tiny-msmarco-mlm"
    semeval = kit / "re" / "semeval2010_task8"
    quick = ("--model", model, "--device", "cpu", "--limit", 60, "--epochs", 1, "--seed", 0, "--json")  # fmt: skip
    cases: dict[str, tuple[object, ...]] = {
        "typing": ("typing", "--data", kit / "typing" / "redocred_dev.openentity-format.json.gz"),
        "original": ("relation", "--train", semeval / "TRAIN_FILE.TXT", "--test", semeval / "TEST_FILE_FULL.TXT"),
        "tacred": ("relation", "--data", semeval / "test.tacred-format.json"),
        "fewrel": ("relation", "--data", kit / "re" / "fewrel_val_wiki.json"),
    }  # fmt: skip
    results = {
        name: json.loads(invoke(*arguments, *quick, "--out", tmp_path / name).stdout)
        for name, arguments in cases.items()
    }
    rows = {
        name: {option: file["rows"] for option, file in result["data"]["files"].items()}
        for name, result in results.items()
    }
    assert rows == {
        "typing": {"data": 12_539}, "original": {"train": 8000, "test": 2717},
        "tacred": {"data": 2717}, "fewrel": {"data": 11_200},
    }  # fmt: skip
    assert [results[name].get("negative", "-") for name in cases] == ["-", "Other", "Other", None]
    assert "semeval_macro_f1" in results["original"]["test"]["mean"]
    assert "stand-in" in results["fewrel"]["data"]["files"]["data"]["format"]
    # Roles of the relation in the place of types would tell the answer.
    refused = invoke("relation", "--data", semeval / "test.tacred-format.json", *quick, "--markers", "typed", "--out", tmp_path / "x")  # fmt: skip
    assert "types alone tell the relation" in str(refused.exception)


@pytest.mark.kit
def test_both_forms_of_semeval_say_the_same(kit: Path) -> None:
    """The rows in TACRED's form were made from the original by others: spans and labels agree."""
    from trelm_train.finetune.relation_file import read_relations

    folder = kit / "re" / "semeval2010_task8"
    made = read_relations(folder / "test.tacred-format.json").examples
    original = read_relations(folder / "TEST_FILE_FULL.TXT").examples
    assert [row.labels for row in made] == [row.labels for row in original]
    names = [
        [["".join(row.text[span.start : span.end].split()) for span in row.spans] for row in rows]
        for rows in (made, original)
    ]
    num_equal = sum(one == other for one, other in zip(*names, strict=True))
    assert num_equal >= 0.99 * len(made)
