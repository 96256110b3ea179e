"""The manifest of a stage: written last, it is what makes the stage's output exist.

Goes in: `manifest.json` in a stage's folder. Comes out: the list of files of each table, with rows, bytes and sha256.
Paths are relative to the folder, so a run can be moved. Readers take their files from here, never from a glob.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class PartFile:
    """One file of a table; `path` is relative to the stage's folder."""

    path: str
    rows: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class TableFiles:
    """The files of one table."""

    version: int
    rows: int
    files: tuple[PartFile, ...]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a finished stage wrote, from what, and under which configuration."""

    stage: str
    fingerprint: str  # hash of stage, configuration, code version and the inputs' fingerprints
    code_version: str
    tables: dict[str, TableFiles]
    counters: dict[str, int] = field(
        default_factory=dict
    )  # rows in, rows out, rejects, what was skipped
    inputs: dict[str, str] = field(default_factory=dict)  # stage or file -> fingerprint
    config: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, str] = field(
        default_factory=dict
    )  # other artefacts: name -> relative path or value
    created: str = ""

    def to_json(self) -> str:
        """JSON text, stable order."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> Manifest:
        """Parse a manifest.

        Raises:
            ValueError: the text is not a manifest; names the file.
        """
        try:
            raw = json.loads(text)
            tables = {
                name: TableFiles(
                    version=table["version"],
                    rows=table["rows"],
                    files=tuple(PartFile(**part) for part in table["files"]),
                )
                for name, table in raw.pop("tables").items()
            }
            return cls(tables=tables, **raw)
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{where}: not a TRELM manifest ({error}); remove the folder and run the stage again"
            ) from error
