import contextlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from schemas.errors import ConfigError, TrelmError
from schemas.shards import EXAMPLES
from schemas.table import VERSION_KEY
from tests.manifests import change_manifest, list_again
from tests.pausing import PATIENCE_S
from tests.trelm_train import world
from tests.trelm_train.conftest import request_for
from trelm_train.data.knowledge import Knowledge, load_knowledge
from trelm_train.data.sentences import read_sentences
from trelm_train.data.shards import Shards, open_shards, read_lists
from trelm_train.training.session import start_run


@pytest.fixture
def copy(shards_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shards_path, tmp_path / "shards"))


def test_what_is_in_a_folder(shards: Shards) -> None:
    assert sum(group.num_rows for group in shards.row_groups) == len(world.sentences())
    assert [group.first_row for group in shards.row_groups[:2]] == [0, 16]
    assert len(shards.fingerprint) == 64
    assert shards.model == "the test model"


def test_knowledge_by_row(knowledge: Knowledge) -> None:
    town = world.ROW["Zenda"]
    assert knowledge.label(town) == "Zenda"
    assert knowledge.num_bank_rows == len(world.ENTITIES)
    assert knowledge.true_tails(town, world.ROW[world.COUNTRY]).tolist() == [world.ROW["Ruritania"]]
    assert knowledge.true_tails(town, world.ROW[world.LIVES]).tolist() == []


def test_not_a_shards_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no manifest.json"):
        open_shards(tmp_path)
    (tmp_path / "manifest.json").write_text("<html>")
    with pytest.raises(ConfigError, match="not a TRELM manifest"):
        open_shards(tmp_path)
    (tmp_path / "manifest.json").write_text(
        '{"stage":"link","fingerprint":"","code_version":"","tables":{}}'
    )
    with pytest.raises(ConfigError, match="holds stage 'link'"):
        open_shards(tmp_path)


def test_a_missing_file(copy: Path) -> None:
    (copy / "knowledge.parquet").unlink()
    with pytest.raises(TrelmError, match="missing"):
        open_shards(copy)


def test_a_truncated_file(copy: Path) -> None:
    path = copy / "knowledge.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(TrelmError, match="bytes where .* were written"):
        open_shards(copy)


def test_a_file_that_is_not_parquet(copy: Path) -> None:
    path = copy / "knowledge.parquet"
    path.write_bytes(b"x" * path.stat().st_size)
    list_again(copy)
    with pytest.raises(TrelmError, match="not a readable Parquet file"):
        open_shards(copy)


