"""Corpora of the sample's KB: what they promise is counted again from their files."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import load_config
from pipeline.engine.errors import StageError
from pipeline.engine.tables import RunPaths
from pipeline.synth.names import NameFinder
from schemas.errors import ConfigError
from schemas.settings import to_dict
from tests.pipeline.cases import in_process
from tests.pipeline.synth.conftest import (
    SMALL,
    Make,
    jsonl,
    sentence_texts,
    texts,
    totals,
    truth,
)

USAGE = 2
PARAGRAPHS = [
    "A long line about nothing in particular fills the page.",
    "Short heading",
    "Another line of plain words that no item of the sample has for a name.",
]


def probe_rows(corpus: Path, part: str, kind: str, template: str) -> dict[str, list[dict]]:
    """Rows of a class of probes, by relation."""
    folder = corpus / "probes" / part / kind / template
    listed = [row["relation"] for row in jsonl(folder / "relations.jsonl")]
    assert sorted(path.stem for path in folder.glob("P*.jsonl")) == sorted(listed)
    return {relation: jsonl(folder / f"{relation}.jsonl") for relation in listed}


def contents(corpus: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(corpus)): path.read_bytes()
        for path in sorted(corpus.rglob("*"))
        if path.is_file() and path.name != "pipeline.toml"  # it names its own folder
    }


def test_held_out_templates_never_occur(make: Make) -> None:
    corpus = make()
    templates = json.loads((corpus / "truth.json").read_text())["templates"]
    held = {text for row in templates["relations"].values() for text in row["held"]}
    known = {text for row in templates["relations"].values() for text in row["known"]}
    used = {row["template"] for row in truth(corpus, "sentences")}
    assert used <= known | set(templates["distractors"])
    assert not used & held
    # By their words too: no sentence begins or ends as a held-out template of its relation does.
    pieces = {text.partition("[X]")[0] for text in held} | {
        text.rpartition("[Y]")[0].rpartition("[X]")[2] for text in held
    }
    pieces -= {text.partition("[X]")[0] for text in known} | {
        text.rpartition("[Y]")[0].rpartition("[X]")[2] for text in known
    }
    long_pieces = [piece for piece in pieces if len(piece.split()) > 2]
    assert long_pieces
    assert not [piece for piece in long_pieces for text in sentence_texts(corpus) if piece in text]


def test_every_sentence_says_what_the_truth_says(make: Make) -> None:
    corpus = make(corrupt_facts=0.3)
    labels = {row["qid"]: row["label"] for row in truth(corpus, "entities")}
    sentences = truth(corpus, "sentences")
    for row, text in zip(sentences, sentence_texts(corpus), strict=True):
        named = row["template"].replace("[X]", labels[row["subject"]])
        assert text == named.replace("[Y]", labels[row["other"]])
        assert (row["predicate"] is None) == (row["object"] is None)
        assert row["is_corrupted"] == (row["object"] not in (None, row["other"]))

    stated = Counter(
        (row["subject"], row["predicate"], row["object"])
        for row in sentences
        if row["predicate"] and not row["is_corrupted"]
    )
    facts = {
        (row["subject"], row["predicate"], row["object"]): row["num_stated"]
        for row in truth(corpus, "facts")
    }
    assert {fact: count for fact, count in facts.items() if count} == stated
    assert sum(row["predicate"] is None for row in sentences) == round(0.2 * len(sentences))


def test_gold_and_documents_state_the_same_links(make: Make) -> None:
    corpus = make()
    documents = {row["id"]: row for row in jsonl(corpus / "documents.jsonl")}
    golds = jsonl(corpus / "gold.jsonl")
    assert {row["doc_id"] for row in golds} == documents.keys()
    labels = {f"Q{row['qid']}": row["label"] for row in truth(corpus, "entities")}
    for gold in golds:
        document = documents[gold["doc_id"]]
        assert (gold["text"], gold["mentions"]) == (document["text"], document["links"])
        for mention in gold["mentions"]:
            assert gold["text"][mention["start"] : mention["end"]] == labels[mention["qid"]]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3])
def test_corrupted_shares_are_exact(make: Make, share: float) -> None:
    corpus = make(corrupt_links=share, corrupt_facts=share)
    links = truth(corpus, "links")
    wrong = [row for row in links if row["is_corrupted"]]
    assert len(wrong) == round(share * len(links))
    assert all(row["qid"] != row["linked_qid"] for row in wrong)
    facts = [row for row in truth(corpus, "sentences") if row["predicate"]]
    assert sum(row["is_corrupted"] for row in facts) == round(share * len(facts))

    # Documents have the wrong links, gold has the true ones.
    documented = [link["qid"] for row in jsonl(corpus / "documents.jsonl") for link in row["links"]]
    gold = [link["qid"] for row in jsonl(corpus / "gold.jsonl") for link in row["mentions"]]
    assert documented == [f"Q{row['linked_qid']}" for row in links]
    assert gold == [f"Q{row['qid']}" for row in links]


def test_corruption_changes_nothing_else(make: Make) -> None:
    """Other links are the same, and what is wrong at 10 % is wrong at 30 %."""
    plain, some, more = (
        make(corrupt_links=share, corrupt_facts=share) for share in (0.0, 0.1, 0.3)
    )
    for table, key in (("links", "linked_qid"), ("sentences", "template")):
        rows = [truth(corpus, table) for corpus in (plain, some, more)]
        wrong = [{i for i, row in enumerate(part) if row["is_corrupted"]} for part in rows]
        assert not wrong[0]
        assert wrong[1] < wrong[2]
        if table == "sentences":
            assert [row[key] for row in rows[0]] == [row[key] for row in rows[2]]


def test_classes_are_what_they_say(make: Make) -> None:
    corpus = make(corrupt_facts=0.1)
    mentioned = {row["qid"]: row["num_mentions"] for row in truth(corpus, "entities")}
    names: dict[int, set[str]] = defaultdict(set)
    finder_of = NameFinder([row["label"] for row in truth(corpus, "entities")])
    for row, text in zip(truth(corpus, "sentences"), sentence_texts(corpus), strict=True):
        for qid in (row["subject"], row["other"]):
            names[qid] |= {name.lower() for name in finder_of.names_in(text)}
    whole_text = "\n".join(texts(corpus).values()).lower()

    seen = set()
    for part in ("test", "validation"):
        for folder in (corpus / "probes" / part).iterdir():
            kind = folder.name
            for relation, rows in probe_rows(corpus, part, kind, "held").items():
                assert rows == probe_rows(corpus, part, kind, "known")[relation]
                for row in rows:
                    subject, object_ = int(row["sub_uri"][1:]), int(row["obj_uri"][1:])
                    seen.add((subject, int(relation[1:]), object_, kind, part))
                    count = mentioned.get(subject, 0)
                    if kind == "nowhere":
                        assert row["sub_label"].lower() not in whole_text
                    elif kind == "kb-only":
                        assert count
                        assert row["obj_label"].lower() not in names[subject]
                    elif kind.startswith("stated"):
                        wanted = "rare" if count <= 2 else "frequent" if count >= 6 else "middle"
                        assert kind == f"stated-{wanted}"
    facts = truth(corpus, "facts")
    key = ("subject", "predicate", "object", "class", "part")
    assert seen == {tuple(row[name] for name in key) for row in facts if row["class"]}
    kinds = Counter(kind for *_, kind, _ in seen)
    assert set(kinds) == {
        "stated-rare", "stated-middle", "stated-frequent", "misstated", "kb-only", "nowhere"
    }  # fmt: skip
    assert {row["subject"] for row in facts if row["part"] == "test"}.isdisjoint(
        row["subject"] for row in facts if row["part"] == "validation"
    )


def test_parts_have_their_share_and_stay(make: Make) -> None:
    """A subject's part is the same in every corpus of one seed; each class has both parts."""
    plain, noisy = make(), make(corrupt_facts=0.3)
    part_of = [
        {row["subject"]: row["part"] for row in truth(one, "facts")} for one in (plain, noisy)
    ]
    both = part_of[0].keys() & part_of[1].keys()
    assert len(both) > 50
    assert all(part_of[0][subject] == part_of[1][subject] for subject in both)
    chosen = [part == "validation" for part in part_of[0].values()]
    assert sum(chosen) / len(chosen) == pytest.approx(SMALL.validation, abs=0.08)
    assert totals(plain)["probes"]["test"].keys() == totals(plain)["probes"]["validation"].keys()


