"""Documents with known links (`documents.links_field`): what becomes an anchor, what is a reject,
what is left out.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.config import DocumentsConfig
from pipeline.documents import stage as documents
from pipeline.engine.tables import RunPaths
from schemas import ANCHORS, DOCUMENTS, REJECTS
from tests.pipeline.inputs_run import rows_of, run_plan

TEXT = "Zoë saw Paris 😀 in France"  # 25 code points
LENGTH = len(TEXT)


def read(folder: Path, *rows: object, links_field: str = "links") -> RunPaths:
    path = folder / "d.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    paths = RunPaths(root=str(folder / "run"))
    run_plan(
        documents.plan(DocumentsConfig(inputs=(str(path),), links_field=links_field), paths), paths
    )
    return paths


def anchors(paths: RunPaths) -> list[tuple[object, ...]]:
    return [tuple(row.values()) for row in rows_of(paths, "documents", ANCHORS)]


def link(start: object, end: object, qid: object = "Q90", **more: object) -> dict[str, object]:
    return {"start": start, "end": end, "qid": qid, **more}


@pytest.mark.parametrize(
    ("links", "wanted"),
    [
        ([link(8, 13)], [(8, 13, 90)]),
        ([link(8, 13, 90)], [(8, 13, 90)]),  # a number
        ([link(8, 13, "90")], [(8, 13, 90)]),
        (
            [link(0, 3, "Q7"), link(19, LENGTH, "Q142")],
            [(0, 3, 7), (19, LENGTH, 142)],
        ),  # code points, to both ends
        ([link(8, 13, None), link(0, 3, "Q7")], [(0, 3, 7)]),  # the item is not known: no anchor
        ([{"start": 8, "end": 13}], []),
        (
            [link(8, 13, "Q90"), link(8, 13, "Q830149")],
            [(8, 13, 830149)],
        ),  # one link per span, the last one
        ([link(8, 13, "Q4199999999")], [(8, 13, 4199999999)]),
        ([link(8, 13, "U7")], [(8, 13, 4200000007)]),
        ([link(8, 13, surface="Paris", score=0.5)], [(8, 13, 90)]),  # other keys are left alone
        ([], []),
    ],
)
def test_links_become_anchors(tmp_path: Path, links: list, wanted: list) -> None:
    paths = read(tmp_path, {"id": "a", "text": TEXT, "links": links})
    assert anchors(paths) == [("a", *row) for row in wanted]
    assert [row["text"] for row in rows_of(paths, "documents", DOCUMENTS)] == [TEXT]


@pytest.mark.parametrize(
    ("links", "problem"),
    [
        ({"start": 8}, 'no list of {"start", "end", "qid"}'),
        ("Q90", "no list"),
        (None, "no list"),
        ([[8, 13, "Q90"]], "no list"),
        ([{"start": 8, "qid": "Q90"}], "no list"),
        ([link("8", 13)], "no list"),
        ([link(8, 13, 1.5)], "no list"),
        ([link(8, LENGTH + 1)], f"8-{LENGTH + 1} lies outside the text of {LENGTH} code points"),
        ([link(-1, 3)], "-1-3 lies outside"),
        ([link(8, 8)], "8-8 lies outside"),  # empty
        ([link(13, 8)], "13-8 lies outside"),
        ([link(8, LENGTH + 1, None)], "lies outside"),  # known or not
        ([link(8, 13, "P31")], "'P31' is no item"),
        ([link(8, 13, "Q0")], "'Q0' is no item"),
        ([link(8, 13, -5)], "-5 is no item"),
        ([link(8, 13, "Q4200000000")], "is no item"),
        ([link(8, 13, "U94967296")], "is no item"),
        ([link(8, 13, "Q９０")], "is no item"),  # digits of another script
        ([link(8, 13, "Q")], "'Q' is no item"),
        ([link(8, 13, "")], "'' is no item"),  # null says that it is not known
        (
            [link(0, 3), link(8, 13, "Paris")],
            "'Paris' is no item",
        ),  # no anchor of a document that is none
    ],
)
def test_bad_links_reject_their_document_only(tmp_path: Path, links: object, problem: str) -> None:
    good = {"id": "good", "text": TEXT, "links": [link(8, 13)]}
    paths = read(tmp_path, {"id": "bad", "text": TEXT, "links": links}, good)
    assert anchors(paths) == [("good", 8, 13, 90)]
    (reject,) = rows_of(paths, "documents", REJECTS)
    assert reject["reason"].startswith("field 'links': ")
    assert problem in reject["reason"]


def test_documents_without_the_field_and_runs_without_the_setting(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "text": TEXT},
        {"id": "b", "text": TEXT, "known": [link(8, 13)], "links": "anything"},
    ]
    for name, wanted in (("known", [("b", 8, 13, 90)]), ("", [])):
        folder = tmp_path / f"by-{name}"
        folder.mkdir()
        paths = read(folder, *rows, links_field=name)
        assert anchors(paths) == wanted
        assert len(rows_of(paths, "documents", DOCUMENTS)) == 2
