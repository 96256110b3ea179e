import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from trelm_train.cli import cli

FORBIDDEN = ("pipeline", "apache_beam", "spacy", "duckdb", "rapidfuzz")


def commands(group: click.Group, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [prefix]
    for name, command in group.commands.items():
        found += (
            commands(command, (*prefix, name))
            if isinstance(command, click.Group)
            else [(*prefix, name)]
        )
    return found


@pytest.mark.parametrize("command", commands(cli))
def test_every_command_has_help_with_an_example(command: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli, [*command, "--help"])
    assert result.exit_code == 0
    assert "Example" in result.output
    assert "trelm-train " in result.output


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, trelm_train.cli as c\ntry: c.cli.main(['--help'])\nexcept SystemExit: pass\n"
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'numpy', 'pyarrow')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0


@pytest.mark.slow
def test_no_module_imports_the_pipeline_or_its_libraries() -> None:
    code = f"""
import importlib, json, pkgutil, sys
import trelm_train
names = [m.name for m in pkgutil.walk_packages(trelm_train.__path__, "trelm_train.") if not m.name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
import transformers, torch.utils.tensorboard
json.dump([names, [name for name in {FORBIDDEN!r} if name in sys.modules]], sys.stdout)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names, found = json.loads(done.stdout)
    assert len(names) > 20
    assert found == []


@pytest.mark.slow
def test_a_whole_run_imports_nothing_of_the_pipeline(
    shards_path: Path, model_path: Path, tmp_path: Path
) -> None:
    arguments = [
        "run",
        "--shards",
        str(shards_path),
        "--model",
        str(model_path),
        "--out",
        str(tmp_path / "out"),
        "--steps",
        "1",
    ]
    code = f"""
import sys
from trelm_train.cli import cli
cli.main({[*arguments, "--set", "train.max_tokens=48"]!r}, standalone_mode=False)
sys.exit(any(name in sys.modules for name in {FORBIDDEN!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "1 steps" in done.stdout


@pytest.mark.slow
def test_importing_changes_nothing() -> None:
    code = (
        "import torch; a = torch.get_rng_state(); import trelm_train.training.train; "
        "assert torch.equal(a, torch.get_rng_state())"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode
        == 0
    )


def run_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trelm_train", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_wrong_usage_ends_with_2_and_says_what_to_do(tmp_path: Path) -> None:
    done = run_cli(
        "run",
        "--shards",
        str(tmp_path),
        "--model",
        "m",
        "--out",
        str(tmp_path / "o"),
        "--set",
        "train.stps=1",
    )
    assert done.returncode == 2
    assert "did you mean 'steps'" in done.stderr
    assert "Traceback" not in done.stderr
    done = run_cli("run", "--shrads", "x")
    assert done.returncode == 2
    assert "--shards" in done.stderr


def test_run_and_resume_print_a_summary(
    shards_path: Path, model_path: Path, tmp_path: Path
) -> None:
    config = tmp_path / "c.toml"
    config.write_text(
        "[train]\nbatch_tokens = 256\nmax_tokens = 48\nthreads = 1\n[routing]\nprobe_facts = 8\n"
    )
    out = tmp_path / "out"
    result = CliRunner().invoke(
        cli, ["run", "--shards", str(shards_path), "--model", str(model_path), "--out", str(out), "--config", str(config),
              "--steps", "2", "--seed", "1", "--device", "cpu"], catch_exceptions=False,
    )  # fmt: skip
    assert "2 steps" in result.output
    assert "seed = 1" in (out / "config.toml").read_text()
    assert (
        "2 steps"
        in CliRunner().invoke(cli, ["resume", "--out", str(out)], catch_exceptions=False).output
    )
