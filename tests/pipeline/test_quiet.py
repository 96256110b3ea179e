"""What stands on the terminal where the extras are not installed, with worker processes: our own lines and nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pausing import PATIENCE_S
from tests.pipeline.cases import ROOT, SAMPLE

# Clients of the clouds, as in an environment with the extra `pipeline` alone.
ABSENT = """
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("apitools", "google.cloud", "google.auth", "gcsfs", "s3fs", "boto", "bson", "hdfs")):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""


@pytest.mark.slow
def test_without_the_extras_only_our_own_lines_are_shown(tmp_path: Path) -> None:
    """Also where the working folder has a package that is called like ours: workers start there."""
    (tmp_path / "absent").mkdir()
    (tmp_path / "absent" / "sitecustomize.py").write_text(ABSENT)
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "__init__.py").write_text("raise RuntimeError('not ours')\n")
    path = f"{tmp_path / 'absent'}{os.pathsep}{ROOT}"
    done = subprocess.run(
        [sys.executable, "-P", "-c", "from pipeline.start import main; main()",
         "kb", "--dump", str(SAMPLE / "entities.json"), "--run", "run", "--workers", "2"],
        check=False, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path},
        timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert lines
    assert not [line for line in lines if not re.match(r"\d\d:\d\d:\d\d kb: ", line)]