def test_probes_are_in_the_form_of_lama(make: Make) -> None:
    corpus = make()
    templates = json.loads((corpus / "truth.json").read_text())["templates"]["relations"]
    for name, place in (("known", 0), ("held", 0), ("held-2", 1)):
        folder = corpus / "probes" / "test" / "kb-only" / name
        for row in jsonl(folder / "relations.jsonl"):
            listed = templates[row["relation"]][name.partition("-")[0]]
            assert row["template"] == listed[place]
            assert set(row) == {"relation", "template", "label", "type"}
            for item in jsonl(folder / f"{row['relation']}.jsonl"):
                assert set(item) == {"uuid", "sub_label", "obj_label", "sub_uri", "obj_uri"}
    answers = (corpus / "probes" / "answers.txt").read_text().splitlines()
    assert answers == sorted(set(answers))


def test_the_configuration_keeps_the_truth(make: Make, kb_run: RunPaths) -> None:
    """It reads the same dump, takes the corpus's links alone, and trains on every stated fact."""
    corpus = make()
    config = load_config(str(corpus / "pipeline.toml"))
    assert config.run == str(corpus / "run")
    assert to_dict(config.kb) == kb_run.finished("kb").config
    assert config.documents.inputs == (str(corpus / "documents.jsonl"),)
    assert (config.documents.links_field, config.link.mentions) == ("links", "anchors")
    assert config.shards.validation_share == 0


