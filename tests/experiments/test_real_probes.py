"""experiments/real_probes.py on the sample: which facts its text states, and which it does not."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from pipeline.database.connection import open_run
from pipeline.engine.tables import RunPaths
from schemas.errors import ConfigError
from tests.conftest import ROOT
from trelm_train.init import SPECIAL, wordpiece_tokenizer

RELATIONS = ROOT / "examples" / "tiny" / "probes" / "relations.jsonl"


def load_script() -> ModuleType:
    path = ROOT / "experiments" / "real_probes.py"
    spec = importlib.util.spec_from_file_location("real_probes", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


real_probes = load_script()


def table(run: Path, sql: str) -> list[Any]:
    with open_run(RunPaths(root=str(run))) as connection:
        return connection.execute(sql).fetchall()


@pytest.fixture(scope="module")
def model(sample_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer that has every label of one word as a token, but for one."""
    words = {
        word
        for (label,) in table(sample_run, "SELECT label FROM entities")
        for word in label.lower().split()
    }
    pieces = {piece: number for number, piece in enumerate([*SPECIAL, *sorted(words - {"dublin"})])}
    tokenizer = wordpiece_tokenizer(pieces, BertNormalizer(lowercase=True), BertPreTokenizer())
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(str(folder))
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    return folder


def rows(folder: Path) -> Iterator[tuple[str, str, str]]:
    for path in folder.glob("P*.jsonl"):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            yield row["sub_uri"], path.stem, row["obj_uri"]


def test_classes_are_those_of_the_statistics(sample_run: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "probes"
    counts = real_probes.make_probes(str(sample_run), RELATIONS, str(model), out, None)
    assert json.loads((out / "counts.json").read_text()) == counts
    assert counts["stated-rare"] > 3
    assert counts["unstated"] > 3

    asked = {kind: list(rows(out / kind)) for kind in counts}
    support = {
        (f"Q{s}", f"P{p}", f"Q{o}"): (sentences, documents)
        for s, p, o, sentences, documents in table(sample_run, "SELECT * FROM fact_support")
    }
    mentions = {
        f"Q{qid}": count
        for qid, count in table(sample_run, "SELECT qid, num_mentions FROM entity_frequency")
    }
    triples = {
        (f"Q{s}", f"P{p}", f"Q{o}")
        for s, p, o in table(sample_run, "SELECT subject, predicate, object FROM triples")
    }
    labels = {f"Q{q}": label for q, label in table(sample_run, "SELECT qid, label FROM entities")}
    relations = {json.loads(line)["relation"] for line in RELATIONS.read_text().splitlines()}

    for kind, facts in asked.items():
        assert len(facts) == counts[kind] == len(set(facts))
        for fact in facts:
            subject, relation, object_ = fact
            assert fact in triples
            assert relation in relations
            sentences, documents = support.get(fact, (0, 0))
            assert (sentences > 0) == kind.startswith("stated")
            assert documents == 0 or kind != "unstated"
            if kind.startswith("stated"):
                assert (mentions[subject] <= 2) == (kind == "stated-rare")
            assert mentions[subject] > 0
            assert labels[object_].lower() not in labels[subject].lower()
            assert " " not in labels[object_]

    # Nothing is lost but what no token stands for, and names that hold their answers.
    everything = {fact for facts in asked.values() for fact in facts}
    for fact in triples - everything:
        subject, relation, object_ = fact
        name = labels.get(object_, "").lower()
        # The normaliser takes accents off, which the vocabulary has.
        is_word = name.isascii() and name.isalpha()
        is_askable = relation in relations and mentions.get(subject) and is_word
        if is_askable and name != "dublin" and name not in labels[subject].lower():
            sentences, documents = support.get(fact, (0, 0))
            # Facts of validation names are asked only where they choose rates.
            is_left_out = real_probes.is_validation(labels[subject])
            assert is_left_out or (sentences, documents > 0) == (0, True), fact
    names = {
        kind: {labels[subject].casefold() for subject, *_ in facts} for kind, facts in asked.items()
    }
    others = set().union(*(found for kind, found in names.items() if kind != "stated-validation"))
    assert names["stated-validation"]
    assert not names["stated-validation"] & others
    assert (out / "answers.txt").read_text().splitlines() == sorted(
        {labels[object_] for _, _, object_ in everything}
    )
    with pytest.raises(ConfigError, match="exists already"):
        real_probes.make_probes(str(sample_run), RELATIONS, str(model), out, None)


def test_facts_of_pararel_are_split_by_their_labels(
    sample_run: Path, model: Path, tmp_path: Path
) -> None:
    """ParaRel has no QIDs: a fact is stated if one of these labels is."""
    real_probes.make_probes(str(sample_run), RELATIONS, str(model), tmp_path / "first", None)
    path = next(iter(sorted((tmp_path / "first" / "stated-rare").glob("P*.jsonl"))))
    stated = json.loads(path.read_text().splitlines()[0])
    pararel = tmp_path / "pararel"
    pararel.mkdir()
    lines = [
        {"sub_label": stated["sub_label"], "obj_label": stated["obj_label"], "uuid": "1"},
        {"sub_label": stated["sub_label"], "obj_label": "Atlantis", "uuid": "2"},
    ]
    (pararel / path.name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "probes"
    counts = real_probes.make_probes(str(sample_run), RELATIONS, str(model), out, pararel)
    assert (counts["pararel-stated"], counts["pararel-other"]) == (1, 1)
    assert json.loads((out / "pararel-stated" / path.name).read_text())["uuid"] == "1"
    assert json.loads((out / "pararel-other" / path.name).read_text())["uuid"] == "2"
