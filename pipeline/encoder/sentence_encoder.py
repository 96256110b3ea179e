"""Turn token ids into sentence vectors (numpy) with a frozen encoder. Imports torch, lazily.

A sentence's vector is the mean of the last layer over its tokens, without the special ones. Costs
one forward pass per distinct sequence. Nothing is padded. On a processor (`flat_forward`) a vector is
the same in any batch; elsewhere (`library_forward`) one of two tokens or more is.

Threads take a batch each and share the model. Torch's own threads, which share an operation, wait
for each other actively: where other programs use the machine, a forward pass took ten times as
long.

In bfloat16 the matrix products, and the values between two of them, are bfloat16; the residual
stream, its layer norms and the mean stay float32.

Legend: N sequences, d the width of the model.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from pipeline.encoder.fine_tuning import padded
from pipeline.encoder.flat_forward import FlatForward
from pipeline.encoder.library_forward import LibraryForward, Pooling
from pipeline.encoder.model_copies import local_model
from pipeline.encoder.sequences import Sequences
from pipeline.encoder.tokenizer import ModelKind, TextTokenizer, load_failure
from pipeline.engine.errors import StageError
from pipeline.engine.worker_threads import threads_of_a_worker
from schemas.array_types import F32, I64, Ints
from schemas.bucket_copies import POOLING_FILE
from schemas.finite import not_finite
from schemas.model_folder import weights_problem
from schemas.processor import multiplies_bfloat16

# oneDNN compiles a kernel per shape: the default, 1024 of them, takes 300 MB and saves no time.
KERNEL_CACHE_SETTING = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
# Torch's threads wait for each other without taking a core: others may need it.
WAIT_SETTING = ("OMP_WAIT_POLICY", "PASSIVE")

DEFAULT_MAX_TOKENS = 512

NumberFormat = Literal["float32", "bfloat16"]
# Gets the share of the tokens that are done.
Progress = Callable[[float], None]


class SentenceEncoder:
    """Run a model without its head, in evaluation mode."""

    def __init__(
        self,
        model: str,
        device: str = "auto",
        num_threads: int = 0,
        dtype: str = "float32",
        kind: ModelKind = "masked",
    ) -> None:
        """Load the model and its tokenizer.

        Args:
            model: name or folder.
            device: cpu, cuda, or auto: cuda where there is one.
            num_threads: how many threads take batches; 0 = cores / local worker processes. Always
                one for cuda.
            dtype: float32, or bfloat16 for the matrix products.
            kind: masked: a masked language model; its vectors leave the special tokens out.
                encoder: any encoder, such as one for sentences; its vectors are what it was
                trained to give (`_pooling`).

        Raises:
            StageError: there is no such model, it is of another kind, or its weights are not
                finite.
        """
        # Torch reads these variables when it is imported.
        for setting in (KERNEL_CACHE_SETTING, WAIT_SETTING):
            os.environ.setdefault(*setting)
        import torch

        self._torch = torch
        check_device(device, "importance.device")
        # Threads of one operation; ours take whole batches instead.
        torch.set_num_threads(1)
        self.device = (
            ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        )
        self.num_threads = 1 if self.device == "cuda" else num_threads or threads_of_a_worker()
        self.model, self.dtype = model, dtype

        self.tokenizer = TextTokenizer(model, kind)
        self._frame = self.tokenizer.frame
        self._pooling = _pooling(model) if kind == "encoder" else "words"
        load = _load_any_encoder if kind == "encoder" else _load_encoder
        loaded = load(model).to(self.device)
        self.tokenizer.refuse_if_longer(int(loaded.get_input_embeddings().num_embeddings))

        self._config = loaded.config
        # None where the flat pass has taken over the weights.
        self._model: Any = None
        self._forward = self._forward_pass(loaded, kind)

    def _forward_pass(
        self,
        loaded: Any,  # noqa: ANN401 - torch is not imported for type checks
        kind: ModelKind,
    ) -> FlatForward | LibraryForward:
        """Return the forward pass, its weights in the number format of products."""
        torch = self._torch
        is_half = self.dtype == "bfloat16"
        number_format = torch.bfloat16 if is_half else torch.float32
        # An encoder that may learn, and gets few texts at a time, keeps the library's pass.
        if kind == "masked" and self.device == "cpu" and FlatForward.can_run(loaded.config):
            return FlatForward(loaded, self._frame, number_format)

        self._model = loaded
        if is_half:
            # Convert once here: autocast would otherwise do it in every forward pass.
            for module in loaded.modules():
                if isinstance(module, torch.nn.Linear):
                    module.to(number_format)
        return LibraryForward(loaded, self._frame, self.device, is_half, self._pooling)

    @property
    def max_tokens(self) -> int:
        """Return how many positions the model has, special tokens included."""
        config = self._config
        # Models with relative positions have no limit of their own.
        limit = int(getattr(config, "max_position_embeddings", 0) or DEFAULT_MAX_TOKENS)
        if config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet"):
            # RoBERTa counts its positions from the padding token's id + 1 on.
            return limit - int(config.pad_token_id) - 1
        return limit

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Let the model learn for a while: with dropout inside the context, without it afterwards."""
        self._model.train()
        try:
            yield
        finally:
            self._model.eval()

    def parameters(self) -> Any:  # noqa: ANN401 - tensors, and torch is not imported for type checks
        """Return the weights that `fine_tuning` changes: all but those of the pooler, which is not used."""
        return [
            parameter
            for name, parameter in self._model.named_parameters()
            if not _is_of_pooler(name)
        ]

    def padded_vectors(self, sequences: Sequence[Ints]) -> Any:  # noqa: ANN401 - as above
        """Return the vectors of sequences as one tensor with gradients, shape (N, d).

        In one batch with padding, for training: `encode` gives the same to the last bits but few.
        """
        torch = self._torch
        ids_Nn, mask_Nn = padded(sequences, self._frame, self.tokenizer.pad_id)
        ids, mask = (torch.from_numpy(values).to(self.device) for values in (ids_Nn, mask_Nn))
        states = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
        if self._pooling == "cls":
            return states[:, 0]
        if self._pooling == "words":
            # Without the opening and the closing token.
            lengths = mask.sum(1)
            mask[:, 0] = 0
            mask[torch.arange(len(lengths)), lengths - 1] = 0
        weights = mask.unsqueeze(2).to(states.dtype)
        return (states * weights).sum(1) / weights.sum(1).clamp(min=1)

    def save(self, folder: str) -> None:
        """Write model and tokenizer to a local folder, in the form in which they are read."""
        self._model.save_pretrained(folder)
        self.tokenizer.save(folder)
        if self._pooling != "words":
            path = Path(folder) / POOLING_FILE
            path.parent.mkdir(exist_ok=True)
            modes = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token"}
            path.write_text(json.dumps({modes[self._pooling]: True}))

    def encode(
        self, sequences: Sequences, batch_tokens: int, progress: Progress | None = None
    ) -> F32:
        """Return the vectors of sequences that have no special tokens yet, shape (N, d).

        An empty sequence has a vector of zeros. Memory: the vectors, and the states of
        `batch_tokens` tokens.

        Raises:
            StageError: a vector is not finite, as where numbers are too large for bfloat16.
        """
        # Equal sequences share a forward pass.
        rows, number_of_sequence = sequences.distinct()
        distinct = sequences.take(rows)
        vectors = np.zeros((len(distinct), int(self._config.hidden_size)), np.float32)

        tokens_done, num_tokens = 0, len(distinct.ids)
        for batch, means in self._encode_in_threads(distinct, batch_tokens):
            # The cosine of a NaN is taken for that of a zero vector: no meaning is left.
            if not np.isfinite(means).all():
                raise StageError(
                    f"{self.model}: gives NaN or infinite vectors in {self.dtype}; use --dtype "
                    "float32 if this is bfloat16, or another model"
                )
            vectors[batch] = means
            tokens_done += int(distinct.lengths[batch].sum())
            if progress is not None:
                progress(tokens_done / num_tokens)
        return vectors[number_of_sequence]

    def _encode_in_threads(
        self, sequences: Sequences, batch_tokens: int
    ) -> Iterator[tuple[I64, F32]]:
        """Yield each batch with its means, in the order in which they are done."""
        pool, forward = ThreadPoolExecutor(self.num_threads), self._forward
        try:
            running = {
                pool.submit(forward.means, sequences, batch, batch_tokens): batch
                for batch in forward.batches(sequences, batch_tokens)
            }
            for future in as_completed(running):
                yield running.pop(future), future.result()
        finally:
            # After an error the batches that wait are not worth computing.
            pool.shutdown(cancel_futures=True)


