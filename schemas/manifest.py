"""Describe a finished stage in its manifest, which is written last: it makes the stage's output
exist.

Goes in: `manifest.json` in a stage's folder. Comes out: the list of files of each table, with rows,
bytes and sha256. Paths are relative to the folder, so a run can be moved. Readers take their files
from here, never from a glob.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class PartFile:
    """Describe one file of a table; `path` is relative to the stage's folder."""

    path: str
    rows: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class TableFiles:
    """List the files of one table."""

    version: int
    rows: int
    files: tuple[PartFile, ...]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Say what a finished stage wrote, from what, and under which configuration."""

    stage: str
    # Hash of stage, configuration, code version and the inputs' fingerprints.
    fingerprint: str
    code_version: str
    tables: dict[str, TableFiles]
    # Rows in, rows out, rejects, and what was skipped.
    counters: dict[str, int] = field(default_factory=dict)
    # Stage or file -> fingerprint.
    inputs: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    # Other artefacts: name -> relative path or value.
    extra: dict[str, str] = field(default_factory=dict)
    # Wall-clock seconds of all units of work together, whether they ran side by side or not.
    seconds: float = 0.0
    created: str = ""

    def to_json(self) -> str:
        """Return the manifest as JSON text, its keys sorted."""
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
                    files=tuple(PartFile(**entry) for entry in table["files"]),
                )
                for name, table in raw.pop("tables").items()
            }

            return cls(tables=tables, **raw)
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{where}: not a TRELM manifest ({error}); remove the folder and run the stage again"
            ) from error
