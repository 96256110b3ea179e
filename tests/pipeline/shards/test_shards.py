"""Stage `shards`: rows against the plain way, one order for any units, what is counted, resuming,
tokenizers.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.shards_data import make_roberta
from pipeline.config import ShardsConfig
from pipeline.encoder.tokenizer import TextTokenizer
from pipeline.engine.errors import StageError
from pipeline.engine.finish import finish_stage
from pipeline.engine.stage import StagePlan, prepare
from pipeline.engine.tables import RunPaths
from pipeline.engine.tasks import ListRange
from pipeline.engine.units import write_unit
from pipeline.shards import stage as shards
from pipeline.shards.knowledge import KnowledgeBuilder
from pipeline.shards.windows import document_hash, shuffle_keys
from schemas.errors import ConfigError
from schemas.shards import POLICIES, POLICY_BITS
from tests.manifests import list_again
from tests.pausing import PATIENCE_S
from tests.pipeline.cases import ROOT, in_process, program, rows_of
from tests.pipeline.inputs_run import run_plan
from tests.pipeline.linked_run import cut_links
from tests.pipeline.shards.made_shards import files_of, in_order, limits_of, made, reach_of
from tests.pipeline.shards.naive_shards import NaiveShards

SPANS_LOST = (
    "outside_sentence",
    "overlapping",
    "without_tokens",
    "without_entity",
    "sharing_token",
    "too_long",
)


@pytest.fixture(scope="module")
def finished(scored: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with shards in several files."""
    folder = Path(shutil.copytree(scored, tmp_path_factory.mktemp("finished") / "run"))
    made(folder, model, rows_per_file=100)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("max_tokens", [12, 128])
@pytest.mark.parametrize("family", ["model", "byte_level"])
def test_rows_equal_the_plain_way(
    run: Path, request: pytest.FixtureRequest, family: str, max_tokens: int
) -> None:
    folder = request.getfixturevalue(family)
    cut_links(RunPaths(root=str(run)), 3)
    counters = made(run, folder, max_tokens=max_tokens).counters
    naive = NaiveShards(run, TextTokenizer(str(folder)), max_tokens)
    found, wanted = rows_of(run, "examples"), naive.examples(reach_of(run), limits_of(run))
    assert len(found) == counters["windows"] > 500
    for row, other in zip(found, wanted, strict=True):
        assert row[:10] == other[:10]
        assert row[10] == pytest.approx(other[10], nan_ok=True)
        assert row[11:] == other[11:]
    assert counters["spans_out"] == sum(len(row[6]) for row in found) > 900
    assert counters["spans_sharing_token"] == naive.counters["shared token"]
    assert counters["spans_without_entity"] == naive.counters["no row"]
    assert counters["spans_in"] == sum(row[7] is not None for row in rows_of(run, "links"))
    assert counters["spans_in"] - counters["spans_out"] == sum(
        counters[f"spans_{reason}"] for reason in SPANS_LOST
    )
    assert sum(len(row[12]) for row in found) > 100


@pytest.mark.slow
def test_the_same_files_for_any_units(scored: Path, model: Path, tmp_path: Path) -> None:
    """1, 2 and 7 units of `link`: the same bytes, in the order of the shuffle keys over all files."""
    found = {}
    for num_units in (1, 2, 7):
        run = tmp_path / str(num_units)
        shutil.copytree(scored, run)
        cut_links(RunPaths(root=str(run)), num_units)
        found[num_units] = files_of(made(run, model, rows_per_file=100, max_tokens=24))
    assert found[1] == found[2] == found[7]
    assert len(found[1]["examples"]) > 4
    rows = in_order(tmp_path / "1")
    hashes = np.array([document_hash(row[0], 0) for row in rows], np.uint64)
    keys = shuffle_keys(hashes, np.array([row[1] for row in rows]))
    assert (keys[1:] > keys[:-1]).all()
    assert not list((tmp_path / "1").glob("shards/data-*/_spill"))


def test_files_and_seed(run: Path, model: Path) -> None:
    """One file holds what several hold, in the same order; another seed is another order and split."""
    several = made(run, model, rows_per_file=100)
    rows = in_order(run)
    one = made(run, model)
    assert len(several.tables["examples"].files) > len(one.tables["examples"].files) == 1
    assert in_order(run) == rows
    made(run, model, seed=1)
    other = in_order(run)
    assert other != rows
    assert sorted(row[:2] for row in other) == sorted(row[:2] for row in rows)
    assert {row[0] for row in rows if row[5] == "train"} != {
        row[0] for row in other if row[5] == "train"
    }


def tasks_of(plan: StagePlan) -> list[ListRange]:
    return list(plan.phase_named("shards").tasks)


