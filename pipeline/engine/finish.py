"""End a stage: check its counts, build what it builds last, write its manifest.

The manifest names the files of all rows, so the stage's output appears all at once, and an older
output stays whole until then.
"""

from __future__ import annotations

import datetime
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from pipeline import __version__
from pipeline.engine import files
from pipeline.engine.errors import StageError
from pipeline.engine.stage import PreparedStage, StagePlan
from pipeline.engine.stage_folders import SPILL, remove_older
from pipeline.engine.tables import ADDED, RunPaths
from pipeline.engine.units import UnitReport, below
from schemas.manifest import MANIFEST_NAME, Manifest, PartFile, TableFiles
from schemas.rejects import REJECTS
from schemas.table import Table


def finish_stage(prepared: PreparedStage, reports: Iterable[UnitReport]) -> str:
    """Check the counts, build what the stage builds at its end, write the manifest, remove older
    outputs.

    Raises:
        StageError: rows were lost, or too many were rejected.
    """
    plan = prepared.plan
    by_index = {report.index: report for report in (*prepared.done, *reports)}
    # A unit that wrote the rows of another one again stands for both.
    replaced = {index for report in by_index.values() for index in report.replaces}
    current = [by_index[index] for index in sorted(by_index) if index not in replaced]

    counters: Counter[str] = Counter()
    for report in current:
        counters.update(report.counters)
    check_counters(plan, counters)

    with files.recording() as written:
        extra = plan.finish(prepared, current) if plan.finish is not None else {}

    part_files = {
        table.name: [report.parts[table.name] for report in current if table.name in report.parts]
        for table in (*plan.tables, REJECTS)
    }
    # Units that were written again took their time all the same.
    seconds = sum(report.seconds for report in by_index.values())
    # Of a file that was written twice the later entry counts.
    others = [entry for report in current for entry in report.others]
    others += below(prepared.data, written)
    artefacts = {
        entry.path: replace(entry, path=f"{plan.data_folder}/{entry.path}")
        for entry in others
        if not entry.path.startswith(f"{SPILL}/")
    }
    return write_manifest(
        prepared, part_files, counters, extra, list(artefacts.values()), seconds=seconds
    )


def write_manifest(
    prepared: PreparedStage,
    part_files: Mapping[str, Sequence[PartFile]],
    counters: Counter[str],
    extra: dict[str, str],
    artefacts: Sequence[PartFile] = (),
    *,
    seconds: float,
) -> str:
    """Make the stage's output exist: write its manifest, then remove older outputs.

    Return the manifest's path.
    """
    plan = prepared.plan
    tables = {
        table.name: _table_files(table, plan, part_files[table.name])
        for table in (*plan.tables, REJECTS)
    }
    manifest = Manifest(
        stage=plan.name,
        fingerprint=plan.fingerprint,
        code_version=__version__,
        algorithm=plan.algorithm,
        tables=tables,
        artefacts=tuple(artefacts),
        counters=dict(sorted(counters.items())),
        inputs=plan.inputs | ({ADDED: plan.added} if plan.added else {}),
        config=plan.config,
        extra=extra,
        seconds=round(seconds, 3),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )

    # From this moment on the new output counts, and the older ones can go. Not left to the launcher,
    # which may have ended.
    path = files.join(prepared.folder, MANIFEST_NAME)
    content = manifest.to_json().encode()
    if not files.write_if_unchanged(path, content, prepared.manifest_version):
        _refuse_another(path, plan)
    remove_older(prepared.folder, plan.data_folder)
    return path


def _refuse_another(path: str, plan: StagePlan) -> None:
    """Refuse a manifest that somebody else has written in a bucket since the stage began.

    A runner may do this step twice, and a lost answer is asked for again: then it is ours.

    Raises:
        StageError: it is another one.
    """
    theirs = RunPaths(root=plan.root).manifest(plan.name)
    if theirs is None or theirs.fingerprint != plan.fingerprint:
        raise StageError(
            f"{path}: another program has written it while this one was at work, and its output stays; "
            "let one program at a time write in a run, and run this command again"
        )


def check_counters(plan: StagePlan, counters: Counter[str]) -> None:
    """Check that rows in = rows out + rejects + skipped, and that rejects are few.

    Raises:
        StageError: they are not.
    """
    rows_in, rejects = counters["rows_in"], counters["rejects"]

    # What is left out on purpose has a counter that says so in its name.
    skipped = sum(count for name, count in counters.items() if name.startswith("skipped_"))
    accounted = counters["rows_out"] + rejects + skipped
    if rows_in != accounted:
        raise StageError(
            f"{plan.name}: {rows_in} rows in, but {accounted} accounted for; "
            "this is a fault of the program; please report it"
        )
    if rejects > plan.max_reject_rate * max(rows_in, 1):
        raise StageError(
            f"{plan.name}: {rejects} of {rows_in} inputs were rejected, over the limit of "
            f"{plan.max_reject_rate:.2%}; {_how_to_read_rejects(plan)}, "
            "correct the input, or raise max_reject_rate"
        )


def _how_to_read_rejects(plan: StagePlan) -> str:
    """Say where the rejects of a stage lie that has not finished: no view shows them."""
    folder = files.join(plan.root, plan.name, plan.data_folder, REJECTS.name)
    if not files.is_local(folder):
        return f"look at {folder}"
    # The views show finished stages alone, so the files are named.
    pattern = f"{folder}/*.parquet".replace("'", "''")
    query = shlex.quote(f"SELECT reason, key FROM '{pattern}'")
    return f"look at them with: trelm-pipeline sql --run {shlex.quote(plan.root)} {query}"


def _table_files(table: Table, plan: StagePlan, part_files: Sequence[PartFile]) -> TableFiles:
    # The manifest counts paths from the stage's folder, a unit's report from the data folder.
    listed = tuple(replace(entry, path=f"{plan.data_folder}/{entry.path}") for entry in part_files)
    num_rows = sum(entry.rows for entry in part_files)
    return TableFiles(version=table.version, rows=num_rows, files=listed)
