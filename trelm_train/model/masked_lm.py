"""Use the masked language models of transformers in one way.

These are `BertForMaskedLM`, `RobertaForMaskedLM` and `ModernBertForMaskedLM`. Packing needs what
the library does not derive: a block-diagonal mask, and positions that start again in every sentence
(at pad_token_id + 1 in RoBERTa). The prediction head runs on some positions only. What differs
between the families stands in `families`.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from schemas.array_types import I64
from schemas.bucket_copies import local_model
from schemas.errors import ConfigError, TrelmError
from schemas.finite import not_finite
from schemas.model_folder import CONFIG, longer_tokenizer, model_problem, sealed_problem
from trelm_train.data.loader import Batch
from trelm_train.data.masking import Vocabulary
from trelm_train.data.shards import Shards, sha256_of
from trelm_train.data.spellings import spellings_of
from trelm_train.model.families import FAMILIES, Packed
from trelm_train.model.precision import rows_to_add, working_dtype
from trelm_train.model.protocols import Tokenizer
from trelm_train.model.token_log_probability import gold_log_probabilities, head_log_probabilities

# Legend: R packed rows, S tokens per packed row, H hidden size, M predicted positions,
# V vocabulary.

log = logging.getLogger(__name__)
# Where a model lies, who wrote it, and what is done with its states say nothing about them.
_NO_CONFIGURATION = frozenset(
    ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
)


class MaskedLm:
    """Hold a masked language model whose pieces can be reached one by one.

    `name` is what errors call it: the name or folder that it was loaded from.

    Raises:
        TrelmError: the model is of an unknown family.
    """

    def __init__(self, hf: Any, device: torch.device, name: str = "the model") -> None:  # noqa: ANN401
        if hf.config.model_type not in FAMILIES:
            raise TrelmError(
                f"model type {hf.config.model_type!r} is not supported; "
                f"use a masked LM of {', '.join(FAMILIES)}"
            )

        self.hf: nn.Module = hf.to(device)
        self.family = FAMILIES[hf.config.model_type](hf)
        self.name = name
        self.config: Any = hf.config
        self.device = device
        self.base: Any = self.family.base
        self.layers: list[Any] = self.family.layers
        self.num_layers: int = self.config.num_hidden_layers
        self.hidden_size: int = self.config.hidden_size
        self.inner_size: int = self.config.intermediate_size
        self.position_offset: int = self.family.position_offset
        # RoBERTa reserves some positions, which no token can have.
        self.max_tokens: int = self.config.max_position_embeddings - self.position_offset

    @property
    def word_embeddings(self) -> nn.Embedding:
        """Return the input embeddings, which are tied to the decoder."""
        table = self.base.get_input_embeddings()
        assert isinstance(table, nn.Embedding)
        return table

    def pack(self, batch: Batch, input_ids_RS: I64 | None = None) -> Packed:
        """Return a batch as tensors; a token sees its own sentence only.

        `input_ids_RS` takes the place of the batch's token ids.
        """
        ids = batch.input_ids_RS if input_ids_RS is None else input_ids_RS
        position = batch.offset_RS + self.position_offset
        # Padding is a segment of its own (-1): its tokens see each other, so no row of the mask is
        # empty.
        segment_RS = torch.from_numpy(batch.segment_RS).to(self.device)

        return Packed(
            input_ids_RS=torch.from_numpy(ids).to(self.device),
            position_ids_RS=torch.from_numpy(position).to(self.device),
            mask_R1SS=(segment_RS[:, None, :, None] == segment_RS[:, None, None, :]),
        )

    def embed(self, packed: Packed) -> Tensor:
        """Compute input embeddings after LayerNorm, as R x S x H."""
        return self.family.embed(packed)

    def encode(self, packed: Packed) -> Tensor:
        """Compute last hidden states, as R x S x H."""
        # The library's own forward pass, for evaluation; training uses `encoder.encode_reads`.
        hidden_RSH: Tensor = self.base(**self.family.inputs(packed)).last_hidden_state
        return hidden_RSH

    def logits(self, hidden_MH: Tensor) -> Tensor:
        """Compute vocabulary logits of some states, as M x V."""
        return self.family.logits(hidden_MH)

    def edit_embeddings(
        self, edit: Callable[[Tensor], Tensor] | None, *, at_states: bool = False
    ) -> EmbeddingEdit:
        """Open a `with` block in which `edit` changes the word embeddings (R x S x H).

        The change comes before positions are added, or with `at_states` to what enters the first
        layer, after normalisation and dropout.
        """
        return EmbeddingEdit(self.base.embeddings if at_states else self.word_embeddings, edit)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Switch off dropout inside a `with` block."""
        # The mode is restored as it was: evaluation may happen inside training and outside of it.
        training = self.hf.training
        self.hf.eval()
        try:
            yield
        finally:
            self.hf.train(training)


