"""Make what `linking` works on, once per folder, by the project's own commands from the data kit.

One run holds the knowledge base (the kit's subset A, typed), two corpora (106 cased Wikipedia
articles; ERNIE's articles and FewRel's sentences with their gold links) and one index. The index
takes no names from the articles' links: those articles are ERNIE's too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, VariantError
from benchmarks.linking_names import names_of
from benchmarks.linking_ours import write_documents
from benchmarks.linking_tables import read_documents, read_items
from benchmarks.linking_texts import Misspelt, misspelt, new_words, place, unrelated
from pipeline.index.name_keys import normalise
from pipeline.link.inflections import inflections

ARTICLES = "text/enwiki-gensim-106articles.xml.bz2"
GOLD = ("ernie", "fewrel")
GOLD_CONFIG = ROOT / "examples" / "kit-gold.toml"
TOKEN_PARTS = 10  # of the stream of new words


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Name the files of cased articles: a table for ours, JSON for the others."""

    documents: str
    texts: str
    tokens: int  # of spacy.blank("en")


@dataclass(frozen=True, kw_only=True)
class Words:
    """Name the files of a stream of new words in equal parts."""

    parts: tuple[str, ...]
    texts: str
    tokens: int


def kit_folder() -> Path:
    """Return the folder of the data kit.

    Raises:
        FileNotFoundError: it is not at hand.
    """
    kit = Path(os.environ.get("TRELM_KIT", ""))
    if not (kit / ARTICLES).is_file():
        raise FileNotFoundError(
            f"{kit / ARTICLES} is missing: set TRELM_KIT to the folder of the data kit"
        )
    return kit


def command(*arguments: str) -> str:
    """Run one of the project's programs; return what it prints.

    Raises:
        VariantError: it failed.
    """
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise VariantError(f"{' '.join(arguments)} failed:\n{done.stderr[-4000:]}")
    return done.stdout


def set_flags(settings: Mapping[str, Any]) -> list[str]:
    """Return the flags that set these keys."""
    return [
        flag for key, value in settings.items() for flag in ("--set", f"{key}={json.dumps(value)}")
    ]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Hold a folder with the run, and make more from it on demand."""

    folder: Path

    @property
    def run(self) -> str:
        """Return the run with KB, documents and index."""
        return str(self.folder / "run")

    def gold(self, name: str) -> str:
        """Return a gold file of the run."""
        return str(self.folder / f"{name}.gold.jsonl")

    def corpus(self, tokens: int) -> Corpus:
        """Return the first articles that have this many tokens together, or all."""
        described = self.folder / f"corpus-{tokens}.json"
        if not described.exists():
            self._make_corpus(described, tokens)
        return Corpus(**json.loads(described.read_text(encoding="utf-8")))

    def _make_corpus(self, described: Path, tokens: int) -> None:
        import spacy

        tokenise, taken, num_tokens = spacy.blank("en").tokenizer, {}, 0
        for doc_id, text in read_documents(self.run):
            if num_tokens < tokens and not doc_id.startswith(GOLD):
                taken[doc_id] = text
                num_tokens += len(tokenise(text))
        texts = self._write(f"texts-{tokens}.json", json.dumps(taken, ensure_ascii=False))
        documents = write_documents(self.folder / f"corpus-{tokens}", list(taken.items()))
        fields = {"documents": documents, "texts": texts, "tokens": num_tokens}
        self._write(described.name, json.dumps(fields))

    def words(self, tokens: int) -> Words:
        """Return new words in ten parts."""
        documents = list(new_words(tokens))
        size = -(-len(documents) // TOKEN_PARTS)
        parts = []
        for number in range(TOKEN_PARTS):
            folder = self.folder / f"words-{tokens}" / str(number)
            parts.append(write_documents(folder, documents[number * size : (number + 1) * size]))
        texts = self._write(f"words-{tokens}.json", json.dumps(dict(documents)))
        return Words(parts=tuple(parts), texts=texts, tokens=tokens)

    def names(self, count: int) -> tuple[str, list[Misspelt]]:
        """Make a gold file of labels with one edit, then as many names of nothing; return it and
        the edits.
        """
        items = read_items(self.run)
        names = names_of(items)
        alone = {key: qids[0] for key, qids in names.items() if len(qids) == 1}
        labels = {
            item.label: item.qid for item in items if alone.get(normalise(item.label)) == item.qid
        }
        made = misspelt(labels, names, count)
        texts = [text for doc_id, text in read_documents(self.run) if not doc_id.startswith(GOLD)]
        of_nothing = unrelated(
            texts, lambda key: any(form in names for form in (key, *inflections(key))), len(made)
        )
        qids = [*(one.qid for one in made), *(None for _ in of_nothing)]
        placed = place([*(one.name for one in made), *of_nothing])
        lines = [
            json.dumps(one.line(qid), ensure_ascii=False)
            for one, qid in zip(placed, qids, strict=True)
        ]
        return self._write(f"names-{count}.jsonl", "".join(f"{line}\n" for line in lines)), made

    def _write(self, name: str, text: str) -> str:
        (self.folder / name).write_text(text, encoding="utf-8")
        return str(self.folder / name)


def prepare(folder: Path, *, every_ernie: int, every_fewrel: int) -> Prepared:
    """Make knowledge base, documents and index; do nothing again that is there.

    Gold files are thinned to every nth line.
    """
    kit, made = kit_folder(), folder / f"linking-{every_ernie}-{every_fewrel}"
    done = made / "done"
    if not done.exists():
        made.mkdir(parents=True, exist_ok=True)
        command("examples/kit/prepare.py", "--out", str(made / "kit"))
        both = []
        for name, every in zip(GOLD, (every_ernie, every_fewrel), strict=True):
            with (made / "kit" / f"{name}.gold.jsonl").open(encoding="utf-8") as file:
                lines = list(file)[::every]
            both += lines
            (made / f"{name}.gold.jsonl").write_text("".join(lines), encoding="utf-8")
        (made / "both.gold.jsonl").write_text("".join(both), encoding="utf-8")
        command(
            "-m",
            "pipeline.cli",
            "run",
            "--until",
            "index",
            "--run",
            str(made / "run"),
            *settings(made, kit),
        )
        done.touch()
    return Prepared(folder=made)


def settings(made: Path, kit: Path) -> list[str]:
    """Return the run's configuration."""
    inputs = [str(kit / ARTICLES), str(made / "both.gold.jsonl")]
    changed = {
        "kb.dumps": [str(made / "kit" / "subset-A-typed.json.gz")],
        "documents.inputs": inputs,
        "index.anchors": False,
    }
    return ["--config", str(GOLD_CONFIG), *set_flags(changed)]


def link_gold(made: Prepared, names: Sequence[str]) -> dict[str, Any]:
    """Run the command `link` at all gold spans; return what `evaluate` says of each gold file."""
    both = made.folder / "both.gold.jsonl"
    given = [
        "--gold-spans",
        str(both),
        "--redo",
        "--run",
        made.run,
        *settings(made.folder, kit_folder()),
    ]
    command("-m", "pipeline.cli", "link", *given)
    said = {
        name: command(
            "-m", "pipeline.cli", "evaluate", "--json", "--run", made.run, "--gold", made.gold(name)
        )
        for name in names
    }
    return {name: json.loads(text) for name, text in said.items()}
