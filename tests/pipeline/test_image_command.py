"""`image`: the commands it prints and runs, and the entry point and description of the Flex template."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import __version__
from pipeline.engine.beam_runner import RunnerSettings, beam_options
from pipeline.flex_template import words_of
from pipeline.flow import STAGES
from pipeline.stage_commands import OPTIONS
from tests.pipeline.cases import ROOT, in_process, program

HERE = ["--registry", "registry.example/team", "--source", str(ROOT)]


def commands(*options: str) -> list[list[str]]:
    done = in_process("image", *HERE, *options)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if not line.startswith(("cd ", "#"))]
    return [shlex.split(line) for line in lines]


def test_builds_and_pushes_the_version_of_this_program() -> None:
    name = f"registry.example/team/trelm-pipeline:{__version__}"
    build, push = commands()
    assert build == [
        *"docker build --platform linux/amd64 --target pipeline --tag".split(), name, "."
    ]  # fmt: skip
    assert push == ["docker", "push", name]


def test_the_index_of_torch_reaches_the_build() -> None:
    build = commands("--torch-index", "https://wheels.example/cpu")[0]
    assert build[build.index("--build-arg") + 1] == (
        "PIP_EXTRA_INDEX_URL=https://wheels.example/cpu"
    )


def test_a_template_is_built_and_described() -> None:
    place = "gs://bucket/templates/trelm.json"
    *images, describe = commands("--tag", "7", "--flex", place)
    assert [command[-1] for command in images if command[1] == "push"] == [
        "registry.example/team/trelm-pipeline:7",
        "registry.example/team/trelm-flex:7",
    ]
    assert describe[:5] == ["gcloud", "dataflow", "flex-template", "build", place]
    assert (ROOT / describe[-1]).is_file()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--registry", "https://registry.example"], "without https://"),
        (["--registry", "Registry.example"], "in small letters"),
        (["--registry", "registry.example/"], "without a slash at the end"),
        ([*HERE, "--tag", "a b"], "is no tag"),
        (["--registry", "registry.example", "--source", "/"], "has no Dockerfile"),
        ([*HERE, "--flex", "templates/trelm.json"], "--flex gs://BUCKET"),
        ([*HERE, "--flex", "gs://b/t.json", "--target", "train"], "for --target pipeline alone"),
    ],
)
def test_what_an_engine_would_refuse_is_said_at_once(options: list[str], said: str) -> None:
    done = in_process("image", *options)
    assert done.returncode == 2
    assert said in done.stderr


@pytest.mark.parametrize("code", [0, 3])
def test_the_engine_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """One that writes down what it is asked; its pushes end with a code."""
    engine, log = tmp_path / "docker", tmp_path / "log"
    engine.write_text(
        f'#!/bin/sh\npwd >> {log}\necho "$@" >> {log}\ntest "$1" != push || exit {code}\n'
    )
    engine.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    done = program("image", *HERE, "--build", env={"PATH": os.environ["PATH"]})
    asked = log.read_text().splitlines()
    assert asked[1] == "info"
    assert [line.split()[0] for line in asked[3::2]] == ["build", "push"]
    assert set(asked[2::2]) == {str(ROOT)}, "in the checkout"
    assert done.returncode == (1 if code else 0), done.stderr
    if code:
        assert "failed with code 3" in done.stderr


def test_without_an_engine_nothing_is_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = in_process("image", *HERE, "--build")
    assert done.returncode == 1
    assert "neither docker nor podman" in done.stderr
    assert "leave --build out" in done.stderr


def test_a_templates_parameters_are_options_of_the_program() -> None:
    described = json.loads((ROOT / "pipeline" / "flex_template.json").read_text())
    own = {"stage", *(name for option in OPTIONS for name in names_of(option))}
    for parameter in described["parameters"]:
        assert set(parameter) <= {"name", "label", "helpText", "isOptional", "regexes"}
        assert parameter["label"]
        assert parameter["helpText"].endswith(".")
        for pattern in parameter.get("regexes", []):
            re.compile(pattern)
        if parameter["name"] not in own:
            # Beam knows it, or this raises.
            beam_options(RunnerSettings(beam_flags=(f"--{parameter['name']}=min_ram=1GB",)))
    stages = described["parameters"][0]["regexes"][0]
    for stage in STAGES:
        assert re.fullmatch(stages, stage.command)


def names_of(option) -> list[str]:
    def command() -> None:
        pass

    option(command)
    return [parameter.opts[0].removeprefix("--") for parameter in command.__click_params__]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--stage=kb", "--run=gs://b/r"], ["kb", "--runner=DataflowRunner", "--run=gs://b/r"]),
        (["--runner=DataflowRunner", "--stage=kb"], ["kb", "--runner=DataflowRunner"]),
        (["--stage=kb", "--redo=true"], ["kb", "--runner=DataflowRunner", "--redo"]),
        (["--stage=kb", "--redo=false", "--config="], ["kb", "--runner=DataflowRunner"]),
        (["--set=a.b=1;c.d=[\"x\"]", "--stage=kb", "--no_auth"],
         ["kb", "--runner=DataflowRunner", "--set=a.b=1", '--set=c.d=["x"]', "--no_auth"]),
    ],
)  # fmt: skip
def test_parameters_become_words(given: list[str], words: list[str]) -> None:
    assert words_of(given) == words


def test_the_launchers_file_finds_our_packages_and_says_what_is_wrong(tmp_path: Path) -> None:
    """It is run by its path, so Python would look beside it first."""
    script = [sys.executable, str(ROOT / "pipeline" / "flex_template.py")]
    without = subprocess.run(script, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert without.returncode == 1
    assert "give the parameter stage once" in without.stderr
    given = ["--stage=link", "--run=gs://b/run", "--project=trelm-proj", "--region=europe-west1"]
    done = subprocess.run(
        [*script, *given, "--temp_location=gs://bucket/temp", "--template_location=gs://bucket/t"],
        check=False, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "no image, so its workers would run Beam's own" in done.stderr
