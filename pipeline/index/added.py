"""Add entities to a run that its knowledge base lacks: `index --add`, in about a second.

The entities lie in the run's folder `added`, as rows of the same tables as those of `kb`, with a
manifest. No stage rewrites them, so a new index keeps them. The index itself is not built again:
who opens it opens these entities beside it (`extended_index`). Only the fingerprint of the index
changes, so `link` and all stages after it are out of date.

The manifests are written last, that of the index after that of the entities: a killed command
leaves the old state, or one that `index` completes in seconds. One program at a time writes there.
Entities whose files were lost or changed are made again by the next `--add`, from what is whole.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline import __version__
from pipeline.arrays.mapped_files import local_folder
from pipeline.database.run_database import write_database
from pipeline.engine import files
from pipeline.engine.damage import first_damage
from pipeline.engine.errors import StageError
from pipeline.engine.sole_writer import sole_writer
from pipeline.engine.stage_folders import own_data_folders
from pipeline.engine.tables import ADDED, DATA_PREFIX, RunPaths, with_added
from pipeline.engine.tasks import Bucket, Unit
from pipeline.engine.units import UnitWriter, below, write_unit
from pipeline.index.added_file import AddedEntity, added_rows, read_added
from pipeline.index.entity_store import EntityStore
from schemas import ALIASES, ENTITIES, TRIPLES
from schemas.errors import ConfigError
from schemas.ids import is_own, item_id, parse_item_id
from schemas.manifest import Manifest, PartFile, TableFiles

TABLES = (ENTITIES, ALIASES, TRIPLES)
# The entities in the form in which they were given.
SOURCE, SOURCE_NAME = "source", "entities.jsonl"
# Every process that links builds look-ups of them in memory: see docs/linking.md for the time.
MAX_ADDED = 100_000
logger = logging.getLogger("trelm")


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """Count what a command did to the added entities."""

    new: int
    changed: int
    same: int
    removed: int
    # That the run has now.
    total: int


def change_added(run_folder: str, add: Sequence[str], remove: Sequence[str]) -> Changes:
    """Add the entities of files to a run, change those that it has, and remove others.

    An entity of the run with the same id is replaced.

    Args:
        run_folder: of a run with a finished index.
        add: JSONL files (`added_file`).
        remove: ids of entities to remove first.

    Raises:
        ConfigError: an id to remove that is none of the run's.
        StageError: no index; a fault in a file; a fact about an entity that is not there; too many.
        LockedError: another program writes in the run's folder.
    """
    paths = RunPaths(root=run_folder)
    # A folder without a run is left as it is.
    paths.finished("index")
    with sole_writer(run_folder):
        return _change(paths, add, remove)


def _change(paths: RunPaths, add: Sequence[str], remove: Sequence[str]) -> Changes:
    """Change the entities of a run whose folder this program holds."""
    index = paths.finished("index")
    damage = damage_of_added(paths)
    before = (
        _whole_entities(paths, damage, is_adding=bool(add)) if damage else stored_entities(paths)
    )
    kept = _without(before, remove)

    after, given = dict(kept), 0
    for path in add:
        entities = read_added(path)
        after |= entities
        given += len(entities)
    _check(paths, after)

    # Of damaged ones nothing is current.
    if damage or after != before or index.inputs.get(ADDED, "") != paths.added_fingerprint:
        _write(paths, index, [after[number] for number in sorted(after)])
    return Changes(
        new=len(after.keys() - kept.keys()),
        changed=sum(after[number] != entity for number, entity in kept.items()),
        same=given
        - len(after.keys() - kept.keys())
        - sum(after[number] != entity for number, entity in kept.items()),
        removed=len(before) - len(kept),
        total=len(after),
    )


def stored_entities(paths: RunPaths) -> dict[int, AddedEntity]:
    """Return the entities that were added to a run, by number."""
    return read_added(paths.artefact(ADDED, SOURCE)) if paths.added_fingerprint else {}


def damage_of_added(paths: RunPaths) -> str:
    """Say what is wrong with the files of a run's added entities; nothing where all is whole.

    They are small, so every byte is read.
    """
    try:
        manifest = paths.manifest(ADDED)
    except StageError as error:
        return error.message
    return first_damage(paths.stage(ADDED), manifest.files, hashed=True) if manifest else ""


def _whole_entities(paths: RunPaths, damage: str, *, is_adding: bool) -> dict[int, AddedEntity]:
    """Return the entities of a damaged folder, from what is whole of it.

    The folder of each version is called after its source, so a whole source is known.

    Raises:
        StageError: no source is whole, and no entities are given to make them again from.
    """
    try:
        manifest = paths.manifest(ADDED)
    except StageError:
        manifest = None
    sources = files.list_files(files.join(paths.stage(ADDED), f"{DATA_PREFIX}*", SOURCE_NAME))
    # That of the manifest first, then the newest.
    named = f"/{DATA_PREFIX}{manifest.fingerprint}/" if manifest else ""
    sources.sort(key=lambda entry: (named in entry.path, entry.changed_s), reverse=True)
    for entry in sources:
        if (
            entry.path.split("/")[-2]
            == f"{DATA_PREFIX}{_fingerprint(files.read_bytes(entry.path))}"
        ):
            logger.warning("%s; the added entities are made again from %s", damage, entry.path)
            return read_added(entry.path)

    count = f"its {manifest.counters.get('rows_in', 0):,}" if manifest else "its"
    advice = f"{damage}; {count} added entities cannot be read"
    if not is_adding:
        raise StageError(f"{advice}; give them again: trelm-pipeline index --run RUN --add FILE")
    logger.warning("%s: the run keeps only those that are given now", advice)
    return {}


def _fingerprint(source: bytes) -> str:
    """Return the fingerprint of entities in the form in which they were given."""
    # Another version of a table needs another folder.
    versions = str([(table.name, table.version) for table in TABLES]).encode()
    return hashlib.sha256(source + versions).hexdigest()[:16]


def _without(entities: dict[int, AddedEntity], remove: Sequence[str]) -> dict[int, AddedEntity]:
    """Return the entities without those of some ids.

    Raises:
        ConfigError: there is no such entity.
    """
    numbers = {parse_item_id(text): text for text in remove}
    for number, text in numbers.items():
        if number not in entities:
            raise ConfigError(
                f"--remove {text}: no entity with this id was added to the run; list those that "
                'were: trelm-pipeline sql --run RUN "SELECT qid(qid), label FROM entities WHERE '
                "qid(qid)[1] = 'U'\""
            )
    return {number: entity for number, entity in entities.items() if number not in numbers}


def _check(paths: RunPaths, entities: dict[int, AddedEntity]) -> None:
    """Refuse facts about own entities that are not there; tell of items that the run lacks.

    Raises:
        StageError: such a fact, or too many entities.
    """
    if len(entities) > MAX_ADDED:
        raise StageError(
            f"{len(entities):,} added entities; a run takes {MAX_ADDED:,}. Give more of them as a "
            "dump of Wikidata's form: `kb --dump` takes several"
        )

    targets: dict[int, str] = {}
    for entity in entities.values():
        for predicate, target in entity.facts:
            targets.setdefault(target, f"{entity.id}, P{predicate}")
            if is_own(target) and target not in entities:
                raise StageError(
                    f"{entity.id}: its fact P{predicate} names {item_id(target)}, which is not "
                    "among the added entities; add it too, or leave the fact out"
                )

    items = np.array([target for target in targets if not is_own(target)], np.uint32)
    store = EntityStore(local_folder(paths.artefact("index", "entities")))
    unknown = items[store.rows(items) < 0].tolist()
    if unknown:
        logger.warning(
            "%d item(s) of the facts are not in the knowledge base, for example %s (%s); "
            "these facts are kept, and help no decision",
            len(unknown),
            item_id(unknown[0]),
            targets[unknown[0]],
        )


def _write(paths: RunPaths, index: Manifest, entities: Sequence[AddedEntity]) -> None:
    """Write the entities and both manifests; without entities, remove what was there."""
    folder, fingerprint = paths.stage(ADDED), ""
    if entities:
        source = "".join(f"{entity.to_json()}\n" for entity in entities).encode()
        fingerprint = _fingerprint(source)
        manifest = _write_tables(folder, fingerprint, entities, source)
        files.write_bytes(paths.manifest_path(ADDED), manifest.to_json().encode())
    else:
        files.remove(paths.manifest_path(ADDED))

    write_index_manifest(paths, index, fingerprint)
    for name in own_data_folders(folder):
        if name != f"{DATA_PREFIX}{fingerprint}":
            files.remove(files.join(folder, name))
    write_database(paths)


def _write_tables(
    folder: str, fingerprint: str, entities: Sequence[AddedEntity], source: bytes
) -> Manifest:
    """Write the rows of the entities, and return their manifest."""
    data_name = f"{DATA_PREFIX}{fingerprint}"
    data = files.join(folder, data_name)
    for name in ("_tmp", "_units", *(table.name for table in TABLES)):
        files.make_folder(files.join(data, name))

    def process(_unit: Unit[Bucket], out: UnitWriter) -> None:
        for table, rows in zip(TABLES, added_rows(entities), strict=True):
            out.write(table, rows)

    report = write_unit(data, ADDED, Unit(index=0, of=1, task=Bucket(kind=ADDED)), process)
    with files.recording() as others:
        files.write_bytes(files.join(data, SOURCE_NAME), source)
    return Manifest(
        stage=ADDED,
        fingerprint=fingerprint,
        code_version=__version__,
        tables={
            table.name: _table_files(table.version, report.parts.get(table.name), data_name)
            for table in TABLES
        },
        artefacts=below(folder, others),
        counters={"rows_in": len(entities), "rows_out": len(entities)},
        extra={SOURCE: f"{data_name}/{SOURCE_NAME}"},
        seconds=report.seconds,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _table_files(version: int, part: PartFile | None, data_name: str) -> TableFiles:
    """Return the files of a table, their paths counted from the folder `added`."""
    if part is None:
        return TableFiles(version=version, rows=0, files=())
    listed = dataclasses.replace(part, path=f"{data_name}/{part.path}")
    return TableFiles(version=version, rows=part.rows, files=(listed,))


def write_index_manifest(paths: RunPaths, index: Manifest, added: str) -> None:
    """Say in the manifest of the index which added entities its readers see.

    Args:
        paths: of the run.
        index: the manifest as it is.
        added: fingerprint of the added entities; empty for none.
    """
    # The data folder is called after the fingerprint of the data alone.
    data_fingerprint = index.extra["aliases"].split("/")[0].removeprefix(DATA_PREFIX)
    inputs = {name: stamp for name, stamp in index.inputs.items() if name != ADDED}
    if added:
        inputs[ADDED] = added
    changed = dataclasses.replace(
        index, inputs=inputs, fingerprint=with_added(data_fingerprint, added)
    )
    files.write_bytes(paths.manifest_path("index"), changed.to_json().encode())
