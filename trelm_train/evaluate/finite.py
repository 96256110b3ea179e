"""Refuse to score a model that answers with NaN or infinite numbers.

A comparison with NaN is false, so such a model would look right or wrong by accident. A score of it
means nothing, so it is an error.
"""

from __future__ import annotations

from torch import Tensor

from schemas.errors import TrelmError
from trelm_train.model.masked_lm import MaskedLm


class NotFiniteError(TrelmError):
    """Say which model gave NaN or infinite numbers, and what was asked."""


def check_finite(model: MaskedLm, logits_MV: Tensor, asked: str) -> None:
    """Refuse logits that are not all finite; `asked` names the evaluation.

    Raises:
        NotFiniteError: names the model, and how many of the positions have such a logit.
    """
    # One pass that writes nothing: a sum with a wrong number in it is wrong itself.
    if bool(logits_MV.sum(-1).isfinite().all()):
        return
    # By position: one wrong logit spoils the whole softmax there.
    num_wrong = int((~logits_MV.isfinite().all(-1)).sum())
    if num_wrong:
        raise NotFiniteError(
            f"{model.name}: NaN or infinite logits at {num_wrong} of {len(logits_MV)} positions of "
            f"{asked}, so it has no score; evaluate an earlier checkpoint, or train again with a "
            "lower train.learning_rate"
        )
