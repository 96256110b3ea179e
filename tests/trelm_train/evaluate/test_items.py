"""One row per question: every column counted again, and the query of docs/training.md."""

import json
import os
import re
import threading
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner

from schemas import LAMA_ITEMS, MLM_ITEMS
from schemas.errors import ConfigError, TrelmError
from tests.conftest import ROOT
from tests.trelm_train import world
from tests.trelm_train.evaluate.broken import zeroed
from tests.trelm_train.evaluate.statistics_run import write_run
from trelm_train.cli import cli
from trelm_train.data.knowledge import Knowledge
from trelm_train.evaluate.items_file import write_items
from trelm_train.evaluate.lama import Options, readable
from trelm_train.evaluate.lama_items import ItemsFile, probe
from trelm_train.evaluate.mlm_items import measure
from trelm_train.model.masked_lm import MaskedLm

Row = dict[str, Any]


def rows_of(path: Path) -> list[Row]:
    rows: list[Row] = pq.read_table(path).to_pylist()
    return rows


@pytest.fixture
def lama(tmp_path: Path) -> Options:
    """Two relations with ids as T-REx has them, and one as Google-RE has none."""
    folder = tmp_path / "lama"
    folder.mkdir()
    files: dict[str, list[Row]] = {
        "P1": [
            {"uuid": "a", "sub_label": "Flavia", "sub_uri": "Q1", "obj_label": "town", "obj_uri": "Q2"},
            {"uuid": "b", "sub_label": "Mona", "sub_uri": "Q3", "obj_label": "king", "obj_uri": "Q4"},
            {"uuid": "b", "sub_label": "Mona", "sub_uri": "Q3", "obj_label": "king", "obj_uri": "Q4"},
        ],
        "P2": [{"sub_label": "Joseph", "sub_uri": "Q9", "obj_label": "town", "obj_uri": "Q2"}],
        "place_of_birth": [{"sub_label": "Rudolf", "sub": "/m/012", "obj_label": "town"}],
    }  # fmt: skip
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "relations.jsonl").write_text(
        "".join(
            json.dumps({"relation": name, "template": f"[X] {name[0].lower()} in [Y] ."}) + "\n"
            for name in files
        )
    )
    return Options(probes=folder, relations=folder / "relations.jsonl")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(
        tmp_path / "run",
        [[(1, 2, 1, 1, 1.5, "tail"), (2, 50, 9, 9, 45.5, "head")], [(3, 50, 9, 9, 45.5, "head")]],
        [[(1, 1, 2, 4, 3), (3, 1, 4, 0, 2)]],
    )


def test_lama_rows_against_a_naive_recount(
    model: MaskedLm, model_path: Path, tokenizer: Any, lama: Options, run: Path, tmp_path: Path
) -> None:
    path = tmp_path / "items.parquet"
    scores = probe(str(model_path), "cpu", lama, ItemsFile(path=path, run=run))
    LAMA_ITEMS.check(pq.read_schema(path), str(path))
    rows = rows_of(path)
    corpus = (
        "sub_mentions", "sub_band", "obj_mentions", "obj_band",
        "is_stated", "stated_sentences", "stated_documents",
    )  # fmt: skip
    names = ("relation", "uuid", "sub_qid", "obj_qid", *corpus)
    assert [tuple(row[name] for name in names) for row in rows] == [
        ("P1", "a", 1, 2, 2, "tail", 50, "head", True, 4, 3),
        # In two documents, but in no sentence; Q4 is never linked.
        ("P1", "b", 3, 4, 50, "head", 0, None, False, 0, 2),
        ("P2", None, 9, 2, 0, None, 50, "head", False, 0, 0),
        ("place_of_birth", None, None, None, None, None, None, None, None, None, None),
    ]

    special = set(tokenizer.all_special_ids)
    for row in rows:
        text = row["template"].replace("[X]", row["sub_label"]).replace("[Y]", "[MASK]")
        ids = tokenizer(text)["input_ids"]
        with torch.no_grad():
            logits = model.hf(input_ids=torch.tensor([ids])).logits[0]
        p = logits[ids.index(tokenizer.mask_token_id)].softmax(0).tolist()
        gold = tokenizer.convert_tokens_to_ids(row["obj_label"])
        others = [p[token] for token in range(len(tokenizer)) if token not in special]
        assert row["rank"] == sum(other >= p[gold] for other in others)
        assert row["p_gold"] == pytest.approx(p[gold], rel=1e-4)
        assert row["p_answers"] == pytest.approx(sorted(others, reverse=True)[:5], rel=1e-4)
        answers = tokenizer.convert_tokens_to_ids(row["answers"])
        assert [p[token] for token in answers] == pytest.approx(row["p_answers"], rel=1e-4)
        assert row["model"] == str(model_path)

    # The rows and the scores are of the same answers.
    ranks = [row["rank"] for row in rows]
    assert scores["micro"]["mrr"] == pytest.approx(sum(1 / rank for rank in ranks) / len(ranks))
    assert not list(tmp_path.glob(".*"))


