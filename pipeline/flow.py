"""The whole flow on one screen.

Wikidata dump ──▶ kb
corpus, kb ──▶ titles ──▶ documents            titles: only where the corpus has MediaWiki pages
kb, titles, documents ──▶ index
documents, index ──▶ link
link, kb ──▶ stats
link ──▶ importance
link, importance, stats, kb ──▶ shards ──▶ trelm-train
"""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.config import RunConfig
from pipeline.engine import files
from pipeline.engine.beam_runner import RunnerSettings
from pipeline.run_stage import run_stage

FLOW = ("kb", "titles", "documents", "index", "link", "stats", "importance", "shards")


def run_missing(
    config: RunConfig, settings: RunnerSettings, last: str = FLOW[-1]
) -> Iterator[tuple[str, bool]]:
    """Every stage up to `last`, in order; each says whether it ran or was there already."""
    for stage in FLOW[: FLOW.index(last) + 1]:
        if stage != "titles" or reads_wiki(config):
            yield stage, run_stage(stage, config, settings)


def reads_wiki(config: RunConfig) -> bool:
    """Whether the corpus has MediaWiki pages, whose titles lead to items."""
    from pipeline.documents.corpus import kind_of

    wanted = config.documents.format
    return any(
        kind_of(path, wanted) == "wiki-xml" for path in files.expand(config.documents.inputs)
    )
