"""Make the sections on the run itself: its entities by name, its rejects, its stages."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.report.entities import EntityRow
from pipeline.report.facts import ReportContent
from pipeline.report.markup import Markup, item_link, joined, number, size, table, tag
from pipeline.report.parts import chip, note, para
from schemas.manifest import Manifest

# The most values of a list in a configuration that are shown.
MAX_SHOWN = 20


def entities(content: ReportContent) -> Markup:
    """Return the most frequent entities, and a sample of the tail."""
    return joined(
        [
            para("Names lead to Wikidata; nothing is loaded from there until you follow one."),
            _entity_table("Most frequent entities", content.top),
            _entity_table(
                "A sample of the tail, entities with a fact in the text first", content.sample
            ),
        ]
    )


def _entity_table(caption: str, entity_rows: Sequence[EntityRow]) -> Markup:
    """Return a table of entities; a note if there are none."""
    if not entity_rows:
        return note(f"{caption}: none.")

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
            item_link(entity.qid, entity.label),
            tag("bdi", entity.description),
            chip(entity.band),
            number(entity.num_mentions),
            number(entity.num_documents),
            number(entity.mean_si, 4),
            number(entity.num_facts),
        )
        for entity in entity_rows
    ]
    return table(caption, heads, cells)


def rejects(content: ReportContent) -> Markup:
    """Return the table of input that could not be used."""
    # An empty table would look like a fault of the page.
    if not content.rejects:
        return note("No stage rejected anything.")

    rows = [
        (
            group.stage,
            group.reason,
            number(group.count),
            tag("code", group.key),
            # A payload may be a whole page of wikitext.
            tag("code", group.payload[:200]) if group.payload else "–",
        )
        for group in content.rejects
    ]
    heads = ("Stage", "Reason", "#Rows", "Example: key", "Example: input")
    return joined(
        [
            para("Bad rows are kept with a reason instead of being lost."),
            table("Rejects by stage and reason", heads, rows, quiet=True),
        ]
    )


def run(content: ReportContent) -> Markup:
    """Return stages, tables and configuration."""
    # In the order of the flow.
    stages = [_stage_row(stage, manifest) for stage, manifest in content.manifests.items()]
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

    # Each stage keeps the settings that it ran with; the file may have changed since.
    configs = [
        _details(f"Configuration of {stage}", "\n".join(_settings(manifest)))
        for stage, manifest in content.manifests.items()
        if manifest.config
    ]
    config_file = None
    if content.config:
        config_file = _details("config.toml of the last command", content.config)
    return joined(
        [
            table("Stages", heads, stages, quiet=True),
            tag("h3", "Configuration"),
            *configs,
            config_file,
        ]
    )


def _details(summary: str, text: str) -> Markup:
    """Return text that a click unfolds; the keyboard can scroll it."""
    return tag("details", tag("summary", summary), tag("pre", text, tabindex="0"))


def _stage_row(stage: str, manifest: Manifest) -> tuple[object, ...]:
    """Return the cells of a stage."""
    # Rejects have a column of their own.
    tables = [
        f"{name} {number(files.rows)}"
        for name, files in manifest.tables.items()
        if name != "rejects"
    ]
    num_bytes = sum(
        part_file.num_bytes for files in manifest.tables.values() for part_file in files.files
    )
    num_rejects = manifest.tables["rejects"].rows if "rejects" in manifest.tables else 0

    # To the minute, in UTC.
    created = manifest.created[:16].replace("T", " ")
    return (
        stage,
        tag("time", created),
        number(manifest.counters.get("rows_in")),
        number(num_rejects),
        ", ".join(tables) or "–",
        size(num_bytes),
        manifest.code_version,
        tag("code", manifest.fingerprint, class_="id"),
    )


def _settings(manifest: Manifest) -> list[str]:
    """Return a line per setting of a stage; long lists are cut."""
    lines = []
    # Sorted, so that two runs can be compared line by line.
    for name, value in sorted(manifest.config.items()):
        if isinstance(value, list) and len(value) > MAX_SHOWN:
            value = [*value[:MAX_SHOWN], f"… {len(value) - MAX_SHOWN} more"]
        lines.append(f"{name} = {value!r}")
    return lines
