"""Tables: declared once, versioned; a reader refuses what is not its table."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas import BY_NAME, DOCUMENTS, EXAMPLES, LINKS, PROBE_TABLES, TABLES, SchemaError
from schemas.shards import POLICY_BITS

ALL_TABLES = (*TABLES, *PROBE_TABLES)
GOLDEN = Path(__file__).parent / "golden_columns.json"


def described() -> dict[str, object]:
    return {
        table.name: {
            "version": table.version,
            "key": list(table.key),
            "columns": {
                column.name: f"{column.type}{' null' if column.nullable else ''}"
                for column in table.columns
            },
        }
        for table in ALL_TABLES
    }


def test_columns_match_the_golden_file() -> None:
    """A change of a table is a decision: bump its version, then write the golden file again (see
    CONTRIBUTING).
    """
    assert described() == json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("table", ALL_TABLES, ids=lambda table: table.name)
def test_every_column_and_key_is_described(table) -> None:
    assert set(table.key) <= set(table.column_names)
    assert len(set(table.column_names)) == len(table.columns)
    for column in table.columns:
        assert column.meaning, f"{table.name}.{column.name} has no meaning"
        assert column.nullable == bool(column.null_means)
        if pa.types.is_list(column.type):
            assert not column.type.value_field.nullable, (
                f"{table.name}.{column.name}: elements may not be null"
            )


def test_schema_survives_parquet(tmp_path: Path) -> None:
    for table in ALL_TABLES:
        path = tmp_path / f"{table.name}.parquet"
        pq.write_table(table.empty(), path)
        table.check(pq.read_schema(path), str(path))


def test_reader_refuses_another_table_and_another_version(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="holds table 'documents', but 'links' was expected"):
        LINKS.check(DOCUMENTS.schema, "f.parquet")
    older = DOCUMENTS.schema.with_metadata({**DOCUMENTS.schema.metadata, b"trelm.version": b"0"})
    with pytest.raises(SchemaError, match="version 0, this program reads version 1"):
        DOCUMENTS.check(older, "f.parquet")
    with pytest.raises(SchemaError, match="not a TRELM table"):
        DOCUMENTS.check(pa.schema([pa.field("a", pa.int64())]), "f.parquet")


ROW = {"doc_id": ["1"], "title": [""], "text": ["Paris"], "source": ["a"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"titel": ["x"]}, "titel"),  # a misspelt column is no new column
        ({"text": [None]}, "a null has no meaning"),
        ({"text": [5]}, "documents.text"),  # wrong type
    ],
)
def test_wrong_rows_are_refused(change, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        DOCUMENTS.from_columns({**ROW, **change})


def test_missing_column_is_refused() -> None:
    with pytest.raises(SchemaError, match="source"):
        DOCUMENTS.from_columns({name: values for name, values in ROW.items() if name != "source"})


def test_policy_bits_are_distinct_and_fit() -> None:
    assert len(set(POLICY_BITS.values())) == len(POLICY_BITS)
    assert max(POLICY_BITS.values()) < 2**16
    assert BY_NAME["examples"] is EXAMPLES
