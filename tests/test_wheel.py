"""Both programs run from a built wheel, outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without isolation: the build backend is a development dependency."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    done = subprocess.run(
        [*command, "--wheel-dir", str(folder), str(ROOT)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return next(folder.glob("trelm-*.whl"))


def test_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if not name.startswith("trelm-")} == {
        "pipeline",
        "trelm_train",
        "schemas",
    }
    assert {"pipeline/report/report.css", "pipeline/report/report.js"} <= set(names), (
        "what the report's page is made of"
    )
    entry_points = next(name for name in names if name.endswith("entry_points.txt"))
    text = zipfile.ZipFile(wheel).read(entry_points).decode()
    assert "trelm-pipeline = pipeline.start:main" in text
    assert "trelm-train = trelm_train.start:main" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "arguments", "said"),
    [
        ("pipeline.cli", ["kb", "--run", "run", "--dump", "entities.json"], "entities 358"),
        ("trelm_train", ["init", "--documents", "run/documents", "--out", "model"], "documents"),
    ],
)
def test_program_runs_outside_the_checkout(
    wheel: Path, tmp_path: Path, module: str, arguments, said: str
) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    (tmp_path / "entities.json").write_bytes(
        (ROOT / "examples" / "tiny" / "entities.json").read_bytes()
    )
    # -P and a path of its own: neither the checkout nor its editable install is found first
    env = {**os.environ, "PYTHONPATH": str(site)}
    where = f"import {module.split('.')[0]} as package; print(package.__file__)"
    found = subprocess.run(
        [sys.executable, "-P", "-c", where],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=env,
    )
    assert found.stdout.startswith(str(site))
    done = subprocess.run(
        [sys.executable, "-P", "-m", module, *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=env,
    )
    assert said in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
