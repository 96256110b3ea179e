import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from schemas.documents import DOCUMENTS
from schemas.errors import ConfigError, TrelmError
from schemas.manifest import Manifest, PartFile, TableFiles
from tests.trelm_train import world
from trelm_train.cli import cli
from trelm_train.config import TrainConfig
from trelm_train.data.shards import sha256_of
from trelm_train.init import InitRequest, init, sentence_windows, train_tokenizer


def write_documents(folder: Path, texts: list[str]) -> Path:
    folder.mkdir()
    rows = [(f"d{number}", "title", text, "test") for number, text in enumerate(texts)]
    pq.write_table(DOCUMENTS.from_rows(rows), folder / "documents.parquet")  # type: ignore[arg-type]
    path = folder / "documents.parquet"
    part = PartFile(
        path=path.name, rows=len(rows), num_bytes=path.stat().st_size, sha256=sha256_of(path)
    )
    manifest = Manifest(
        stage="documents", fingerprint="f", code_version="c",
        tables={"documents": TableFiles(version=DOCUMENTS.version, rows=len(rows), files=(part,))},
    )  # fmt: skip
    (folder / "manifest.json").write_text(manifest.to_json())
    return folder


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    texts = [template.format(h=fact[0], t=fact[2]) for template, fact in world.sentences()]
    return write_documents(
        tmp_path / "documents", [" ".join(texts[i : i + 4]) for i in range(0, len(texts), 4)]
    )


@pytest.mark.slow
def test_a_model_from_documents(documents: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    out = tmp_path / "model"
    shape = ["--vocab-size", "300", "--layers", "2", "--hidden", "32"]
    warmup = ["--warmup-steps", "40", "--batch-tokens", "256", "--learning-rate", "0.005"]
    command = ["init", "--documents", str(documents), "--out", str(out), *shape, *warmup, "--json"]
    result = CliRunner().invoke(cli, command, catch_exceptions=False)
    summary = json.loads(result.stdout)
    assert summary["sentences"] == len(world.sentences())
    assert summary["loss_last"] < 0.9 * summary["loss_first"]
    model, info = AutoModelForMaskedLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.config.num_hidden_layers == 2
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert len(tokenizer) == summary["vocabulary"] == model.config.vocab_size
    assert tokenizer("Zenda")["input_ids"] == tokenizer("zenda")["input_ids"]
    assert sorted(path.name for path in out.iterdir()) == [
        "checksums.json", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    again = CliRunner().invoke(cli, command)
    assert isinstance(again.exception, ConfigError)
    assert "holds a model already" in str(again.exception)


def test_no_warm_up(documents: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        cli, ["init", "--documents", str(documents), "--out", str(tmp_path / "m"), "--warmup-steps", "0", "--hidden", "32"],
        catch_exceptions=False,
    )  # fmt: skip
    assert "0 steps" in result.output
    assert (tmp_path / "m" / "model.safetensors").is_file()


def test_an_empty_corpus(tmp_path: Path) -> None:
    with pytest.raises(TrelmError, match="hold no text"):
        init(InitRequest(documents=write_documents(tmp_path / "d", [" ", ""]), out=tmp_path / "m"))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"hidden": 30, "heads": 4}, "multiple of --heads"), ({"vocab_size": 10}, "at least 100")],
)
def test_impossible_options(
    options: dict[str, int], message: str, documents: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        init(
            InitRequest(
                documents=documents, out=tmp_path / "m", warmup=TrainConfig(steps=1), **options
            )
        )


def test_windows_of_long_sentences() -> None:
    tokenizer = train_tokenizer(lambda: iter(["alpha beta gamma delta"] * 4), 200)
    windows = list(sentence_windows(tokenizer, "alpha beta. " + "gamma " * 300))
    assert [len(ids) for ids, _ in windows[:2]] == [len(windows[0][0]), 128]
    for ids, starts in windows:
        assert ids[0] == tokenizer.cls_token_id
        assert ids[-1] == tokenizer.sep_token_id
        assert starts[0] == 1
        assert all(0 < start < len(ids) - 1 for start in starts)
    assert list(sentence_windows(tokenizer, "\n \n")) == []


@pytest.mark.parametrize("size", [120, 5000])
def test_the_same_texts_give_the_same_vocabulary(size: int) -> None:
    texts = [template.format(h=fact[0], t=fact[2]) for template, fact in world.sentences()]
    first, second = (train_tokenizer(lambda: iter(texts), size).get_vocab() for _ in range(2))
    assert first == second
    assert len(first) <= size
