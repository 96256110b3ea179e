"""One face for the model families: `BertForMaskedLM`, `RobertaForMaskedLM` and `ModernBertForMaskedLM` of transformers.

Packing needs two things that the library does not derive: a block-diagonal mask, and positions that start anew in every
sentence (from pad_token_id + 1 in RoBERTa). The prediction head runs on asked positions only. What differs between the
families stands in `families`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from schemas.array_types import I64
from trelm_train.data.loader import Batch
from trelm_train.data.masking import Vocabulary
from trelm_train.data.shards import Shards, sha256_of
from trelm_train.errors import ConfigError, TrelmError
from trelm_train.model.families import FAMILIES, Packed
from trelm_train.model.token_log_probability import gold_log_probabilities

# Legend: R packed rows, S tokens per packed row, H hidden size, M asked positions, V vocabulary.

log = logging.getLogger(__name__)


class MaskedLm:
    """A masked language model whose parts can be reached one by one."""

    def __init__(self, hf: Any, device: torch.device) -> None:  # noqa: ANN401
        if hf.config.model_type not in FAMILIES:
            raise TrelmError(
                f"model type {hf.config.model_type!r} is not supported; use a masked LM of {', '.join(FAMILIES)}"
            )
        self.hf: nn.Module = hf.to(device)
        self.family = FAMILIES[hf.config.model_type](hf)
        self.config: Any = hf.config
        self.device = device
        self.base: Any = self.family.base
        self.layers: list[Any] = self.family.layers
        self.num_layers: int = self.config.num_hidden_layers
        self.hidden_size: int = self.config.hidden_size
        self.inner_size: int = self.config.intermediate_size
        self.position_offset: int = self.family.position_offset
        self.max_tokens: int = self.config.max_position_embeddings - self.position_offset

    @property
    def word_embeddings(self) -> nn.Embedding:
        """The input embeddings, tied to the decoder."""
        table = self.base.get_input_embeddings()
        assert isinstance(table, nn.Embedding)
        return table

    def pack(self, batch: Batch, input_ids_RS: I64 | None = None) -> Packed:
        """Tensors of a batch, with other token ids if given; a token sees its own sentence only."""
        ids = batch.input_ids_RS if input_ids_RS is None else input_ids_RS
        segment_RS = torch.from_numpy(batch.segment_RS).to(self.device)
        return Packed(
            input_ids_RS=torch.from_numpy(ids).to(self.device),
            position_ids_RS=torch.from_numpy(batch.offset_RS + self.position_offset).to(
                self.device
            ),
            mask_R1SS=(segment_RS[:, None, :, None] == segment_RS[:, None, None, :]),
        )

    def embed(self, packed: Packed) -> Tensor:
        """Input embeddings after LayerNorm, as R x S x H."""
        return self.family.embed(packed)

    def encode(self, packed: Packed) -> Tensor:
        """Last hidden states, as R x S x H."""
        hidden_RSH: Tensor = self.base(**self.family.inputs(packed)).last_hidden_state
        return hidden_RSH

    def logits(self, hidden_MH: Tensor) -> Tensor:
        """Vocabulary logits at asked positions only, as M x V."""
        return self.family.logits(hidden_MH)

    def edit_embeddings(self, edit: Callable[[Tensor], Tensor] | None) -> EmbeddingEdit:
        """A `with` block in which `edit` changes the word embeddings (R x S x H) before positions are added."""
        return EmbeddingEdit(self.word_embeddings, edit)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """No dropout inside."""
        training = self.hf.training
        self.hf.eval()
        try:
            yield
        finally:
            self.hf.train(training)


class EmbeddingEdit:
    """Hook on the word embeddings, removed on leaving the `with` block."""

    def __init__(self, table: nn.Embedding, edit: Callable[[Tensor], Tensor] | None) -> None:
        self.table, self.edit = table, edit
        self.handle: Any = None

    def __enter__(self) -> None:
        edit = self.edit
        if edit is not None:
            self.handle = self.table.register_forward_hook(
                lambda _module, _inputs, out_RSH: edit(out_RSH)
            )

    def __exit__(self, *_: object) -> None:
        if self.handle is not None:
            self.handle.remove()


def mlm_loss_sum(model: MaskedLm, hidden_RSH: Tensor, target_M: Tensor, gold_M: Tensor) -> Tensor:
    """Summed cross-entropy at the targets; 0 (with a graph) when there is none."""
    if not len(target_M):
        return hidden_RSH.sum() * 0.0
    hidden_MH = hidden_RSH.reshape(-1, model.hidden_size)[target_M]
    return -gold_log_probabilities(model.logits(hidden_MH).float(), gold_M).sum()


def pick_device(name: str) -> torch.device:
    """The device asked for.

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
    """A pretrained masked language model in float32.

    Raises:
        ConfigError: no such model, another architecture, or no trained masked-LM head.
    """
    from transformers import AutoConfig, AutoModelForMaskedLM
    from transformers.utils import logging as hf_logging

    hf_logging.disable_progress_bar()
    if name.startswith(("/", ".", "~")) and not Path(name).is_dir():
        raise ConfigError(f"{name}: no such folder; give the folder of a model, or a model's name")
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{name}: no such model here ({_first_line(error)}); give a folder or a model's name"
        ) from error
    if config.model_type not in FAMILIES or getattr(config, "is_decoder", False):
        raise ConfigError(
            f"{name}: a {config.model_type!r} model is not a masked LM that this program trains; "
            "use BERT, RoBERTa or ModernBERT"
        )
    try:
        hf, info = AutoModelForMaskedLM.from_pretrained(
            name,
            dtype=torch.float32,  # whatever the checkpoint's: these are the master weights
            attn_implementation="sdpa",  # takes the block-diagonal mask as booleans
            output_loading_info=True,
        )
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{name}: cannot load its weights ({_first_line(error)})") from error
    missing = sorted(
        key for key in info["missing_keys"] if not key.endswith(("position_ids", "decoder.bias"))
    )
    if missing:
        raise ConfigError(
            f"{name}: not a masked LM: its checkpoint lacks {len(missing)} weight(s) such as {missing[0]!r}; "
            "use a checkpoint with its masked-LM head (such as BertForMaskedLM)"
        )
    return MaskedLm(hf, device)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def load_tokenizer(folder: str) -> Any:  # noqa: ANN401
    """The tokenizer of a model or of a shards folder.

    Raises:
        ConfigError: there is none.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{folder}: no tokenizer there ({_first_line(error)})") from error


def vocabulary_of(tokenizer: Any, size: int) -> Vocabulary:  # noqa: ANN401
    """Mask, padding and special ids.

    Raises:
        ConfigError: the tokenizer has no mask token.
    """
    if tokenizer.mask_token_id is None:
        raise ConfigError("the tokenizer has no mask token; a masked language model needs one")
    return Vocabulary(
        size=min(size, len(tokenizer)),
        mask_id=tokenizer.mask_token_id,
        pad_id=tokenizer.pad_token_id or 0,
        special_ids=tuple(sorted(set(tokenizer.all_special_ids))),
    )


def check_tokenizer(model_name: str, model: MaskedLm, shards: Shards) -> Vocabulary:
    """Refuse a model whose tokenizer is not the one the shards were made with.

    Raises:
        ConfigError: the vocabularies differ.
    """
    tokenizer = load_tokenizer(str(shards.tokenizer_path))
    if len(tokenizer) > model.config.vocab_size:
        raise ConfigError(
            f"{shards.path}: made with a tokenizer of {len(tokenizer)} tokens, but {model_name} has "
            f"{model.config.vocab_size}; these shards were made for {shards.model}"
        )
    own = Path(model_name) / "tokenizer.json"
    if not (own.is_file() and sha256_of(own) == shards.tokenizer_sha256):
        difference = _difference(load_tokenizer(model_name).get_vocab(), tokenizer.get_vocab())
        if difference:
            raise ConfigError(
                f"{model_name}: its tokenizer is not the one of {shards.path} (made for {shards.model}): {difference}; "
                "make the shards again with --model of this model"
            )
    return vocabulary_of(tokenizer, model.config.vocab_size)


def _difference(ours: dict[str, int], theirs: dict[str, int]) -> str:
    if ours == theirs:
        return ""
    for token, number in sorted(theirs.items(), key=lambda item: item[1]):
        if ours.get(token) != number:
            return f"token {token!r} has id {ours.get(token)}, in the shards {number}"
    return f"{len(ours)} tokens, in the shards {len(theirs)}"