class EmbeddingEdit:
    """Put a hook on a module's output, and remove it when the `with` block is left."""

    def __init__(self, module: nn.Module, edit: Callable[[Tensor], Tensor] | None) -> None:
        self.module, self.edit = module, edit
        self.handle: Any = None

    def __enter__(self) -> None:
        edit = self.edit
        # Without an edit no hook is set, and the forward pass is that of the plain model.
        if edit is not None:
            self.handle = self.module.register_forward_hook(
                lambda _module, _inputs, word_RSH: edit(word_RSH)
            )

    def __exit__(self, *_: object) -> None:
        if self.handle is not None:
            self.handle.remove()


def mlm_loss_sum(model: MaskedLm, hidden_RSH: Tensor, target_M: Tensor, gold_M: Tensor) -> Tensor:
    """Sum the cross-entropy at the targets; 0 (with a graph) when there is none."""
    if not len(target_M):
        # A step without targets still needs a backward pass, which other losses join.
        return hidden_RSH.sum() * 0.0
    return mlm_losses(model, hidden_RSH, target_M, gold_M).sum()


def mlm_losses(model: MaskedLm, hidden_RSH: Tensor, target_M: Tensor, gold_M: Tensor) -> Tensor:
    """Compute the cross-entropy at each target, as M."""
    hidden_MH = hidden_RSH.reshape(-1, model.hidden_size)[target_M]
    decoder, dtype = model.family.decoder, working_dtype(hidden_MH)
    # A bias can be switched off in ModernBERT.
    if dtype == torch.bfloat16 and decoder.bias is not None:
        num_added = rows_to_add(gold_M, dtype)
        states_MH = model.family.head_states(F.pad(hidden_MH, (0, 0, 0, num_added)))
        log_p_M = head_log_probabilities(
            states_MH, decoder.weight, decoder.bias, F.pad(gold_M, (0, num_added))
        )
        return -log_p_M[: len(gold_M)]
    return -gold_log_probabilities(model.logits(hidden_MH).float(), gold_M)


def pick_device(name: str) -> torch.device:
    """Return the device of this name: auto, cpu or cuda.

    Raises:
        ConfigError: CUDA was asked for and is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device 'cuda' was asked for, but torch sees no GPU; use --device cpu or auto"
        )
    return torch.device(name)


def load_pretrained(name: str, device: torch.device) -> MaskedLm:
    """Load a pretrained masked language model in float32; one in a bucket is copied to this machine.

    Raises:
        ConfigError: no such model, another architecture, no trained masked-LM head, or weights
            that are not finite.
    """
    from transformers import AutoModelForMaskedLM
    from transformers.utils import logging as hf_logging

    hf_logging.disable_progress_bar()

    folder = local_model(name)
    check_folder(folder)
    config = read_configuration(name, folder)
    if config.model_type not in FAMILIES or getattr(config, "is_decoder", False):
        raise ConfigError(
            f"{name}: a {config.model_type!r} model is not a masked LM that this program trains; "
            "use BERT, RoBERTa or ModernBERT"
        )

    # "sdpa" takes the block-diagonal mask as booleans.
    hf, info = read_model(AutoModelForMaskedLM, name, folder, attn_implementation="sdpa")
    # A checkpoint without a trained head would get a random one, without any error.
    missing = sorted(
        key for key in info["missing_keys"] if not key.endswith(("position_ids", "decoder.bias"))
    )
    if missing:
        raise ConfigError(
            f"{name}: not a masked LM: its checkpoint lacks {len(missing)} weight(s) such as "
            f"{missing[0]!r}; use a checkpoint with its masked-LM head (such as BertForMaskedLM)"
        )
    check_weights(name, hf.state_dict())
    return MaskedLm(hf, device, name)


def read_configuration(name: str, folder: str) -> Any:  # noqa: ANN401 - of transformers
    """Read the configuration of a model.

    Raises:
        ConfigError: there is none.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{name}: no such model here ({first_line(error)}); give a folder or a model's name"
        ) from error


