"""Stage `index`: the same files for any units, shards and interruptions; the entity store against a
plain reference.
"""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import DocumentsConfig, IndexConfig, KbConfig
from pipeline.documents import stage as documents
from pipeline.documents import titles_stage as titles
from pipeline.engine.errors import StageError
from pipeline.engine.finish import finish_stage
from pipeline.engine.stage import StagePlan, prepare
from pipeline.engine.tables import RunPaths
from pipeline.engine.units import write_unit
from pipeline.index import stage as index
from pipeline.index.alias_index import AliasIndex
from pipeline.index.entity_spill import qid_bounds
from pipeline.index.entity_store import ARRAYS, EntityStore
from pipeline.index.entity_types import MAX_CLIMB, ROOTS
from pipeline.index.implied_types import OWNER_TYPES, VALUE_TYPES
from pipeline.index.neighbours import MAX_NEIGHBOURS
from pipeline.index.words import text_terms
from pipeline.kb import stage as kb
from schemas import ALIASES, ENTITIES, REDIRECTS, TRIPLES
from schemas.checksums import CHECKSUMS_NAME
from tests.conftest import SAMPLE
from tests.pausing import Pause
from tests.pipeline.cases import kill_at, program, sample_arguments
from tests.pipeline.inputs_run import rows_of, run_plan

SQL = tuple(str(SAMPLE / f"wikidatawiki-{table}.sql.gz") for table in ("redirect", "page"))


def knowledge(folder: Path, *dumps: str, redirects: tuple[str, ...] = ()) -> RunPaths:
    paths = RunPaths(root=str(folder))
    run_plan(kb.plan(KbConfig(dumps=dumps, redirects=redirects, unit_mb=0.1), paths), paths)
    return paths


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    """The sample up to its documents, with gold anchors and redirects of titles."""
    paths = knowledge(tmp_path_factory.mktemp("run"), str(SAMPLE / "entities.json"), redirects=SQL)
    config = DocumentsConfig(inputs=(str(SAMPLE / "pages.xml"), str(SAMPLE / "documents.jsonl")))
    run_plan(titles.plan(config, paths), paths)
    run_plan(documents.plan(config, paths), paths)
    return paths


def files_of(paths: RunPaths) -> dict[str, bytes]:
    """All files of the index, by their names."""
    folders = [Path(paths.artefact("index", name)) for name in ("aliases", "entities")]
    return {path.name: path.read_bytes() for folder in folders for path in sorted(folder.iterdir())}


def build(paths: RunPaths, **settings: int) -> dict[str, bytes]:
    run_plan(index.plan(IndexConfig(**settings), paths), paths)
    return files_of(paths)