def test_what_guessing_pays(make: Make) -> None:
    """P@1 of each relation's most frequent object, by a plain count."""
    corpus = make()
    answers: dict[str, Counter] = defaultdict(Counter)
    for row in truth(corpus, "facts"):
        if row["num_stated"]:
            answers[f"P{row['predicate']}"][row["object"]] += 1
    figures = json.loads((corpus / "truth.json").read_text())["relations"]
    assert figures.keys() == answers.keys()
    for relation, counts in answers.items():
        ((_, most),) = counts.most_common(1)
        assert figures[relation]["best_guess"] == pytest.approx(most / counts.total(), abs=1e-4)
        assert figures[relation]["facts_stated"] == counts.total()


def test_a_small_kb_keeps_subjects_for_nowhere(make: Make) -> None:
    figures = totals(make(sentences=2000, subjects=5000, nowhere=60))
    assert figures["probes"]["test"]["nowhere"] > 0
    assert figures["subjects"] > 100


def test_subjects_follow_zipf(make: Make) -> None:
    corpus = make(sentences=3000, subjects=60, zipf=1.2)
    counts = sorted(
        (row["num_subject_mentions"] for row in truth(corpus, "entities")), reverse=True
    )
    counts = [count for count in counts if count >= 20]
    slope, _ = np.polyfit(np.log(np.arange(1, len(counts) + 1)), np.log(counts), 1)
    assert slope == pytest.approx(-1.2, abs=0.03)


