import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from schemas.errors import ConfigError, TrelmError
from tests.pausing import PATIENCE_S, wait_until
from tests.trelm_train import forked, world
from tests.trelm_train.conftest import request_for
from trelm_train.checkpoints.checkpoint import latest_checkpoint, list_checkpoints, load_checkpoint
from trelm_train.config import TrainConfig
from trelm_train.model.masked_lm import MaskedLm
from trelm_train.optim import rate_factor
from trelm_train.reporting.metrics import Interval, MetricLog
from trelm_train.training.report import readable
from trelm_train.training.session import rate_scales
from trelm_train.training.signals import InterruptedRun, Stop
from trelm_train.training.step_inputs import stream_step_inputs
from trelm_train.training.train import resume, run, run_or_resume


class StopAfter(Stop):
    """Asks for a stop after a number of readings, as a signal would."""

    def __init__(self, readings: int) -> None:
        self.left = readings

    @property
    def signum(self) -> int:  # type: ignore[override]
        self.left -= 1
        return signal.SIGTERM if self.left < 0 else 0


def same_files(left: Path, right: Path) -> None:
    a, b = load_file(left), load_file(right)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), f"{left.name}: {name}"


def groups_of(checkpoint: Path) -> set[str]:
    return set(load_checkpoint(checkpoint).tensors)


def same_tensors(left: Path, right: Path) -> None:
    a, b = load_checkpoint(left).tensors, load_checkpoint(right).tensors
    assert {name: set(group) for name, group in a.items()} == {
        name: set(group) for name, group in b.items()
    }
    for name, group in a.items():
        for key, value in group.items():
            assert torch.equal(value, b[name][key]), f"{name}/{key}"


def metrics_of(out: Path) -> list[dict[str, Any]]:
    """Logged lines without what depends on the machine."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert all(line.pop("speed", {"tokens_per_s": 1})["tokens_per_s"] > 0 for line in lines)
    return lines


@pytest.fixture(scope="module")
def whole(shards_path: Path, model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of 9 steps with everything on."""
    out = tmp_path_factory.mktemp("train") / "whole"
    run(
        request_for(
            shards_path,
            model_path,
            out,
            "train.steps=9",
            "train.checkpoint_every=4",
            "routing.refresh_every=4",
        )
    )
    return out


@pytest.mark.parametrize("after", [1, 4, 5, 8])
def test_stop_and_resume_equals_no_stop(
    after: int, whole: Path, shards_path: Path, model_path: Path, tmp_path: Path
) -> None:
    """n steps, stop, resume == all steps at once: weights, optimiser, bank, routing, random state,
    losses, bit for bit.
    """
    request = request_for(
        shards_path,
        model_path,
        tmp_path / "out",
        "train.steps=9",
        "train.checkpoint_every=4",
        "routing.refresh_every=4",
    )
    with pytest.raises(InterruptedRun, match="trelm-train resume") as caught:
        run(request, StopAfter(after - 1))
    assert f"after step {after} of 9" in str(caught.value)
    assert caught.value.exit_code == 143
    torch.manual_seed(999)  # whatever happened meanwhile
    summary = resume(request.out)
    left, right = (
        latest_checkpoint(whole / "checkpoints"),
        latest_checkpoint(request.out / "checkpoints"),
    )
    assert left is not None
    assert right is not None
    assert groups_of(left) == {"cka", "model", "optimiser", "router", "sparse"}
    same_tensors(left, right)
    assert (left / "bank.safetensors").read_bytes() == (right / "bank.safetensors").read_bytes()
    same_files(whole / "model" / "model.safetensors", request.out / "model" / "model.safetensors")
    assert metrics_of(request.out) == metrics_of(whole)
    wanted = json.loads((whole / "summary.json").read_text())
    for key in ("loss_first", "loss_last", "validation_after", "tokens", "steps"):
        assert summary[key] == wanted[key]


