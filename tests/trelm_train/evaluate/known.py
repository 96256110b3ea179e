"""A tiny BERT whose answers are written down, and LAMA folders to ask it about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import normalizers, pre_tokenizers

from trelm_train.init import SPECIAL, wordpiece_tokenizer
from trelm_train.model.masked_lm import MaskedLm

# Word in the sentence → answer → how strongly it is answered; what is not named has strength 0.
Table = dict[str, dict[str, float]]
Rows = list[dict[str, Any]]


def tokenizer_of(words: list[str], *, lowercase: bool = False) -> Any:
    """Every word is a token, everything else [UNK]; a piece such as "##x" continues a word."""
    pieces = {piece: number for number, piece in enumerate([*SPECIAL, *words])}
    normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    return wordpiece_tokenizer(pieces, normalizer, pre_tokenizers.BertPreTokenizer())


@torch.no_grad()
def known_bert(tokenizer: Any, table: Table) -> Any:
    """Hidden states say which tokens are in the sentence; the decoder's rows are the table.

    Token t has 1 at place 2 t of its embedding and -1 beside it, so that normalisation takes
    nothing away: a token that is not in the sentence weighs nothing. The one layer adds the mean
    over the sentence.
    """
    from transformers import BertConfig, BertForMaskedLM

    size = len(tokenizer)
    hf = BertForMaskedLM(
        BertConfig(
            vocab_size=size,
            hidden_size=2 * size,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=4,
            max_position_embeddings=64,
            hidden_act="linear",
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            tie_word_embeddings=False,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    for name, parameter in hf.named_parameters():
        parameter.fill_(1.0 if "LayerNorm.weight" in name else 0.0)
    attention = hf.bert.encoder.layer[0].attention
    hf.bert.embeddings.word_embeddings.weight.copy_(
        torch.stack([torch.eye(size), -torch.eye(size)], 2).reshape(size, 2 * size)
    )
    for weight in (
        attention.self.value.weight,
        attention.output.dense.weight,
        hf.cls.predictions.transform.dense.weight,
    ):
        weight.copy_(torch.eye(2 * size))
    for word, answers in table.items():
        for answer, strength in answers.items():
            places = [tokenizer.convert_tokens_to_ids(one) for one in (answer, word)]
            assert tokenizer.unk_token_id not in places
            hf.cls.predictions.decoder.weight[places[0], 2 * places[1]] = strength
    hf.eval()
    return hf


def known_model(tokenizer: Any, table: Table) -> MaskedLm:
    """The same without normalisation, whose rounding would part equal answers."""
    hf = known_bert(tokenizer, table)
    layer = hf.bert.encoder.layer[0]
    transform = hf.cls.predictions.transform
    for owner in (hf.bert.embeddings, layer.attention.output, layer.output, transform):
        owner.LayerNorm = torch.nn.Identity()
    return MaskedLm(hf, torch.device("cpu"), "the known model")


def write_jsonl(path: Path, rows: Rows, *, mark: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8-sig" if mark else "utf-8")
    return path


def fact(subject: Any, answer: Any, **more: Any) -> dict[str, Any]:
    return {"sub_label": subject, "obj_label": answer, **more}
