"""A controlled corpus for the trainer: rare subjects, each with facts that one sentence states.

Every template states a fact of its relation. One of each relation's is held out: the warm-up corpus, about other
subjects, has it, the corpus that is trained on never, and probes ask in it. So a model that learned a fact, and not a
sentence, can answer.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.shards import EXAMPLES, KNOWLEDGE, POLICY_BITS
from tests.trelm_train.world import write_shards

TEMPLATES = {
    "born in": [
        "[X] was born in [Y] .",
        "[Y] is where [X] came into the world .",
        "the birthplace of [X] is [Y] .",
    ],
    "works as": [
        "[X] works as a [Y] .",
        "by trade [X] is a [Y] .",
        "for a living [X] became a [Y] .",
    ],
    "plays": [
        "[X] plays the [Y] .",
        "the [Y] is what [X] practises daily .",
        "on stage [X] is heard with a [Y] .",
    ],
}
HELD = 2  # number of the template that probes ask in
OBJECTS = {
    "born in": "oslo lima cairo paris kyoto delhi quito turin hanoi sofia tunis perth".split(),
    "works as": "baker judge nurse pilot tailor farmer painter barber sailor miner waiter priest".split(),
    "plays": "flute violin drum harp organ oboe piano cello horn lute banjo viola".split(),
}
RELATIONS = list(TEMPLATES)
SYLLABLES = "ba ko mi tu ra ne lo si ve du po ga".split()


@dataclass(frozen=True)
class Controlled:
    """The facts of rare subjects, and what lies where."""

    facts: list[tuple[str, str, str]]
    shards: Path
    probes: Path


def names(count: int, seed: int) -> list[str]:
    """Made-up names of one word each."""
    whole = [a + b + c for a in SYLLABLES for b in SYLLABLES for c in SYLLABLES]
    return random.Random(seed).sample(whole, count)


def made_facts(subjects: list[str], seed: int) -> list[tuple[str, str, str]]:
    """One fact of every relation for each subject."""
    draw = random.Random(seed)
    return [
        (name, relation, draw.choice(OBJECTS[relation]))
        for name in subjects
        for relation in RELATIONS
    ]


def word_tokenizer(texts: list[str]) -> Any:
    """A tokenizer with one token per word of some texts."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = sorted({word for text in texts for word in text.split()})
    vocabulary = {token: number for number, token in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]",
    )  # fmt: skip


def filled(template: str, subject: str, answer: str) -> str:
    return template.replace("[X]", subject).replace("[Y]", answer)


def warm_up_texts(facts: list[tuple[str, str, str]], repeats: int, seed: int) -> list[str]:
    """Sentences of known subjects in all templates."""
    draw = random.Random(seed)
    texts = [
        filled(template, s, o)
        for s, r, o in facts
        for template in TEMPLATES[r]
        for _ in range(repeats)
    ]
    draw.shuffle(texts)
    return texts


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """How a model is made that has read the warm-up texts."""

    steps: int
    layers: int = 2
    hidden: int = 64
    heads: int = 2
    rate: float = 5e-3
    spread: float = 0.1
    device: str = "cpu"
    # Layers that add little at first: twelve of them learn nothing in hundreds of steps otherwise.
    damped: bool = False