def test_scores_by_band_and_by_stated_fact(
    model_path: Path, lama: Options, run: Path, shards_path: Path, tmp_path: Path
) -> None:
    """The groups of the report are those of the rows, and need no rows."""
    path = tmp_path / "items.parquet"
    probe(str(model_path), "cpu", lama, ItemsFile(path=path, run=run))
    reciprocal = {row["uuid"] or row["relation"]: 1 / row["rank"] for row in rows_of(path)}
    result = probe(str(model_path), "cpu", lama, ItemsFile(run=run))
    groups = {
        title: {
            name: (group["num_items"], group["num_relations"], group["micro"]["mrr"])
            for name, group in of_title.items()
        }
        for title, of_title in result["groups"].items()
    }
    a, b, joseph, rudolf = (reciprocal[key] for key in ("a", "b", "P2", "place_of_birth"))
    assert groups.pop("type").keys() == {"not said"}
    expected = {
        "subject": {
            "tail": (1, 1, a), "head": (1, 1, b), "never linked": (1, 1, joseph), "no QID": (1, 1, rudolf),
        },
        "object": {
            "head": (2, 2, (a + joseph) / 2), "never linked": (1, 1, b), "no QID": (1, 1, rudolf),
        },
        "fact": {
            "stated": (1, 1, a), "not stated": (2, 2, (b + joseph) / 2), "no triple": (1, 1, rudolf),
        },
    }  # fmt: skip
    # From frequent to unknown.
    assert list(groups["subject"]) == ["head", "tail", "never linked", "no QID"]
    assert list(groups["fact"]) == ["stated", "not stated", "no triple"]
    for title, of_title in expected.items():
        assert sorted(groups[title]) == sorted(of_title)
        for name, values in of_title.items():
            assert groups[title][name] == pytest.approx(values)
    assert re.search(r"^object never linked +n +1 in +1 relations", readable(result), re.M)

    # Shards do not say what is stated; without a corpus nothing is known.
    result = probe(str(model_path), "cpu", lama, ItemsFile(shards=shards_path))
    assert result["groups"].keys() == {"type", "subject", "object"}
    assert probe(str(model_path), "cpu", lama)["groups"].keys() == {"type"}


def test_google_re_has_ids_of_its_own(
    model_path: Path, lama: Options, run: Path, tmp_path: Path
) -> None:
    row = {"sub_label": "Flavia", "sub_w": "Q1", "obj_label": "town", "obj_w": "Q2"}
    (lama.probes / "place_of_birth.jsonl").write_text(json.dumps(row) + "\n")
    path = tmp_path / "items.parquet"
    probe(str(model_path), "cpu", lama, ItemsFile(path=path, run=run))
    asked = rows_of(path)[-1]
    assert (asked["sub_qid"], asked["sub_band"], asked["obj_band"]) == (1, "tail", "head")
    # Its relation is Wikidata's P19, and the run states another one.
    assert asked["is_stated"] is False