def test_units_of_link_are_taken_together(
    run: Path, finished: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = RunPaths(root=str(run))
    cut_links(paths, 7)
    config = ShardsConfig(model=str(model), rows_per_file=100)
    apart = shards.plan(config, paths)
    monkeypatch.setattr(shards, "MIN_UNITS", 3)
    together = shards.plan(config, paths)
    assert (len(tasks_of(apart)), len(tasks_of(together))) == (7, 4)
    assert {(task.start, task.end) for task in tasks_of(together)} > {(0, tasks_of(apart)[1].end)}
    assert files_of(run_plan(together, paths)) == files_of(
        RunPaths(root=str(finished)).require("shards")
    )
    monkeypatch.setattr(shards, "MAX_UNIT_MB", 0.0001)
    assert len(tasks_of(shards.plan(config, paths))) == 7


@pytest.mark.parametrize("seed", range(3))
def test_a_stage_that_was_stopped_goes_on(
    run: Path, finished: Path, model: Path, seed: int
) -> None:
    """Stopped after any unit of any phase: the same files."""
    rng = random.Random(seed)
    paths = RunPaths(root=str(run))
    cut_links(paths, 7)
    plan = shards.plan(ShardsConfig(model=str(model), rows_per_file=100), paths)
    prepared = prepare(plan, paths)
    work = [(phase.worker, unit) for phase, units in plan.numbered_phases for unit in units]
    stop = rng.randrange(1, len(work))
    for worker, unit in work[:stop]:
        write_unit(prepared.data, plan.name, unit, worker.process)
    assert len(prepare(plan, paths).pending) == len(work) - stop
    assert files_of(run_plan(plan, paths)) == files_of(
        RunPaths(root=str(finished)).require("shards")
    )


def test_lost_rows_fail_the_stage(run: Path, finished: Path, model: Path) -> None:
    paths = RunPaths(root=str(run))
    plan = shards.plan(ShardsConfig(model=str(model), rows_per_file=100), paths)
    prepared = prepare(plan, paths)
    reports = [
        write_unit(prepared.data, plan.name, unit, phase.worker.process)
        for phase, units in plan.numbered_phases[:2]
        for unit in units
    ]
    (spilled,) = Path(prepared.data).glob("_spill/rows-*.arrow")
    spilled.unlink()
    for phase, units in plan.numbered_phases[2:]:
        reports += [
            write_unit(prepared.data, plan.name, unit, phase.worker.process) for unit in units
        ]
    with pytest.raises(StageError, match="rows made, 0 written"):
        finish_stage(prepared, reports)
    # A run that goes on misses the file and makes the rows again.
    run_plan(plan, paths)
    assert files_of(paths.require("shards")) == files_of(
        RunPaths(root=str(finished)).require("shards")
    )


def bits_of(run: Path) -> list[int]:
    """`span_policies` of all rows, in order."""
    return [bits for row in in_order(run) for bits in row[11]]


@pytest.mark.slow
def test_policies(run: Path, finished: Path, model: Path) -> None:
    whole = bits_of(finished)
    assert len(set(whole)) > 4
    made(run, model, policies=("none",))
    assert bits_of(run) == [0] * len(whole)
    done = program(
        "shards", "--run", str(run), "--model", str(model), "--policy", "klt", "--policy", "all"
    )
    assert done.returncode == 0, done.stderr
    assert bits_of(run) == [bits & (POLICY_BITS["klt"] | POLICY_BITS["all"]) for bits in whole]
    assert RunPaths(root=str(run)).require("shards").config["policies"] == ["klt", "all"]


def test_wrong_policies() -> None:
    for wrong in (("rare",), ("none", "all")):
        with pytest.raises(ConfigError, match="to compute no policy, give none alone"):
            ShardsConfig(policies=wrong)
    done = in_process("shards", "--run", "nowhere", "--policy", "rare")
    assert done.returncode == 2
    assert "'rare' is not one of all, high-frequency" in done.stderr
    help_text = "".join(
        in_process("shards", "--help").stdout.split()
    )  # lines may break at a hyphen
    assert all(policy in help_text for policy in (*POLICIES, "none"))


def test_reach_is_the_number_of_entities_within_two_hops(finished: Path, model: Path) -> None:
    """KC of the `klt` policy, against a naive count."""
    builder = KnowledgeBuilder(
        ShardsConfig(), RunPaths(root=str(finished)), TextTokenizer(str(model))
    )
    list(builder.batches())
    lookup = builder.lookup()
    wanted = reach_of(finished)
    assert {row: int(lookup.reach[row]) for row in wanted} == wanted
    assert len(wanted) == len(lookup.reach) > 250
    assert builder.limits() == limits_of(finished)


def test_batches_of_knowledge_change_nothing(
    scored: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, tokenizer = RunPaths(root=str(scored)), TextTokenizer(str(model))
    whole = KnowledgeBuilder(ShardsConfig(), paths, tokenizer)
    (rows,) = whole.batches()
    monkeypatch.setattr("pipeline.shards.knowledge.BATCH_ROWS", 37)
    cut = KnowledgeBuilder(ShardsConfig(), paths, tokenizer)
    assert pa.concat_tables(cut.batches()).combine_chunks().equals(rows)
    for one, other in ((whole.lookup().facts, cut.lookup().facts),):
        assert all(
            (getattr(one, name) == getattr(other, name)).all()
            for name in ("pairs", "relations", "qids")
        )
    assert (np.diff(whole.lookup().pairs.astype(np.float64)) >= 0).all()


def test_tokenizer_lies_beside_the_shards(run: Path, byte_level: Path, tmp_path: Path) -> None:
    """RoBERTa's too; a model's wish to cut and pad changes no row, and its file is kept as it is."""
    padded = tmp_path / "padded"
    shutil.copytree(byte_level, padded)
    made(run, byte_level)
    rows = in_order(run)
    tokenizer = json.loads((padded / "tokenizer.json").read_text())
    tokenizer["truncation"] = {
        "direction": "Right",
        "max_length": 5,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    tokenizer["padding"] = {
        "strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 1, "pad_type_id": 0,
        "pad_token": "<pad>",
    }  # fmt: skip
    (padded / "tokenizer.json").write_text(json.dumps(tokenizer))
    extra = made(run, padded).extra
    assert in_order(run) == rows
    content = (run / "shards" / extra["tokenizer"] / "tokenizer.json").read_bytes()
    assert hashlib.sha256(content).hexdigest() == extra["tokenizer_sha256"]
    assert json.loads(content)["truncation"]["max_length"] == 5
    assert extra["model"] == str(padded)


@pytest.mark.slow
def test_no_warning_of_a_fork(run: Path, finished: Path, model: Path) -> None:
    cut_links(RunPaths(root=str(run)), 7)
    env = {name: value for name, value in os.environ.items() if name != "TOKENIZERS_PARALLELISM"}
    arguments = [
        "shards",
        "--run",
        str(run),
        "--model",
        str(model),
        "--workers",
        "2",
        "--set",
        "shards.rows_per_file=100",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *arguments], check=False, text=True, capture_output=True, cwd=ROOT,
        env=env, timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "fork" not in done.stderr
    assert files_of(RunPaths(root=str(run)).require("shards")) == files_of(
        RunPaths(root=str(finished)).require("shards")
    )


@pytest.mark.kit
def test_the_kit_by_a_byte_level_tokenizer_of_full_size(kit: Path, tmp_path: Path) -> None:
    """GPT-2's vocabulary with RoBERTa's special tokens: names keep their tokens in running text."""
    folder = make_roberta(tmp_path, kit / "model" / "gpt2-bpe")
    tokenizer = TextTokenizer(str(folder))
    text = "Between Zürich and São Paulo lie the Alps, and an ocean; nai\u0308ve maps 🗺️ of Łódź call it 大西洋."
    runs = tokenizer.encode_runs([text], np.array([True]))
    for name in ("Zürich", "São Paulo", "Alps", "nai\u0308ve", "🗺️", "Łódź", "大西洋"):
        start = np.array([text.index(name)])
        (first,), (last,) = runs.spans(np.array([0]), start, start + len(name))
        assert runs.ids[first:last].tolist() == tokenizer.label_runs([name]).ids.tolist()
    assert runs.starts_word.sum() < len(runs.ids)


def test_a_document_may_name_special_tokens(model: Path, byte_level: Path) -> None:
    """Text is text: `[SEP]` and `<mask>` in it do not end a sentence or ask for a word."""
    for folder, name in ((model, "[MASK]"), (byte_level, "<mask>")):
        tokenizer = TextTokenizer(str(folder))
        ids = tokenizer.encode_runs([f"The token {name} is no word"]).ids.tolist()
        assert tokenizer.mask_id not in ids
        assert ids == tokenizer.encode([f"The token {name} is no word"])[0].ids.tolist()


def test_units_without_sentences(run: Path, model: Path) -> None:
    """An empty corpus gives knowledge and no rows."""
    paths = RunPaths(root=str(run))
    for stage, table in (("link", "sentences"), ("link", "links"), ("importance", "importance")):
        for path in Path(paths.stage(stage)).glob(f"data-*/{table}/*.parquet"):
            rows = pq.read_table(path, partitioning=None)
            pq.write_table(rows.slice(0, 0), path)
        list_again(Path(paths.stage(stage)))
    manifest = made(run, model)
    assert manifest.counters["windows"] == manifest.tables["examples"].rows == 0
    assert manifest.tables["knowledge"].rows > 300