@pytest.mark.slow
def test_any_units_parts_and_shards(sample: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files do not depend on the units or on the ranges of QIDs; postings do not depend on the
    shards either.
    """
    whole = build(sample)
    one = AliasIndex(sample.artefact("index", "aliases"))
    assert sample.require("index").counters == {
        "from_aliases": 1534, "from_anchors": 89, "from_redirects": 3, "rows_in": 1626, "rows_out": 1626,
    }  # fmt: skip
    monkeypatch.setattr(index, "PART_ENTITIES", 60)
    plan = index.plan(IndexConfig(unit_rows=100), sample)
    assert len(plan.phase_named("parts").tasks) == 1 + 6
    assert len(plan.phase_named("index").tasks) > 30
    assert build(sample, unit_rows=100) == whole
    build(sample, num_shards=4, unit_rows=700)
    four = AliasIndex(sample.artefact("index", "aliases"))
    assert len(one) == len(four) > 1000
    for row in rows_of(sample, "kb", ALIASES):
        key = row["surface"].lower()
        for column, other in zip(one.postings(key), four.postings(key), strict=True):
            assert column.tolist() == other.tolist()


@pytest.mark.parametrize("seed", range(4))
def test_a_build_that_was_stopped_goes_on(
    sample: RunPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Stopped between any two units, and after a unit that left its files but no report: the same
    files.
    """
    monkeypatch.setattr(index, "PART_ENTITIES", 100)
    config = IndexConfig(unit_rows=300, num_shards=3)
    plan = index.plan(config, sample)
    wanted = build(sample, unit_rows=300, num_shards=3)
    (Path(sample.stage("index")) / "manifest.json").unlink()
    for path in sorted(Path(sample.stage("index")).glob("data-*/**/*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    done = stopped(plan, sample, random.Random(seed))
    left = [unit.index for unit in prepare(plan, sample).pending]
    assert len(left) == len(plan.all_units) - done
    assert left
    run_plan(plan, sample)
    assert files_of(sample) == wanted
    assert not list(Path(sample.stage("index")).glob("data-*/_spill"))


def stopped(plan: StagePlan, paths: RunPaths, rng: random.Random) -> int:
    """Some units in order, then one that is killed before its report; returns how many are done."""
    prepared = prepare(plan, paths)
    work = [(phase.worker, unit) for phase, units in plan.numbered_phases for unit in units]
    stop = rng.randrange(len(work))
    for worker, unit in work[:stop]:
        write_unit(prepared.data, plan.name, unit, worker.process)
    worker, unit = work[stop]

    def killed(unit, out) -> None:
        worker.process(unit, out)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_unit(prepared.data, plan.name, unit, killed)
    return stop


def test_finishing_twice_is_harmless(sample: RunPaths) -> None:
    """All units are done, but the manifest is lost: what the phases left is gone, and not needed."""
    wanted = build(sample, num_shards=2)
    (Path(sample.stage("index")) / "manifest.json").unlink()
    assert build(sample, num_shards=2) == wanted


@pytest.mark.slow
def test_kill_9(sample_run: Path, tmp_path: Path) -> None:
    """The program, killed in the middle of `index`, goes on and writes the same files."""
    run = tmp_path / "run"
    arguments = sample_arguments(
        run, "--until", "index", "--set", "index.unit_rows=50", "--set", "index.num_shards=5"
    )
    # The stages before `index` have fewer than 10 units together.
    pause = Pause.at("pipeline.engine.units:UnitWriter.finish", call=45, folder=tmp_path / "pause")
    kill_at(pause, "run", *arguments)
    assert not (run / "index" / "manifest.json").exists()
    done = program("run", *arguments)
    assert done.returncode == 0, done.stderr
    assert "units were done before" in done.stderr
    killed, whole = RunPaths(root=str(run)), RunPaths(root=str(sample_run))
    found, wanted = files_of(killed), files_of(whole)
    assert {name: found[name] for name in wanted if name.startswith("entity")} == {
        name: content for name, content in wanted.items() if name.startswith("entity")
    }
    one, other = (AliasIndex(paths.artefact("index", "aliases")) for paths in (killed, whole))
    assert len(one) == len(other)
    assert one.postings("paris").qids.tolist() == other.postings("paris").qids.tolist()


def merged_of(paths: RunPaths) -> dict[int, int]:
    pairs = [(row["source"], row["target"]) for row in rows_of(paths, "kb", REDIRECTS)]
    return {int(source[1:]): int(target[1:]) for source, target in pairs if source[1:].isdigit()}


class Reference:
    """The entity store in plain dicts."""

    def __init__(self, paths: RunPaths) -> None:
        self.entities = {row["qid"]: row for row in reversed(rows_of(paths, "kb", ENTITIES))}
        merged = merged_of(paths)
        self.in_degree: dict[int, int] = {}
        self.parents: dict[int, set[int]] = {}
        self._near: dict[int, dict[int, int]] = {}
        self._implied: dict[int, int] = {}
        for row in rows_of(paths, "kb", TRIPLES):
            subject, target = row["subject"], merged.get(row["object"], row["object"])
            self.in_degree[target] = self.in_degree.get(target, 0) + 1
            for types, item in ((VALUE_TYPES, target), (OWNER_TYPES, subject)):
                for bit, properties in types.items():
                    if row["predicate"] in properties:
                        self._implied[item] = self._implied.get(item, 0) | bit
            if row["predicate"] == 279:
                self.parents.setdefault(subject, set()).add(target)
            if subject != target:
                self._near.setdefault(subject, {})[target] = 0
                self._near.setdefault(target, {}).setdefault(subject, 1)

    def near(self, qid: int) -> list[int]:
        found = self._near.get(qid, {})
        return sorted(found, key=lambda other: (found[other], other))[:MAX_NEIGHBOURS]

    def terms(self, qid: int) -> list[int]:
        title = self.entities[qid]["enwiki_title"] or ""
        found = text_terms(self.entities[qid]["description"]) | text_terms(
            " ".join(re.findall(r"\(([^()]*)\)$", title))
        )
        for other in self.near(qid):
            found |= text_terms(self.entities[other]["label"]) if other in self.entities else set()
        return sorted(found - text_terms(self.entities[qid]["label"]))

    def type(self, qid: int) -> int:
        bits = 0
        for class_qid in self.entities[qid]["instance_of"]:
            bits |= next(filter(None, self._levels(class_qid)), 0)
        return bits or self._implied.get(qid, 0)

    def _levels(self, class_qid: int) -> Iterator[int]:
        seen, level = {class_qid}, {class_qid}
        for _ in range(MAX_CLIMB):
            bits = 0
            for qid in level:
                bits |= ROOTS.get(qid, 0)
            yield bits
            level = {above for qid in level for above in self.parents.get(qid, ())} - seen
            seen |= level


def check_store(paths: RunPaths) -> EntityStore:
    store, reference = EntityStore(paths.artefact("index", "entities")), Reference(paths)
    qids = sorted(reference.entities)
    assert len(store) == len(qids)
    rows = store.rows(np.array(qids, np.uint32))
    assert rows.tolist() == list(range(len(qids)))
    popularity = [
        reference.entities[qid]["num_sitelinks"] + reference.in_degree.get(qid, 0) for qid in qids
    ]
    assert store.popularity(rows).tolist() == popularity
    assert store.is_meta(rows).tolist() == [reference.entities[qid]["is_meta"] for qid in qids]
    assert store.types(rows).tolist() == [reference.type(qid) for qid in qids]
    assert store.statements(rows).tolist() == [
        reference.entities[qid]["num_statements"] for qid in qids
    ]
    titles = [reference.entities[qid]["enwiki_title"] or "" for qid in qids]
    assert store.is_primary(rows).tolist() == [
        bool(title) and not title.endswith(")") for title in titles
    ]
    counts = np.zeros(len(store.idf), np.int64)
    for row, qid in enumerate(qids):
        assert store.label(row) == reference.entities[qid]["label"]
        assert store.description(row) == reference.entities[qid]["description"]
        assert store.neighbours(row).tolist() == reference.near(qid)
        terms = reference.terms(qid)
        assert store.terms(row).tolist() == terms
        counts[terms] += 1
    assert np.allclose(store.idf, np.log((len(qids) + 1) / (counts + 1)))
    return store


def test_entity_store_equals_plain_dicts(sample: RunPaths) -> None:
    build(sample, unit_rows=90)
    assert merged_of(sample)
    store = check_store(sample)
    assert store.types(store.rows(np.array([90], np.uint32)))[0] == 4  # Paris is a place


def test_a_store_of_an_older_version_says_what_to_run(sample: RunPaths, tmp_path: Path) -> None:
    build(sample)
    older = shutil.copytree(sample.artefact("index", "entities"), tmp_path / "entities")
    (older / "entity.descriptions.npy").unlink()
    (older / CHECKSUMS_NAME).unlink()
    with pytest.raises(
        StageError,
        match=r"entity\.descriptions\.npy: is missing.*run `trelm-pipeline index --redo`",
    ):
        EntityStore(str(older))


@pytest.mark.slow
@pytest.mark.kit
def test_entity_store_of_the_kit(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real items: hubs with more neighbours than are kept, labels of many scripts."""
    monkeypatch.setattr(index, "PART_ENTITIES", 4_000)
    paths = knowledge(tmp_path, str(kit / "wikidata" / "assembled-subset-A.json.gz"))
    run_plan(index.plan(IndexConfig(unit_rows=20_000), paths), paths)
    store = check_store(paths)
    assert max(len(store.neighbours(row)) for row in range(len(store))) == MAX_NEIGHBOURS


def test_a_knowledge_base_without_names(tmp_path: Path) -> None:
    (tmp_path / "empty.json").write_text('[\n{"type": "item", "id": "Q1"}\n]\n')
    paths = knowledge(tmp_path / "run", str(tmp_path / "empty.json"))
    run_plan(index.plan(IndexConfig(num_shards=3), paths), paths)
    names = AliasIndex(paths.artefact("index", "aliases"))
    assert len(names) == 0
    assert names.postings("paris").qids.tolist() == []
    assert names.similar_keys("paris") == []
    assert len(EntityStore(paths.artefact("index", "entities"))) == 1


def test_items_that_occur_twice_count_once(tmp_path: Path) -> None:
    entity = {"type": "item", "id": "Q7", "labels": {"en": {"language": "en", "value": "Seven"}}}
    (tmp_path / "twice.json").write_text("\n".join(["[", *([json.dumps(entity) + ","] * 2), "]"]))
    (tmp_path / "again.json").write_text("\n".join(["[", json.dumps(entity), "]"]))
    paths = knowledge(tmp_path / "run", str(tmp_path / "twice.json"), str(tmp_path / "again.json"))
    build(paths)
    assert len(EntityStore(paths.artefact("index", "entities"))) == 1
    assert AliasIndex(paths.artefact("index", "aliases")).postings("seven").qids.tolist() == [7]


def test_shards_follow_the_rows(sample: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "SHARD_ROWS", 500)
    plan = index.plan(IndexConfig(), sample)
    assert sum(unit.task.identity[0] == "shards" for unit in plan.all_units) == 4  # of 1,626 rows
    assert sum(unit.task.identity[0] == "fuzzy" for unit in plan.all_units) == 1
    assert sorted(unit.index for unit in plan.all_units) == list(range(len(plan.all_units)))
    assert {(task.kind, task.number) for task in plan.phase_named("files").tasks} == {
        ("fuzzy", 0),
        ("words", 0),
        ("openings", 0),
        *(("arrays", number) for number in range(len(ARRAYS))),
    }


def test_ranges_of_qids(sample: RunPaths) -> None:
    bounds = qid_bounds(sample.files("kb", ENTITIES), 4)
    qids = np.array(sorted(row["qid"] for row in rows_of(sample, "kb", ENTITIES)), np.uint32)
    sizes = np.bincount(np.searchsorted(np.array(bounds), qids, "right"))
    assert len(sizes) == 4
    assert sizes.max() < 2 * sizes.min()
    assert qid_bounds([], 3) == (1, 1)
    assert qid_bounds(sample.files("kb", ENTITIES), 1) == ()


def test_a_part_file_that_is_lost_is_named(sample: RunPaths) -> None:
    """A shard is refused where what an earlier phase left is gone."""
    plan = index.plan(IndexConfig(unit_rows=201), sample)
    prepared = prepare(plan, sample)
    reports = [
        write_unit(prepared.data, "index", unit, phase.worker.process)
        for phase, units in plan.numbered_phases[:3]
        for unit in units
    ]
    (Path(prepared.data) / "_spill" / "entities" / "part-00000.safetensors").unlink()
    shards, units = plan.numbered_phases[3]
    with pytest.raises(StageError, match="part-00000"):
        write_unit(prepared.data, "index", units[0], shards.worker.process)
    assert len(reports) == sum(len(phase.tasks) for phase in plan.phases[:3])
    with pytest.raises(StageError, match="alias-000"):
        finish_stage(prepared, reports)
