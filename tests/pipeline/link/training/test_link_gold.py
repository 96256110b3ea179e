"""The corpus's own links as gold: which ones are taken, and the short names that are added."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import DocumentsConfig
from pipeline.documents import stage as documents_stage
from pipeline.engine.errors import StageError
from pipeline.engine.tables import RunPaths
from pipeline.link.gold import GoldDocument, GoldMention
from pipeline.link.mentions import NamedEntity
from pipeline.link.training import link_gold
from pipeline.link.training.crossval import fold_of
from pipeline.link.training.link_gold import MAX_SHORT, gold_of_links, with_short_names
from schemas import ANCHORS, DOCUMENTS
from tests.pipeline.inputs_run import rows_of, run_plan


@pytest.fixture
def few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_gold, "MIN_LINKS", 10)
    monkeypatch.setattr(link_gold, "MIN_DOCUMENTS", 2)


@pytest.mark.slow
@pytest.mark.usefixtures("few_are_enough")
def test_all_links_of_a_small_corpus(sample_run: Path) -> None:
    paths = RunPaths(root=str(sample_run))
    texts = {row["doc_id"]: row["text"] for row in rows_of(paths, "documents", DOCUMENTS)}
    found = gold_of_links(paths)
    assert list(found) == sorted(found)
    links = {
        (row["doc_id"], row["start"], row["end"], row["qid"])
        for row in rows_of(paths, "documents", ANCHORS)
    }
    taken = {
        (doc_id, mention.start, mention.end, mention.qid)
        for doc_id, document in found.items()
        for mention in document.mentions
    }
    assert taken <= links
    assert len(taken) > 0.9 * len(links), "only links that overlap or have no text are left out"
    assert all(document.text == texts[doc_id] for doc_id, document in found.items())
    for document in found.values():
        ends = [0, *(mention.end for mention in document.mentions)]
        assert all(m.start >= end for m, end in zip(document.mentions, ends, strict=False))


@pytest.mark.slow
@pytest.mark.usefixtures("few_are_enough")
def test_a_part_is_the_same_however_the_corpus_is_cut(sample_run: Path, tmp_path: Path) -> None:
    """JSONL of documents with a link each, in one part file and in many."""
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(
        "".join(
            f'{{"id": "d{number}", "text": "Paris is far.", "links": '
            '[{"start": 0, "end": 5, "qid": "Q90"}]}\n'
            for number in range(300)
        )
    )
    parts = []
    for unit_mb in (1.0, 0.002):
        paths = RunPaths(root=str(tmp_path / f"run-{unit_mb}"))
        config = DocumentsConfig(inputs=(str(corpus),), links_field="links", unit_mb=unit_mb)
        plan = documents_stage.plan(config, paths)
        run_plan(plan, paths)
        parts.append(gold_of_links(paths, max_links=40))
        assert unit_mb == 1.0 or len(paths.files("documents", ANCHORS)) > 3
    assert parts[0] == parts[1]
    assert len(parts[0]) == 40
    assert len({fold_of(doc_id, 5) for doc_id in parts[0]}) == 5, "no fold is left empty"


def test_too_few_links_are_an_error_that_says_what_to_do(sample_run: Path) -> None:
    with pytest.raises(StageError, match=r"has [\d,]+ links in .* --gold"):
        gold_of_links(RunPaths(root=str(sample_run)))


TEXT = (
    "Pat Riley met Bob Stone. Riley left. Ann Riley Smith and Riley Moon stayed. Stone spoke. "
    "Riley again. Riley once more. Riley at last. Jim Beck too. Beck nodded. Riley's Stone."
)


def spans_of(text: str, name: str) -> list[tuple[int, int]]:
    starts = [at for at in range(len(text)) if text.startswith(name, at)]
    return [(start, start + len(name)) for start in starts]


def document(*links: tuple[str, int]) -> GoldDocument:
    mentions = tuple(GoldMention(*spans_of(TEXT, name)[0], qid) for name, qid in links)
    return GoldDocument("d", TEXT, mentions)


def persons(*names: str) -> list[NamedEntity]:
    return [NamedEntity(*spans_of(TEXT, name)[0], "PERSON") for name in names]


def added(
    gold: GoldDocument, named: list[NamedEntity], known: set[str]
) -> list[tuple[str, object]]:
    found = with_short_names(gold, named, known.__contains__)
    assert list(found.mentions) == sorted(found.mentions, key=lambda mention: mention.start)
    assert set(gold.mentions) <= set(found.mentions)
    new = [mention for mention in found.mentions if mention not in gold.mentions]
    assert all(mention.start > gold.mentions[0].start for mention in new if gold.mentions)
    return [(TEXT[mention.start : mention.end], mention.qid) for mention in new]


def test_a_surname_after_the_link_of_its_person() -> None:
    """Alone, and not within "Ann Riley Smith" or "Riley Moon"; the first MAX_SHORT of them."""
    found = added(document(("Pat Riley", 7)), persons("Pat Riley"), {"pat riley"})
    assert found == [("Riley", 7)] * MAX_SHORT


def test_a_surname_of_a_person_whom_nobody_knows_is_nil() -> None:
    named = persons("Pat Riley", "Jim Beck", "Bob Stone")
    found = added(document(("Pat Riley", 7)), named, {"pat riley", "bob stone"})
    assert [item for item in found if item[0] != "Riley"] == [("Beck", None)]


@pytest.mark.parametrize(
    ("named", "links", "why"),
    [
        (persons("Pat Riley", "Riley Moon"), [("Pat Riley", 7)], "another surname changes nothing"),
        ([], [("Pat Riley", 7)], "no person for the recogniser"),
        (persons("Riley"), [("Riley", 7)], "a single word is no full name"),
    ],
)
def test_what_is_no_full_name(
    named: list[NamedEntity], links: list[tuple[str, int]], why: str
) -> None:
    found = added(document(*links), named, {"pat riley", "riley moon", "riley"})
    wanted = [("Riley", 7)] * MAX_SHORT if why.startswith("another") else []
    assert found == wanted, why


def test_a_surname_of_two_persons_is_left_out() -> None:
    text = "Pat Riley and Ann Riley came. Riley spoke."
    spans = [spans_of(text, name)[0] for name in ("Pat Riley", "Ann Riley")]
    gold = GoldDocument("d", text, (GoldMention(*spans[0], 7), GoldMention(*spans[1], 8)))
    named = [NamedEntity(*span, "PERSON") for span in spans]
    assert with_short_names(gold, named, lambda _: True) == gold
