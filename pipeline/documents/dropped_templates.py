"""Count the templates that were dropped, by name, over all units of `documents`.

A unit leaves its counts in a file of its own, since a wiki has tens of thousands of names; the
stage's last step adds them up, and the manifest keeps the most frequent ones.
"""

from __future__ import annotations

import json
from collections import Counter

from pipeline.engine import files
from pipeline.engine.spill import spill_folder

# Key of the manifest's `extra`.
DROPPED = "dropped_templates"
# Names that the manifest keeps.
MAX_NAMES = 50


def leave_dropped(data: str, unit: int, dropped: Counter[str]) -> None:
    """Leave the counts of a unit; nothing where no template was dropped."""
    if dropped:
        path = files.join(spill_folder(data), f"templates-{unit:05d}.json")
        files.write_bytes(path, json.dumps(dropped).encode())


def most_dropped(data: str) -> dict[str, str]:
    """Return the most frequent names with their counts as JSON, for the manifest."""
    total: Counter[str] = Counter()
    for entry in files.list_files(files.join(spill_folder(data), "templates-*.json")):
        total.update(json.loads(files.read_bytes(entry.path)))
    if not total:
        return {}
    # By count, then by name, whatever the order of the units.
    ranked = sorted(total.items(), key=lambda item: (-item[1], item[0]))
    return {DROPPED: json.dumps(dict(ranked[:MAX_NAMES]), ensure_ascii=False)}
