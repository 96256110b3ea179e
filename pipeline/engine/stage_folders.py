"""Name the folders of a stage's output, and remove those of its earlier versions."""

from __future__ import annotations

from pipeline.engine import files
from pipeline.engine.tables import DATA_PREFIX
from schemas.outputs import DATA_NAME, UNITS

# Folder for what one phase leaves for the next; removed when the stage has finished.
SPILL = "_spill"
# Folder for files that have no final name yet. It goes last: where it is there beside a manifest, a
# program was killed before it had ended all that a stage ends with.
SCRATCH = "_tmp"


def remove_older(folder: str, data_folder: str) -> None:
    """Remove the files of earlier versions of a stage's output, and what its own phases left.

    Only folders that a stage names so, and in which it has put reports of its units, are removed: a
    user may have put `data-raw` beside them, or a folder that is called after a hash of their own.

    Args:
        folder: of the stage.
        data_folder: the folder in it that stays.
    """
    for name in own_data_folders(folder):
        if name != data_folder:
            files.remove(files.join(folder, name))
    files.remove(files.join(folder, data_folder, SPILL))


def own_data_folders(folder: str) -> list[str]:
    """Return the names of the folders of a stage's versions, none that a user has made."""
    start = len(folder.rstrip("/")) + 1
    paths = [entry.path for entry in files.list_files(files.join(folder, f"{DATA_PREFIX}*", "**"))]
    # A bucket has no empty folders: there a report has to be in it.
    with_units = {path[start:].split("/")[0] for path in paths if f"/{UNITS}/" in path[start:]}
    return [
        name
        for name in sorted({path[start:].split("/")[0] for path in paths})
        if DATA_NAME.fullmatch(name)
        and (name in with_units or files.exists(files.join(folder, name, UNITS)))
    ]
