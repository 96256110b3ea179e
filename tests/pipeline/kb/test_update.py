"""`kb --update`: the same tables as a run from nothing, and only changed items parsed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.arrays.item_sets import ItemSet
from pipeline.config import KbConfig, RunConfig
from pipeline.engine.beam_runner import RunnerSettings
from pipeline.engine.errors import StageError
from pipeline.engine.tables import RunPaths
from pipeline.kb.revisions import Revisions, write_revisions
from pipeline.kb.stage import plan
from pipeline.run_stage import run_stage
from schemas import ALIASES, ENTITIES, PROPERTIES, REDIRECTS, STATEMENTS, TRIPLES
from schemas.errors import ConfigError
from tests.conftest import SAMPLE
from tests.pipeline.inputs_run import rows_of, run_plan

TABLES = (ENTITIES, ALIASES, PROPERTIES, TRIPLES, STATEMENTS, REDIRECTS)
SQL = tuple(str(SAMPLE / f"wikidatawiki-{table}.sql.gz") for table in ("redirect", "page"))
Json = dict[str, Any]


def entities(revision: int | None) -> list[Json]:
    """The sample's entities, each with a short name, at a revision."""
    lines = (SAMPLE / "entities.json").read_text().splitlines()
    found = [json.loads(line.rstrip(",")) for line in lines if len(line) > 3]
    for entity in found:
        entity.pop("lastrevid", None)
        value = {
            "type": "monolingualtext",
            "value": {"text": f"short {entity['id']}", "language": "en"},
        }
        entity["claims"] = (entity.get("claims") or {}) | {
            "P1813": [{"mainsnak": {"datavalue": value}}]
        }
    return [entity | ({} if revision is None else {"lastrevid": revision}) for entity in found]


def dump(path: Path, content: list[Json], separators: tuple[str, str] = (",", ":")) -> str:
    """A dump of entities."""
    path.write_text(
        "[\n"
        + ",\n".join(json.dumps(entity, separators=separators) for entity in content)
        + "\n]\n"
    )
    return str(path)


def reordered(entity: Json) -> Json:
    """The same, with the revision first and the id last."""
    return (
        {"lastrevid": entity["lastrevid"]}
        | {name: entity[name] for name in entity if name != "id"}
        | {"id": entity["id"]}
    )


def run(folder: Path, dump_path: str, **options: Any) -> RunPaths:
    """Stage kb, in several units."""
    paths = RunPaths(root=str(folder))
    options = {"statements": True, "unit_mb": 0.05} | options
    run_plan(plan(KbConfig(dumps=(dump_path,), **options), paths), paths)
    return paths


def newer(content: list[Json]) -> list[Json]:
    """Some entities changed, one gone, one new."""
    changed = [dict(entity) for entity in content[1:]]
    for entity in changed[::7]:
        entity["lastrevid"] += 2**20
        entity["labels"] = {"en": {"value": f"new name of {entity['id']}"}}
    return [
        *changed,
        {"id": "Q4000000123", "lastrevid": 9, "labels": {"en": {"value": "newcomer"}}},
    ]


@pytest.mark.slow
def test_same_tables_as_from_nothing(tmp_path: Path) -> None:
    content = entities(2**33 + 5)
    old = run(tmp_path / "old", dump(tmp_path / "old.json", content), redirects=SQL)
    path = dump(tmp_path / "new.json", newer(content))
    whole = run(tmp_path / "whole", path, redirects=SQL)
    for redirects in ((), SQL):  # without them, the older run's are copied
        updated = run(
            tmp_path / f"updated{len(redirects)}", path, update=old.root, redirects=redirects
        )
        for table in TABLES:
            assert rows_of(updated, "kb", table) == rows_of(whole, "kb", table), table.name
        counters = updated.require("kb").counters
        num_items = sum(entity["id"].startswith("Q") for entity in content[1:])
        num_changed = sum(entity["id"].startswith("Q") for entity in content[1:][::7])
        assert counters["items_unchanged"] == counters["items_copied"] == num_items - num_changed
        assert (
            not (Path(updated.root) / "kb" / updated.require("kb").tables["entities"].files[0].path)
            .with_name("_spill")
            .exists()
        )


@pytest.mark.slow
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_wherever_the_revision_stands(tmp_path: Path, separators: tuple[str, str]) -> None:
    content = entities(5)
    old = run(tmp_path / "old", dump(tmp_path / "old.json", content))
    mixed = [
        reordered(entity) if place % 3 else entity for place, entity in enumerate(newer(content))
    ]
    path = dump(tmp_path / "new.json", mixed, separators)
    updated, whole = run(tmp_path / "new", path, update=old.root), run(tmp_path / "whole", path)
    for table in TABLES:
        assert rows_of(updated, "kb", table) == rows_of(whole, "kb", table), table.name
    assert updated.require("kb").counters["items_unchanged"] > 200


