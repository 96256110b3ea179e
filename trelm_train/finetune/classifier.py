"""Load the encoder of an exported model, and put a linear classifier on its states.

Any encoder of transformers will do, with or without a masked-LM head: no head is read. Neither is a
pooler: masked LMs have none that was trained.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from schemas.bucket_copies import local_model
from schemas.errors import ConfigError
from schemas.model_folder import longer_tokenizer
from trelm_train.model.masked_lm import (
    check_folder,
    check_weights,
    configuration_of,
    load_tokenizer,
    read_configuration,
    read_model,
    weights_sha256,
)
from trelm_train.model.protocols import Tokenizer

# Legend: R rows, S tokens per row, H hidden size, P marked spans, C classes.

# As BERT initialises its own classifiers.
INITIAL_STD = 0.02
DEFAULT_DROPOUT = 0.1
# Families that count positions from behind the padding id.
_OFFSET_FAMILIES = frozenset(("roberta", "xlm-roberta", "camembert", "mpnet"))


class Encoder:
    """Hold a pretrained encoder, in float32 on the processor, and what fine-tuning asks of it."""

    def __init__(self, name: str, hf: Any, tokenizer: Tokenizer) -> None:  # noqa: ANN401
        self.name, self.tokenizer, self.config = name, tokenizer, hf.config
        self.hf: Any = hf
        # Its pooler would be random.
        if getattr(hf, "pooler", None) is not None:
            hf.pooler = None
        self.weights_sha256 = weights_sha256(hf)
        self.configuration_sha256 = hashlib.sha256(configuration_of(hf.config).encode()).hexdigest()

    @property
    def pad_id(self) -> int:
        """Return the id that fills rows."""
        # The model's: RoBERTa counts positions by it.
        own = getattr(self.config, "pad_token_id", None)
        return int(self.tokenizer.pad_token_id or 0) if own is None else int(own)

    @property
    def max_tokens(self) -> int:
        """Return how many tokens a text may have."""
        reserved = self.pad_id + 1 if self.config.model_type in _OFFSET_FAMILIES else 0
        return int(self.config.max_position_embeddings) - reserved

    @property
    def num_ids(self) -> int:
        """Return how many token ids the model knows; markers follow them."""
        table: Any = self.hf.get_input_embeddings()
        return int(table.weight.shape[0])

    def check_length(self, length: int) -> None:
        """Refuse texts that are longer than the model reads.

        Raises:
            ConfigError: says how many tokens it reads.
        """
        if length > self.max_tokens:
            raise ConfigError(
                f"--length {length}: {self.name} reads {self.max_tokens} tokens at most; give "
                f"--length {self.max_tokens} or less"
            )

    @torch.no_grad()
    def add_markers(self, descriptions: Sequence[str]) -> None:
        """Add an embedding for each marker: the mean of those of the words that describe it.

        So a marker begins among the embeddings that the model knows, and no seed decides it.
        """
        first = self.num_ids
        self.hf.resize_token_embeddings(first + len(descriptions), mean_resizing=False)
        table: Tensor = self.hf.get_input_embeddings().weight
        for number, words in enumerate(descriptions):
            ids = self.tokenizer(words, add_special_tokens=False)["input_ids"]
            known = table[torch.tensor(ids)] if ids else table[:first]
            table[first + number] = known.mean(0)


def load_encoder(name: str) -> Encoder:
    """Load the encoder of a model, and its tokenizer; one in a bucket is copied to this machine.

    Raises:
        ConfigError: no such model, a decoder, weights that are missing, pickled or not finite, or a
            tokenizer that does not fit.
    """
    from transformers import AutoModel
    from transformers.utils import logging as hf_logging

    hf_logging.disable_progress_bar()
    folder = local_model(name)
    check_folder(folder)
    config = _config_of(name, folder)
    verbosity = hf_logging.get_verbosity()
    # Heads that are not read, and the pooler, would be reported; what matters is checked below.
    hf_logging.set_verbosity_error()
    try:
        hf, info = read_model(AutoModel, name, folder)
    finally:
        hf_logging.set_verbosity(verbosity)

    missing = sorted(
        key
        for key in info["missing_keys"]
        if not key.startswith("pooler.") and not key.endswith("position_ids")
    )
    if missing:
        raise ConfigError(
            f"{name}: its checkpoint lacks {len(missing)} weight(s) of the encoder such as {missing[0]!r}; "
            "copy the model again"
        )
    check_weights(name, hf.state_dict())
    tokenizer = load_tokenizer(name)
    if problem := longer_tokenizer(name, len(tokenizer), config.vocab_size):
        raise ConfigError(problem)
    return Encoder(name, hf, tokenizer)


def _config_of(name: str, folder: str) -> Any:  # noqa: ANN401 - a configuration of transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    config = read_configuration(name, folder)
    # GPT-2's own configuration does not say that it is a decoder.
    is_encoder = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    has_decoder = getattr(config, "is_decoder", False) or getattr(
        config, "is_encoder_decoder", False
    )
    if has_decoder or not is_encoder:
        raise ConfigError(
            f"{name}: a {config.model_type!r} model is no encoder; use BERT or RoBERTa"
        )
    return config


class SpanClassifier(nn.Module):
    """Classify texts with marked spans by one linear map of the encoder's last states.

    With `reads_marks` it reads the states at the markers before the spans, one after the other,
    otherwise that of [CLS].
    """

    def __init__(
        self,
        encoder: Any,  # noqa: ANN401 - a model of transformers, which is untyped
        num_classes: int,
        num_spans: int,
        *,
        reads_marks: bool,
    ) -> None:
        super().__init__()
        config: Any = encoder.config
        self.encoder = encoder
        self.reads_marks = reads_marks
        self.dropout = nn.Dropout(getattr(config, "hidden_dropout_prob", DEFAULT_DROPOUT))
        size = config.hidden_size * (num_spans if reads_marks else 1)
        self.output = nn.Linear(size, num_classes)
        nn.init.normal_(self.output.weight, std=INITIAL_STD)
        nn.init.zeros_(self.output.bias)

    def forward(self, ids_RS: Tensor, mask_RS: Tensor, marks_RP: Tensor) -> Tensor:
        """Compute the logits of each class, as R x C in float32."""
        states_RSH: Tensor = self.encoder(
            input_ids=ids_RS, attention_mask=mask_RS
        ).last_hidden_state
        if self.reads_marks:
            rows_R1 = torch.arange(len(ids_RS), device=ids_RS.device)[:, None]
            pooled_RX = states_RSH[rows_R1, marks_RP].flatten(1)
        else:
            pooled_RX = states_RSH[:, 0]
        logits_RC: Tensor = self.output(self.dropout(pooled_RX))
        return logits_RC.float()
