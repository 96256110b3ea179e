"""The frozen encoder: token ids in, sentence vectors out, as numpy. Beside `encoder.py` the one importer of torch, lazily.

A sentence's vector is the mean of the last layer over its tokens, the special ones left out. Costs one forward pass per
distinct sequence, in batches of one length (`core.sequences`): nothing is padded, so a vector of two tokens or more is the same
in whatever batch it was computed. Threads take a batch each and share the model; torch's own threads, which share an operation,
wait for each other actively, and where others use the machine a forward pass took ten times as long. In bfloat16 the matrix
products and what lies between two of them are bfloat16; the residual stream, its layer norms and the mean stay float32.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, Literal

import numpy as np

from pipeline.encoder.sequences import Sequences
from pipeline.encoder.tokenizer import TextTokenizer, not_loaded
from pipeline.engine.errors import StageError
from pipeline.engine.worker_threads import threads_of_a_worker
from schemas.processor import multiplies_bfloat16

NUM_SPECIAL = 2  # one opens a sequence, one closes it
KERNELS = (
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY",
    "64",
)  # compiled per shape: 1024, the default, take 300 MB and save no time

NumberFormat = Literal["float32", "bfloat16"]
Progress = Callable[[float], None]  # is told the share of the tokens that are done


class SentenceEncoder:
    """A masked language model without its head, in evaluation mode."""

    def __init__(
        self, model: str, device: str = "auto", num_threads: int = 0, dtype: str = "float32"
    ) -> None:
        """Load it.

        Args:
            model: name or folder.
            device: cpu, cuda, or auto: cuda where there is one.
            num_threads: that take batches; 0 = cores / local worker processes. One for cuda.
            dtype: float32, or bfloat16 for the matrix products.

        Raises:
            StageError: no such model, or it is no masked language model.
        """
        os.environ.setdefault(*KERNELS)
        import torch

        self._torch = torch
        torch.set_num_threads(1)  # of an operation
        self.device = (
            ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        )
        self.num_threads = 1 if self.device == "cuda" else num_threads or threads_of_a_worker()
        self.dtype = dtype
        self.tokenizer = TextTokenizer(model)
        self._frame = self.tokenizer.frame
        self._model: Any = _load_encoder(model).to(self.device)
        if dtype == "bfloat16":
            for module in self._model.modules():
                if isinstance(module, torch.nn.Linear):
                    module.to(torch.bfloat16)  # once, not in every forward pass

    @property
    def max_tokens(self) -> int:
        """Positions that the model has, special tokens included."""
        config = self._model.config
        limit = int(config.max_position_embeddings)
        return (
            limit - int(config.pad_token_id) - 1
            if config.model_type in ("roberta", "xlm-roberta")
            else limit
        )

    def encode(
        self, sequences: Sequences, batch_tokens: int, progress: Progress | None = None
    ) -> np.ndarray:
        """Vectors of sequences that have no special tokens yet, float32 (N, d); zeros where a sequence is empty.

        Memory: the vectors, and what the model makes of `batch_tokens` tokens.
        """
        rows, like = sequences.distinct()
        distinct = sequences.take(rows)
        vectors = np.zeros((len(distinct), int(self._model.config.hidden_size)), np.float32)
        done, size = 0, len(distinct.ids)
        for batch, means in self._in_threads(
            distinct, list(distinct.batches(batch_tokens, NUM_SPECIAL))
        ):
            vectors[batch] = means
            done += len(batch) * int(distinct.lengths[batch[0]])
            if progress is not None:
                progress(done / size)
        return vectors[like]

    def _in_threads(
        self, sequences: Sequences, batches: list[np.ndarray]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Each batch with its means, as they are done."""
        pool = ThreadPoolExecutor(self.num_threads)
        try:
            running = {
                pool.submit(self._means, sequences.matrix(batch)): batch for batch in batches
            }
            for future in as_completed(running):
                yield running.pop(future), future.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _means(self, ids_BN: np.ndarray) -> np.ndarray:
        """Means of the last layer, float32 (B, d)."""
        torch = self._torch
        opening, closing = self._frame
        framed = np.empty((len(ids_BN), ids_BN.shape[1] + NUM_SPECIAL), np.int64)
        framed[:, 0], framed[:, 1:-1], framed[:, -1] = opening, ids_BN, closing
        with torch.inference_mode(), self._number_format():  # of this thread
            states = self._model(
                input_ids=torch.from_numpy(framed).to(self.device)
            ).last_hidden_state
            return np.asarray(states[:, 1:-1].float().mean(1).cpu().numpy())

    def _number_format(self) -> Any:  # noqa: ANN401
        if self.dtype == "float32":
            return contextlib.nullcontext()
        return self._torch.autocast(self.device, self._torch.bfloat16)


def best_dtype(device: str) -> NumberFormat:
    """The number format that `auto` means on this machine: bfloat16 where that was measured to be faster and to agree.

    That is on x86 processors that multiply it. Graphics cards do so too, but it was not measured there.
    """
    if device != "cpu":
        import torch

        if device == "cuda" or torch.cuda.is_available():
            return "float32"
    return "bfloat16" if multiplies_bfloat16() else "float32"


def _load_encoder(model: str) -> Any:  # noqa: ANN401
    import torch
    from transformers import AutoModelForMaskedLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        loaded, info = AutoModelForMaskedLM.from_pretrained(
            model, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise StageError(not_loaded("masked language model", model, error)) from error
    finally:
        logging.set_verbosity(before)
    missing = sorted(info["missing_keys"])
    if missing:
        raise StageError(
            f"{model}: is no masked language model ({len(missing)} weights are not in it, for example {missing[0]}); "
            "use a checkpoint of BertForMaskedLM or RobertaForMaskedLM"
        )
    return loaded.eval().base_model
