"""Entities of a user's own: the file, adding twice, changing, removing; an index with them answers as
if the dump had had them; links, statistics and scores know them.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import IndexConfig, KbConfig, LinkConfig, StatsConfig
from pipeline.database.kb_lookups import in_degrees
from pipeline.engine import files
from pipeline.engine.errors import StageError
from pipeline.engine.stage import StagePlan, is_current, prepare
from pipeline.engine.tables import ADDED, RunPaths
from pipeline.index import added
from pipeline.index import stage as index
from pipeline.index.added import Changes, change_added, stored_entities
from pipeline.index.added_file import parse_line, read_added
from pipeline.index.extended_index import IndexFolders, open_index
from pipeline.kb import stage as kb
from pipeline.link import stage as link
from pipeline.link.evaluation.evaluate import evaluate_run
from pipeline.stats import stage as stats
from schemas import DOCUMENTS, ENTITY_FREQUENCY, LINKS
from schemas.errors import ConfigError
from schemas.ids import FIRST_OWN, parse_item_id
from schemas.manifest import Manifest
from tests.conftest import SAMPLE
from tests.pipeline.cases import in_process
from tests.pipeline.inputs_run import rows_of, run_plan

COMPANY = {
    "id": "U1",
    "label": "Nibelung Works",
    "aliases": ["NW Group", "Paris"],
    "description": "maker of boats for the Rhine",
    "facts": {"P31": ["Q515"], "P17": ["Q142"]},
}
BOAT = {"id": "U2", "label": "Loreley", "facts": {"P176": ["U1"]}, "popularity": 2}


def written(folder: Path, *lines: object) -> str:
    path = folder / "own.jsonl"
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text("".join(f"{text}\n" for text in texts))
    return str(path)


def knowledge(folder: Path, *dumps: str) -> RunPaths:
    paths = RunPaths(root=str(folder))
    run_plan(kb.plan(KbConfig(dumps=dumps), paths), paths)
    run_plan(planned(paths), paths)
    return paths


def planned(paths: RunPaths, **settings: int) -> StagePlan:
    """The plan of the index, as the program makes it: a run may be moved."""
    return replace(index.plan(IndexConfig(**settings), paths), root=paths.root)


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    """The sample's knowledge base and index, without a corpus."""
    return knowledge(tmp_path_factory.mktemp("run"), str(SAMPLE / "entities.json"))


@pytest.fixture
def run(indexed: RunPaths, tmp_path: Path) -> RunPaths:
    """A copy of it that a test may change."""
    return RunPaths(root=str(shutil.copytree(indexed.root, tmp_path / "run")))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"id": "Q42"}, "field id: 'Q42' is no id of your own; give U1 to U94967295"),
        ({"id": "U0"}, "field id: 'U0'"),
        ({"id": "acme"}, "field id: 'acme'"),
        ({"id": 7}, "Expected `str`, got `int` in field `id`"),
        ({"label": ""}, "field label: '' has no letter and no digit"),
        ({"label": " \u200e— "}, "field label: "),  # invisible
        ({"label": "x" * 251}, "field label: has 251 characters; give at most 250"),
        ({"label": None}, "in field `label`"),
        ({"aliases": "NW"}, "in field `aliases`"),
        ({"aliases": ["NW", "!"]}, "field aliases[1]: '!' has no letter"),
        ({"aliases": ["NW", 3]}, "in field `aliases[1]`"),
        ({"description": ["a"]}, "in field `description`"),
        ({"facts": [["P31", "Q5"]]}, "in field `facts`"),
        ({"facts": {"Q31": ["Q5"]}}, "field facts: 'Q31' is no property; give an id like P31"),
        ({"facts": {"P31": "Q5"}}, "in field `facts[...]`"),
        ({"facts": {"P31": ["P5"]}}, "field facts.P31: 'P5' is no item"),
        ({"facts": {"P571": ["1999"]}}, "field facts.P571: '1999' is no item"),
        ({"popularity": -1}, "in field `popularity`"),
        ({"popularity": 1.5}, "in field `popularity`"),
        (
            {"alias": ["NW"]},
            "Object contains unknown field `alias`",
        ),  # a typing error is no silence
    ],
)
def test_a_fault_names_file_line_and_field(tmp_path: Path, change: dict, problem: str) -> None:
    path = written(tmp_path, BOAT, COMPANY | change)
    with pytest.raises(StageError) as error:
        read_added(path)
    assert f"{path}:2: " in error.value.message
    assert problem in error.value.message


@pytest.mark.parametrize("line", ['{"id": "U1"', "[]", '"U1"', '{"id": "U1"}', "[" * 5000])
def test_a_line_that_is_no_entity_shows_one(line: str) -> None:
    with pytest.raises(
        StageError, match=r'f:1: not an entity \(.*\); a line looks like \{"id": "U1"'
    ):
        parse_line(line.encode(), "f:1")


