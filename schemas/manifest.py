"""Describe a finished stage in its manifest, which is written last: it makes the stage's output
exist.

Goes in: `manifest.json` in a stage's folder. Comes out: the list of files of each table, with rows,
bytes and sha256. Paths are relative to the folder, so a run can be moved. Readers take their files
from here, never from a glob. The text carries its own checksum.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from schemas.checksums import sealed, unsealed

MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class PartFile:
    """Describe one file; `path` is relative to the stage's folder."""

    path: str
    # 0 for a file that is no table.
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
    # Hash of stage, configuration, version of the algorithm and the inputs' fingerprints.
    fingerprint: str
    code_version: str
    # Version of the stage's algorithm (`pipeline.flow`); 0 where an older program did not say.
    algorithm: int = 0
    tables: dict[str, TableFiles]
    # Rows in, rows out, rejects, and what was skipped.
    counters: dict[str, int] = field(default_factory=dict)
    # Stage or file -> fingerprint.
    inputs: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    # Files of the other artefacts.
    artefacts: tuple[PartFile, ...] = ()
    # Other artefacts: name -> relative path or value.
    extra: dict[str, str] = field(default_factory=dict)
    # Wall-clock seconds of all units of work together, whether they ran side by side or not.
    seconds: float = 0.0
    created: str = ""

    def to_json(self) -> str:
        """Return the manifest as JSON text, its keys sorted, with a checksum."""
        return sealed(asdict(self))

    @classmethod
    def from_json(cls, text: str, where: str) -> Manifest:
        """Parse a manifest.

        Raises:
            ValueError: the text is not a manifest, or was changed; names the file.
        """
        try:
            raw = unsealed(text)
            tables = {
                name: TableFiles(
                    version=table["version"],
                    rows=table["rows"],
                    files=tuple(PartFile(**entry) for entry in table["files"]),
                )
                for name, table in raw.pop("tables").items()
            }

            artefacts = tuple(PartFile(**entry) for entry in raw.pop("artefacts", ()))
            return cls(tables=tables, artefacts=artefacts, **raw)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{where}: not a TRELM manifest ({error}); run the stage again"
            ) from error

    @property
    def files(self) -> tuple[PartFile, ...]:
        """Return all files: those of the tables, then those of the other artefacts."""
        parts = (entry for table in self.tables.values() for entry in table.files)
        return (*parts, *self.artefacts)
