"""Say what the writer of checkpoints asks of whoever sends them elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Uploads(Protocol):
    """Send what was written to where the run belongs, a bucket."""

    def checkpoint_saved(self, folder: Path, keep: int) -> None:
        """Send a checkpoint; of those before it the newest `keep` and the best stay there."""

    def best_marked(self, mark: Path, keep: int) -> None:
        """Send the mark of the best checkpoint."""

    def wait(self) -> None:
        """Wait until all of it has been sent."""