@pytest.mark.slow
def test_update_through_beam_and_again(tmp_path: Path) -> None:
    content = entities(5)
    old = run(tmp_path / "old", dump(tmp_path / "old.json", content))
    kb = KbConfig(
        dumps=(dump(tmp_path / "new.json", newer(content)),), update=old.root, statements=True
    )
    first = RunConfig(run=str(tmp_path / "first"), kb=kb)
    assert run_stage("kb", first, RunnerSettings())
    assert not run_stage("kb", first, RunnerSettings()), "up to date"
    (tmp_path / "old").rename(tmp_path / "moved")
    assert not run_stage("kb", first, RunnerSettings()), "still up to date, without the older run"
    with pytest.raises(StageError, match="no finished stage 'kb' there"):
        run_stage("kb", replace(first, kb=replace(kb, skip_corrupt=True)), RunnerSettings())
    again = run(tmp_path / "again", kb.dumps[0], update=first.run)
    assert (
        again.require("kb").counters["items_unchanged"]
        == again.require("kb").tables["entities"].rows
    )
    last = run(tmp_path / "last", kb.dumps[0], update=again.root)
    for table in TABLES:
        for paths in (again, last):
            assert rows_of(paths, "kb", table) == rows_of(RunPaths(root=first.run), "kb", table)


@pytest.mark.slow
@pytest.mark.parametrize("late", [False, True])
def test_repeats_in_an_update(tmp_path: Path, *, late: bool) -> None:
    """An item that the newer dump has twice, once changed and once not: its first occurrence
    counts.
    """
    content = entities(5)
    old = run(tmp_path / "old", dump(tmp_path / "old.json", content))
    changed = {"id": content[3]["id"], "lastrevid": 6, "labels": {"en": {"value": "changed"}}}
    path = dump(tmp_path / "new.json", [*content, changed] if late else [changed, *content])
    updated, whole = run(tmp_path / "new", path, update=old.root), run(tmp_path / "whole", path)
    for table in TABLES:
        assert rows_of(updated, "kb", table) == rows_of(whole, "kb", table), table.name
    for paths in (updated, whole):
        counters = paths.require("kb").counters
        assert (counters["rows_in"], counters["skipped_repeated"]) == (len(content) + 1, 1)
        assert counters["rows_out"] == len(content)


def test_runs_that_cannot_be_updated(tmp_path: Path) -> None:
    path = dump(tmp_path / "a.json", entities(5))
    old, silent = (
        run(tmp_path / "old", path),
        run(tmp_path / "silent", dump(tmp_path / "b.json", entities(None))),
    )
    for options, error, message in (
        ({"update": str(tmp_path / "none")}, StageError, "stage 'kb' has not finished here"),
        ({"update": silent.root}, StageError, "does not name revisions"),
        (
            {"update": old.root, "languages": ("de",)},
            ConfigError,
            r"made with another kb\.languages",
        ),
        (
            {"update": old.root, "statements": False},
            ConfigError,
            r"made with another kb\.statements",
        ),
        ({"update": str(tmp_path / "new")}, ConfigError, "names the run itself"),
        ({"update": str(tmp_path / "old" / ".." / "new")}, ConfigError, "names the run itself"),
    ):
        with pytest.raises(error, match=message):
            run(tmp_path / "new", path, **options)


def test_the_same_languages_in_other_words(tmp_path: Path) -> None:
    path = dump(tmp_path / "a.json", entities(5))
    old = run(tmp_path / "old", path, languages=("en", "mul", "de"))
    new = run(tmp_path / "new", path, languages=("de",), update=old.root)
    assert rows_of(new, "kb", ALIASES) == rows_of(old, "kb", ALIASES)
    with pytest.raises(ConfigError, match="'de fr' is not a language code"):
        KbConfig(languages=("de fr",))


def test_a_dump_without_revisions_is_parsed_whole(tmp_path: Path) -> None:
    old = run(tmp_path / "old", dump(tmp_path / "a.json", entities(5)))
    path = dump(tmp_path / "b.json", entities(None))
    updated, whole = run(tmp_path / "new", path, update=old.root), run(tmp_path / "whole", path)
    assert "items_unchanged" not in updated.require("kb").counters
    assert rows_of(updated, "kb", ENTITIES) == rows_of(whole, "kb", ENTITIES)


@settings(max_examples=30)
@given(
    st.dictionaries(st.integers(1, 2**32 - 1), st.integers(1, 2**40)),
    st.lists(st.integers(1, 2**32 - 1)),
)
def test_revisions(
    tmp_path_factory: pytest.TempPathFactory, known: dict[int, int], others: list[int]
) -> None:
    folder = str(tmp_path_factory.mktemp("revisions"))
    columns = {
        "qid": pa.array(list(known), pa.uint32()),
        "revision": pa.array(list(known.values()), pa.uint64()),
    }
    assert write_revisions(folder, pa.table(columns).to_batches()) == len(known)
    revisions = Revisions(folder)
    for qid in [*known, *others]:
        assert revisions.is_unchanged(qid, known.get(qid, 0)) == (
            qid in known and known[qid] % 2**32 != 0
        )
        assert not revisions.is_unchanged(qid, known.get(qid, 0) + 1)
    items = ItemSet()
    for part in np.array_split(np.array(sorted(known), np.uint32), 3):
        items.add(part)
    wanted = np.array([*known, *others], np.uint32)
    assert items.contains(wanted).tolist() == [qid in known for qid in wanted.tolist()]
    assert len(items) == len(known)
