import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import ConfigError
from tests.trelm_train.conftest import request_for
from trelm_train.reporting.loggers import flat, make_loggers
from trelm_train.reporting.metrics import MetricLog
from trelm_train.training.signals import InterruptedRun
from trelm_train.training.train import resume, run

CONFIG = {"train": {"steps": 3}, "memory": {"decay": 0.1}}


class Recorder(types.ModuleType):
    """Stands for wandb and mlflow, with the calls that are used of them."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.calls: list[tuple[str, Any]] = []
        self.id = "run-1"
        self.info = types.SimpleNamespace(run_id="run-1")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args: Any, **more: Any) -> Any:
            self.calls.append((name, (args, more)))
            return self

        return call

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_run_is_told_and_taken_up_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = Recorder(name)
    monkeypatch.setitem(sys.modules, name, module)
    for after_step in (0, 2):
        (logger,) = make_loggers([name])
        logger.start(tmp_path, CONFIG, after_step=after_step)
        logger.log(after_step + 1, {"loss": 1.5})
        logger.close()
    logged = [more for call, (_, more) in module.calls if call in ("log", "log_metrics")]
    assert [more["step"] for more in logged] == [1, 3]
    starts = [more for call, (_, more) in module.calls if call in ("init", "start_run")]
    assert starts[0].get("id", starts[0].get("run_id")) is None
    assert starts[1].get("id", starts[1].get("run_id")) == "run-1"  # the same run goes on
    assert module.names()[-1] in ("finish", "end_run")
    assert (tmp_path / f"{name}_run_id").read_text().strip() == "run-1"


def test_tensorboard_gets_every_value(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = MetricLog(tmp_path, make_loggers(["tensorboard"]))
    for logger in log.loggers:
        logger.start(tmp_path, CONFIG, after_step=0)
    log.write(1, {"loss": 2.0}, {"tokens_per_s": 5.0})
    log.send_to_loggers(1, {"eval/loss": 3.0})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "tokens_per_s", "eval/loss"}
    assert events.Scalars("eval/loss")[0].value == 3.0
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {
        "step": 1,
        "loss": 2.0,
        "speed": {"tokens_per_s": 5.0},
    }


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="'wandb', which is not installed.*pip install wandb"):
        make_loggers(["wandb"])


def test_an_unknown_logger_is_refused(shards_path: Path, model_path: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="train.loggers names 'comet'; known are tensorboard, wandb, mlflow"
    ):
        request_for(shards_path, model_path, tmp_path, "train.loggers=['comet']")


def test_flat() -> None:
    assert flat(CONFIG) == {"train.steps": 3, "memory.decay": 0.1}


def test_no_logger_but_the_file(shards_path: Path, model_path: Path, tmp_path: Path) -> None:
    run(
        request_for(
            shards_path,
            model_path,
            tmp_path / "out",
            "train.steps=2",
            "train.loggers=[]",
            "train.validate=false",
        )
    )
    assert (tmp_path / "out" / "metrics.jsonl").read_text()
    assert not (tmp_path / "out" / "tensorboard").exists()


def test_a_run_with_a_recorded_logger(
    shards_path: Path, model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.trelm_train.training.test_train import StopAfter

    module = Recorder("wandb")
    monkeypatch.setitem(sys.modules, "wandb", module)
    request = request_for(
        shards_path, model_path, tmp_path / "out", "train.loggers=['wandb']", "train.log_every=1"
    )
    with pytest.raises(InterruptedRun):
        run(request, StopAfter(2))
    assert module.names()[-1] == "finish"  # closed on the way out
    resume(tmp_path / "out")
    steps = [
        more["step"] for call, (args, more) in module.calls if call == "log" and "loss" in args[0]
    ]
    assert steps == [1, 2, 3, 4, 5, 6]
    logged = [
        args[0] for call, (args, _) in module.calls if call == "log" and "eval/loss" in args[0]
    ]
    assert len(logged) == 2  # before and after
