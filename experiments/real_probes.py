"""Make probes for a run over real text: facts that it states, and facts that it does not.

    python experiments/real_probes.py --run RUN --relations relations.jsonl --model NAME --out FOLDER
        [--pararel FOLDER]

In: a run of `trelm-pipeline` with a finished stage `stats`, templates in LAMA's form, and a model
whose tokenizer must have every object as a single token. Out: folders of LAMA files, `answers.txt`
with the words that answers are ranked over, and `counts.json`, all under `--out`:

    stated-validation  facts that choose learning rates: a quarter of the subjects of stated-other,
                     by a hash of their names; no other folder asks about a subject of such a name
    stated-rare      facts with a sentence that links both ends; the subject has at most 2 mentions
    stated-other     the same, about the other subjects
    unstated         facts about subjects of the corpus that no document states
    pararel-stated   facts of ParaRel (labels alone) that are among the first two, by their labels
    pararel-other    the other facts of ParaRel

"Stated" is what the linker and the knowledge base make of the text (`fact_support`): a sentence
with both ends, whatever it says of them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import duckdb

from pipeline.database.connection import open_run
from pipeline.encoder.tokenizer import TextTokenizer
from pipeline.engine.tables import RunPaths
from schemas.errors import ConfigError, TrelmError

# Mentions up to which a subject is rare, as `trelm-pipeline synth` has it.
RARE_MAX = 2
# Share of the names whose subjects only choose learning rates.
VALIDATION_SHARE = 0.25
FACTS = """
SELECT t.subject, t.predicate, t.object, s.label, o.label, f.num_mentions,
    coalesce(p.num_sentences, 0), coalesce(p.num_documents, 0)