def best_dtype(device: str) -> NumberFormat:
    """Return the number format that `auto` means on this machine.

    It is bfloat16 where that was measured to be faster and to agree: on x86 processors that
    multiply it. Graphics cards multiply it too, but there it was not measured.
    """
    if device != "cpu":
        import torch

        if device == "cuda" or torch.cuda.is_available():
            return "float32"
    return "bfloat16" if multiplies_bfloat16() else "float32"


def check_device(device: str, setting: str) -> None:
    """Refuse a device that this machine does not have; only a GPU can be missing.

    Args:
        device: auto, cpu or cuda.
        setting: that names it, for the error.

    Raises:
        StageError: says what to set.
    """
    if device != "cuda":
        return
    import torch

    if not torch.cuda.is_available():
        raise StageError(
            f"{setting} is cuda, but torch finds no GPU here; set it to auto or cpu, or "
            "install a build of torch for this machine's GPU and its driver"
        )


def _load_encoder(model: str) -> Any:  # noqa: ANN401 - torch is not imported for type checks
    """Load a masked language model and return its encoder, in evaluation mode.

    Raises:
        StageError: it cannot be loaded, some weights of a masked language model are not there, or
            some are not finite.
    """
    from transformers import AutoModelForMaskedLM

    loaded, missing = _load(model, AutoModelForMaskedLM, "masked language model")
    if missing:
        raise StageError(
            f"{model}: is no masked language model "
            f"({len(missing)} weights are not in it, for example {missing[0]}); "
            "use a checkpoint of BertForMaskedLM or RobertaForMaskedLM"
        )

    _check_finite(model, loaded.state_dict().items())
    return loaded.eval().base_model