def read_model(loader: Any, name: str, folder: str, **options: Any) -> tuple[Any, dict[str, Any]]:  # noqa: ANN401
    """Load a model by a class of transformers in float32, with what its checkpoint lacks.

    Raises:
        ConfigError: its weights cannot be loaded.
    """
    # float32 in spite of the checkpoint's format: these are the master weights.
    try:
        hf, info = loader.from_pretrained(
            folder,
            dtype=torch.float32,
            output_loading_info=True,
            # No code of the model's, and no pickle: both run what a stranger wrote.
            trust_remote_code=False,
            use_safetensors=True,
            **options,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        # A RuntimeError: sizes that differ between its settings and its weights.
        raise ConfigError(
            f"{name}: cannot load its weights ({first_line(error)}); copy the model again, or give "
            "another one"
        ) from error
    return hf, info


def check_folder(name: str) -> None:
    """Refuse a folder that is not there, holds no whole model, or is damaged.

    Raises:
        ConfigError: says which, and what to do.
    """
    # A path that does not exist must not be looked up as the name of a model on the net.
    if name.startswith(("/", ".", "~")) and not Path(name).is_dir():
        raise ConfigError(f"{name}: no such folder; give the folder of a model, or a model's name")
    if (Path(name) / CONFIG).is_file() and (problem := model_problem(Path(name))):
        raise ConfigError(problem)
    folder = Path(name)
    # A run has its models under these names.
    run = folder.parent if folder.name in ("model", "initial") else None
    if problem := sealed_problem(name, folder, run):
        raise ConfigError(problem)


def check_weights(name: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not all finite; `name` is the model or file that they come from.

    Raises:
        ConfigError: names the model and the tensor.
    """
    wrong = not_finite(tensors.items())
    if wrong:
        raise ConfigError(
            f"{name}: {len(wrong)} tensor(s) such as {wrong[0]!r} hold NaN or infinite numbers; "
            "copy the file again, or use an earlier checkpoint"
        )


def first_line(error: BaseException) -> str:
    """Return the first line of an error message, or the name of its type."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def load_tokenizer(folder: str, model: MaskedLm | None = None) -> Tokenizer:
    """Load the tokenizer of a model or of a shards folder.

    Raises:
        ConfigError: there is none, or it has more tokens than the model that it is for has embeddings.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(
            local_model(folder), trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{folder}: no tokenizer there ({first_line(error)})") from error
    if model is not None:
        problem = longer_tokenizer(folder, len(tokenizer), model.config.vocab_size)
        if problem:
            raise ConfigError(problem)
    return tokenizer


def weights_sha256(model: nn.Module) -> str:
    """Return a hash of names, sizes, formats and values of all weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()


def configuration_of(config: Any) -> str:  # noqa: ANN401 - a configuration of transformers
    """Return what else decides a model's answers beside its weights, as a text to be hashed."""
    values = {
        name: value for name, value in config.to_dict().items() if name not in _NO_CONFIGURATION
    }
    return json.dumps(values, sort_keys=True, default=str)


def vocabulary_of(tokenizer: Tokenizer, size: int) -> Vocabulary:
    """Return the size of a vocabulary, and its mask, padding and special ids.

    Raises:
        ConfigError: the tokenizer has no mask token.
    """
    # GPT-like tokenizers have none.
    if tokenizer.mask_token_id is None:
        raise ConfigError("the tokenizer has no mask token; a masked language model needs one")
    return Vocabulary(
        size=min(size, len(tokenizer)),
        mask_id=tokenizer.mask_token_id,
        pad_id=tokenizer.pad_token_id or 0,
        special_ids=tuple(sorted(set(tokenizer.all_special_ids))),
        spelling=spellings_of(tokenizer, len(tokenizer)),
    )


def check_tokenizer(model_name: str, model: MaskedLm, shards: Shards) -> Vocabulary:
    """Refuse a model whose tokenizer is not the one the shards were made with.

    Returns:
        the vocabulary of that tokenizer.

    Raises:
        ConfigError: the vocabularies differ.
    """
    tokenizer = load_tokenizer(str(shards.tokenizer_path))
    if longer_tokenizer(str(shards.path), len(tokenizer), model.config.vocab_size):
        raise ConfigError(
            f"{shards.path}: made with a tokenizer of {len(tokenizer)} tokens, "
            f"but {model_name} has "
            f"{model.config.vocab_size}; give --model {shards.model}, for which these shards were "
            "made, or make the shards again with this model"
        )

    # The same file is the same tokenizer; files that differ may still hold the same vocabulary.
    model_file = Path(local_model(model_name)) / "tokenizer.json"
    if not (model_file.is_file() and sha256_of(model_file) == shards.tokenizer_sha256):
        difference = vocabulary_difference(
            load_tokenizer(model_name, model).get_vocab(), tokenizer.get_vocab()
        )
        if difference:
            raise ConfigError(
                f"{model_name}: its tokenizer is not the one of {shards.path} "
                f"(made for {shards.model}): {difference}; "
                "make the shards again with --model of this model"
            )

    return vocabulary_of(tokenizer, model.config.vocab_size)


def vocabulary_difference(
    of_model: dict[str, int], other: dict[str, int], where: str = "in the shards"
) -> str:
    """Describe the first difference of two vocabularies, the other one being `where`; empty if there
    is none.
    """
    if of_model == other:
        return ""

    # In the order of ids, so that the message names the lowest difference.
    for token, number in sorted(other.items(), key=lambda item: item[1]):
        if of_model.get(token) != number:
            return f"token {token!r} has id {of_model.get(token)}, {where} {number}"
    return f"{len(of_model)} tokens, {where} {len(other)}"