FROM (SELECT DISTINCT subject, predicate, object FROM triples) t
JOIN entity_frequency f ON f.qid = t.subject
JOIN entities s ON s.qid = t.subject
JOIN entities o ON o.qid = t.object
LEFT JOIN fact_support p USING (subject, predicate, object)
WHERE t.predicate IN (SELECT unnest($predicates)) AND s.label <> '' AND o.label <> ''
ORDER BY ALL
"""


# Rows of LAMA files by folder, then by relation.
Questions = dict[str, dict[str, list[dict[str, str]]]]


class Fact(NamedTuple):
    """Hold a triple of the KB, with what a corpus says of it."""

    subject: int
    predicate: int
    object: int
    subject_label: str
    object_label: str
    num_mentions: int
    num_sentences: int
    num_documents: int

    @property
    def kind(self) -> str:
        """Return the folder in which the fact is asked; empty for none."""
        if self.num_sentences:
            return "stated-rare" if self.num_mentions <= RARE_MAX else "stated-other"
        # Ends that meet in a document only may be stated by a pronoun.
        return "" if self.num_documents else "unstated"

    @property
    def row(self) -> dict[str, str]:
        """Return the fact as a row of a LAMA file."""
        return {
            "uuid": f"Q{self.subject}-P{self.predicate}-Q{self.object}",
            "sub_label": self.subject_label,
            "obj_label": self.object_label,
            "sub_uri": f"Q{self.subject}",
            "obj_uri": f"Q{self.object}",
        }


def make_probes(
    run: str, relations: Path, model: str, out: Path, pararel: Path | None
) -> dict[str, int]:
    """Write the folders and return the number of questions in each.

    Raises:
        ConfigError: `out` exists.
        TrelmError: the run has no statistics.
    """
    if out.exists():
        raise ConfigError(f"{out}: exists already; give another --out")
    templates = {row["relation"]: row for row in read_lines(relations)}
    paths = RunPaths(root=run)
    paths.finished("stats")
    predicates = [int(name[1:]) for name in templates if name[1:].isdigit()]
    with open_run(paths) as connection:
        facts = read_facts(connection, predicates)

    questions: Questions = defaultdict(lambda: defaultdict(list))
    _add_facts(questions, facts, single_tokens(model, {fact.object_label for fact in facts}))
    if pararel is not None:
        _add_pararel(questions, facts, pararel)

    answers = {
        row["obj_label"]
        for of_kind in questions.values()
        for rows in of_kind.values()
        for row in rows
    }
    out.mkdir(parents=True)
    for kind, rows_of in questions.items():
        (out / kind).mkdir()
        asked = {relation: rows for relation, rows in rows_of.items() if relation in templates}
        for relation, rows in asked.items():
            write_lines(out / kind / f"{relation}.jsonl", rows)
        write_lines(out / kind / "relations.jsonl", (templates[relation] for relation in asked))
    (out / "answers.txt").write_text("".join(f"{word}\n" for word in sorted(answers)), "utf-8")
    counts = {
        kind: sum(len(rows) for rows in rows_of.values())
        for kind, rows_of in sorted(questions.items())
    }
    (out / "counts.json").write_text(json.dumps(counts, indent=1) + "\n", "utf-8")
    return counts


def _add_facts(questions: Questions, facts: Iterable[Fact], words: set[str]) -> None:
    """Add the facts whose objects are among some words, each to its folder."""
    for fact in facts:
        # A name that holds its answer asks nothing.
        gives_away = fact.object_label.lower() in fact.subject_label.lower()
        kind = _with_validation(fact.kind, fact.subject_label)
        if kind and fact.object_label in words and not gives_away:
            questions[kind][f"P{fact.predicate}"].append(fact.row)


def _add_pararel(questions: Questions, facts: Iterable[Fact], folder: Path) -> None:
    """Add the facts of ParaRel: it has no ids, so one is stated if a fact of these names is."""
    stated_names = {
        (f"P{fact.predicate}", fact.subject_label, fact.object_label)
        for fact in facts
        if fact.kind.startswith("stated")
    }
    for path in sorted(folder.glob("P*.jsonl")):
        for row in read_lines(path):
            name = (path.stem, row["sub_label"], row["obj_label"])
            kind = "pararel-stated" if name in stated_names else "pararel-other"
            if not is_validation(row["sub_label"]):
                questions[kind][path.stem].append(row)


def is_validation(subject_label: str) -> bool:
    """Say whether facts about subjects of this name only choose learning rates."""
    hashed = int.from_bytes(hashlib.sha256(subject_label.casefold().encode()).digest()[:6], "big")
    return hashed < VALIDATION_SHARE * 2**48


def _with_validation(kind: str, subject_label: str) -> str:
    """Return the folder of a fact; empty for a fact of a validation name that chooses no rate."""
    if not is_validation(subject_label):
        return kind
    return "stated-validation" if kind == "stated-other" else ""


def read_facts(connection: duckdb.DuckDBPyConnection, predicates: list[int]) -> list[Fact]:
    """Return the facts of some relations whose subject the corpus mentions."""
    rows = connection.execute(FACTS, {"predicates": predicates}).fetchall()
    return [Fact(*row) for row in rows]


def single_tokens(model: str, labels: set[str]) -> set[str]:
    """Return the labels that the model's tokenizer has as one token."""
    tokenizer = TextTokenizer(model)
    ordered = sorted(labels)
    runs = tokenizer.label_runs(ordered)
    sizes = runs.offsets[1:] - runs.offsets[:-1]
    return {
        label
        for label, size, start in zip(ordered, sizes.tolist(), runs.offsets.tolist(), strict=False)
        if size == 1 and runs.ids[start] != tokenizer.unk_id
    }


def read_lines(path: Path) -> list[dict[str, str]]:
    """Return the rows of a file with a JSON object per line."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]


def write_lines(path: Path, rows: Iterable[dict[str, str]]) -> None:
    """Write rows as a JSON object per line."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def main() -> None:
    """Read the command line and make the probes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--run", required=True, help="run with a finished stage stats")
    parser.add_argument("--relations", required=True, type=Path, help="templates, LAMA's form")
    parser.add_argument("--model", required=True, help="model whose tokenizer decides")
    parser.add_argument("--out", required=True, type=Path, help="new folder for the probes")
    parser.add_argument("--pararel", type=Path, help="folder of ParaRel's facts, P….jsonl")
    options = parser.parse_args()
    try:
        counts = make_probes(
            options.run, options.relations, options.model, options.out, options.pararel
        )
    except (TrelmError, OSError) as error:
        sys.exit(f"error: {error}")
    sys.stdout.write("".join(f"{kind:16} {count}\n" for kind, count in counts.items()))


if __name__ == "__main__":
    main()
