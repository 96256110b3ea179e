"""Send measured values to TensorBoard, Weights & Biases or MLflow, besides `metrics.jsonl`.

Each is optional and imported only when `train.loggers` names it. A logger has three methods; to add
one, write a class with them and a line in `_MAKERS`. A resumed run goes on in the same place:
TensorBoard drops what it had after the checkpoint, the other two continue the run whose id stands
in the run's folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from schemas.errors import ConfigError

# The name under which the services list runs.
PROJECT = "trelm"
Values = dict[str, float]


class Logger(Protocol):
    """Receive what the training loop measures."""

    def start(self, folder: Path, config: dict[str, Any], *, after_step: int) -> None:
        """Open a run's log; `after_step` is 0, or where a resumed run goes on."""

    def log(self, step: int, values: Values) -> None:
        """Log values after a step."""

    def close(self) -> None:
        """Write what is still in memory."""


class TensorBoard:
    """Write event files in `tensorboard/` of the run."""

    def __init__(self) -> None:
        # Imported here: a run that does not name this logger must not need its package.
        from torch.utils.tensorboard import SummaryWriter

        self._make = SummaryWriter
        self._board: Any = None

    def start(self, folder: Path, config: dict[str, Any], *, after_step: int) -> None:
        """Open the files; events after `after_step` are purged."""
        # Otherwise the curve of a resumed run would go back and cross itself.
        purge = after_step + 1 if after_step else None
        self._board = self._make(str(folder / "tensorboard"), purge_step=purge)
        if not after_step:
            # Four spaces make it a block of code in Markdown.
            lines = [f"    {name} = {value}" for name, value in flat(config).items()]
            self._board.add_text("config", "\n".join(lines))

    def log(self, step: int, values: Values) -> None:
        """Add one point per value."""
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is still in memory."""
        self._board.close()


class WeightsAndBiases:
    """Write a run of Weights & Biases.

    Its own environment variables say where; with WANDB_MODE=offline it is the run's folder.
    """

    def __init__(self) -> None:
        import wandb

        self._wandb: Any = wandb
        self._run: Any = None

    def start(self, folder: Path, config: dict[str, Any], *, after_step: int) -> None:
        """Open, or go on with, the run whose id the folder keeps."""
        id_path = folder / "wandb_run_id"
        run_id = None
        if after_step and id_path.is_file():
            run_id = id_path.read_text(encoding="utf-8").strip()

        self._run = self._wandb.init(
            project=PROJECT,
            name=folder.name,
            dir=str(folder),
            config=flat(config),
            id=run_id,
            resume="allow",
        )
        # Written at every start: the service may have given a new id.
        id_path.write_text(str(self._run.id) + "\n", encoding="utf-8")

    def log(self, step: int, values: Values) -> None:
        """Add one row."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Finish the run's upload."""
        self._run.finish()


class MlFlow:
    """Write a run of MLflow; MLFLOW_TRACKING_URI says where."""

    def __init__(self) -> None:
        import mlflow

        self._mlflow: Any = mlflow

    def start(self, folder: Path, config: dict[str, Any], *, after_step: int) -> None:
        """Open, or go on with, the run whose id the folder keeps."""
        id_path = folder / "mlflow_run_id"
        self._mlflow.set_experiment(PROJECT)
        if after_step and id_path.is_file():
            self._mlflow.start_run(run_id=id_path.read_text(encoding="utf-8").strip())
            return

        # Settings are logged once: MLflow refuses to change them.
        run = self._mlflow.start_run(run_name=folder.name)
        id_path.write_text(str(run.info.run_id) + "\n", encoding="utf-8")
        self._mlflow.log_params(flat(config))

    def log(self, step: int, values: Values) -> None:
        """Add one point per value."""
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
    """Turn `{"train": {"steps": 3}}` into `{"train.steps": 3}`."""
    return {
        f"{section}.{name}": value
        for section, keys in config.items()
        for name, value in keys.items()
    }


def make_loggers(names: Sequence[str]) -> list[Logger]:
    """Make the named loggers; they are not opened yet.

    Raises:
        ConfigError: a package is not installed.
    """
    loggers = []
    for name in names:
        try:
            # The package is imported here, before the first step, and not at the first value.
            loggers.append(_MAKERS[name]())
        except ImportError as error:
            raise ConfigError(
                f"train.loggers names {name!r}, which is not installed ({error}); "
                f"pip install {name}, or --set 'train.loggers=[]'"
            ) from error
    return loggers
