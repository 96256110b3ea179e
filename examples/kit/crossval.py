"""How well linking does on the data kit, everything learned held out by document.

    TRELM_KIT=/path/to/kit python examples/kit/prepare.py --out runs/kit-input
    TRELM_KIT=/path/to/kit trelm-pipeline run --until documents --config examples/kit.toml
    TRELM_KIT=/path/to/kit python examples/kit/crossval.py --kit-run runs/kit --inputs runs/kit-input --out runs/crossval

Two parts, each in 5 folds by document, 15 minutes on two cores:

    spans      gold spans of ERNIE and FewRel: `link train` on an index that has learned from their links
    articles   the gensim articles end to end against their own links, the anchor detector off: the index has learned from the
               links of the other folds, the weights from FewRel and from ERNIE's articles of the other folds

ERNIE's articles are the gensim articles: each is put in the fold of its twin. Out: one JSON object
on a line per fold and one of all; in `--out`, the folds' runs, gold files and errors.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import LinkConfig
from pipeline.database.connection import open_run
from pipeline.engine.tables import RunPaths
from pipeline.link.features import FEATURES
from pipeline.link.training.collect import Training, collect
from pipeline.link.training.crossval import choose_penalty, fitting_for, fold_of
from pipeline.link.training.fitting import fit

Json = dict[str, Any]
FOLDS = 5
ARTICLES = "enwiki-gensim-106articles"
CONFIG = Path(__file__).parent.parent / "kit-gold.toml"
WORDS_COMPARED = 400


def program(*arguments: str) -> str:
    """Run trelm-pipeline; its output."""
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    done = subprocess.run(command, check=False, text=True, capture_output=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return done.stdout


def read_articles(kit_run: str) -> list[Json]:
    """The gensim articles with their resolved links."""
    with open_run(RunPaths(root=kit_run)) as connection:
        documents = connection.execute(
            "SELECT doc_id, text FROM documents WHERE starts_with(source, ?) ORDER BY doc_id",
            [ARTICLES],
        ).fetchall()
        links: dict[str, list[Json]] = {}
        rows = connection.execute(
            'SELECT doc_id, start, "end", qid FROM anchors ORDER BY doc_id, start'
        ).fetchall()
    for doc_id, start, end, qid in rows:
        links.setdefault(doc_id, []).append({"start": start, "end": end, "qid": qid})
    return [
        {"doc_id": name, "text": text, "mentions": links[name]}
        for name, text in documents
        if name in links
    ]


def links_alone(document: Json) -> Json:
    """A document of nothing but the texts of another's links, one a line: what an index learns from
    it is the same.
    """
    text, mentions = "", []
    for mention in document["mentions"]:
        surface = document["text"][mention["start"] : mention["end"]]
        mentions.append(
            {"start": len(text), "end": len(text) + len(surface), "qid": mention["qid"]}
        )
        text += f"{surface}\n"
    return {"doc_id": f"links of {document['doc_id']}", "text": text, "mentions": mentions}


def write_jsonl(path: Path, rows: list[Json]) -> str:
    """Write one JSON object a line; the path."""
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    return str(path)


def read_jsonl(path: Path) -> list[Json]:
    """Rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def opening_words(text: str) -> set[str]:
    """The words at the beginning of a text, folded."""
    return set(re.findall(r"\w+", text[:8000].lower())[:WORDS_COMPARED])


def twins(ernie: list[Json], articles: list[Json]) -> dict[str, str]:
    """Of each ERNIE document the article with the most words in common, at the beginning of both."""
    words = {article["doc_id"]: opening_words(article["text"]) for article in articles}
    found = {}
    for document in ernie:
        own = opening_words(document["text"])
        found[document["doc_id"]] = max(
            words, key=lambda name: len(own & words[name]) / len(own | words[name])
        )
    return found


