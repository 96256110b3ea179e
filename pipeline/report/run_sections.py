"""Sections on the run itself: its entities by name, its rejects, its stages and their configuration."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.report.entities import EntityRow
from pipeline.report.facts import Facts
from pipeline.report.markup import Markup, item_link, joined, number, size, table, tag
from pipeline.report.parts import chip, note, para
from schemas.manifest import Manifest

MAX_SHOWN = 20  # values of a list in a configuration


def entities(found: Facts) -> Markup:
    """The most frequent entities, and a sample of the tail."""
    return joined(
        [
            para("Names lead to Wikidata; nothing is loaded from there until you follow one."),
            _entity_table("Most frequent entities", found.top),
            _entity_table(
                "A sample of the tail, entities with a fact in the text first", found.sample
            ),
        ]
    )


def _entity_table(caption: str, rows: Sequence[EntityRow]) -> Markup:
    heads = (
        "Entity",
        "Description",
        "Band",
        "#Mentions",
        "#Documents",
        "#Mean SI",
        "#Facts in the text",
    )
    cells = [
        (
            item_link(one.qid, one.label), tag("bdi", one.description), chip(one.band), number(one.num_mentions),
            number(one.num_documents), number(one.mean_si, 4), number(one.num_facts),
        )
        for one in rows
    ]  # fmt: skip
    return table(caption, heads, cells) if rows else note(f"{caption}: none.")


def rejects(found: Facts) -> Markup:
    """What could not be used."""
    if not found.rejects:
        return note("No stage rejected anything.")
    rows = [
        (
            one.stage,
            one.reason,
            number(one.count),
            tag("code", one.key),
            tag("code", one.payload[:200]) if one.payload else "–",
        )
        for one in found.rejects
    ]
    heads = ("Stage", "Reason", "#Rows", "Example: key", "Example: input")
    return joined(
        [
            para("Bad rows are kept with a reason instead of being lost."),
            table("Rejects by stage and reason", heads, rows, quiet=True),
        ]
    )


def run(found: Facts) -> Markup:
    """Stages, tables and configuration."""
    stages = [_stage_row(stage, manifest) for stage, manifest in found.manifests.items()]
    heads = (
        "Stage",
        "Finished",
        "#Rows in",
        "#Rejects",
        "Tables (rows)",
        "#Bytes",
        "Version",
        "Fingerprint",
    )
    configs = [
        tag(
            "details",
            tag("summary", f"Configuration of {stage}"),
            tag("pre", "\n".join(_settings(manifest)), tabindex="0"),
        )
        for stage, manifest in found.manifests.items()
        if manifest.config
    ]
    whole = (
        tag(
            "details",
            tag("summary", "config.toml of the last command"),
            tag("pre", found.config, tabindex="0"),
        )
        if found.config
        else None
    )
    return joined(
        [table("Stages", heads, stages, quiet=True), tag("h3", "Configuration"), *configs, whole]
    )


def _stage_row(stage: str, manifest: Manifest) -> tuple[object, ...]:
    tables = [
        f"{name} {number(one.rows)}" for name, one in manifest.tables.items() if name != "rejects"
    ]
    num_bytes = sum(part.num_bytes for one in manifest.tables.values() for part in one.files)
    rejected = manifest.tables["rejects"].rows if "rejects" in manifest.tables else 0
    rows_in = manifest.counters.get("rows_in")
    created = manifest.created[:16].replace("T", " ")
    return (
        stage, tag("time", created), number(rows_in), number(rejected), ", ".join(tables) or "–", size(num_bytes),
        manifest.code_version, tag("code", manifest.fingerprint, class_="id"),
    )  # fmt: skip


def _settings(manifest: Manifest) -> list[str]:
    lines = []
    for name, value in sorted(manifest.config.items()):
        shown = value
        if isinstance(value, list) and len(value) > MAX_SHOWN:
            shown = [*value[:MAX_SHOWN], f"… {len(value) - MAX_SHOWN} more"]
        lines.append(f"{name} = {shown!r}")
    return lines
