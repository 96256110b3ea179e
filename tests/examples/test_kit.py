"""examples/kit/prepare.py: pure functions on small input, and the kit itself where TRELM_KIT names
it.
"""

import gzip
import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.slow

Json = dict[str, Any]

SCRIPT = Path(__file__).parents[2] / "examples" / "kit" / "prepare.py"


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kit_prepare", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


prepare = load_script()


def surfaces(row: Json) -> list[tuple[str, str]]:
    return [(row["text"][m["start"] : m["end"]], m["qid"]) for m in row["mentions"]]


def read_jsonl(path: Path) -> list[Json]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def test_types_become_statements_once() -> None:
    entity: Json = {"id": "Q90", "claims": {"P31": [prepare.instance_of("Q90", "Q515")]}}

    typed = prepare.with_types(entity, ["Q515", "Q5119", "Q5119"])

    targets = [s["mainsnak"]["datavalue"]["value"]["numeric-id"] for s in typed["claims"]["P31"]]
    assert targets == [515, 5119]
    assert len({s["id"] for s in typed["claims"]["P31"]}) == 2
    assert len(entity["claims"]["P31"]) == 1, "the input is not changed"


def test_entity_with_claims_as_list_gets_types() -> None:
    assert list(prepare.with_types({"id": "Q1", "claims": []}, ["Q2"])["claims"]) == ["P31"]


def test_type_item_takes_its_title_from_the_address() -> None:
    described = {
        "label": "café",
        "description": "",
        "wiki": "https://en.wikipedia.org/wiki/Caf%C3%A9_(place)",
    }

    item = prepare.type_item("Q30022", described)

    assert item["sitelinks"]["enwiki"]["title"] == "Café (place)"
    assert item["descriptions"] == {}
    assert (
        prepare.type_item("Q1", {"label": "x", "description": "y", "wiki": ""})["sitelinks"] == {}
    )


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, ["[", '{"id": 0}', "]"]),
        (2, ["[", '{"id": 0},', '{"id": 1}', "]"]),
    ],
)
def test_dump_lines_have_a_comma_after_all_but_the_last(count: int, expected: list[str]) -> None:
    assert list(prepare.dump_lines({"id": number} for number in range(count))) == expected


def test_ernie_offsets_count_the_newline_between_sentences(tmp_path: Path) -> None:
    article = {
        "doc": 3,
        "sents": [
            {"text": "naïve café .", "mentions": [[6, 10, "Q30022"]]},
            {"text": "paris", "mentions": [[0, 5, "Q90"]]},
        ],
    }
    path = tmp_path / "ernie.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(article).encode()))

    (row,) = prepare.ernie_gold(path)

    assert row["doc_id"] == "ernie:3"
    assert row["text"] == "naïve café .\nparis"
    assert surfaces(row) == [("café", "Q30022"), ("paris", "Q90")]


def test_fewrel_takes_the_first_place_of_each_argument(tmp_path: Path) -> None:
    example = {
        "tokens": ["Bern", "is", "in", "old", "Bern", "."],
        "h": ["old bern", "Q1", [[3, 4]]],
        "t": ["bern", "Q70", [[0], [4]]],
    }
    path = tmp_path / "fewrel.json"
    path.write_text(json.dumps({"P17": [example]}), encoding="utf-8")

    (row,) = prepare.fewrel_gold(path)

    assert row["doc_id"] == "fewrel:P17:0"
    assert surfaces(row) == [("Bern", "Q70"), ("old Bern", "Q1")]


