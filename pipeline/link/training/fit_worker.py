"""Fit the linker's weights to the corpus's own links, as a phase of stage `link`.

One unit of work: a bounded number of links, so minutes at most, whatever the corpus. Comes out: the
file of weights that the units of the next phase read, with the figures of a cross-validation by
document. Where the shipped weights predict the held-out links as well, they are kept, and the file
says so.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from pipeline.config import LinkConfig
from pipeline.engine import files
from pipeline.engine.errors import StageError
from pipeline.engine.tasks import Bucket, Unit
from pipeline.engine.units import UnitWriter
from pipeline.link.disambiguation import Model
from pipeline.link.training.collect import Training
from pipeline.link.training.train import train
from pipeline.link.weights import TRAINED, load_weights

logger = logging.getLogger("trelm")


@dataclass(frozen=True, kw_only=True)
class FitWorker:
    """Fit weights to the links of a run."""

    run: str
    config: LinkConfig
    # Name of the file of weights, in the folder of the stage's tables.
    file: str

    def process(self, unit: Unit[Bucket], out: UnitWriter) -> None:
        """Write the file of weights."""
        model = better_weights(self.run, self.config)
        files.write_bytes(files.join(out.folder, self.file), model.to_json().encode())
        out.advance(unit.size)


def better_weights(run: str, config: LinkConfig) -> Model:
    """Return weights fitted to the links of a run, or the shipped ones where these are no better.

    What they say about themselves has the figures of both.
    """
    shipped = load_weights(TRAINED)
    try:
        model, report = train(Training(run=run), config)
    except StageError as error:
        # Links may be many and teach nothing all the same: to items that the index does not name.
        logger.warning("link: weights as shipped, since none can be fitted: %s", error.message)
        return shipped

    if report["loss"]["fitted"] < report["loss"]["shipped"]:
        return Model(model.bias, model.weights, {**model.about, "choice": "fitted"})
    return Model(shipped.bias, shipped.weights, {**model.about, "choice": "shipped"})
