"""Stages importance and shards on the sample with a tiny model: exact against the plain way, and
what the trainer reads.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from pipeline.encoder.tokenizer import TextTokenizer, check_model
from pipeline.engine.errors import StageError
from schemas.shards import POLICY_BITS
from tests.pipeline import tiny_model
from tests.pipeline.cases import in_process, rows_of, sample_arguments

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.make(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def shards(sample_run: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("shards") / "run"
    shutil.copytree(sample_run, run)
    done = in_process(
        "run",
        *sample_arguments(
            run, "--set", f"importance.model={model}", "--set", "shards.max_tokens=24"
        ),
    )
    assert done.returncode == 0, done.stderr
    return run


def test_every_linked_mention_is_scored_once(shards: Path) -> None:
    linked = {row[:3] for row in rows_of(shards, "links") if row[7] is not None}
    scored = [row[:3] for row in rows_of(shards, "importance")]
    assert len(scored) == len(set(scored))
    assert set(scored) <= linked
    assert len(scored) > 0.98 * len(linked)


def test_examples_hold_what_the_trainer_needs(shards: Path, model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    knowledge = {row[0]: row for row in rows_of(shards, "knowledge")}
    frequency = {row[0]: row[1] for row in rows_of(shards, "entity_frequency")}
    texts = {row[0]: row[2] for row in rows_of(shards, "documents")}
    examples = rows_of(shards, "examples")
    assert len({row[:2] for row in examples}) == len(examples)
    for row in examples:
        (
            doc_id,
            start,
            ids,
            words,
            count,
            split,
            low,
            high,
            rows,
            freq,
            cosine,
            policies,
            heads,
            relations,
            tails,
            is_statement,
        ) = row
        assert not is_statement
        assert ids[0] == tokenizer.cls_token_id
        assert ids[-1] == tokenizer.sep_token_id
        assert len(ids) == count <= 24
        assert words == sorted(set(words))
        assert words[0] == 1
        assert words[-1] < count - 1
        assert split in ("train", "validation")
        assert all(1 <= one < other <= count - 1 for one, other in zip(low, high, strict=True))
        assert all(end <= following for end, following in zip(high, low[1:], strict=False))
        assert len({len(part) for part in (low, high, rows, freq, cosine, policies)}) == 1
        assert [knowledge[number][5] for number in rows] == freq
        assert [frequency[knowledge[number][2]] for number in rows] == freq
        assert all(-1 <= value <= 1 for value in cosine)
        for head, relation, tail in zip(heads, relations, tails, strict=True):
            assert (relation, rows[tail]) in zip(
                knowledge[rows[head]][11], knowledge[rows[head]][12], strict=True
            )
            assert knowledge[relation][1] == "relation"
        first = tokenizer.convert_ids_to_tokens(ids[1])
        assert first == "[UNK]" or texts[doc_id][start:].lower().startswith(first)
    assert {row[5] for row in examples} == {"train", "validation"}
    by_document = {}
    for row in examples:
        by_document.setdefault(row[0], set()).add(row[5])
    assert all(len(splits) == 1 for splits in by_document.values())
    assert sum(len(row[12]) for row in examples) > 100
    assert any(bits & POLICY_BITS["long-tail-important"] for row in examples for bits in row[11])


def test_knowledge(shards: Path, model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    knowledge = sorted(rows_of(shards, "knowledge"))
    assert [row[0] for row in knowledge] == list(range(len(knowledge)))
    bank = [row[7] for row in knowledge if row[7] is not None]
    assert bank == list(range(len(bank)))  # dense
    for row in knowledge:
        (
            number,
            kind,
            _,
            label,
            label_ids,
            frequency,
            band,
            bank_row,
            relations,
            others,
            is_head,
            true_r,
            true_t,
            pool,
        ) = row
        assert label_ids == tokenizer(label, add_special_tokens=False)["input_ids"]
        assert (bank_row is not None) == (kind == "entity" and frequency >= 2 and bool(others))
        assert (band is None) == (frequency == 0)
        for relation, other, as_head in zip(relations, others, is_head, strict=True):
            assert knowledge[relation][1] == "relation"
            tails = knowledge[number if as_head else other]
            wanted = (relation, other if as_head else number)
            assert wanted in zip(tails[11], tails[12], strict=True)
        assert len(relations) <= 32
        assert set(pool) >= {other for other in pool if knowledge[other][1] == "entity"}
    merged = [row for row in knowledge if row[2] >= 4_000_000_000 and row[1] == "entity"]
    assert not merged  # items that were merged are followed to what they became


def test_tokenizer_lies_beside_the_shards(shards: Path, model: Path) -> None:
    extra = json.loads((shards / "shards" / "manifest.json").read_text())["extra"]
    content = (shards / "shards" / extra["tokenizer"] / "tokenizer.json").read_bytes()
    assert hashlib.sha256(content).hexdigest() == extra["tokenizer_sha256"]
    assert extra["model"] == str(model)


def test_same_shards_for_any_units(
    shards: Path, sample_run: Path, model: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(sample_run, run)
    arguments = [
        "--set",
        f"importance.model={model}",
        "--set",
        "shards.max_tokens=24",
        "--set",
        "link.unit_mb=0.005",
    ]
    done = in_process("run", *sample_arguments(run, *arguments))
    assert done.returncode == 0, done.stderr
    for table in ("importance", "examples", "knowledge"):
        assert rows_of(run, table) == rows_of(shards, table)


def test_another_model_redoes_importance_and_shards(
    shards: Path, model: Path, tmp_path: Path
) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    shutil.copytree(shards, run)
    shutil.copytree(model, other)
    done = in_process(
        "run",
        *sample_arguments(
            run, "--set", f"importance.model={other}", "--set", "shards.max_tokens=24"
        ),
    )
    assert done.stderr.count("up to date, skipped") == 6


@pytest.mark.parametrize("replacement", ["unk", "delete"])
def test_other_replacements(shards: Path, model: Path, tmp_path: Path, replacement: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(shards, run)
    settings = [
        "--set",
        f"importance.replacement={replacement}",
        "--set",
        "importance.max_tokens=16",
    ]
    done = in_process("importance", *sample_arguments(run, "--model", str(model), *settings))
    assert done.returncode == 0, done.stderr
    assert rows_of(run, "importance") != rows_of(shards, "importance")


def test_models_that_will_not_do(tmp_path: Path, model: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"]}')
    with pytest.raises(StageError, match="no masked language model"):
        check_model(str(tmp_path))
    (tmp_path / "config.json").unlink()
    with pytest.raises(StageError, match=r"no config\.json"):
        check_model(str(tmp_path))
    with pytest.raises(StageError, match="tokenizer cannot be loaded"):
        TextTokenizer(str(tmp_path))
    check_model("bert-base-uncased")


@pytest.mark.parametrize("sentences", [0, 2048])
def test_units_without_sentences_and_with_a_whole_chunk(
    model: Path, sample_run: Path, tmp_path: Path, sentences: int
) -> None:
    run = tmp_path / "run"
    shutil.copytree(sample_run / "kb", run / "kb")
    (tmp_path / "corpus.txt").write_text("Paris is nice\n" * max(sentences, 1))
    settings = [
        "--set",
        "documents.inputs=" + json.dumps([str(tmp_path / "corpus.txt")]),
        "--set",
        "link.spacy_model=blank:en",
    ]
    if not sentences:  # every span is given by a gold file, and the only document is not in it
        (tmp_path / "gold.jsonl").write_text('{"doc_id": "other", "text": "x", "mentions": []}\n')
        settings += ["--set", f"link.gold_spans={tmp_path / 'gold.jsonl'}"]
    done = in_process(
        "run", *sample_arguments(run, *settings, "--set", f"importance.model={model}")
    )
    assert done.returncode == 0, done.stderr
    assert len(rows_of(run, "examples")) == sentences