def test_the_same_seed_gives_the_same_bytes(make: Make, kb_run: RunPaths, tmp_path: Path) -> None:
    flags = ["--sentences", "240", "--subjects", "90", "--nowhere", "40", "--frequent-min", "6"]
    again = tmp_path / "again"
    done = in_process(
        "synth", "--run", kb_run.root, "--out", str(again), *flags, "--seed", "3", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert contents(again) == contents(make())
    assert json.loads(done.stdout) == totals(again)
    assert contents(make(seed=4))["documents.jsonl"] != contents(again)["documents.jsonl"]


def test_general_text_names_no_subject(make: Make, tmp_path: Path) -> None:
    corpus = make()
    subject = truth(corpus, "sentences")[0]["subject"]
    label = next(row["label"] for row in truth(corpus, "entities") if row["qid"] == subject)
    naming = f"This line of general text has the name of {label.upper()} in it."
    (tmp_path / "general.txt").write_text("\n".join([naming, *PARAGRAPHS] * 200))
    mixed = make(general=str(tmp_path / "general.txt"), general_share=0.4)
    figures = totals(mixed)
    assert figures["general_words"] / figures["words"] == pytest.approx(0.4, abs=0.01)
    assert figures["general_paragraphs_naming_a_subject"] > 0
    general = "\n".join(text for name, text in texts(mixed).items() if name.startswith("general"))
    assert set(general.splitlines()) == {PARAGRAPHS[0], PARAGRAPHS[2]}
    assert not [row for row in jsonl(mixed / "gold.jsonl") if row["doc_id"].startswith("general")]
    # The sentences are the same ones, with general text or without.
    assert sorted(sentence_texts(mixed)) == sorted(sentence_texts(corpus))


def test_general_text_of_jsonl_and_what_is_refused(make: Make, tmp_path: Path) -> None:
    rows = [{"id": str(number), "text": "\n".join(PARAGRAPHS)} for number in range(200)]
    path = tmp_path / "general.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert totals(make(general=str(path), general_share=0.2))["general_paragraphs"] > 0
    with pytest.raises(ConfigError, match="a share of 0.9 needs .* lower --general-share"):
        make(general=str(path), general_share=0.9)
    path.write_text('{"id": "1", "title": "no text"}\n')
    with pytest.raises(ConfigError, match="general.jsonl:0: no field 'text'"):
        make(general=str(path), general_share=0.3)
    (tmp_path / "latin.txt").write_bytes("Köln ".encode("latin-1") * 20)
    with pytest.raises(ConfigError, match="not UTF-8"):
        make(general=str(tmp_path / "latin.txt"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--corrupt-links", "1.5"), "corrupt_links is 1.5, but must be from 0 to 1"),
        (("--general-share", "1"), "general_share is 1.0, but must be at least 0 and below 1"),
        (("--relation", "19"), "'19' is not the id of a property"),
        (("--relation", "P999"), "no template for P999"),
        (("--frequent-min", "2"), "frequent_min is 2, but must be 3 or more"),
        (("--sentences", "many"), "not a valid integer"),
    ],
)
def test_wrong_settings_are_refused(
    kb_run: RunPaths, tmp_path: Path, arguments: tuple[str, str], message: str
) -> None:
    out = tmp_path / "out"
    done = in_process("synth", "--run", kb_run.root, "--out", str(out), *arguments)
    assert done.returncode == USAGE
    assert message in done.stderr
    assert not out.exists()


def test_folders_that_are_refused(kb_run: RunPaths, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    done = in_process("synth", "--run", kb_run.root, "--out", str(tmp_path))
    assert done.returncode == USAGE
    assert "is not empty; give a new folder" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    done = in_process("synth", "--run", str(tmp_path / "no"), "--out", str(tmp_path / "out"))
    assert done.returncode == 1
    assert "stage 'kb' has not finished here" in done.stderr


def test_nothing_wrong_can_be_said_of_a_related_subject(make: Make) -> None:
    """A clear error instead of a wrong tail that is right."""
    from pipeline.synth.corpus import plan_sentences
    from pipeline.synth.facts import Fact, Pool
    from pipeline.synth.template_file import load_templates

    pool = Pool(facts_of={1: [Fact(1, 19, 2)]}, labels={1: "A", 2: "B"}, pairs=frozenset({(1, 2)}))
    with pytest.raises(ConfigError, match="Q1 is related to every object"):
        plan_sentences(pool, load_templates("", ("P19",)), SMALL)


def test_the_error_for_a_missing_template_file(kb_run: RunPaths, make: Make) -> None:
    with pytest.raises(StageError, match="nowhere.jsonl: cannot be read"):
        make(templates="nowhere.jsonl")
