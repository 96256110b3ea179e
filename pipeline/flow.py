"""Declare the flow: every stage, in order, with what it reads and what it writes.

Wikidata dump ──▶ kb
corpus, kb ──▶ titles ──▶ documents            titles: only where the corpus has MediaWiki pages
kb, titles, documents ──▶ index
documents, index ──▶ link
link, kb ──▶ stats
documents, link ──▶ importance   (and stats, where importance.mentions is needed)
documents, link, importance, stats, kb ──▶ shards ──▶ trelm-train

`STAGES` is the one place where this stands. The command line, `run`, `sql`, the sections
of the settings and the table in the reference derive from it.
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas import (
    ALIASES,
    ANCHORS,
    COOCCURRENCE,
    DOCUMENTS,
    ENTITIES,
    ENTITY_FREQUENCY,
    EXAMPLES,
    FACT_SUPPORT,
    IMPORTANCE,
    KNOWLEDGE,
    LINKS,
    PROPERTIES,
    REDIRECTS,
    SENTENCES,
    STATEMENTS,
    SURFACE_FREQUENCY,
    TAIL_SUMMARY,
    TRIPLES,
    Table,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """Declare one stage of the flow."""

    name: str
    # The first line of its command's help.
    summary: str
    # Stages whose tables or files it may read; all of them come before it.
    reads: tuple[str, ...]
    writes: tuple[Table, ...]
    # What it writes besides tables: names of artefacts in its manifest.
    artefacts: tuple[str, ...] = ()
    # Section of the settings that decides its rows.
    section: str
    # Module with its function `plan`.
    module: str
    # Command that runs it.
    command: str
    # What a unit of work is, for the reference.
    unit: str
    # Goes up whenever the same input and settings give other rows: then older output is out of date.
    # `tests/pipeline/engine/test_algorithms.py` holds the rows of each version.
    algorithm: int = 1


STAGES = (
    Stage(
        name="kb",
        summary=(
            "Turn a Wikidata dump into tables. They hold entities, aliases, properties, triples, "
            "redirects."
        ),
        reads=(),
        writes=(ENTITIES, ALIASES, PROPERTIES, TRIPLES, REDIRECTS, STATEMENTS),
        section="kb",
        module="pipeline.kb.stage",
        command="kb",
        unit="a byte range of a dump",
    ),
    Stage(
        name="titles",
        summary="Turn the titles of MediaWiki pages into a map from title to item.",
        reads=("kb",),
        writes=(REDIRECTS,),
        artefacts=("titles",),
        section="documents",
        module="pipeline.documents.titles_stage",
        command="documents",
        unit="a byte range of an export",
    ),
    Stage(
        name="documents",
        summary=(
            "Turn a corpus into documents and anchors. The corpus is text, JSONL, Parquet or "
            "MediaWiki XML (.gz, .bz2, .zst too)."
        ),
        reads=("titles",),
        writes=(DOCUMENTS, ANCHORS),
        section="documents",
        module="pipeline.documents.stage",
        command="documents",
        unit="a byte range, a range of rows, or a group of text files",
        # 2: text of templates inside sentences, blank and disambiguation pages are skipped.
        # 3: end tags and stray braces end a link trail, blocks stand on lines of their own; the
        # places of pages in rejects.
        algorithm=3,
    ),
    Stage(
        name="index",
        summary=(
            "Build the look-up files of names and entities. They are memory-mapped; a stopped "
            "build continues."
        ),
        reads=("kb", "titles", "documents"),
        writes=(),
        artefacts=("aliases", "entities"),
        section="index",
        module="pipeline.index.stage",
        command="index",
        unit="a range of rows, then shards of names and ranges of QIDs",
        # 2: invisible characters cut no word. 3: given names and surnames as such have a type.
        algorithm=3,
    ),
    Stage(
        name="link",
        summary=(
            "Find mentions, and link each to an item or NIL. The links keep the best "
            "candidates with their scores."
        ),
        reads=("documents", "index"),
        writes=(SENTENCES, LINKS),
        artefacts=("weights",),
        section="link",
        module="pipeline.link.stage",
        command="link",
        unit="the weights, if fitted; then ranges of documents, about `link.unit_mb` of text",
        # 2: long lines are cut where sentences end. 3: doubts about mentions; languages and nations
        # by the words around; titles before persons. 4: an adjective without a noun may be a language.
        algorithm=4,
    ),
    Stage(
        name="stats",
        summary=(
            "Count the links. The tables hold frequencies, bands, co-occurrence, supported facts "
            "and the tail's summary."
        ),
        reads=("link", "kb"),
        writes=(ENTITY_FREQUENCY, SURFACE_FREQUENCY, COOCCURRENCE, FACT_SUPPORT, TAIL_SUMMARY),
        section="stats",
        module="pipeline.stats.stage",
        command="stats",
        unit="a group of links files, then buckets",
    ),
    Stage(
        name="importance",
        summary=(
            "Measure how much sentences need their mentions. A frozen encoder scores "
            "every linked mention: its semantic importance."
        ),
        reads=("documents", "link"),
        writes=(IMPORTANCE,),
        # 2: all products of one shape, which gives other last digits; the sample that gives the
        # corpus median.
        algorithm=2,
        section="importance",
        module="pipeline.importance.stage",
        command="importance",
        unit="a unit of `link`",
    ),
    Stage(
        name="shards",
        summary=(
            "Write training examples and knowledge. They join the results of all stages, for "
            "one tokenizer."
        ),
        reads=("kb", "documents", "link", "stats", "importance"),
        writes=(EXAMPLES, KNOWLEDGE),
        artefacts=("tokenizer",),
        section="shards",
        module="pipeline.shards.stage",
        command="shards",
        unit="units of `link`, then ranges of shuffle keys",
    ),
)
STAGE_NAMES = tuple(stage.name for stage in STAGES)


def stage_named(name: str) -> Stage:
    """Return a stage by its name.

    Raises:
        KeyError: there is no such stage.
    """
    return {stage.name: stage for stage in STAGES}[name]


def algorithm_of(name: str) -> int:
    """Return the version of a stage's algorithm; 1 for what is no stage of the flow."""
    return {stage.name: stage.algorithm for stage in STAGES}.get(name, 1)


def command_of(name: str) -> str:
    """Return the command that runs a stage: `documents` runs `titles` too."""
    return {stage.name: stage.command for stage in STAGES}.get(name, name)


def stages_until(last: str) -> tuple[Stage, ...]:
    """Return all stages up to one, in order."""
    return STAGES[: STAGE_NAMES.index(last) + 1]


def writer_of(table: str) -> Stage:
    """Return the stage that writes a table; of two that do, the first.

    Raises:
        KeyError: no stage writes it.
    """
    return {written.name: stage for stage in reversed(STAGES) for written in stage.writes}[table]