def test_two_lines_with_one_id_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, COMPANY, "", BOAT, COMPANY | {"label": "Other"})
    with pytest.raises(StageError, match=r"own\.jsonl:4: field id: U1 stands in line 1 too"):
        read_added(path)


def test_an_entity_survives_its_own_line(tmp_path: Path) -> None:
    """What is kept in the run can be added to another one."""
    names = {"label": " Nibelung  Works", "aliases": ["Nibelung Works", "NW", "NW"]}
    entity = parse_line(json.dumps(COMPANY | names).encode(), "f:1")
    assert (entity.label, entity.aliases) == ("Nibelung Works", ("NW",))
    assert parse_line(entity.to_json().encode(), "f:1") == entity


def numbers(text: object) -> object:
    """The same JSON with U1 as Q4199999901, and so on: as a dump could have it."""
    return json.loads(json.dumps(text).replace('"U', '"Q419999990'))


def dump_of(folder: Path, lines: Sequence[dict]) -> str:
    """A dump with the same entities as items of Wikidata."""
    entities = []
    for line in map(numbers, lines):
        claims = {
            pid: [
                {"mainsnak": {"snaktype": "value", "datavalue": {"type": "wikibase-entityid",
                 "value": {"entity-type": "item", "id": qid}}}, "rank": "normal"}
                for qid in qids
            ]
            for pid, qids in line["facts"].items()
        }  # fmt: skip
        sitelinks = {
            f"{number}xwiki": {"title": "x"} for number in range(line.get("popularity", 0))
        }
        entities.append(
            {
                "id": line["id"],
                "labels": {"en": {"language": "en", "value": line["label"]}},
                "aliases": {"en": [{"value": name} for name in line.get("aliases", ())]},
                "descriptions": {"en": {"value": line.get("description", "")}},
                "claims": claims,
                "sitelinks": sitelinks,
            }
        )
    path = folder / "more.json"
    path.write_text("".join(f"{json.dumps(entity)}\n" for entity in entities))
    return str(path)


def test_an_index_answers_as_if_the_dump_had_had_them(run: RunPaths, tmp_path: Path) -> None:
    lines = (COMPANY, BOAT)
    change_added(run.root, [written(tmp_path, *lines)], [])
    names, store = open_index(IndexFolders.of(run))
    paths = knowledge(tmp_path / "whole", str(SAMPLE / "entities.json"), dump_of(tmp_path, lines))
    wanted_names, wanted_store = open_index(IndexFolders.of(paths))

    def own(qids: np.ndarray) -> list[int]:
        """Own items by the numbers of the dump."""
        return sorted(
            4_199_999_900 + qid - FIRST_OWN if qid > FIRST_OWN else qid for qid in qids.tolist()
        )

    for key in ("nibelung works", "nw group", "paris", "loreley", "rhine", "nothing"):
        ours, theirs = names.postings(key), wanted_names.postings(key)
        assert own(ours.qids) == sorted(theirs.qids.tolist()), key
        assert (key in names) == (key in wanted_names)
    # About one key in ten shares no block: the callers compare the keys.
    assert "nibelung works" in names.similar_keys("nibelung wroks")
    assert set(wanted_names.similar_keys("prais")) <= set(names.similar_keys("prais"))
    assert own(names.items_with_word("works")) == wanted_names.items_with_word("works").tolist()

    qids = [FIRST_OWN + 1, FIRST_OWN + 2, 142, 90, 999_999_999]
    rows = store.rows(np.array(qids, np.uint32))
    others = wanted_store.rows(np.array(own(np.array(qids[:2])) + qids[2:], np.uint32))
    assert (rows >= 0).tolist() == (others >= 0).tolist() == [True] * 4 + [False]
    assert len(store) == len(wanted_store)
    for name in ("popularity", "statements", "types", "is_primary", "is_meta"):
        # France is pointed to by one fact more in the dump: own facts do not count for the others.
        ours, theirs = (
            getattr(one, name)(which[:2]) for one, which in ((store, rows), (wanted_store, others))
        )
        assert ours.tolist() == theirs.tolist(), name
    for row, other in zip(rows[:2].tolist(), others[:2].tolist(), strict=True):
        assert store.label(row) == wanted_store.label(other)
        assert store.description(row) == wanted_store.description(other)
        assert store.terms(row).tolist() == wanted_store.terms(other).tolist()
        assert own(store.neighbours(row)) == sorted(wanted_store.neighbours(other).tolist())
    sizes, terms = store.term_runs(rows[:4])
    assert [len(store.terms(row)) for row in rows[:4].tolist()] == sizes.tolist()
    assert (
        np.concatenate([store.terms(row) for row in rows[:4].tolist()]).tolist() == terms.tolist()
    )