@pytest.mark.parametrize("name", ["knowledge.parquet", "examples-1.parquet"])
def test_any_changed_byte_is_noticed(copy: Path, name: str) -> None:
    """Arrow reads most of these files without a word, and other values."""
    path = copy / name
    good = path.read_bytes()
    for place in range(0, len(good), len(good) // 40):
        changed = bytearray(good)
        changed[place] ^= 1 << (place % 8)
        path.write_bytes(changed)
        with pytest.raises(TrelmError, match=rf"{name} was changed after it was written"):
            open_shards(copy)
    path.write_bytes(good)
    open_shards(copy)


def test_a_changed_manifest_is_noticed(copy: Path) -> None:
    path = copy / "manifest.json"
    path.write_text(path.read_text().replace('"model": "the test', '"model": "the best'))
    with pytest.raises(ConfigError, match="not as it was written"):
        open_shards(copy)


def test_the_wrong_table(copy: Path) -> None:
    shutil.copyfile(copy / "examples-0.parquet", copy / "knowledge.parquet")
    list_again(copy)
    with pytest.raises(TrelmError, match="holds table 'examples'"):
        open_shards(copy)


def _without_knowledge(values: dict[str, Any]) -> None:
    del values["tables"]["knowledge"]


def _without_hash(values: dict[str, Any]) -> None:
    del values["extra"]["tokenizer_sha256"]


def _elsewhere(values: dict[str, Any]) -> None:
    values["extra"]["tokenizer"] = "nowhere"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without_knowledge, "lists no table 'knowledge'"),
        (_without_hash, "names no 'tokenizer_sha256'"),
        (_elsewhere, "missing"),
    ],
)
def test_a_wrong_manifest(
    copy: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    change_manifest(copy, change)
    with pytest.raises(TrelmError, match=message):
        open_shards(copy)


def test_shards_of_an_older_version(copy: Path) -> None:
    """Version 1 of `examples` did not say which rows are statements."""
    path = copy / "examples-0.parquet"
    rows = pq.read_table(path).drop_columns(["is_statement"])
    metadata = {**rows.schema.metadata, VERSION_KEY: b"1"}
    pq.write_table(rows.replace_schema_metadata(metadata), path)
    list_again(copy)
    with pytest.raises(
        TrelmError, match="table 'examples' has version 1, this program reads version 2"
    ):
        open_shards(copy)


def test_a_statement_in_the_validation_split_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    columns = world.example_columns(tokenizer)
    columns["is_statement"][columns["split"].index("validation")] = True
    folder = world.write_shards(
        tmp_path / "shards", tokenizer, columns, world.knowledge_columns(tokenizer)
    )
    groups = open_shards(folder).row_groups
    read_sentences(groups, "train")
    with pytest.raises(TrelmError, match="has statements in the validation split"):
        read_sentences(groups, "validation")


def test_another_tokenizer(copy: Path) -> None:
    path = copy / "tokenizer" / "tokenizer.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(TrelmError, match="not the tokenizer these shards were made with"):
        open_shards(copy)


def test_rows_must_count_up(tokenizer: Any, tmp_path: Path) -> None:
    columns = world.knowledge_columns(tokenizer)
    columns["row"][3] = 9
    folder = world.write_shards(
        tmp_path / "s", tokenizer, world.example_columns(tokenizer), columns
    )
    with pytest.raises(TrelmError, match="not 0, 1, 2"):
        load_knowledge(open_shards(folder))


def test_rows_must_exist(tokenizer: Any, tmp_path: Path) -> None:
    columns = world.knowledge_columns(tokenizer)
    columns["triple_other_row"][0] = [999] * len(columns["triple_other_row"][0])
    folder = world.write_shards(
        tmp_path / "s", tokenizer, world.example_columns(tokenizer), columns
    )
    with pytest.raises(TrelmError, match="points to row 999"):
        load_knowledge(open_shards(folder))


def test_the_schema_travels_with_the_file(shards_path: Path) -> None:
    assert pq.read_schema(shards_path / "examples-0.parquet").equals(EXAMPLES.schema)
    assert isinstance(EXAMPLES.empty(), pa.Table)


def test_a_policy_without_bits_is_refused(copy: Path, model_path: Path, tmp_path: Path) -> None:
    """It would choose no mention, and nothing would say so."""
    open_shards(copy).check_policy("klt", setting="injection.policy")
    chosen = {"policies": ["all", "importance"]}
    change_manifest(copy, lambda values: values.update(config=chosen))
    open_shards(copy).check_policy("all", setting="injection.policy")
    for policy, is_wrong in (("klt", True), ("none", False)):
        request = request_for(copy, model_path, tmp_path / policy, f"injection.policy={policy}")
        with (
            pytest.raises(ConfigError, match="--policy klt")
            if is_wrong
            else contextlib.nullcontext()
        ):
            start_run(request)


LISTS = [column.name for column in EXAMPLES.columns if pa.types.is_list(column.type)]


def test_lists_are_views_of_every_row(shards: Shards, shards_path: Path) -> None:
    rows = [
        row
        for number in (0, 1)
        for row in pq.read_table(shards_path / f"examples-{number}.parquet").to_pylist()
    ]
    seen = 0
    for group, lists in zip(shards.row_groups, read_lists(shards.row_groups, LISTS), strict=True):
        assert seen == group.first_row
        for name, found in lists.items():
            assert not found.values.flags.owndata
            assert not found.values.flags.writeable
            bounds = zip(found.offsets[:-1], found.offsets[1:], strict=True)
            for number, (low, high) in enumerate(bounds, seen):
                assert found.values[low:high].tolist() == rows[number][name]
        seen += group.num_rows
    assert seen == len(rows)


def test_row_groups_in_any_order(shards: Shards) -> None:
    back = list(reversed(shards.row_groups))
    there = list(read_lists(shards.row_groups, ["input_ids"]))
    for found, wanted in zip(read_lists(back, ["input_ids"]), reversed(there), strict=True):
        assert found["input_ids"].values.tolist() == wanted["input_ids"].values.tolist()


def test_a_damaged_file(copy: Path) -> None:
    groups = open_shards(copy).row_groups
    content = bytearray(groups[0].path.read_bytes())
    content[4:2000] = bytes(1996)
    groups[0].path.write_bytes(content)
    with pytest.raises(TrelmError, match="make them again"):
        list(read_lists(groups, ["input_ids", "span_start"]))


def test_reading_needs_pyarrow_alone(shards_path: Path) -> None:
    """No torch, no pandas, no tokenizer."""
    script = (
        "import sys; from pathlib import Path; from trelm_train.data.shards import open_shards, read_lists\n"
        "groups = open_shards(Path(sys.argv[1])).row_groups\n"
        "count = sum(len(lists['input_ids'].values) for lists in read_lists(groups, ['input_ids']))\n"
        "print(count, *{name.split('.')[0] for name in sys.modules} & {*sys.argv[2:]})"
    )
    banned = [
        "torch",
        "pandas",
        "transformers",
        "tokenizers",
        "apache_beam",
        "duckdb",
        "spacy",
        "pipeline",
    ]
    done = subprocess.run(
        [sys.executable, "-c", script, str(shards_path), *banned],
        check=True,
        text=True,
        capture_output=True,
        timeout=PATIENCE_S,
    )
    total = sum(
        pc.sum(pq.read_table(shards_path / f"examples-{number}.parquet")["n_tokens"]).as_py()
        for number in (0, 1)
    )
    assert done.stdout.split() == [str(total)]
