"""Say what the trainer uses of objects whose libraries have no types: tokenizers, autograd's context."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor


class Tokenizer(Protocol):
    """Name what the trainer uses of a fast tokenizer of transformers."""

    mask_token: str
    mask_token_id: int | None
    pad_token_id: int | None
    unk_token_id: int | None
    cls_token_id: int
    sep_token_id: int
    all_special_ids: list[int]

    def __call__(
        self, text: str | Sequence[str], *, add_special_tokens: bool = True, verbose: bool = True
    ) -> Any:  # noqa: ANN401
        """Encode one text or several; the result has `input_ids`, and `encodings` with offsets.

        `verbose` warns of a text that is longer than the model takes.
        """

    def __len__(self) -> int:
        """Return the number of tokens, added ones included."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids."""

    def get_vocab(self) -> dict[str, int]:
        """Return every token with its id."""

    def save_pretrained(self, folder: Path | str) -> object:
        """Write the tokenizer's files."""


class AutogradContext(Protocol):
    """Name what `torch.autograd.Function` passes from `forward` to `backward`."""

    needs_input_grad: tuple[bool, ...]
    saved_tensors: tuple[Tensor, ...]

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors for `backward`; torch notices when one is changed in between."""


class DropoutContext(AutogradContext, Protocol):
    """Keep the factor of the elements that were not dropped."""

    scale: float


class RoutedContext(AutogradContext, Protocol):
    """Keep the input's number format, and whether a bias is trained."""

    dtype: torch.dtype
    has_bias: bool