def test_adding_twice_changing_and_removing(run: RunPaths, tmp_path: Path) -> None:
    before = run.require("index").fingerprint
    path = written(tmp_path, COMPANY, BOAT)
    counts = {"new": 0, "changed": 0, "same": 0, "removed": 0, "total": 2}
    assert change_added(run.root, [path], []) == Changes(**counts | {"new": 2})
    first = run.require("index").fingerprint
    assert first != before
    assert change_added(run.root, [path], []) == Changes(**counts | {"same": 2})
    assert run.require("index").fingerprint == first

    changed = written(tmp_path, COMPANY | {"aliases": ["NW Holding"]})
    assert change_added(run.root, [changed], []) == Changes(**counts | {"changed": 1})
    assert run.require("index").fingerprint not in (before, first)
    names, _ = open_index(IndexFolders.of(run))
    assert len(names.postings("nw holding").qids) == 1
    assert not len(names.postings("nw group").qids)
    # One version is kept.
    assert len(list(Path(run.stage(ADDED)).glob("data-*"))) == 1

    with pytest.raises(
        StageError, match="U2: its fact P176 names U1, which is not among the added"
    ):
        change_added(run.root, [], ["U1"])
    with pytest.raises(ConfigError, match="--remove U9: no entity with this id was added"):
        change_added(run.root, [], ["U9"])
    assert change_added(run.root, [], ["U2", "u1"]) == Changes(
        **counts | {"removed": 2, "total": 0}
    )
    assert run.require("index").fingerprint == before
    assert stored_entities(run) == {}
    assert not list(Path(run.stage(ADDED)).glob("*"))


def test_a_new_index_keeps_them(run: RunPaths, tmp_path: Path) -> None:
    change_added(run.root, [written(tmp_path, COMPANY)], [])
    assert is_current(planned(run), run)
    run_plan(planned(run, num_shards=2), run)
    names, store = open_index(IndexFolders.of(run))
    (row,) = store.rows(names.postings("nw group").qids).tolist()
    assert store.label(row) == "Nibelung Works"
    # And what is removed now stays removed.
    change_added(run.root, [], ["U1"])
    assert is_current(planned(run, num_shards=2), run)


def test_a_command_that_was_killed_is_completed_by_index(
    run: RunPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entities are written, the manifest of the index is not."""

    def killed(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(added, "write_index_manifest", killed)
    with pytest.raises(KeyboardInterrupt):
        change_added(run.root, [written(tmp_path, COMPANY)], [])
    with pytest.raises(
        StageError, match="are not those that the index knows; run `trelm-pipeline index"
    ):
        run.require("index")
    # No unit is done again.
    assert prepare(planned(run), run).pending == ()
    run_plan(planned(run), run)
    assert run.require("index").inputs[ADDED] == run.added_fingerprint
    assert change_added_again(run, tmp_path, monkeypatch).same == 1


@pytest.mark.parametrize("harm", ["tables", "source", "manifest", "all"])
def test_a_torn_folder_is_made_again_by_the_next_add(
    run: RunPaths, tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What a whole source tells is kept; without one the program says what is lost."""
    change_added(run.root, [written(tmp_path, COMPANY, BOAT)], [])
    folder = Path(run.stage(ADDED))
    (data,) = folder.glob("data-*")
    if harm == "tables":
        shutil.rmtree(data / "aliases")
    if harm == "source":
        (data / "entities.jsonl").write_bytes(b"{}\n")
    if harm == "manifest":
        (folder / "manifest.json").write_text("{")
    if harm == "all":
        shutil.rmtree(data)
    if harm != "manifest":
        with pytest.raises(
            StageError, match="give the added entities again: `trelm-pipeline index"
        ):
            run.require("index")

    is_lost = harm in ("source", "all")
    if is_lost:
        with pytest.raises(
            StageError, match="its 2 added entities cannot be read; give them again"
        ):
            change_added(run.root, [], ["U2"])
    changes = change_added(run.root, [written(tmp_path, COMPANY)], [])
    assert changes.total == (1 if is_lost else 2)
    kept_text = "keeps only those that are given now" if is_lost else "are made again from"
    assert kept_text in caplog.text
    run.require("index")
    assert sorted(stored_entities(run)) == [FIRST_OWN + n for n in range(1, changes.total + 1)]
    names, store = open_index(IndexFolders.of(run))
    assert len(store.rows(names.postings("nw group").qids)) == 1


def test_one_program_at_a_time_changes_them(run: RunPaths, tmp_path: Path) -> None:
    """What two programs write at once would name files that the other one has removed."""
    texts = [json.dumps({"id": f"U{n}", "label": f"Own {n}"}) for n in range(1, 5)]
    paths = [tmp_path / f"{n}.jsonl" for n in range(4)]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text + "\n")
    code = "from pipeline.start import main; main()"
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", code, "index", "--run", run.root, "--add", str(path)],
            stderr=subprocess.PIPE, text=True,
        )
        for path in paths
    ]  # fmt: skip
    messages = [program.communicate(timeout=120)[1] for program in programs]
    codes = [program.returncode for program in programs]
    for status, message in zip(codes, messages, strict=True):
        assert status == 0 or (status == 1 and "writes there" in message), message
    assert 0 in codes
    assert len(stored_entities(run)) == codes.count(0)
    run.require("index")
    for path in paths:
        change_added(run.root, [str(path)], [])
    assert len(stored_entities(run)) == 4


