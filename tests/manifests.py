"""Change a stage's files or manifest on purpose: what it says is then wrong, not damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from schemas.checksums import checksum_of, sealed, unsealed
from schemas.manifest import MANIFEST_NAME


def change_manifest(stage: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change what the manifest in a stage's folder says, and seal it again."""
    path = stage / MANIFEST_NAME
    values = unsealed(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(sealed(values), encoding="utf-8")


def list_again(stage: Path) -> None:
    """Write lengths and checksums of the files into the manifest, as they are now."""

    def change(values: dict[str, Any]) -> None:
        tables = values["tables"].values()
        for entry in [*values["artefacts"], *(part for table in tables for part in table["files"])]:
            entry["num_bytes"], entry["sha256"] = checksum_of(stage / entry["path"])

    change_manifest(stage, change)
