"""Stage `importance` against the plain way (two forward passes per mention), for any units,
batches, formats; resuming.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy.stats import spearmanr
from transformers import AutoModelForMaskedLM, AutoTokenizer

from pipeline.config import ImportanceConfig
from pipeline.encoder.sequences import window
from pipeline.engine.finish import finish_stage
from pipeline.engine.stage import is_current, prepare
from pipeline.engine.tables import RunPaths
from pipeline.engine.tasks import RowRange, Unit
from pipeline.engine.units import UnitReport, UnitWriter, write_unit
from pipeline.importance import stage as importance
from pipeline.link.linked_sentences import LinkedReader, LinkedUnit, join_linked, linked_units
from schemas import IMPORTANCE, REJECTS
from schemas.manifest import Manifest
from tests.pipeline import tiny_model
from tests.pipeline.inputs_run import rows_of, run_plan
from tests.pipeline.linked_run import cut_links, one_file_of_documents

Place = tuple[str, int, int]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "bert": tiny_model.make(folder / "bert"),
        "roberta": tiny_model.make_roberta_model(folder / "roberta"),
    }


@pytest.fixture(scope="module")
def linked(sample_run: Path, tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    """The sample with links, three units of them."""
    run = Path(shutil.copytree(sample_run, tmp_path_factory.mktemp("linked") / "run"))
    paths = RunPaths(root=str(run))
    one_file_of_documents(paths)
    cut_links(paths, 3)
    return paths


@pytest.fixture
def run(linked: RunPaths, tmp_path: Path) -> RunPaths:
    """A copy that may be changed."""
    return RunPaths(root=str(shutil.copytree(linked.root, tmp_path / "run")))


def config(model: Path, **settings: Any) -> ImportanceConfig:
    return ImportanceConfig(model=str(model), **{"dtype": "float32", "num_threads": 1, **settings})


def made(paths: RunPaths, model: Path, **settings: Any) -> Manifest:
    return run_plan(importance.plan(config(model, **settings), paths), paths)


def cosines_of(paths: RunPaths) -> dict[Place, float]:
    rows = rows_of(paths, "importance", IMPORTANCE)
    found = {(row["doc_id"], row["start"], row["end"]): row["cosine"] for row in rows}
    assert len(found) == len(rows)
    for row in rows:
        assert row["si"] == pytest.approx(1 / max(row["cosine"], 1e-4), rel=1e-5)
    return found


def apart(left: dict[Place, float], right: dict[Place, float]) -> float:
    """The largest difference of two tables with the same mentions."""
    assert left.keys() == right.keys()
    return max(abs(left[place] - right[place]) for place in left)


class Plain:
    """What the method says, one mention at a time, as one would write it first."""

    def __init__(self, model: Path, replacement: str, max_tokens: int) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.encoder = AutoModelForMaskedLM.from_pretrained(model).eval().base_model
        self.replacement, self.width = replacement, max_tokens - 2

    def cosine(self, text: str, same: list[tuple[int, int]]) -> float:
        """Of a sentence, and all mentions of one entity in it."""
        encoded = self.tokenizer(
            text, return_offsets_mapping=True, add_special_tokens=False, split_special_tokens=True
        )
        places, ids = encoded["offset_mapping"], encoded["input_ids"]
        touched = [[low < end and high > start for low, high in places] for start, end in same]
        first = next(flags for flags in touched if any(flags))
        start, end = window(
            len(ids), (first.index(True), len(first) - first[::-1].index(True)), self.width
        )
        gone = [any(flags[place] for flags in touched) for place in range(len(ids))]
        original, variant = (
            self.vector(ids[start:end]),
            self.vector(self.without(ids[start:end], gone[start:end])),
        )
        return float(torch.cosine_similarity(original, variant, dim=0))

    def without(self, ids: list[int], gone: list[bool]) -> list[int]:
        token = {"mask": self.tokenizer.mask_token_id, "unk": self.tokenizer.unk_token_id}.get(
            self.replacement
        )
        kept = [token if is_gone else one for one, is_gone in zip(ids, gone, strict=True)]
        return [one for one in kept if one is not None]

    def vector(self, ids: list[int]) -> torch.Tensor:
        framed = [self.tokenizer.cls_token_id, *ids, self.tokenizer.sep_token_id]
        with torch.no_grad():
            states = self.encoder(input_ids=torch.tensor([framed])).last_hidden_state
        return states[0, 1:-1].mean(0) if ids else torch.zeros(states.shape[-1])


def mentions_of(paths: RunPaths) -> Iterator[tuple[str, list[tuple[Place, tuple[int, int], int]]]]:
    """Text of each sentence and, of each of its mentions, key, code points and item."""
    reader = LinkedReader(paths)
    for unit in linked_units(paths):
        found = reader.read(unit)
        texts, doc_ids = found.sentence_texts(), found.doc_ids.to_pylist()
        for number in np.unique(found.sentence).tolist():
            mentions = []
            for row in np.flatnonzero(found.sentence == number).tolist():
                start, end = int(found.mention_start[row]), int(found.mention_end[row])
                shift = int(found.start[number])
                key = (doc_ids[found.document[number]], start, end)
                mentions.append((key, (start - shift, end - shift), int(found.qid[row])))
            yield texts[number], mentions


@pytest.mark.parametrize(
    ("family", "replacement", "max_tokens"),
    [
        ("bert", "mask", 128),
        ("bert", "unk", 16),
        ("bert", "delete", 128),
        ("roberta", "mask", 126),
        ("roberta", "delete", 24),
    ],
)
def test_cosines_are_those_of_the_plain_way(
    run: RunPaths, models: dict[str, Path], family: str, replacement: str, max_tokens: int
) -> None:
    made(run, models[family], replacement=replacement, max_tokens=max_tokens)
    found, plain = cosines_of(run), Plain(models[family], replacement, max_tokens)
    checked = 0
    for text, mentions in list(mentions_of(run))[::7]:
        for key, _, qid in mentions:
            same = [other for _, other, its in mentions if its == qid]
            assert found[key] == pytest.approx(plain.cosine(text, same), abs=1e-5)
            checked += 1
    assert checked > 80
    assert len({round(value, 6) for value in found.values()}) > 0.5 * len(
        found
    )  # as they are, not rounded


def test_every_mention_inside_a_sentence_is_scored_once(
    run: RunPaths, models: dict[str, Path]
) -> None:
    manifest = made(run, models["bert"])
    wanted = {key for _, mentions in mentions_of(run) for key, _, _ in mentions}
    assert cosines_of(run).keys() == wanted
    assert manifest.counters["rows_in"] == manifest.counters["rows_out"] == len(wanted)
    assert manifest.counters["sequences"] < 2 * len(wanted)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_units_batches_chunks_and_threads_change_nothing(
    run: RunPaths, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    made(run, models["bert"], dtype=dtype)
    wanted = cosines_of(run)
    made(run, models["bert"], dtype=dtype, batch_tokens=64, num_threads=3)
    assert apart(cosines_of(run), wanted) <= 1e-5
    cut_links(run, 7)
    monkeypatch.setattr(importance, "CHUNK_TOKENS", 500)
    made(run, models["bert"], dtype=dtype)
    assert apart(cosines_of(run), wanted) <= 1e-5


def test_chunks_hold_whole_sentences_and_every_mention_once(
    run: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = LinkedReader(run).read(linked_units(run)[0])
    monkeypatch.setattr(importance, "CHUNK_TOKENS", 300)
    chunks = list(importance._chunks(found, 128))
    assert len(chunks) > 5
    places = [place for chunk in chunks for place in range(chunk.start, chunk.stop)]
    assert places == list(range(len(found.sentence)))
    sentences = [set(found.sentence[chunk].tolist()) for chunk in chunks]
    assert sum(map(len, sentences)) == len(set().union(*sentences))


@pytest.mark.slow
@pytest.mark.kit
def test_bfloat16_ranks_as_float32_does(run: RunPaths, kit: Path) -> None:
    model, found = kit / "model" / "splade-tiny-msmarco-mlm", {}
    for dtype in ("float32", "bfloat16"):
        made(run, model, dtype=dtype)
        found[dtype] = cosines_of(run)
    full, half = ([one[place] for place in found["float32"]] for one in found.values())
    assert spearmanr(full, half).statistic > 0.999
    assert 0 < apart(*found.values()) < 0.01


class OneUnit:
    """A reader that knows one text, whose sentences and mentions are given."""

    def __init__(
        self, text: str, sentences: list[tuple[int, int]], mentions: list[tuple[int, int, int]]
    ) -> None:
        names = ("doc_id", "start", "end", "qid", "confidence")
        tables = [
            pa.table(
                dict(zip(names, zip(*(("d", *row) for row in rows), strict=True), strict=False))
            )
            for rows in (sentences, [(*mention, 1.0) for mention in mentions])
        ]
        self.unit = join_linked(pa.array(["d"]), [text], *tables)

    def read(self, _unit: object) -> LinkedUnit:
        return self.unit


def report_of(folder: Path, reader: OneUnit, settings: ImportanceConfig) -> UnitReport:
    """The stage on such a text."""
    worker = importance.ImportanceWorker(paths=RunPaths(root=str(folder)), config=settings)
    worker._reader.get(lambda: reader)  # type: ignore[arg-type, return-value]
    for name in ("_tmp", "_units", IMPORTANCE.name, REJECTS.name):
        (folder / name).mkdir()
    unit = Unit(index=0, of=1, task=RowRange(path="documents", start=0, end=1))
    return write_unit(str(folder), "importance", unit, worker.process)


def part_rows(folder: Path, name: str, report: UnitReport) -> list[dict[str, Any]]:
    return pq.read_table(folder / report.parts[name].path).to_pylist()


def test_a_sentence_that_is_nothing_but_its_entity(tmp_path: Path, models: dict[str, Path]) -> None:
    reader = OneUnit("Paris. Paris is nice", [(0, 5), (7, 20)], [(0, 5, 90), (7, 12, 90)])
    report = report_of(tmp_path, reader, config(models["bert"], replacement="delete"))
    first, second = part_rows(tmp_path, "importance", report)
    assert (first["cosine"], first["si"]) == (0.0, 10_000.0)
    assert 0 < second["cosine"] < 1


def test_a_mention_of_which_the_tokenizer_leaves_nothing_is_rejected(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    text = "Paris \u200b is nice and Paris \u200b too"
    hidden, again = text.index("\u200b"), text.rindex("\u200b")
    reader = OneUnit(
        text, [(0, len(text))], [(0, 5, 90), (hidden, hidden + 1, 7), (again, again + 1, 90)]
    )
    report = report_of(tmp_path, reader, config(models["bert"]))
    assert {name: report.counters[name] for name in ("rows_in", "rows_out", "rejects")} == {
        "rows_in": 3, "rows_out": 2, "rejects": 1,
    }  # fmt: skip
    rows = part_rows(tmp_path, "importance", report)
    assert [row["start"] for row in rows] == [
        0,
        again,
    ]  # the third has no token either, but its entity has
    assert rows[0]["cosine"] == rows[1]["cosine"]
    (reject,) = part_rows(tmp_path, "rejects", report)
    assert (reject["key"], reject["reason"], reject["payload"]) == (
        f"d:{hidden}-{hidden + 1}",
        "no token of the mention",
        text,
    )


def test_a_unit_without_mentions(tmp_path: Path, models: dict[str, Path]) -> None:
    reader = OneUnit("Paris is nice", [(0, 13)], [(3, 3, 1)])
    reader.unit = replace(
        reader.unit,
        **{
            name: np.empty(0, np.int64)
            for name in ("sentence", "mention_start", "mention_end", "qid")
        },
    )
    report = report_of(tmp_path, reader, config(models["bert"]))
    assert not report.parts
    assert report.counters.get("rows_in", 0) == 0


def test_a_killed_run_goes_on(
    run: RunPaths, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    made(run, models["bert"])
    wanted = cosines_of(run)
    plan = importance.plan(config(models["bert"], batch_tokens=512), run)
    prepared = prepare(plan, run)
    work = plan.phases[0].worker.process
    write_unit(prepared.data, plan.name, prepared.pending[1], work)
    with monkeypatch.context() as patched:
        patched.setattr(UnitWriter, "write", stopped)
        with pytest.raises(KeyboardInterrupt):
            write_unit(prepared.data, plan.name, prepared.pending[0], work)
    again = prepare(plan, run)
    assert [unit.index for unit in again.pending] == [0, 2]
    finish_stage(again, [write_unit(again.data, plan.name, unit, work) for unit in again.pending])
    assert apart(cosines_of(run), wanted) <= 1e-5


def stopped(*_: object) -> None:
    raise KeyboardInterrupt


def test_progress_is_told_while_a_unit_is_worked_on(
    run: RunPaths, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    amounts: list[int] = []
    monkeypatch.setattr(UnitWriter, "advance", lambda _, amount: amounts.append(amount))
    monkeypatch.setattr(importance, "CHUNK_TOKENS", 4000)
    made(run, models["bert"], batch_tokens=128)
    assert sum(amounts) == sum(unit.size for unit in linked_units(run))
    assert len(amounts) > 3 * 10
    assert min(amounts) > 0


@pytest.mark.slow
def test_auto_is_one_format_for_the_whole_run(
    run: RunPaths, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that began on one machine goes on as it began on another; what is asked for outright is
    done.
    """
    monkeypatch.setattr(importance, "best_dtype", lambda _: "bfloat16")
    assert made(run, models["bert"], dtype="auto").config["dtype"] == "bfloat16"
    monkeypatch.setattr(importance, "best_dtype", lambda _: "float32")
    assert is_current(importance.plan(config(models["bert"], dtype="auto"), run), run)
    assert not is_current(importance.plan(config(models["bert"], dtype="float32"), run), run)
    assert made(run, models["bert"], dtype="float32").config["dtype"] == "float32"
    assert is_current(importance.plan(config(models["bert"], dtype="auto"), run), run)


@pytest.mark.slow
def test_a_run_is_found_current_without_torch(run: RunPaths, models: dict[str, Path]) -> None:
    made(run, models["bert"])
    code = f"""
import sys
from pipeline.config import ImportanceConfig
from pipeline.importance import stage as importance
from pipeline.engine.stage import is_current
from pipeline.engine.tables import RunPaths
paths = RunPaths(root={run.root!r})
settings = ImportanceConfig(model={str(models["bert"])!r}, num_threads=1)
assert is_current(importance.plan(settings, paths), paths)
print(sorted({{"torch", "transformers"}} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.replace("'", '"')) == []
