"""Make models and sentences for `benchmarks.routing`: random weights where speed alone is measured,
facts of the kit elsewhere.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trelm_train.data.loader import Packing, Position, assemble, plan_batches, sentences_from_lists
from trelm_train.model.masked_lm import MaskedLm, load_pretrained, load_tokenizer
from trelm_train.routing.attribution import Targets
from trelm_train.routing.probes import Probe, chunks

SHAPES = {
    "mini": (4, 256),
    "base": (12, 768),
}  # layers, hidden size; four times as many neurons, heads of 64
VOCABULARY = 30522
MASK, PAD, ORDINARY = 103, 0, 1000
MAX_TOKENS = 128
TARGET_SHARE = 0.15


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Hold a packed batch and what is to be predicted in it."""

    packed: Any
    target: Tensor
    gold: Tensor
    num_tokens: int  # without padding


def random_bert(shape: str, dropout: float) -> MaskedLm:
    """Return a BERT of this shape with random weights."""
    from transformers import BertConfig, BertForMaskedLM

    layers, hidden = SHAPES[shape]
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        intermediate_size=4 * hidden,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        attn_implementation="sdpa",
    )
    return MaskedLm(BertForMaskedLM(config), torch.device("cpu"))


def sentence_lengths(count: int, seed: int = 0) -> Any:  # noqa: ANN401
    """Draw lengths like those of Wikipedia's sentences in a 30k vocabulary: median 33 tokens, mean
    35, 95 % below 70.
    """
    return np.clip(
        np.random.default_rng(seed).lognormal(np.log(33), 0.42, count), 6, MAX_TOKENS
    ).astype(np.int64)


def generated_probes(count: int) -> list[Probe]:
    """Generate sentences of random tokens, each with a mention of 1 to 3 tokens masked."""
    rng = np.random.default_rng(1)
    probes = []
    for length in sentence_lengths(count).tolist():
        size = int(rng.integers(1, 4))
        at = np.arange(size, dtype=np.int64) + int(rng.integers(1, length - size))
        ids = rng.integers(ORDINARY, VOCABULARY, length)
        gold, ids[at] = ids[at], MASK
        probes.append(Probe(input_ids=ids.tolist(), position_T=at, gold_T=gold))
    return probes


def packing(tokens: int) -> Packing:
    """Return the packing: rows of 128."""
    return Packing(max_tokens=MAX_TOKENS, batch_tokens=tokens, limit=512)


def generated_work(model: MaskedLm, tokens: int) -> Work:
    """Generate a packed batch of about `tokens` padded tokens, 15 % of them targets."""
    lengths = sentence_lengths(tokens // 30 + 8)
    rng = np.random.default_rng(2)
    sentences = sentences_from_lists(
        {"ids": [rng.integers(ORDINARY, VOCABULARY, n).tolist() for n in lengths]}
    )
    batch = assemble(sentences, plan_batches(lengths, packing(tokens))[0], Position(), PAD)
    ids = batch.input_ids_RS.copy()
    real = np.flatnonzero(batch.segment_RS.reshape(-1) >= 0)
    target = np.sort(rng.choice(real, int(TARGET_SHARE * len(real)), replace=False))
    gold = ids.reshape(-1)[target].copy()
    ids.reshape(-1)[target] = MASK
    return Work(
        packed=model.pack(batch, ids),
        target=torch.from_numpy(target),
        gold=torch.from_numpy(gold),
        num_tokens=batch.num_tokens,
    )


def probe_chunks(model: MaskedLm, probes: list[Probe]) -> list[tuple[Any, Targets]]:
    """Pack probes as the router packs them."""
    return [(model.pack(batch), targets) for batch, targets in chunks(probes, packing(2048), PAD)]


def kit() -> Path:
    """Return the folder of the data kit.

    Raises:
        SystemExit: TRELM_KIT is not set.
    """
    if "TRELM_KIT" not in os.environ:
        raise SystemExit(
            "set TRELM_KIT to the data kit: the facts of the fidelity table are its ParaRel probes"
        )
    return Path(os.environ["TRELM_KIT"])


def trained_model(name: str) -> tuple[MaskedLm, Any]:
    """Load a trained masked language model and its tokenizer; an empty name means the kit's."""
    folder = name or str(kit() / "model" / "splade-tiny-msmarco-mlm")
    model = load_pretrained(folder, torch.device("cpu"))
    model.hf.eval()
    return model, load_tokenizer(folder)


def kit_facts(tokenizer: Any, count: int) -> list[Probe]:  # noqa: ANN401
    """Return facts of ParaRel in LAMA's templates, their objects masked; the same ones for every
    model.
    """
    root = kit() / "probes"
    lines = (root / "LAMA_relations.jsonl").read_text().splitlines()
    relations = {row["relation"]: row["template"] for row in map(json.loads, lines)}
    rows = [
        (relations[path.stem], json.loads(line))
        for path in sorted((root / "pararel_trex_lms_vocab").glob("P*.jsonl"))
        if path.stem in relations
        for line in path.read_text().splitlines()
    ]
    order = np.random.default_rng(0).permutation(len(rows))
    probes: list[Probe] = []
    for number in order.tolist():
        template, row = rows[number]
        gold = tokenizer(row["obj_label"], add_special_tokens=False)["input_ids"]
        text = template.replace("[X]", row["sub_label"]).replace(
            "[Y]", tokenizer.mask_token * len(gold)
        )
        ids = np.asarray(tokenizer(text)["input_ids"], np.int64)
        at = np.flatnonzero(ids == tokenizer.mask_token_id)
        if len(at) == len(gold) and len(ids) <= MAX_TOKENS:
            probes.append(
                Probe(input_ids=ids.tolist(), position_T=at, gold_T=np.asarray(gold, np.int64))
            )
        if len(probes) == count:
            break
    return probes
