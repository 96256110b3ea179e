import json
from pathlib import Path

import pytest


@pytest.fixture
def probes(tmp_path: Path) -> Path:
    folder = tmp_path / "probes"
    folder.mkdir()
    rows = [
        {"sub_label": "Rudolf Rassendyll", "obj_label": "Zenda", "uuid": "1"},
        {"sub_label": "Flavia", "obj_label": "town"},
        {"sub_label": "Flavia", "obj_label": "town"},  # twice
        {"sub_label": "the king", "obj_label": "king"},  # the object is in the subject
        {"sub_label": "Joseph", "obj_label": "Timbuktu by the sea"},  # more than one token
        {
            "sub_label": "Shuri",
            "obj_label": "rain",
            "judgments": [{"judgment": "no"}, {"judgment": "no"}, {"judgment": "yes"}],
        },
        {"sub_label": "king " * 80, "obj_label": "town"},
        {"sub_label": "[MASK]", "obj_label": "town"},
        {"uuid": "nothing"},
    ]
    (folder / "P1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "\n")
    (folder / "P2.jsonl").write_text(
        json.dumps({"sub_label": "Mona", "obj_label": "Timbuktu by the sea"}) + "\n"
    )
    relations = [
        {"relation": "P1", "template": "[X] lives in [Y] .", "label": "lives in", "type": "N-1"},
        {"relation": "P2", "template": "[X] saw [Y] .", "label": "saw", "type": "N-M"},
        {"relation": "P3", "template": "[X] is [Y] .", "label": "is", "type": "1-1"},
    ]
    (folder / "relations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in relations))
    (folder / "common.txt").write_text("town\nking\nZenda\nrain\nnosuchwordatall\n\nlast\n")
    return folder