def test_the_routers_background_survives_a_stop(
    plain_shards_path: Path, model_path: Path, tmp_path: Path
) -> None:
    """Stop between two choices of neurons: what is smoothed goes on from the checkpoint."""
    settings = (
        "train.steps=7", "train.checkpoint_every=3", "routing.refresh_every=3",
        "routing.background_weight=0.5", "routing.probe_at=tail",
    )  # fmt: skip
    whole, stopped = (
        request_for(plain_shards_path, model_path, tmp_path / name, *settings)
        for name in ("whole", "stopped")
    )
    run(whole)
    with pytest.raises(InterruptedRun):
        run(stopped, StopAfter(4))
    torch.manual_seed(999)
    resume(stopped.out)
    left, right = (latest_checkpoint(request.out / "checkpoints") for request in (whole, stopped))
    assert left is not None
    assert right is not None
    assert "background" in load_checkpoint(left).tensors["router"]
    same_tensors(left, right)
    same_files(whole.out / "model/model.safetensors", stopped.out / "model/model.safetensors")


def test_a_run_leaves_everything_a_user_needs(whole: Path) -> None:
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["steps"] == 9
    assert summary["validation_before"]["loss"] != summary["validation_after"]["loss"]
    assert 0 < summary["weights_updated_share"] < 0.3
    assert set(summary["seconds"]) >= {
        "attribution",
        "memory",
        "forward_backward",
        "optimiser",
        "data",
        "checkpoint",
    }
    assert summary["bank_rows_written"] > 0
    assert [line["step"] for line in metrics_of(whole)] == [2, 4, 6, 8, 9]
    assert list((whole / "tensorboard").iterdir())
    assert [path.name for path in list_checkpoints(whole / "checkpoints")] == [
        "step-00000008",
        "step-00000009",
    ]
    assert "routing.share = 0.25" not in (whole / "config.toml").read_text()
    assert "share = 0.25" in (whole / "config.toml").read_text()
    assert not list(whole.rglob("*.pt")) + list(whole.rglob("*.pkl")) + list(whole.rglob("*.bin"))
    text = readable(summary)
    assert "validation MLM loss" in text
    assert "attribution" in text
    path = json.loads((whole / "routing.json").read_text())
    assert sum(map(len, path["layers"])) == 48


def test_two_runs_are_equal(
    whole: Path, shards_path: Path, model_path: Path, tmp_path: Path
) -> None:
    torch.manual_seed(12345)
    run(
        request_for(
            shards_path,
            model_path,
            tmp_path / "out",
            "train.steps=9",
            "train.checkpoint_every=4",
            "routing.refresh_every=4",
        )
    )
    assert metrics_of(tmp_path / "out") == metrics_of(whole)
    same_files(
        whole / "model" / "model.safetensors", tmp_path / "out" / "model" / "model.safetensors"
    )


def test_another_seed_is_another_run(
    whole: Path, shards_path: Path, model_path: Path, tmp_path: Path
) -> None:
    run(
        request_for(
            shards_path,
            model_path,
            tmp_path / "out",
            "train.steps=2",
            "train.seed=5",
            "train.validate=false",
        )
    )
    assert metrics_of(tmp_path / "out")[0] != metrics_of(whole)[0]


def test_a_run_is_not_overwritten(whole: Path, shards_path: Path, model_path: Path) -> None:
    with pytest.raises(ConfigError, match="trelm-train resume --out"):
        run(request_for(shards_path, model_path, whole))


@pytest.mark.parametrize(
    "sets",
    [
        ("injection.enabled=false",),
        ("memory.enabled=false",),
        ("cka.enabled=false",),
        ("routing.policy=full",),
        (
            "injection.policy=none",
            "cka.enabled=false",
            "routing.policy=full",
            "memory.enabled=false",
        ),
        ("routing.policy=top_layers", "routing.layer_budget=1"),
        ("routing.policy=ffn_all", "routing.train_layer_norm=true", "routing.train_head=true"),
        (
            "cka.contrast=relation",
            "cka.form=projection",
            "injection.policy=all",
            "routing.rule=gauss_legendre",
            "routing.points=2",
        ),
        ("cka.form=decoder", "facts.enabled=false", "injection.strength=1"),
        ("facts.ask=mentions", "cka.enabled=false"),
        ("injection.place=states",),
    ],
)
def test_every_switch(
    sets: tuple[str, ...], shards_path: Path, model_path: Path, tmp_path: Path
) -> None:
    request = request_for(
        shards_path, model_path, tmp_path / "out", "train.steps=3", "train.validate=false", *sets
    )
    with pytest.raises(InterruptedRun):
        run(request, StopAfter(0))
    summary = resume(request.out)
    assert summary["steps"] == 3
    assert np.isfinite(summary["loss_last"])
    has_bank = "injection.enabled=false" not in sets and "memory.enabled=false" not in sets
    assert (request.out / "model" / "bank").exists() == has_bank
    if "routing.policy=full" in sets:
        assert summary["weights_updated_share"] > 0.8
        assert "attribution" not in summary["seconds"]