def prepared_run(folder: Path, kit_run: str, corpus: list[str]) -> str:
    """A run on some corpus with the kit's knowledge base, up to its index."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(Path(kit_run) / "kb", folder / "kb", dirs_exist_ok=True)
    dumps = json.loads((folder / "kb" / "manifest.json").read_text(encoding="utf-8"))["config"][
        "dumps"
    ]
    program(
        "run", "--until", "index", "--config", str(CONFIG), "--run", str(folder), "--set", f"kb.dumps={json.dumps(dumps)}",
        "--set", f"documents.inputs={json.dumps(corpus)}", "--set", "documents.links_field=mentions",
    )  # fmt: skip
    return str(folder)


def fold_weights(arguments: argparse.Namespace, articles: list[Json]) -> tuple[list[str], Json]:
    """Files of weights, one per fold of articles, and the figures at gold spans."""
    gold = [str(arguments.inputs / f"{name}.gold.jsonl") for name in ("ernie", "fewrel")]
    run = prepared_run(arguments.out / "spans", arguments.kit_run, gold)
    out = arguments.out / "weights.json"
    report = json.loads(
        program(
            "link",
            "train",
            "--run",
            run,
            "--out",
            str(out),
            "--json",
            *(a for g in gold for a in ("--gold", g)),
        )
    )
    twin_of = twins(read_jsonl(Path(gold[0])), articles)
    mentions = collect(Training(run=run, gold_files=tuple(gold)), LinkConfig())
    names = [name for name in FEATURES if name in mentions.examples.features]
    fitting = choose_penalty(mentions, fitting_for(mentions, names), FOLDS)
    fold_of_mention = np.array(
        [fold_of(twin_of[name], FOLDS) if name in twin_of else -1 for name in mentions.documents]
    )
    paths = []
    for fold in range(FOLDS):
        model = fit(mentions.examples.of_mentions(fold_of_mention != fold), fitting)
        path = arguments.out / f"weights-{fold}.json"
        path.write_text(model.to_json(), encoding="utf-8")
        paths.append(str(path))
    return paths, report["figures"]


def known_weights(arguments: argparse.Namespace) -> tuple[list[str], Json]:
    """The files of weights of an earlier cross-validation, and no figures."""
    return [str(arguments.weights_from / f"weights-{fold}.json") for fold in range(FOLDS)], {}


def link_fold(arguments: argparse.Namespace, articles: list[Json], fold: int, weights: str) -> Json:
    """Scores of one fold's articles."""
    own = [article for article in articles if fold_of(article["doc_id"], FOLDS) == fold]
    rest = [
        links_alone(article) for article in articles if fold_of(article["doc_id"], FOLDS) != fold
    ]
    texts = [{"doc_id": article["doc_id"], "text": article["text"]} for article in own]
    corpus = write_jsonl(arguments.out / f"corpus-{fold}.jsonl", [*texts, *rest])
    gold = write_jsonl(arguments.out / f"gold-{fold}.jsonl", own)
    run = prepared_run(arguments.out / f"fold-{fold}", arguments.kit_run, [corpus])
    program(
        "link", "--run", run, "--config", str(CONFIG), "--weights", weights, "--set", "link.anchors=false", "--set",
        "link.min_confidence=0.3", "--set", "documents.links_field=mentions",
    )  # fmt: skip
    errors = str(arguments.out / f"errors-{fold}.jsonl")
    return json.loads(
        program("evaluate", "--run", run, "--gold", gold, "--json", "--errors", errors)
    )


def pooled(scores: list[Json]) -> Iterator[tuple[str, float | int]]:
    """Figures of all folds together."""
    counts: Counter[str] = Counter()
    for score in scores:
        found = score["detection"]
        counts["gold"] += score["gold_in_kb"]
        counts["found"] += round(found["span_recall"] * score["gold_in_kb"])
        for name, part in found["span_recall_by_first_character"].items():
            counts[f"gold, {name}"] += part["gold"]
            counts[f"found, {name}"] += round((part["recall"] or 0) * part["gold"])
        for name, part in score["errors"]["classes"].items():
            counts[f"error {name}"] += part["count"]
    right = counts["gold"] - sum(
        count for name, count in counts.items() if name.startswith("error ")
    )
    yield "gold_in_kb", counts["gold"]
    yield "span_recall", round(counts["found"] / counts["gold"], 4)
    for name in ("capital", "digit", "lower case"):
        if counts[f"gold, {name}"]:
            yield (
                f"span_recall, {name}",
                round(counts[f"found, {name}"] / counts[f"gold, {name}"], 4),
            )
    yield "item_accuracy_at_found_spans", round(right / counts["found"], 4)
    yield from ((name, count) for name, count in counts.items() if name.startswith("error "))


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--kit-run", required=True, help="run of examples/kit.toml, at least up to documents"
    )
    parser.add_argument("--inputs", type=Path, required=True, help="what prepare.py wrote")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for runs, gold files and errors"
    )
    parser.add_argument(
        "--weights-from",
        type=Path,
        help="--out of an earlier time: only the articles, with its weights",
    )
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    articles = read_articles(arguments.kit_run)
    weights, spans = (
        fold_weights(arguments, articles)
        if not arguments.weights_from
        else known_weights(arguments)
    )
    for name, figures in spans.items():
        sys.stdout.write(json.dumps({"part": "spans", "gold": name, **figures}) + "\n")
    scores = []
    for fold in range(FOLDS):
        scores.append(link_fold(arguments, articles, fold, weights[fold]))
        sys.stdout.write(
            json.dumps({"part": "articles", "fold": fold, **scores[-1]["detection"]}) + "\n"
        )
        sys.stdout.flush()
    sys.stdout.write(json.dumps({"part": "articles", "fold": "all", **dict(pooled(scores))}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