def change_added_again(run: RunPaths, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Changes:
    monkeypatch.undo()
    return change_added(run.root, [str(folder / "own.jsonl")], [])


def test_unknown_items_are_told_and_unknown_own_ones_refused(
    run: RunPaths, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    line = COMPANY | {"facts": {"P31": ["Q515"], "P17": ["Q987654321"]}}
    change_added(run.root, [written(tmp_path, line)], [])
    assert (
        "1 item(s) of the facts are not in the knowledge base, for example Q987654321 (U1, P17)"
        in caplog.text
    )
    with pytest.raises(StageError, match="U2: its fact P176 names U3, which is not among"):
        change_added(run.root, [written(tmp_path, BOAT | {"facts": {"P176": ["U3"]}})], [])


def test_too_many_are_refused_with_a_way_out(
    run: RunPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(added, "MAX_ADDED", 1)
    with pytest.raises(
        StageError, match=r"2 added entities; a run takes 1\. .*`kb --dump` takes several"
    ):
        change_added(run.root, [written(tmp_path, COMPANY, BOAT)], [])
    assert run.added_fingerprint == ""


def test_without_an_index_there_is_nothing_to_add_to(tmp_path: Path) -> None:
    done = in_process("index", "--run", str(tmp_path), "--add", written(tmp_path, COMPANY))
    assert done.returncode == 1
    assert "stage 'index' has not finished here; run `trelm-pipeline index" in done.stderr


def manifest_of(paths: RunPaths, stage: str) -> Manifest:
    manifest = paths.manifest(stage)
    assert manifest is not None
    return manifest


def test_links_statistics_and_scores_know_them(sample_run: Path, tmp_path: Path) -> None:
    """From the command to the counts: a name of the sample's text that its knowledge base lacks."""
    paths = RunPaths(root=str(shutil.copytree(sample_run, tmp_path / "run")))
    assert in_process("stats", "--run", paths.root).returncode == 0
    word = "Velmora"
    line = {"id": "U7", "label": word, "description": "town of France", "facts": {"P17": ["Q142"]}}
    done = in_process("index", "--run", paths.root, "--add", written(tmp_path, line))
    assert done.returncode == 0, done.stderr
    # What was made without it is out of date, and says so.
    with pytest.raises(StageError, match="stage 'link' was made from another output of 'index'"):
        paths.require("link")

    config = LinkConfig(spacy_model="blank:en", min_confidence=0.0)
    run_plan(link.plan(config, paths), paths)
    own = parse_item_id("U7")
    links = [row for row in rows_of(paths, "link", LINKS) if row["qid"] == own]
    assert links
    assert {row["surface"] for row in links} == {word}
    assert all(own in [one["qid"] for one in row["candidates"]] for row in links)

    run_plan(stats.plan(StatsConfig(), paths), paths)
    counted = {row["qid"]: row["num_mentions"] for row in rows_of(paths, "stats", ENTITY_FREQUENCY)}
    assert counted[own] == len(links)
    answer = in_process("ask", "entity", "U7", "--run", paths.root, "--format", "json")
    assert answer.returncode == 0, answer.stderr
    assert (
        in_degrees(paths, [142])[142] == 1 + in_degrees(RunPaths(root=str(sample_run)), [142])[142]
    )
    shown = in_process(
        "sql", "--run", paths.root, "--format", "json",
        f"SELECT qid(qid) AS id, label(qid) AS label FROM entity_frequency WHERE qid = {own}",
    )  # fmt: skip
    assert json.loads(shown.stdout) == {"id": "U7", "label": word}

    gold = tmp_path / "gold.jsonl"
    doc_id, start, end = links[0]["doc_id"], links[0]["start"], links[0]["end"]
    texts = {row["doc_id"]: row["text"] for row in rows_of(paths, "documents", DOCUMENTS)}
    mention = {"start": start, "end": end, "qid": "U7"}
    gold.write_text(json.dumps({"doc_id": doc_id, "text": texts[doc_id], "mentions": [mention]}))
    scores = evaluate_run(paths.root, str(gold))
    assert scores["recall"] == 1.0
    assert files.exists(paths.artefact(ADDED, "source"))