def test_roberta_runs_with_everything_on(tokenizer: Any, shards_path: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM

    folder = tmp_path / "roberta"
    world.make_roberta(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    summary = run(request_for(shards_path, folder, tmp_path / "out", "train.steps=5"))
    assert 0 < summary["weights_updated_share"] < 0.3
    _, info = AutoModelForMaskedLM.from_pretrained(
        tmp_path / "out" / "model", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]


@pytest.mark.slow
def test_training_learns(shards_path: Path, model_path: Path, tmp_path: Path) -> None:
    summary = run(
        request_for(shards_path, model_path, tmp_path / "out", "train.steps=120", "train.log_every=10", "routing.policy=full",
                    "train.learning_rate=0.005")
    )  # fmt: skip
    assert summary["mlm_loss_last"] < 0.7 * summary["mlm_loss_first"]
    assert summary["cka_loss_last"] < 0.8 * summary["cka_loss_first"]
    assert summary["validation_after"]["loss"] < 0.8 * summary["validation_before"]["loss"]


@pytest.mark.slow
def test_resume_without_a_checkpoint_starts_at_the_beginning(
    whole: Path, shards_path: Path, model_path: Path, tmp_path: Path
) -> None:
    from trelm_train.training.session import start_run

    start_run(
        request_for(
            shards_path,
            model_path,
            tmp_path / "out",
            "train.steps=9",
            "train.checkpoint_every=4",
            "routing.refresh_every=4",
        )
    )
    resume(tmp_path / "out")
    assert metrics_of(tmp_path / "out") == metrics_of(whole)


def test_changed_settings_are_refused(whole: Path, tmp_path: Path) -> None:
    """Half of a run under other settings would be neither run."""
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    config = out / "config.toml"
    config.write_text(config.read_text().replace("decay = 0.1", "decay = 0.2"))
    shutil.rmtree(latest_checkpoint(out / "checkpoints"))
    with pytest.raises(ConfigError, match=r"memory\.decay changed since"):
        resume(out)


def test_a_damaged_checkpoint_is_named(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    newest = latest_checkpoint(out / "checkpoints")
    weights = next((newest / "tensors").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ConfigError, match="damaged.*remove this folder"):
        resume(out)


def test_a_run_that_ended_before_its_first_checkpoint_may_start_anew(
    shards_path: Path, model_path: Path, tmp_path: Path
) -> None:
    from trelm_train.training.session import start_run

    start_run(
        request_for(
            shards_path, model_path, tmp_path / "out", "train.steps=2", "train.learning_rate=1"
        )
    )
    run(request_for(shards_path, model_path, tmp_path / "out", "train.steps=2"))
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["steps"] == 2


def test_changed_shards_are_refused(tokenizer: Any, model_path: Path, tmp_path: Path) -> None:
    columns, knowledge = world.example_columns(tokenizer), world.knowledge_columns(tokenizer)
    folder = world.write_shards(tmp_path / "shards", tokenizer, columns, knowledge)
    request = request_for(folder, model_path, tmp_path / "out", "train.validate=false")
    with pytest.raises(InterruptedRun):
        run(request, StopAfter(0))
    folder = folder.rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="no manifest.json"):
        resume(request.out)
    assert resume(request.out, moved_shards=folder)["steps"] == 6
    folder = folder.rename(tmp_path / "shards")
    columns["doc_id"][0] = "changed"
    world.write_shards(folder, tokenizer, columns, knowledge)
    with pytest.raises(ConfigError, match="not the shards this run started with"):
        resume(request.out)
    with pytest.raises(ConfigError, match="no run there"):
        resume(tmp_path / "nowhere")


def test_a_loss_that_is_not_finite_changes_nothing_and_ends_the_run(
    shards_path: Path, model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trelm_train.training import step

    monkeypatch.setattr(
        step,
        "mlm_losses",
        lambda model, hidden, target, gold: hidden.sum() * torch.full(gold.shape, torch.nan),
    )
    request = request_for(
        shards_path, model_path, tmp_path / "out", "train.steps=50", "train.validate=false"
    )
    with pytest.raises(
        TrelmError,
        match="10 steps in a row were skipped.*not finite; checkpoint saved.*start a new run",
    ):
        run(request)


def test_one_bad_step_is_skipped_and_not_logged(
    shards_path: Path, model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trelm_train.training import step

    good, calls = step.mlm_losses, iter(range(100))
    monkeypatch.setattr(
        step,
        "mlm_losses",
        lambda *args: good(*args) * (float("nan") if next(calls) == 2 else 1.0),
    )
    request = request_for(
        shards_path, model_path, tmp_path / "out", "train.log_every=1", "train.validate=false"
    )
    assert run(request)["steps"] == 6
    assert [line["step"] for line in metrics_of(request.out)] == [1, 2, 4, 5, 6]


def test_nan_steps_leave_weights_and_bank_alone(
    shards_path: Path, model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trelm_train.training import step
    from trelm_train.training.session import start_run

    session = start_run(
        request_for(shards_path, model_path, tmp_path / "out", "routing.policy=full")
    )
    before = {
        name: value.detach().clone()
        for name, value in session.components.model.hf.named_parameters()
    }
    monkeypatch.setattr(
        step,
        "mlm_losses",
        lambda model, hidden, target, gold: hidden.sum() * torch.full(gold.shape, torch.nan),
    )
    inputs = next(
        stream_step_inputs(
            session.stream, session.position, session.components.ranks, 1, session.preparer
        )
    )
    result = step.train_step(session.components, inputs, 0)
    assert result.skipped == "not finite"
    assert session.components.bank is not None
    assert not len(session.components.bank.state()["row"])
    for name, value in session.components.model.hf.named_parameters():
        assert torch.equal(value, before[name])


def test_a_second_signal_does_not_wait() -> None:
    stop = Stop()
    with stop.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signum == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is not stop._set


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_ends_the_run(
    signum: int, code: int, shards_path: Path, model_path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = [
        "run",
        "--shards",
        str(shards_path),
        "--model",
        str(model_path),
        "--out",
        str(out),
        "--steps",
        "100000",
    ]
    sets = ("batch_tokens=256", "max_tokens=48", "validate=false", "threads=1", "log_every=1")
    words += [word for one in sets for word in ("--set", f"train.{one}")]
    process = forked.start([*words, "--set", "routing.probe_facts=8"], tmp_path / "output")
    metrics = out / "metrics.jsonl"
    wait_until(lambda: metrics.is_file() and metrics.read_text(), process)
    assert process.pid is not None
    os.kill(process.pid, signum)
    process.join(PATIENCE_S)
    assert process.exitcode == code
    errors = (tmp_path / "output" / "stderr").read_text()
    assert "checkpoint saved; continue with `trelm-train resume" in errors
    assert latest_checkpoint(out / "checkpoints") is not None


def test_a_terminal_gets_a_bar() -> None:
    import io

    from rich.console import Console

    from trelm_train.reporting.progress import bar

    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with bar(console, 3, 10) as show:
        show(4, "loss 1.234")
    assert "loss 1.234" in console.file.getvalue()  # type: ignore[attr-defined]
    assert "4/10" in console.file.getvalue()  # type: ignore[attr-defined]


def test_an_output_folder_that_cannot_be(
    shards_path: Path, model_path: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="give another --out"):
        run(request_for(shards_path, model_path, tmp_path / "file" / "out"))


def test_what_is_no_run_is_not_overwritten(
    shards_path: Path, model_path: Path, tmp_path: Path
) -> None:
    """A model, a pipeline's run, a person's settings, a file: refused, and left as they were."""

    def refused(out: Path, held: str) -> None:
        before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        for start in (run, run_or_resume):
            with pytest.raises(ConfigError, match=rf"{held}.*new or an empty folder"):
                start(request_for(shards_path, model_path, out, "train.steps=1"))
        after = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        assert after == before

    shutil.copytree(model_path, tmp_path / "x" / "model")
    refused(tmp_path / "x", "holds model")
    refused(tmp_path / "x" / "model", r"holds config\.json")
    shutil.copytree(shards_path, tmp_path / "pipeline" / "shards")
    refused(tmp_path / "pipeline", "holds shards")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "config.toml").write_text("[train]\nsteps = 9 # mine\n")
    refused(tmp_path / "own", r"a config\.toml of your own")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="file: cannot write there .*give another --out"):
        run(request_for(shards_path, model_path, tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "x"

    # A new disk, and what a run leaves that was stopped while it began.
    (tmp_path / "new" / "lost+found").mkdir(parents=True)
    request = request_for(
        shards_path, model_path, tmp_path / "new", "train.steps=1", "train.validate=false"
    )
    with pytest.raises(InterruptedRun):
        run(request, StopAfter(0))
    # As it is before the description is written, which comes before all of these.
    for name in ("run.json", "plan.json", "routing.json"):
        (tmp_path / "new" / name).unlink()
    for name in ("checkpoints", "tensorboard"):
        shutil.rmtree(tmp_path / "new" / name, ignore_errors=True)
    assert run(request)["steps"] == 1
    with pytest.raises(ConfigError, match="holds a run already"):
        run(request)
    shutil.rmtree(tmp_path / "new" / "checkpoints")
    with pytest.raises(ConfigError, match="holds a run already"):
        run(request)


def test_groups_have_rates_of_their_own(
    shards_path: Path, model_path: Path, tmp_path: Path
) -> None:
    """A group whose factor is 0 stays as it was, and a factor changes no other group's first step."""
    plain = ("train.steps=1", "train.validate=false", "routing.policy=full", "injection.enabled=false",
             "cka.enabled=false", "train.weight_decay=0", "train.dropout=0")  # fmt: skip
    weights = {}
    for name, sets in {
        "plain": (),
        "still": ("train.embedding_rate_scale=0", "train.head_rate_scale=0.5"),
    }.items():
        out = tmp_path / name
        run(request_for(shards_path, model_path, out, *plain, *sets))
        weights[name] = load_file(out / "model" / "model.safetensors")
    start = load_file(tmp_path / "plain" / "initial" / "model.safetensors")
    table, head = "bert.embeddings.word_embeddings.weight", "cls.predictions.transform.dense.weight"
    inner = "bert.encoder.layer.0.intermediate.dense.weight"
    assert torch.equal(weights["still"][table], start[table])
    assert not torch.equal(weights["plain"][table], start[table])
    assert torch.equal(weights["still"][inner], weights["plain"][inner])
    moved = {name: (tensors[head] - start[head]).abs().mean() for name, tensors in weights.items()}
    assert float(moved["still"] / moved["plain"]) == pytest.approx(0.5, rel=1e-3)


def test_the_projection_of_cka_is_no_head(model: MaskedLm) -> None:
    scale = rate_scales(model, TrainConfig(head_rate_scale=0.5, embedding_rate_scale=0.1))
    assert scale("cls.predictions.transform.dense.weight") == 0.5
    assert scale("bert.embeddings.word_embeddings.weight") == 0.1
    assert scale("bert.encoder.layer.0.intermediate.dense.weight") == 1.0
    assert scale("cka.projection.weight") == 1.0


def test_injection_may_end_early(shards_path: Path, model_path: Path, tmp_path: Path) -> None:
    request = request_for(
        shards_path,
        model_path,
        tmp_path / "out",
        "injection.until=0.5",
        "train.log_every=1",
        "train.validate=false",
    )
    run(request)
    assert [line["injected"] > 0 for line in metrics_of(request.out)] == [True] * 3 + [False] * 3


def test_the_schedule() -> None:
    config = TrainConfig(steps=100, warmup_share=0.1)
    factors = [rate_factor(step, config) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9] == 1.0
    assert factors[10] == 1.0
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == 0.0


def test_metrics_after_the_checkpoint_are_forgotten(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 1, "a": 1}\n{"step": 2, "a": 2}\n{"step": 3, "a"'
    )
    log = MetricLog(tmp_path, after_step=1)
    log.write(2, {"a": 5.0})
    log.close()
    assert [line["a"] for line in metrics_of(tmp_path)] == [1, 5.0]


def test_interval_means() -> None:
    interval = Interval()
    interval.add({"loss": 1.0})
    interval.add({"loss": 3.0})
    assert interval.means() == {"loss": 2.0}
    assert interval.steps == 0


def test_a_value_is_averaged_over_the_steps_that_have_it() -> None:
    interval = Interval()
    interval.add({"loss": 1.0})
    interval.add({"loss": 3.0, "fact_loss": 4.0})
    went_on = Interval(**interval.state())
    went_on.add({"loss": 5.0, "fact_loss": 2.0})
    assert went_on.means() == {"loss": 3.0, "fact_loss": 3.0}
    earlier = Interval(sums={"loss": 4.0}, steps=2)  # of a checkpoint without counts
    assert earlier.means() == {"loss": 2.0}
