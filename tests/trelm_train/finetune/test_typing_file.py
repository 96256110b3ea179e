import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.errors import ConfigError
from trelm_train.finetune.examples import Example, Span
from trelm_train.finetune.typing_file import read_typing

ROW = {"sent": "Café Flavia opens .", "start": 5, "end": 11, "labels": ["place", "bar", "place"], "ents": []}  # fmt: skip
EXAMPLE = Example(
    text="Café Flavia opens .",
    spans=(Span(start=5, end=11, kind="entity"),),
    labels=("place", "bar"),
)


@pytest.mark.parametrize("form", ["list", "lines", "one row"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_every_form_reads_the_same(
    tmp_path: Path, form: str, pack: Callable[[bytes], bytes]
) -> None:
    row = json.dumps(ROW, ensure_ascii=False)
    text = {"list": f"\ufeff[{row},\n{row}]", "lines": f"{row}\n\n{row}\n", "one row": row}[form]
    path = tmp_path / "rows"
    path.write_bytes(pack(text.encode()))
    found = read_typing(path)
    assert found.examples == [EXAMPLE] * (1 if form == "one row" else 2)
    assert found.examples[0].text[5:11] == "Flavia"


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"end": 99}, r"row 2: the span \[5, 99\) is not inside the sentence of 19"),
        ({"start": 12}, r"the span \[12, 11\)"),
        ({"start": -1}, r"the span \[-1, 11\)"),
        ({"start": 5.0}, "'start' must be a whole number, but is 5.0"),
        ({"start": True}, "'start' must be a whole number"),
        ({"labels": "place"}, "'labels' must be a list"),
        ({"labels": [1]}, "'labels' must be a text, but is 1"),
        ({"sent": None}, "'sent' must be a text"),
        ({"sent": "\ud800" * 19}, "a broken character"),
        ({"labels": None}, "must be a list"),
    ],
)
def test_wrong_rows_are_named(tmp_path: Path, change: dict[str, object], part: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([ROW, ROW | change]))
    with pytest.raises(ConfigError, match=part):
        read_typing(path)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "the file is empty"),
        (b" \n", "the file is empty"),
        (b"[]", "has no rows"),
        (b"[1]", "row 1: must be a JSON object"),
        (b'[{"sent": "a"}]', "the row has no 'start'"),
        (b'[{"sent": "a"', "not JSON"),
        (b'{"sent": "a"}\n{"b', ":2: not JSON"),
        (b"sent\tlabels\n", "not JSON; write a list"),
        (b"[\xff]", "not UTF-8 text"),
        (gzip.compress(b"[]", mtime=0)[:-4], "damaged gzip"),
        (b"[" * 100_000, "nested too deep"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, content: bytes, part: str) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=part):
        read_typing(path)


def test_an_empty_span_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([ROW | {"end": 5}]))
    assert read_typing(path).examples[0].spans == (Span(start=5, end=5, kind="entity"),)
