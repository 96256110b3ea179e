"""From mentions to links with a small index and store in memory: the decision, NIL, batches,
caches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.index.entity_types import PERSON, PLACE
from pipeline.index.words import WordTable
from pipeline.link import linker as linking
from pipeline.link.candidates import MATCHES, Reach
from pipeline.link.disambiguation import BY_HAND, Model
from pipeline.link.features import FEATURES, BatchTokens
from pipeline.link.linker import Linker, Links, Scored
from pipeline.link.mention_features import Mention
from schemas.link import PARTS
from tests.pipeline.index.plain_tokens import tokenise
from tests.pipeline.link.small_world import ANCHOR, LABEL, TITLE, Entity, Index, Store

CITY, TEXAS, HILTON, STRASBOURG, JORDAN, FRANCE, META = 90, 830, 47, 66, 5, 142, 13
KEYS = {
    "paris": [
        (CITY, 40, LABEL | ANCHOR | TITLE),
        (TEXAS, 2, LABEL),
        (META, 1, TITLE),
        (99, 0, LABEL),
    ],
    "paris hilton": [(HILTON, 0, LABEL)],
    "strasbourg": [(STRASBOURG, 1, LABEL)],
    "michael jordan": [(JORDAN, 0, LABEL)],
    "france": [(FRANCE, 0, LABEL)],
}
ENTITIES = {
    CITY: Entity(
        "Paris", "capital France river", 100, (FRANCE,), PLACE, is_primary=True, statements=50
    ),
    TEXAS: Entity("Paris", "town Texas Dallas", 3, (), PLACE),
    HILTON: Entity("Paris Hilton", "actress hotel", 20, (), PERSON),
    STRASBOURG: Entity("Strasbourg", "", 9, (FRANCE,), PLACE),
    JORDAN: Entity("Michael Jordan", "basketball", 9, (), PERSON),
    FRANCE: Entity("France", "country", 200, (CITY, STRASBOURG), PLACE),
    META: Entity("Paris", "", 900, (), 0, is_meta=True),
}


@dataclass(frozen=True)
class Document:
    """A text and its mentions: surface, label, whether it may be misspelt, longer names."""

    text: str
    mentions: tuple[tuple[str, str | None, bool, tuple[str, ...]], ...]


def document(
    text: str, *surfaces: str, ner_type: str | None = None, fuzzy: bool = True
) -> Document:
    return Document(text, tuple((surface, ner_type, fuzzy, ()) for surface in surfaces))


def batch_of(documents: list[Document]) -> tuple[list[Mention], BatchTokens]:
    table, mentions, words, owners = WordTable(), [], [], []
    for number, one in enumerate(documents):
        tokens = tokenise(one.text, table)
        for surface, ner_type, fuzzy, longer in one.mentions:
            start = one.text.index(surface)
            low = int(np.searchsorted(tokens.ends, start, "right")) + len(words)
            high = int(np.searchsorted(tokens.starts, start + len(surface))) + len(words)
            mentions.append(
                Mention(
                    document=number, first_token=low, end_token=high, surface=surface, ner_type=ner_type,
                    position=start / len(one.text), allow_fuzzy=fuzzy, longer=longer,
                )
            )  # fmt: skip
        words += tokens.words.tolist()
        owners += [number] * len(tokens)
    return mentions, BatchTokens(
        terms=table.terms[words] if words else np.empty(0, np.uint32),
        documents=np.array(owners, np.int64),
    )


def linker(model: Model = BY_HAND, index: Index | None = None, **reach: object) -> Linker:
    return Linker(index or Index(KEYS), Store(ENTITIES), model, Reach(**reach))


def link(
    documents: list[Document],
    one: Linker | None = None,
    *,
    top_k: int = 8,
    min_confidence: float = 0.3,
) -> Links:
    one = one or linker()
    mentions, tokens = batch_of(documents)
    return one.decide(
        one.score(mentions, tokens), len(mentions), top_k=top_k, min_confidence=min_confidence
    )


def candidates_of(links: Links, mention: int) -> list[int]:
    return links.candidates.qids[links.offsets[mention] : links.offsets[mention + 1]].tolist()


@pytest.mark.parametrize(
    ("one", "qid"),
    [
        (document("He saw Paris", "Paris"), CITY),  # the prior decides
        (document("He saw Paris, a small town in Texas near Dallas", "Paris", ner_type="GPE"), TEXAS),  # the context
        (document("The actress Paris owns the hotel", "Paris", ner_type="PERSON"), HILTON),  # type and context
        (document("He saw Strassbourg", "Strassbourg", ner_type="GPE"), STRASBOURG),  # one letter too many
        (document("He saw Strassbourg", "Strassbourg", fuzzy=False), STRASBOURG),  # a slip in a long name
        (document("He saw Strasburgg", "Strasburgg", fuzzy=False), 0),  # more than a slip
        (document("He saw Velmora", "Velmora", ner_type="GPE"), 0),  # no candidate: NIL
        (Document("He saw Michael Jordan. Jordan won",
                  (("Jordan won", None, False, ("Michael Jordan",)),)), JORDAN),  # short for a name of the document
    ],
)  # fmt: skip
def test_link(one: Document, qid: int) -> None:
    model = replace(
        BY_HAND,
        weights={**BY_HAND.weights, "reused": 2.0, "partial": 1.0, "document": 12.0, "type": 4.0},
    )
    links = link([one], linker(model), min_confidence=0.0)
    assert links.qids.tolist() == [qid]
    assert (links.confidence[0] > 0) == (qid > 0)


def test_what_is_no_candidate() -> None:
    links = link([document("He saw Paris", "Paris")])
    assert set(candidates_of(links, 0)) == {CITY, TEXAS, HILTON}, (
        "neither pages about pages nor what the store lacks"
    )


def test_the_longer_name_that_it_opens_decides() -> None:
    """Most of what is called Paris is more popular than the town in Texas."""
    index = Index({**KEYS, "paris, texas": [(TEXAS, 0, LABEL)], "paris texas": [(TEXAS, 0, LABEL)]})
    mentions, tokens = batch_of([document("in Paris, Texas", "Paris")])
    one = linker(index=index)
    for full_name, wanted in (("", CITY), ("Paris, Texas", TEXAS), ("Paris, Ohio", CITY)):
        named = [replace(mention, full_name=full_name) for mention in mentions]
        links = one.decide(one.score(named, tokens), 1, top_k=8, min_confidence=0.3)
        assert candidates_of(links, 0)[0] == wanted


def test_an_adjective_is_short_for_no_longer_name() -> None:
    links = link([document("a Paris artist", "Paris", ner_type="NORP")])
    assert set(candidates_of(links, 0)) == {CITY, TEXAS}


@pytest.mark.parametrize(("min_confidence", "qid"), [(0.0, CITY), (1.0, 0)])
def test_low_confidence_is_nil_but_keeps_its_candidates(min_confidence: float, qid: int) -> None:
    links = link([document("He saw Paris", "Paris")], min_confidence=min_confidence)
    assert links.qids.tolist() == [qid]
    assert candidates_of(links, 0)[0] == CITY
    assert 0 < links.confidence[0] < 1


def test_the_bound_is_within() -> None:
    (confidence,) = link([document("He saw Paris", "Paris")]).confidence.tolist()
    for bound, qid in (
        (confidence, CITY),
        (np.nextafter(np.float32(confidence), np.float32(1)), 0),
    ):
        assert link(
            [document("He saw Paris", "Paris")], min_confidence=float(bound)
        ).qids.tolist() == [qid]


@pytest.mark.parametrize("top_k", [1, 2, 3, 64])
def test_top_k_keeps_the_best(top_k: int) -> None:
    documents = [document("He saw Paris and Velmora in France", "Paris", "Velmora", "France")]
    whole, cut = link(documents, top_k=64), link(documents, top_k=top_k)
    assert cut.offsets.tolist() == [0, min(top_k, 3), min(top_k, 3), min(top_k, 3) + 1]
    for mention in range(3):
        assert candidates_of(cut, mention) == candidates_of(whole, mention)[:top_k]
    assert cut.confidence.tolist() == whole.confidence.tolist(), "what is not listed still counts"


def test_ties_go_to_the_more_popular_then_to_the_lower_item() -> None:
    index = Index({"x town": [(7, 0, LABEL), (4, 0, LABEL), (5, 0, LABEL), (6, 0, LABEL)]})
    entities = {
        qid: Entity("X", popularity=popularity)
        for qid, popularity in {7: 5, 4: 1, 5: 5, 6: 1}.items()
    }
    links = link(
        [document("In X town", "X town")], Linker(index, Store(entities), Model(0.0, {}), Reach())
    )
    assert links.probability.tolist() == pytest.approx([0.2] * 4)
    assert candidates_of(links, 0) == [5, 7, 4, 6]


def test_only_so_many_candidates_are_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linking, "MAX_SCORED", 2)
    assert len(candidates_of(link([document("He saw Paris", "Paris")]), 0)) == 2


def test_nothing_to_link() -> None:
    for documents in ([], [Document("", ())], [document("He saw Velmora", "Velmora")]):
        links = link(documents)
        assert set(links.qids.tolist()) <= {0}
        assert len(links.probability) == 0
        assert links.offsets.tolist() == [0] * (len(links.qids) + 1)


def test_features_of_a_surface() -> None:
    one = linker()
    scored = one.score(
        *batch_of([document("He saw Paris and Strassbourg", "Paris", "Strassbourg")])
    )
    rows = {
        int(qid): {name: float(values[at]) for name, values in scored.features.items()}
        for at, qid in enumerate(scored.qids)
    }
    assert set(rows) == {CITY, TEXAS, HILTON, STRASBOURG}
    assert rows[CITY]["prior"] > rows[TEXAS]["prior"]
    assert rows[CITY]["popularity"] == rows[CITY]["statements"] == rows[CITY]["age"] == 0
    assert rows[TEXAS]["popularity"] == pytest.approx(np.log(4 / 101)), "against the best"
    assert rows[TEXAS]["statements"] == pytest.approx(-np.log(51))
    assert rows[TEXAS]["age"] == pytest.approx(np.log(CITY / TEXAS)), "a higher number is younger"
    assert [rows[qid]["primary"] for qid in (CITY, TEXAS)] == [1, 0]
    assert [rows[qid]["title"] for qid in (CITY, TEXAS)] == [1, 0]
    assert [rows[qid]["inexact"] for qid in (CITY, HILTON, STRASBOURG)] == [0, 0, 1], (
        "of a mention without a whole name"
    )
    flags = ("variant", "inflected", "reused", "partial", "fuzzy")
    assert {qid: [name for name in flags if rows[qid][name]] for qid in rows} == {
        CITY: [], TEXAS: [], HILTON: ["partial"], STRASBOURG: ["fuzzy"],
    }  # fmt: skip
    assert rows[CITY]["similarity"] == rows[CITY]["label"] == 1
    assert 0.5 < rows[HILTON]["similarity"] < 1, "of a part: how alike the label is"
    assert [MATCHES[match] for match in scored.matches] == ["exact", "exact", "partial", "fuzzy"]


def features_of(
    label: str, surface: str, key: str = "", longer: tuple[str, ...] = (), qid: int = 7
) -> dict[str, float]:
    """Features of a surface and the only item that its key lists; the longer names name nothing."""
    index = Index({key or surface.casefold(): [(qid, 0, LABEL)], "jo doe": [(8, 0, LABEL)]})
    store = Store({qid: Entity(label), 8: Entity("Jo Doe")})
    one = Linker(index, store, BY_HAND, Reach(max_partial=0))
    text = Document(surface, ((surface, None, False, longer),))
    scored = one.score(*batch_of([text]))
    row = scored.qids.tolist().index(qid)
    return {name: float(values[row]) for name, values in scored.features.items()}


@pytest.mark.parametrize(
    ("label", "surface", "wanted", "why"),
    [
        ("Paris", "Paris", {"same"}, "the label itself"),
        ("PARIS", "paris", {"same"}, "letter case aside"),
        ("Steve Jobs", "Jobs", {"ending"}, "a surname"),
        ("Miami Heat", "Miami", {"opening"}, "a team by its town"),
        ("Miamian", "Miami", set(), "a whole word, not a part of one"),
        ("gas", "Gas", {"same", "common"}, "a capital that the label lacks"),
        ("gas", "GAS", {"same"}, "a headline says nothing"),
        ("gas", "gas", {"same"}, "no capital"),
        ("Gas", "gas", {"same"}, "nobody writes a capital here"),
        ("Gabon", "GA", {"code"}, "a code"),
        ("South Carolina", "SC", {"initials"}, "initials are no code"),
        ("Bank of England", "BE", {"initials"}, "without function words"),
        ("Bank of England", "BOE", {"initials"}, "or with them"),
        ("National Football League", "NFL", {"initials"}, "three letters"),
        ("Nairobi", "N", {"code"}, "one letter is no initials"),
    ],
)
def test_spelling(label: str, surface: str, wanted: set[str], why: str) -> None:
    features = features_of(label, surface)
    flags = ("same", "ending", "opening", "common", "initials", "code")
    assert {name for name in flags if features[name]} == wanted, why


@pytest.mark.parametrize(
    ("longer", "wanted", "why"),
    [
        ((), 0, "no longer name"),
        (("Pat Riley",), 1, "nobody bears the longer name"),
        (("Riley Moon",), 0, "a first word may be a place or a group"),
        (("Jo Doe",), 0, "another name"),
    ],
)
def test_short_for_a_name_that_nobody_bears(longer: tuple[str, ...], wanted: int, why: str) -> None:
    assert features_of("Riley", "Riley", longer=longer)["orphan"] == wanted, why
    assert features_of("Doe", "Doe", longer=("Jo Doe",))["orphan"] == 0, "somebody bears it"


def test_letter_case_of_the_text_is_no_likeness() -> None:
    whole, shouted = (
        features_of("Birmingham", "Birmingham"),
        features_of("Birmingham", "BIRMINGHAM"),
    )
    assert whole["label"] == shouted["label"] == 1


def test_a_small_letter_against_a_proper_name() -> None:
    """ "The boss of Paris": an item with the label "Boss" is none. In a text without capitals it
    may be.
    """
    index = Index({"boss": [(7, 0, LABEL)], "paris": [(8, 0, LABEL)], "rome": [(9, 0, LABEL)]})
    store = Store({7: Entity("Boss"), 8: Entity("Paris"), 9: Entity("Rome")})
    one = Linker(index, store, BY_HAND, Reach(max_partial=0))
    found = [
        float(one.score(*batch_of([document(text, *text.split())])).features["proper"][0])
        for text in ("boss Paris Rome", "boss paris Rome")
    ]
    assert found == [1.0, 0.0]


def test_evidence_that_a_knowledge_base_lacks_is_none() -> None:
    """Without sitelinks, triples, statements, titles, types, descriptions: no feature that reads
    them differs from 0, so no probability depends on how common they are elsewhere.
    """
    features = features_of("Paris", "Paris")
    reads = ("popularity", "statements", "age", "primary", "title", "near", "window", "document")
    assert {name: features[name] for name in (*reads, "neighbours", "shared", "type")} == (
        dict.fromkeys((*reads, "neighbours", "shared", "type"), 0.0)
    )
    assert features["prior"] == 0.0


WORDS = "Paris Strasbourg Strassbourg France Jordan Velmora capital town Texas actress river of the country hotel".split()
LABELS = st.sampled_from([None, "GPE", "PERSON", "ORG"])


@st.composite
def documents_with_mentions(draw: st.DrawFn) -> Document:
    words = draw(st.lists(st.sampled_from(WORDS), max_size=12))
    surfaces = draw(st.lists(st.sampled_from(words), max_size=4, unique=True)) if words else []
    longer = st.sampled_from([(), ("Michael Jordan",), ("Paris Hilton", "Velmora of France")])
    return Document(
        " ".join(words),
        tuple((surface, draw(LABELS), draw(st.booleans()), draw(longer)) for surface in surfaces),
    )


WEIGHTS = st.fixed_dictionaries({}, optional={name: st.floats(-2, 2) for name in FEATURES})
MODELS = st.builds(Model, st.floats(-5, 5), WEIGHTS)
MODEL = Model(-2.0, {name: 0.3 + 0.1 * place for place, name in enumerate(FEATURES)})


@pytest.mark.slow
@settings(max_examples=80)
@given(st.lists(documents_with_mentions(), max_size=4), st.integers(1, 5))
def test_how_documents_are_batched_changes_nothing(documents: list[Document], top_k: int) -> None:
    one = linker(MODEL)
    together = link(documents, one, top_k=top_k)
    place = 0
    for own in documents:
        alone = link([own], linker(MODEL), top_k=top_k)
        mentions = slice(place, place + len(own.mentions))
        candidates = slice(together.offsets[place], together.offsets[place + len(own.mentions)])
        assert together.qids[mentions].tolist() == alone.qids.tolist()
        assert together.confidence[mentions].tolist() == pytest.approx(
            alone.confidence.tolist(), abs=1.01e-5
        )
        assert np.diff(together.offsets)[mentions].tolist() == np.diff(alone.offsets).tolist()
        assert together.candidates.qids[candidates].tolist() == alone.candidates.qids.tolist()
        assert together.probability[candidates].tolist() == pytest.approx(
            alone.probability.tolist(), abs=1.01e-5
        )
        for name in PARTS:
            assert together.parts[name][candidates].tolist() == pytest.approx(
                alone.parts[name].tolist(), abs=1e-5
            )
        place += len(own.mentions)
    assert place == len(together.qids)


@settings(max_examples=80)
@given(st.lists(documents_with_mentions(), max_size=3), MODELS)
def test_probabilities_are_a_softmax_of_bias_and_parts(
    documents: list[Document], model: Model
) -> None:
    """With NIL, whose score is 0, they sum to 1; what the groups of features add is the score."""
    links = link(documents, linker(model), top_k=64)
    assert tuple(links.parts) == PARTS
    scores = model.bias + sum(links.parts.values())
    features = links.candidates.features
    plain = model.bias + sum(
        weight * features[name] for name, weight in model.weights.items() if name in features
    )
    assert np.broadcast_to(plain, scores.shape).tolist() == pytest.approx(scores.tolist(), abs=1e-4)
    for mention in range(len(links.qids)):
        own = slice(links.offsets[mention], links.offsets[mention + 1])
        exponents = np.exp(scores[own])
        nil = 1 / (1 + exponents.sum())
        assert links.probability[own].tolist() == pytest.approx(
            (nil * exponents).tolist(), abs=1e-4
        )
        assert float(links.probability[own].sum()) + nil == pytest.approx(1.0, abs=1e-3)
        assert list(links.probability[own]) == sorted(links.probability[own], reverse=True)


@pytest.mark.slow
@settings(max_examples=60)
@given(st.lists(st.lists(documents_with_mentions(), max_size=3), max_size=4), st.integers(1, 4))
def test_caches_are_bounded_and_change_nothing(parts: list[list[Document]], size: int) -> None:
    small, fresh = linker(MODEL), [linker(MODEL) for _ in parts]
    small._found_candidates, small._descriptions = linking.LruCache(size), linking.LruCache(size)
    for documents, other in zip(parts, fresh, strict=True):
        found, wanted = link(documents, small), link(documents, other)
        assert found.qids.tolist() == wanted.qids.tolist()
        assert found.probability.tolist() == wanted.probability.tolist()
        assert len(small._found_candidates) <= size
        assert len(small._descriptions) <= size


def test_a_surface_is_looked_up_once() -> None:
    index = Index(KEYS)
    one = linker(index=index)
    link([document("He saw Paris", "Paris"), document("In Paris", "Paris")], one)
    probes = index.probes
    link([document("Paris again", "Paris")], one)
    assert index.probes == probes
    link([document("Paris again", "Paris", fuzzy=False)], one)
    assert index.probes > probes, "whether it may be misspelt is part of the question"


def test_another_index_has_caches_of_its_own() -> None:
    one = linker()
    link([document("He saw Paris", "Paris")], one)
    other = one.reading(Index({"paris": [(TEXAS, 0, LABEL)]}), Store(ENTITIES))
    assert candidates_of(link([document("He saw Paris", "Paris")], other), 0) == [TEXAS]
    assert len(candidates_of(link([document("He saw Paris", "Paris")], one), 0)) == 3


def test_scored_candidates_in_another_order() -> None:
    scored = linker().score(*batch_of([document("He saw Paris", "Paris")]))
    turned = scored.take(np.array([2, 0]))
    assert isinstance(turned, Scored)
    for column in ("mentions", "qids", "rows", "matches", "popularity"):
        assert getattr(turned, column).tolist() == getattr(scored, column)[[2, 0]].tolist()
    assert all(
        values.tolist() == scored.features[name][[2, 0]].tolist()
        for name, values in turned.features.items()
    )