def test_extracts_keep_only_texts_and_replace_an_old_folder(tmp_path: Path) -> None:
    archive = tmp_path / "extracts.zip"
    with zipfile.ZipFile(archive, "w") as files:
        files.writestr("extracts/Q1.txt", "one")
        files.writestr("extracts/.DS_Store", "junk")
        files.writestr("../Q2.txt", "two")
    folder = tmp_path / "extracts"
    folder.mkdir()
    (folder / "Q9.txt").write_text("old")

    assert prepare.unzip_extracts(archive, folder) == 2
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "Q1.txt": "one",
        "Q2.txt": "two",
    }
    assert {path.name for path in tmp_path.iterdir()} == {"extracts.zip", "extracts"}


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("old")

    with pytest.raises(TypeError):
        prepare.write_jsonl(path, [{"a": 1}, {"b": {1, 2}}])

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("kit", "message"),
    [
        (None, "the environment variable TRELM_KIT is not set"),
        ("nowhere", "is not a data kit: it has no wikidata/assembled-subset-A.json.gz"),
    ],
)
def test_missing_kit_is_bad_usage(tmp_path: Path, kit: str | None, message: str) -> None:
    env = {name: value for name, value in os.environ.items() if name != "TRELM_KIT"}
    if kit:
        env["TRELM_KIT"] = str(tmp_path / kit)

    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--out", str(tmp_path / "out")],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if "TRELM_KIT" not in os.environ:
        pytest.skip("TRELM_KIT is not set")
    out = tmp_path_factory.mktemp("kit")
    prepare.prepare(prepare.kit_folder(), out)
    return out


@pytest.mark.kit
def test_gold_has_the_reference_counts(prepared: Path) -> None:
    ernie = read_jsonl(prepared / "ernie.gold.jsonl")
    fewrel = read_jsonl(prepared / "fewrel.gold.jsonl")

    assert len(ernie) == 80
    assert sum(len(row["mentions"]) for row in ernie) == 12_160
    assert len(fewrel) == 11_200
    assert sum(len(row["mentions"]) for row in fewrel) == 22_400
    assert len({row["doc_id"] for row in ernie + fewrel}) == 11_280


@pytest.mark.kit
def test_gold_offsets_name_whole_words(prepared: Path) -> None:
    for row in read_jsonl(prepared / "ernie.gold.jsonl") + read_jsonl(
        prepared / "fewrel.gold.jsonl"
    ):
        for mention in row["mentions"]:
            surface = row["text"][mention["start"] : mention["end"]]
            around = f" {row['text']} "[mention["start"]] + f" {row['text']} "[mention["end"] + 1]
            assert surface == surface.strip() != ""
            assert "\n" not in surface
            assert around.isspace(), (row["doc_id"], surface)
    ernie = read_jsonl(prepared / "ernie.gold.jsonl")[0]
    assert surfaces(ernie)[0] == ("political philosophy", "Q179805")


@pytest.mark.kit
def test_fewrel_surfaces_are_its_names(prepared: Path) -> None:
    names = json.loads((prepare.kit_folder() / prepare.FEWREL).read_text(encoding="utf-8"))
    for row in read_jsonl(prepared / "fewrel.gold.jsonl"):
        _, pid, number = row["doc_id"].split(":")
        example = names[pid][int(number)]
        # names keep the hyphens that tokens set apart
        assert {(surface.lower().replace(" ", ""), qid) for surface, qid in surfaces(row)} == {
            (example[role][0].replace(" ", ""), example[role][1]) for role in ("h", "t")
        }


@pytest.mark.kit
def test_typed_subset_keeps_every_entity_and_adds_types(prepared: Path) -> None:
    before = {
        entity["id"]: entity
        for entity in prepare.read_subset(prepare.kit_folder() / prepare.SUBSET)
    }
    after = {
        entity["id"]: entity for entity in prepare.read_subset(prepared / "subset-A-typed.json.gz")
    }

    assert before.keys() < after.keys()
    assert sum("P31" in (entity["claims"] or {}) for entity in before.values()) == 0
    assert "Q515" in {
        s["mainsnak"]["datavalue"]["value"]["id"] for s in after["Q90"]["claims"]["P31"]
    }
    assert after["P31"]["type"] == "property"
    assert len(list((prepared / "extracts").iterdir())) == 2_112


@pytest.mark.kit
def test_output_is_the_same_every_time_and_leaves_nothing_else(
    prepared: Path, tmp_path: Path
) -> None:
    prepare.prepare(prepare.kit_folder(), tmp_path)

    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        path.name for path in prepared.iterdir()
    )
    for name in ("subset-A-typed.json.gz", "ernie.gold.jsonl", "fewrel.gold.jsonl"):
        assert (tmp_path / name).read_bytes() == (prepared / name).read_bytes()