def _load_any_encoder(model: str) -> Any:  # noqa: ANN401 - torch is not imported for type checks
    """Load an encoder of any architecture that transformers itself has, in evaluation mode.

    No code of the model's own is run, and no pickle is read.

    Raises:
        StageError: it cannot be loaded, is no encoder alone, lacks weights, or some are not finite.
    """
    from transformers import AutoModel

    loaded, missing = _load(model, AutoModel, "encoder")
    if loaded.config.is_encoder_decoder or getattr(loaded.config, "is_decoder", False):
        raise StageError(f"{model}: has a decoder; use an encoder, such as one for sentences")
    # The pooler works on the vector of the first token for a head; neither is used.
    missing = [name for name in missing if not _is_of_pooler(name)]
    if missing:
        raise StageError(
            f"{model}: {len(missing)} weights are not in it, for example {missing[0]}; "
            "copy the file again, or use another checkpoint"
        )
    own_weights = (
        (name, tensor) for name, tensor in loaded.state_dict().items() if not _is_of_pooler(name)
    )
    _check_finite(model, own_weights)
    return loaded.eval()


def _is_of_pooler(name: str) -> bool:
    return name.startswith("pooler.") or ".pooler." in name


def _load(
    model: str,
    loader: Any,  # noqa: ANN401 - a class of transformers
    component: str,
) -> tuple[Any, list[str]]:
    """Load a model, and return it with the names of the weights that the checkpoint lacks.

    Raises:
        StageError: it cannot be loaded.
    """
    import torch
    from safetensors import SafetensorError
    from transformers.utils import logging

    folder = local_model(model)
    if Path(folder).is_dir() and (problem := weights_problem(Path(folder))):
        raise StageError(load_failure(component, model, problem))

    # Transformers logs weights that the checkpoint lacks; the callers decide about them instead.
    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        loaded, info = loader.from_pretrained(
            folder,
            dtype=torch.float32,
            output_loading_info=True,
            # No code of the model's own, and no pickle: both run what a stranger wrote.
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        # A RuntimeError: sizes that differ between its settings and its weights.
        raise StageError(load_failure(component, model, error)) from error
    finally:
        logging.set_verbosity(verbosity)
    return loaded, sorted(info["missing_keys"])


def _check_finite(model: str, weights: Iterable[tuple[str, Any]]) -> None:
    """Refuse weights that are not finite.

    Raises:
        StageError: some are not.
    """
    wrong = not_finite(weights)
    if wrong:
        raise StageError(
            f"{model}: {len(wrong)} tensor(s) such as {wrong[0]!r} hold NaN or infinite numbers; "
            "copy the file again, or use another checkpoint"
        )


def _pooling(model: str) -> Pooling:
    """Return how a model makes a vector of its states: mean or cls of all tokens, or words.

    Read from 1_Pooling/config.json, in which sentence-transformers keeps it. A model without this
    file was not trained for sentences: the mean over the words is as good as any.

    Raises:
        StageError: it does so in another way.
    """
    from transformers.utils import cached_file

    path = cached_file(
        local_model(model),
        POOLING_FILE,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if path is None:
        return "words"
    config = json.loads(Path(path).read_text())
    modes = {
        name.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
        for name, is_on in config.items()
        if name.startswith("pooling_mode_") and is_on is True
    } or {str(config.get("pooling_mode", "mean"))}
    if len(modes) > 1 or not modes <= {"mean", "cls"}:
        raise StageError(
            f"{model}: its vectors are {' and '.join(sorted(modes))} of the states "
            f"({path}); use a model with mean or cls"
        )
    return cast(Pooling, modes.pop())
