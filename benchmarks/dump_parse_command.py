"""Run the stage as a user does: `trelm-pipeline kb` on Beam's local runner.

Apart from the rest of `dump_parse`, for nothing heavy may be imported here: a process's peak memory
is also that of the program it was before an exec.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any


def run_command(out: Path, path: str, unit_mb: float, workers: int) -> dict[str, Any]:
    """Run the command `trelm-pipeline kb` on Beam's local runner, start-up included.

    Raises:
        RuntimeError: it failed; carries what it wrote.
    """
    command = [
        sys.executable,
        "-m",
        "pipeline.cli",
        "kb",
        "--run",
        str(out / "run"),
        "--dump",
        path,
    ]
    command += ["--workers", str(workers), "--set", f"kb.unit_mb={unit_mb}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-4000:])
    return {}