def test_rows_of_sentences_and_of_several_right_answers(
    model_path: Path, lama: Options, tmp_path: Path
) -> None:
    rows = [{"sub_label": "Joseph", "obj_label": label} for label in ("town", "king", "house")]
    (lama.probes / "P2.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sentence = {"masked_sentences": ["The [MASK] of Zenda ."], "obj_label": "king", "id": 7}
    (lama.probes / "test.jsonl").write_text(json.dumps(sentence) + "\n")
    path = tmp_path / "items.parquet"
    result = probe(str(model_path), "cpu", lama, ItemsFile(path=path))
    asked = rows_of(path)
    of_joseph = [row for row in asked if row["sub_label"] == "Joseph"]
    # Others that stand before an answer are those of lower rank.
    for row in of_joseph:
        before = sum(other["rank"] < row["rank"] for other in of_joseph)
        assert row["filtered_rank"] == row["rank"] - before
    assert result["filtered"]["num_items_with_other_answers"] == 3
    assert (asked[-1]["template"], asked[-1]["sub_label"], asked[-1]["uuid"]) == (
        "The [Y] of Zenda .", "", "7",
    )  # fmt: skip


def test_without_a_corpus_rarity_is_null(model_path: Path, lama: Options, tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    probe(str(model_path), "cpu", lama, ItemsFile(path=path))
    for row in rows_of(path):
        assert row["sub_mentions"] is row["obj_band"] is row["is_stated"] is None


def test_shards_alone_say_how_rare(
    model_path: Path, shards_path: Path, tmp_path: Path, lama: Options
) -> None:
    zenda = 100 + world.ROW["Zenda"]
    row = {"sub_label": "Zenda", "sub_uri": f"Q{zenda}", "obj_label": "king", "obj_uri": "Q1"}
    (lama.probes / "P2.jsonl").write_text(json.dumps(row) + "\n")
    path = tmp_path / "items.parquet"
    probe(str(model_path), "cpu", lama, ItemsFile(path=path, shards=shards_path))
    asked = next(row for row in rows_of(path) if row["sub_qid"] == zenda)
    assert asked["sub_band"] == "tail"
    assert asked["sub_mentions"] > 0
    assert (asked["obj_mentions"], asked["obj_band"], asked["is_stated"]) == (0, None, None)


def test_the_query_of_the_docs(
    model: MaskedLm, model_path: Path, tokenizer: Any, lama: Options, run: Path, tmp_path: Path
) -> None:
    """`before` is a zeroed model: it knows nothing, so the other one is better or as good."""
    zeroed(model).hf.save_pretrained(tmp_path / "zeroed")
    tokenizer.save_pretrained(tmp_path / "zeroed")
    for name, folder in (("before", tmp_path / "zeroed"), ("after", model_path)):
        items_file = ItemsFile(path=tmp_path / f"{name}.parquet", run=run)
        probe(str(folder), "cpu", lama, items_file)

    page = (ROOT / "docs/training.md").read_text()
    query = re.search(r"```sql\n(.*?)```", page, re.S)
    assert query is not None
    sql = query[1].replace("before.parquet", str(tmp_path / "before.parquet"))
    answer = duckdb.sql(sql.replace("after.parquet", str(tmp_path / "after.parquet")))

    before, after = (rows_of(tmp_path / f"{name}.parquet") for name in ("before", "after"))
    expected = []
    for stated, band, mentions in (
        (False, "head", 50),
        (False, "never linked", 0),
        (True, "tail", 2),
    ):
        pairs = [
            (old, new)
            for old, new in zip(before, after, strict=True)
            if new["sub_mentions"] == mentions and new["is_stated"] == stated
        ]
        p_at_1 = [
            sum(row["rank"] == 1 for row in side) / len(pairs) for side in zip(*pairs, strict=True)
        ]
        expected.append((band, stated, len(pairs), *p_at_1))
    assert sorted(answer.fetchall()) == sorted(expected)
    assert answer.columns == ["sub_band", "is_stated", "num_items", "p_at_1_before", "p_at_1_after"]


def test_the_command_writes_items(
    model_path: Path, lama: Options, run: Path, tmp_path: Path
) -> None:
    path = tmp_path / "items.parquet"
    command = [
        "evaluate", "lama", "--model", str(model_path), "--device", "cpu",
        "--probes", str(lama.probes), "--relations", str(lama.relations),
        "--items", str(path), "--run", str(run),
    ]  # fmt: skip
    assert "P@1" in CliRunner().invoke(cli, command, catch_exceptions=False).output
    assert [row["sub_mentions"] for row in rows_of(path)] == [2, 50, 0, None]


def test_what_items_need(model_path: Path, lama: Options, run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder .*nowhere; make it first"):
        probe(str(model_path), "cpu", lama, ItemsFile(path=tmp_path / "nowhere" / "x.parquet"))


def test_a_file_that_cannot_be_written_is_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "items.parquet"
    write_items(LAMA_ITEMS.empty(), path)
    before = path.read_bytes()

    def fail(_table: object, where: Path, **_: object) -> None:
        where.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(TrelmError, match="No space left"):
        write_items(LAMA_ITEMS.empty(), path)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_facts_of_the_validation_split(
    model_path: Path, shards_path: Path, knowledge: Knowledge, tmp_path: Path
) -> None:
    path = tmp_path / "facts.parquet"
    command = [
        "evaluate", "mlm", "--model", str(model_path), "--shards", str(shards_path), "--device", "cpu",
        "--items", str(path), "--json",
    ]  # fmt: skip
    report = json.loads(CliRunner().invoke(cli, command, catch_exceptions=False).stdout)
    assert report == measure(str(model_path), shards_path, "cpu").to_dict()
    MLM_ITEMS.check(pq.read_schema(path), str(path))

    rows = rows_of(path)
    assert len(rows) == report["num_facts"] > 0
    mean = sum(row["cka_score"] for row in rows) / len(rows)
    assert report["cka_score"] == pytest.approx(mean)
    sentences = world.sentences()
    for row in rows:
        _, (head, relation, tail) = sentences[row["sentence"]]
        assert row["sentence"] % 8 == 7  # the validation split of the test world
        assert (row["sub_label"], row["obj_label"]) == (head, tail)
        assert row["predicate"] == 100 + world.ROW[relation]
        assert row["sub_qid"] == 100 + world.ROW[head]
        assert row["sub_mentions"] == 3 * sum(head in (fact[0], fact[2]) for fact in world.facts())
        assert row["obj_band"] == "tail"
        assert 1 <= row["rank"] <= 1 + row["num_false"]
        assert row["cka_score"] == pytest.approx((row["p_gold"] + 0.001) / (row["p_false"] + 0.001))


def test_facts_of_a_zeroed_model_are_last(
    model: MaskedLm, tokenizer: Any, shards_path: Path, tmp_path: Path
) -> None:
    zeroed(model).hf.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    measure(str(tmp_path / "model"), shards_path, "cpu", items_path=tmp_path / "x.parquet")
    rows = rows_of(tmp_path / "x.parquet")
    assert all(row["rank"] == 1 + row["num_false"] > 1 for row in rows)


def test_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    rows = pa.table({"n": [1, 2, 3]})
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_items(rows, link)
    reader.join(timeout=60)
    assert pq.read_table(pa.BufferReader(read[0])) == rows
    assert pipe.is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe"]


def test_a_link_to_a_file_stays(tmp_path: Path) -> None:
    target, link = tmp_path / "rows.parquet", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write_items(pa.table({"n": [1]}), link)
    assert link.is_symlink()
    assert pq.read_table(target).to_pylist() == [{"n": 1}]
