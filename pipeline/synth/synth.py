"""Make a corpus and write its folder: documents, gold links, probes, truth, a configuration.

Goes in: a run with a finished stage `kb`, and settings. Comes out: a new folder. Memory: about 1 kB
per sentence. `truth.json` is written last, so a folder with it is complete.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import KbConfig
from pipeline.engine import files
from pipeline.engine.sole_writer import sole_writer
from pipeline.engine.tables import RunPaths
from pipeline.synth import truth
from pipeline.synth.classes import KnownFact, classify
from pipeline.synth.corpus import Sentence, plan_sentences
from pipeline.synth.facts import Pool
from pipeline.synth.general import GeneralText, take_paragraphs
from pipeline.synth.kb_facts import read_pool
from pipeline.synth.layout import SynthDocument, document_line, gold_line, lay_out
from pipeline.synth.names import NameFinder
from pipeline.synth.probes import probe_files
from pipeline.synth.settings import SynthConfig
from pipeline.synth.template_file import load_templates
from pipeline.synth.templates import Templates
from schemas.errors import ConfigError
from schemas.manifest import Manifest
from schemas.run_lock import LOCK_NAME
from schemas.settings import to_dict

TRUTH = "truth.json"
LINKS_FIELD = "links"


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """Hold a whole corpus, before it is written."""

    documents: list[SynthDocument]
    facts: list[KnownFact]
    general: GeneralText
    pool: Pool
    templates: Templates


def synthesise(run_folder: str, out: str, config: SynthConfig) -> dict[str, Any]:
    """Write a corpus to a new folder; return its totals.

    Raises:
        ConfigError: the folder is not empty, or the settings ask for what the KB cannot give.
        StageError: the run has no finished stage `kb`.
        LockedError: another program writes in the folder.
    """
    check_new_folder(out)
    with sole_writer(out):
        # Another program may have filled it since.
        check_new_folder(out)
        return _synthesise(run_folder, out, config)


def _synthesise(run_folder: str, out: str, config: SynthConfig) -> dict[str, Any]:
    """Write a corpus to a folder that this program holds; return its totals."""
    manifest = RunPaths(root=run_folder).finished("kb")
    # Made as a whole before the first file: what is refused leaves no folder.
    corpus = make_corpus(run_folder, config)
    totals = truth.totals(corpus.documents, corpus.facts, corpus.general)

    def write(name: str, content: bytes) -> None:
        files.write_bytes(files.join(out, *name.split("/")), content)

    files.write_stream(files.join(out, "documents.jsonl"), map(document_line, corpus.documents))
    files.write_stream(files.join(out, "gold.jsonl"), _gold_lines(corpus.documents))
    for name, content in probe_files(corpus.facts, corpus.pool, corpus.templates):
        write(name, content.encode())
    for name, rows in _truth_tables(corpus).items():
        write(f"truth/{name}.parquet", _parquet(rows))
    write("pipeline.toml", run_settings(manifest, out, config).encode())

    # The KB's fingerprint and the settings: with them the same corpus can be made again.
    summary = {
        "kb": manifest.fingerprint,
        "settings": to_dict(config),
        "totals": totals,
        "relations": truth.relation_figures(corpus.facts),
        "templates": truth.used_templates(corpus.templates),
    }
    write(TRUTH, (json.dumps(summary, indent=1, ensure_ascii=False) + "\n").encode())
    return totals


def make_corpus(run_folder: str, config: SynthConfig) -> Corpus:
    """Return the corpus that the settings describe; writes nothing."""
    templates = load_templates(config.templates, config.relations)
    pool = read_pool(run_folder, tuple(templates.relations), config)
    sentences = plan_sentences(pool, templates, config)
    general = _general(sentences, pool, config)
    return Corpus(
        documents=lay_out(sentences, general.paragraphs, config),
        facts=classify(sentences, pool, config),
        general=general,
        pool=pool,
        templates=templates,
    )


def _general(sentences: list[Sentence], pool: Pool, config: SynthConfig) -> GeneralText:
    num_words = sum(len(sentence.text.split()) for sentence in sentences)
    # All subjects of the pool, also those that no sentence names: they must stay absent.
    subjects = NameFinder(pool.labels[qid] for qid in pool.facts_of)
    return take_paragraphs(config, num_words, subjects)


def check_new_folder(out: str) -> None:
    """Refuse a folder that has files already.

    Raises:
        ConfigError: says what to do.
    """
    held = files.list_files(files.join(glob.escape(out), "*")) if files.exists(out) else []
    # Who holds the folder is told by the lock.
    if any(entry.path.rsplit("/", 1)[-1] != LOCK_NAME for entry in held):
        raise ConfigError(f"--out {out!r} is not empty; give a new folder, or empty this one first")


def _gold_lines(documents: list[SynthDocument]) -> Iterator[bytes]:
    # General text may name items without a link, so nothing can be scored there.
    return (gold_line(document) for document in documents if document.sentences)


def _truth_tables(corpus: Corpus) -> dict[str, pa.Table]:
    return {
        "sentences": truth.sentence_table(corpus.documents),
        "links": truth.link_table(corpus.documents),
        "facts": truth.fact_table(corpus.facts),
        "entities": truth.entity_table(corpus.documents, corpus.pool),
    }


def _parquet(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def run_settings(manifest: Manifest, out: str, config: SynthConfig) -> str:
    """Return a configuration that runs the pipeline on the corpus, linked by its own links."""
    default = to_dict(KbConfig())
    # Defaults are left out: the file should show what this KB was made with.
    kb = {
        name: value
        for name, value in manifest.config.items()
        if name in default and value != default[name]
    }
    sections: dict[str, dict[str, object]] = {
        "kb": kb,
        "documents": {
            "inputs": [files.join(out, "documents.jsonl")],
            "links_field": LINKS_FIELD,
        },
        # No recogniser: it would cost time, and find nothing that counts.
        "link": {"spacy_model": "blank:en", "mentions": "anchors"},
    }
    # A stated fact in the validation split would be one that nobody trains on.
    sections["shards"] = {"validation_share": 0.0}
    if config.model:
        sections["importance"] = {"model": config.model}

    lines = [
        "# A synthetic corpus, from dump to shards; its own links are the only mentions.",
        f"run = {json.dumps(files.join(out, 'run'))}",
    ]
    for section, values in sections.items():
        lines += ["", f"[{section}]"]
        # JSON strings, numbers, booleans and arrays are TOML too.
        lines += [
            f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in values.items()
        ]
    return "\n".join(lines) + "\n"
