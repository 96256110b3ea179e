"""Where measured values go besides `metrics.jsonl`: TensorBoard, Weights & Biases, MLflow.

Each is optional and imported only when `train.loggers` names it. A logger has three methods; another one is a class with
them and a line in `_MAKERS`. A resumed run goes on in the same place: TensorBoard drops what it had after the checkpoint,
the other two continue the run whose id stands in the run's folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from trelm_train.errors import ConfigError

PROJECT = "trelm"
Values = dict[str, float]


class Logger(Protocol):
    """What the training loop tells."""

    def start(self, folder: Path, config: dict[str, Any], *, after_step: int) -> None:
        """Open a run's log; `after_step` is 0, or where a resumed run goes on."""

    def log(self, step: int, values: Values) -> None:
        """Values after a step."""

    def close(self) -> None:
        """Write what is still in memory."""


class TensorBoard:
    """Event files in `tensorboard/` of the run."""

    def __init__(self) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._make = SummaryWriter
        self._board: Any = None

    def start(self, folder: Path, config: dict[str, Any], *, after_step: int) -> None:
        """Open; events after `after_step` are purged."""
        purge = after_step + 1 if after_step else None
        self._board = self._make(str(folder / "tensorboard"), purge_step=purge)
        if not after_step:
            self._board.add_text(
                "config", "\n".join(f"    {name} = {value}" for name, value in flat(config).items())
            )

    def log(self, step: int, values: Values) -> None:
        """One point per value."""
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush."""
        self._board.close()


class WeightsAndBiases:
    """A run of Weights & Biases; its own environment variables say where (WANDB_MODE=offline: in the run's folder)."""

    def __init__(self) -> None:
        import wandb

        self._wandb: Any = wandb
        self._run: Any = None

    def start(self, folder: Path, config: dict[str, Any], *, after_step: int) -> None:
        """Open, or go on with, the run whose id the folder keeps."""
        place = folder / "wandb_run_id"
        known = (
            place.read_text(encoding="utf-8").strip() if after_step and place.is_file() else None
        )
        self._run = self._wandb.init(
            project=PROJECT,
            name=folder.name,
            dir=str(folder),
            config=flat(config),
            id=known,
            resume="allow",
        )
        place.write_text(str(self._run.id) + "\n", encoding="utf-8")

    def log(self, step: int, values: Values) -> None:
        """One row."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Finish the run's upload."""
        self._run.finish()


class MlFlow:
    """A run of MLflow; MLFLOW_TRACKING_URI says where."""

    def __init__(self) -> None:
        import mlflow

        self._mlflow: Any = mlflow

    def start(self, folder: Path, config: dict[str, Any], *, after_step: int) -> None:
        """Open, or go on with, the run whose id the folder keeps."""
        place = folder / "mlflow_run_id"
        self._mlflow.set_experiment(PROJECT)
        if after_step and place.is_file():
            self._mlflow.start_run(run_id=place.read_text(encoding="utf-8").strip())
            return
        run = self._mlflow.start_run(run_name=folder.name)
        place.write_text(str(run.info.run_id) + "\n", encoding="utf-8")
        self._mlflow.log_params(flat(config))

    def log(self, step: int, values: Values) -> None:
        """One point per value."""
        self._mlflow.log_metrics(dict(values), step=step)

    def close(self) -> None:
        """End the run."""
        self._mlflow.end_run()


_MAKERS: dict[str, Callable[[], Logger]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MlFlow,
}


def flat(config: dict[str, Any]) -> dict[str, Any]:
    """`{"train": {"steps": 3}}` as `{"train.steps": 3}`."""
    return {
        f"{section}.{name}": value
        for section, keys in config.items()
        for name, value in keys.items()
    }


def make_loggers(names: Sequence[str]) -> list[Logger]:
    """The named loggers, not opened yet.

    Raises:
        ConfigError: a package is not installed.
    """
    loggers = []
    for name in names:
        try:
            loggers.append(_MAKERS[name]())
        except ImportError as error:
            raise ConfigError(
                f"train.loggers names {name!r}, which is not installed ({error}); pip install {name}, "
                "or --set 'train.loggers=[]'"
            ) from error
    return loggers