def make_model(folder: Path, texts: list[str], tokenizer: Any, warm_up: WarmUp) -> Path:
    """A BERT that has read the warm-up texts, masked, again and again."""
    import torch

    model = new_model(tokenizer, warm_up).to(warm_up.device)
    encoded = tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
    ids, seen = encoded["input_ids"], encoded["attention_mask"]
    answers = torch.tensor(
        [tokenizer.convert_tokens_to_ids(a) for group in OBJECTS.values() for a in group]
    )
    optimiser = torch.optim.AdamW(model.parameters(), lr=warm_up.rate)
    generator = torch.Generator().manual_seed(0)
    steps = warm_up.steps
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = warm_up.rate * min(1, (step + 1) / 20) * (1 - step / steps)
        rows = torch.randint(len(ids), (96,), generator=generator)
        batch, mask = ids[rows], seen[rows]
        chosen = (torch.rand(batch.shape, generator=generator) < 0.15) & (batch > 4)
        chosen |= torch.isin(batch, answers) & (
            torch.rand(len(batch), 1, generator=generator) < 0.6
        )
        labels = torch.where(chosen, batch, -100)
        masked = torch.where(chosen, tokenizer.mask_token_id, batch)
        loss = model(
            input_ids=masked.to(warm_up.device), attention_mask=mask.to(warm_up.device),
            labels=labels.to(warm_up.device),
        ).loss  # fmt: skip
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        if warm_up.damped:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    model.cpu().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def new_model(tokenizer: Any, warm_up: WarmUp) -> Any:
    """An untrained BERT without dropout."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=warm_up.spread,
        hidden_size=warm_up.hidden,
        num_hidden_layers=warm_up.layers,
        num_attention_heads=warm_up.heads,
        intermediate_size=4 * warm_up.hidden,
    )
    model = BertForMaskedLM(config)
    if warm_up.damped:
        with torch.no_grad():
            for layer in model.bert.encoder.layer:
                layer.attention.output.dense.weight.mul_(0.1)
                layer.output.dense.weight.mul_(0.1)
    return model


def write_controlled(
    folder: Path, tokenizer: Any, facts: list[tuple[str, str, str]], general: list[str], seed: int
) -> Controlled:
    """Shards in which one sentence states each fact, among general sentences without a fact, and probes."""
    import json

    draw = random.Random(seed)
    subjects = list(dict.fromkeys(subject for subject, _, _ in facts))
    labels = [
        *subjects,
        *(answer for answers in OBJECTS.values() for answer in answers),
        *RELATIONS,
    ]
    row_of = {label: row for row, label in enumerate(labels)}
    examples: dict[str, list[Any]] = {name: [] for name in EXAMPLES.column_names}
    stated = [(filled(TEMPLATES[r][draw.randrange(HELD)], s, o), (s, r, o)) for s, r, o in facts]
    rows: list[tuple[str, tuple[str, str, str] | None]] = [
        *stated,
        *((text, None) for text in general),
    ]
    draw.shuffle(rows)
    for number, (text, fact) in enumerate(rows):
        ids = tokenizer(text)["input_ids"]
        tokens = tokenizer.convert_ids_to_tokens(ids)
        spans = sorted((tokens.index(name), name) for name in (fact[0], fact[2])) if fact else []
        found = [name for _, name in spans]
        values = {
            "doc_id": f"d{number}", "sentence_start": 0, "input_ids": ids, "n_tokens": len(ids), "split": "train",
            "word_starts": list(range(1, len(ids) - 1)),
            "span_start": [at for at, _ in spans], "span_end": [at + 1 for at, _ in spans],
            "span_entity_row": [row_of[name] for name in found], "span_frequency": [3 for _ in found],
            "span_cosine": [0.9 for _ in found], "span_policies": [POLICY_BITS["all"] for _ in found],
            "fact_head_span": [found.index(fact[0])] if fact else [],
            "fact_relation_row": [row_of[fact[1]]] if fact else [],
            "fact_tail_span": [found.index(fact[2])] if fact else [], "is_statement": False,
        }  # fmt: skip
        for name, value in values.items():
            examples[name].append(value)
    shards = write_shards(
        folder / "shards", tokenizer, examples, _knowledge(tokenizer, labels, row_of, facts), 256
    )
    probes = folder / "probes"
    probes.mkdir()
    relations = [
        {"relation": f"P{number}", "template": TEMPLATES[name][HELD], "type": "N-1"}
        for number, name in enumerate(RELATIONS)
    ]
    (probes / "relations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in relations))
    for number, name in enumerate(RELATIONS):
        asked = [{"sub_label": s, "obj_label": o} for s, r, o in facts if r == name]
        (probes / f"P{number}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in asked))
    return Controlled(facts=facts, shards=shards, probes=probes)


def _knowledge(
    tokenizer: Any, labels: list[str], row_of: dict[str, int], facts: list[tuple[str, str, str]]
) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {name: [] for name in KNOWLEDGE.column_names}
    for row, label in enumerate(labels):
        is_relation = label in TEMPLATES
        own = [(row_of[r], row_of[o]) for s, r, o in facts if s == label]
        values = {
            "row": row, "kind": "relation" if is_relation else "entity", "id": 1 + row, "label": label,
            "label_ids": tokenizer(label, add_special_tokens=False)["input_ids"], "frequency": 0 if is_relation else 3,
            "band": None if is_relation else "tail", "bank_row": None if is_relation else row,
            "triple_relation_row": [r for r, _ in own], "triple_other_row": [o for _, o in own],
            "triple_is_head": [True] * len(own), "true_tail_relation_row": [r for r, _ in own],
            "true_tail_tail_row": [o for _, o in own],
            "tail_rows": [row_of[name] for name in OBJECTS[label]] if is_relation else [],
        }  # fmt: skip
        for name, value in values.items():
            columns[name].append(value)
    return columns
