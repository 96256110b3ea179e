"""Scoring only what injection needs: the same decisions, from fewer scores."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.config import ImportanceConfig, ShardsConfig
from pipeline.engine.errors import StageError
from pipeline.engine.tables import RunPaths
from pipeline.importance import stage as importance
from pipeline.importance.needed import ChosenSentences
from pipeline.link.linked_sentences import LinkedReader, LinkedUnit, join_linked, linked_units
from pipeline.shards import stage as shards
from pipeline.stats.rare_entities import rare_below, rare_items
from schemas import ENTITY_FREQUENCY, EXAMPLES, IMPORTANCE
from schemas.manifest import Manifest
from schemas.shards import POLICIES, POLICY_BITS
from tests.pipeline import tiny_model
from tests.pipeline.cases import in_process, sample_arguments
from tests.pipeline.inputs_run import rows_of, run_plan
from tests.pipeline.linked_run import cut_links, one_file_of_documents

SAMPLE = 60


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.make(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def base(sample_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = Path(shutil.copytree(sample_run, tmp_path_factory.mktemp("base") / "run"))
    one_file_of_documents(RunPaths(root=str(run)))
    cut_links(RunPaths(root=str(run)), 3)
    return run


@pytest.fixture
def run(base: Path, tmp_path: Path) -> RunPaths:
    return RunPaths(root=str(shutil.copytree(base, tmp_path / "run")))


def scored(paths: RunPaths, model: Path, mentions: str, **settings: Any) -> Manifest:
    values = {"dtype": "float32", "mentions": mentions, "sample": SAMPLE, **settings}
    config = ImportanceConfig(model=str(model), **values)
    return run_plan(importance.plan(config, paths), paths)


def sharded(paths: RunPaths, model: Path, **settings: Any) -> Manifest:
    config = ShardsConfig(model=str(model), **{"r_freq": 2.0, **settings})
    return run_plan(shards.plan(config, paths), paths)


def test_decisions_are_the_same(run: RunPaths, model: Path) -> None:
    scored(run, model, "all", r_freq=2.0)
    sharded(run, model)
    every_score, every_row = (
        rows_of(run, "importance", IMPORTANCE),
        rows_of(run, "shards", EXAMPLES),
    )

    manifest = scored(run, model, "needed", r_freq=2.0)
    needed = rows_of(run, "importance", IMPORTANCE)
    assert 0.1 * len(every_score) < len(needed) < 0.9 * len(every_score)
    counters = manifest.counters
    assert counters["rows_in"] == counters["rows_out"] + counters["skipped_not_needed"]
    assert counters["rows_in"] == len(every_score)
    wanted = {(row["doc_id"], row["start"], row["end"]): row for row in every_score}
    assert all(wanted[row["doc_id"], row["start"], row["end"]] == row for row in needed)
    # The sample is whole in both.
    assert sum(row["is_sampled"] for row in needed) == sum(row["is_sampled"] for row in every_score)

    manifest = sharded(run, model)
    assert set(manifest.config["policies"]) == set(POLICIES) - {"importance", "none"}
    rows = rows_of(run, "shards", EXAMPLES)
    assert len(rows) == len(every_row)
    chosen = 0
    for row, other in zip(rows, every_row, strict=True):
        without = [bits & ~POLICY_BITS["importance"] for bits in other.pop("span_policies")]
        assert row.pop("span_policies") == without
        chosen += sum((bits & POLICY_BITS["long-tail-important"]) != 0 for bits in without)
        for cosine, full in zip(row.pop("span_cosine"), other.pop("span_cosine"), strict=True):
            assert cosine == full or np.isnan(cosine)
        assert row == other
    assert chosen > 10


def test_needed_are_the_sentences_of_rare_entities_and_of_the_sample(
    run: RunPaths, model: Path
) -> None:
    scored(run, model, "needed", r_freq=2.0)
    found = {
        (row["doc_id"], row["start"]): row["is_sampled"]
        for row in rows_of(run, "importance", IMPORTANCE)
    }
    counts = {row["qid"]: row["num_mentions"] for row in rows_of(run, "stats", ENTITY_FREQUENCY)}
    reader, wanted, of_the_sample = LinkedReader(run), set(), set()
    for unit in linked_units(run):
        linked = reader.read(unit)
        doc_ids = linked.doc_ids.to_pylist()
        rare = {
            int(sentence)
            for sentence, qid in zip(linked.sentence, linked.qid.tolist(), strict=True)
            if counts[qid] < 2
        }
        for sentence, start in zip(linked.sentence.tolist(), linked.mention_start, strict=True):
            key = (doc_ids[linked.document[sentence]], int(start))
            if found.get(key):
                of_the_sample.add(key)
            elif sentence in rare:
                wanted.add(key)
    assert {key for key, is_sampled in found.items() if not is_sampled} == wanted
    assert 0.5 * SAMPLE < len(of_the_sample) < 2 * SAMPLE


def one_unit() -> LinkedUnit:
    """Three sentences: a rare and a frequent entity, two frequent ones, one frequent one."""
    text = "ab cd. ef gh. ij kl."
    names = ("doc_id", "start", "end", "qid", "confidence")
    mentions = [(0, 2, 7), (3, 5, 90), (7, 9, 90), (10, 12, 91), (14, 16, 90)]
    rows = zip(*(("d", *mention, 1.0) for mention in mentions), strict=True)
    sentences = pa.table({"doc_id": ["d"] * 3, "start": [0, 7, 14], "end": [6, 13, 20]})
    return join_linked(
        pa.array(["d"]), [text], sentences, pa.table(dict(zip(names, rows, strict=True)))
    )


@pytest.mark.parametrize(
    ("sampled", "rare", "wanted"),
    [
        ([False, False, False], [7], [1, 1, 0, 0, 0]),
        ([False, False, True], [7], [1, 1, 0, 0, 1]),
        ([False, False, False], [], [0, 0, 0, 0, 0]),
        ([False, False, False], [5, 8, 4_294_967_295], [0, 0, 0, 0, 0]),
        ([False, False, False], [91], [0, 0, 1, 1, 0]),
        ([False, False, False], None, [1, 1, 1, 1, 1]),
    ],
)
def test_scored_mentions(sampled: list[bool], rare: list[int] | None, wanted: list[int]) -> None:
    items = None if rare is None else np.array(rare, np.uint32)
    found = ChosenSentences(0.5, items).scored(one_unit(), np.array(sampled))
    assert found.tolist() == [bool(value) for value in wanted]


def test_the_sample_has_its_share_and_does_not_follow_the_units(run: RunPaths) -> None:
    def of(units: int, share: float) -> dict[tuple[str, int], bool]:
        cut_links(run, units)
        reader, found = LinkedReader(run), {}
        for unit in linked_units(run):
            linked = reader.read(unit)
            doc_ids = linked.doc_ids.take(pa.array(linked.document)).to_pylist()
            places = zip(doc_ids, linked.start.tolist(), strict=True)
            found |= dict(
                zip(places, ChosenSentences(share, None).sampled(linked).tolist(), strict=True)
            )
        return found

    third = of(3, 0.3)
    assert third == of(5, 0.3)
    assert 0.2 < np.mean(list(third.values())) < 0.4
    # A larger sample holds the smaller one.
    assert all(of(5, 0.6)[place] for place, is_sampled in third.items() if is_sampled)
    assert all(of(5, 1.0).values())
    assert not any(of(5, 0.0).values())


def test_rare_entities(run: RunPaths) -> None:
    counts = {row["qid"]: row["num_mentions"] for row in rows_of(run, "stats", ENTITY_FREQUENCY)}
    for r_freq in (0.0, 1.0, 2.0, 2.5, 1e9):
        wanted = sorted(qid for qid, count in counts.items() if count < r_freq)
        assert rare_items(run, r_freq).tolist() == wanted
    assert rare_below(run, 7.5) == 7.5
    assert rare_below(run, None) >= 3


def test_more_rare_entities_in_shards_are_refused(run: RunPaths, model: Path) -> None:
    scored(run, model, "needed", r_freq=2.0)
    # No digit is lost: whoever follows the advice has done enough.
    advice = r"below 2\.0 mentions .*--set importance.mentions=needed --set importance.r_freq=3\.787313938376156`"
    with pytest.raises(StageError, match=advice):
        shards.plan(ShardsConfig(model=str(model), r_freq=3.787313938376156), run)
    with pytest.raises(StageError, match=r"lower shards\.r_freq"):
        shards.plan(ShardsConfig(model=str(model)), run)
    assert shards.plan(ShardsConfig(model=str(model), r_freq=1.5), run)


def test_the_policy_that_compares_all_mentions_is_left_out(
    run: RunPaths, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scored(run, model, "needed", r_freq=2.0)
    plan = shards.plan(ShardsConfig(model=str(model), r_freq=2.0, policies=("importance",)), run)
    assert plan.config["policies"] == ["none"]
    assert "importance.mentions = needed" in caplog.text


def test_a_sample_without_any_mention_is_refused(run: RunPaths, model: Path) -> None:
    """A median of nothing would be 0, and every mention important."""
    scored(run, model, "all", sample=1)
    assert not any(row["is_sampled"] for row in rows_of(run, "importance", IMPORTANCE))
    with pytest.raises(StageError, match="set importance.sample higher"):
        sharded(run, model)


def test_needed_asks_for_statistics(run: RunPaths, model: Path) -> None:
    shutil.rmtree(Path(run.root) / "stats")
    with pytest.raises(StageError, match="trelm-pipeline stats"):
        scored(run, model, "needed")
    assert scored(run, model, "all")


def test_a_run_takes_what_is_rare_from_the_shards_settings(
    sample_run: Path, tmp_path: Path, model: Path
) -> None:
    """And plans `importance` again where the statistics run again."""
    run = Path(shutil.copytree(sample_run, tmp_path / "run"))
    settings = ["--set", "importance.mentions=needed", "--set", "shards.r_freq=2"]
    settings += ["--set", f"importance.model={model}"]
    done = in_process("importance", *sample_arguments(run, *settings))
    assert done.returncode == 0, done.stderr
    assert RunPaths(root=str(run)).require("importance").config["r_freq"] == 2
    (run / "stats" / "manifest.json").unlink()
    planned = in_process("run", "--plan", *sample_arguments(run, *settings))
    assert planned.returncode == 0, planned.stderr
    assert "importance: runs: stats runs" in planned.stdout
