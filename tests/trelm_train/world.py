"""A small world for the trainer's tests: sentences about people, towns and countries, as a shards
folder.

People live in towns, towns lie in countries; every mention is linked and every stated fact is a row
of `fact_…`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from schemas.manifest import Manifest, PartFile, TableFiles
from schemas.shards import EXAMPLES, KNOWLEDGE, POLICY_BITS
from trelm_train.data.shards import sha256_of
from trelm_train.init import train_tokenizer

COUNTRIES = ["Ruritania", "San Lorenzo", "Genovia", "Wakanda"]
TOWNS = [
    "Strelsau",
    "Bolivar Town",
    "Pyrus",
    "Golden City",
    "Zenda",
    "Port Saint Luis",
    "Mertz",
    "North Falls",
]
PEOPLE = [
    "Rudolf Rassendyll",
    "Flavia",
    "Mona Monzano",
    "Bokonon",
    "Mia Thermopolis",
    "Joseph",
    "Shuri",
    "Ramonda",
]
LIVES, COUNTRY = "lives in", "country"
ENTITIES = COUNTRIES + TOWNS + PEOPLE
RELATIONS = [LIVES, COUNTRY, "capital of", "sister of", "born in"]
VERSIONS = {table.name: table.version for table in (EXAMPLES, KNOWLEDGE)}
ROW = {name: row for row, name in enumerate(ENTITIES + RELATIONS)}
TEMPLATES = {
    LIVES: [
        "{h} lives in {t} .",
        "The house of {h} is in {t} , as everyone knows .",
        "{h} moved to {t} last year .",
    ],
    COUNTRY: [
        "{h} is a town in {t} .",
        "The king of {t} visited {h} .",
        "Rain fell on {h} and on all of {t} .",
    ],
}


def facts() -> list[tuple[str, str, str]]:
    """Every triple of the world."""
    lives = [(person, LIVES, TOWNS[number % len(TOWNS)]) for number, person in enumerate(PEOPLE)]
    return lives + [
        (town, COUNTRY, COUNTRIES[number % len(COUNTRIES)]) for number, town in enumerate(TOWNS)
    ]


def sentences() -> list[tuple[str, tuple[str, str, str]]]:
    """Every template of every fact."""
    return [(template, fact) for fact in facts() for template in TEMPLATES[fact[1]]]


def make_tokenizer() -> Any:
    texts = [template.format(h=fact[0], t=fact[2]) for template, fact in sentences()]
    return train_tokenizer(lambda: iter(texts * 2 + ENTITIES + RELATIONS), 300)


@dataclass
class Encoded:
    """A sentence as the pipeline would write it."""

    ids: list[int]
    words: list[int]
    spans: list[tuple[int, int, str]]


def encode(tokenizer: Any, template: str, fact: tuple[str, str, str]) -> Encoded:
    head, _, tail = fact
    text = template.format(h=head, t=tail)
    encoding = tokenizer(text)
    words = encoding.word_ids()
    starts = [i for i, word in enumerate(words) if word is not None and word != words[i - 1]]
    spans = []
    for name in (head, tail):
        begin = text.index(name)
        start = encoding.char_to_token(begin)
        end = encoding.char_to_token(begin + len(name) - 1) + 1
        spans.append((start, end, name))
    return Encoded(encoding["input_ids"], starts, sorted(spans))


def example_columns(tokenizer: Any) -> dict[str, list[Any]]:
    rows: dict[str, list[Any]] = {name: [] for name in EXAMPLES.column_names}
    counts = Counter(name for _, (head, _, tail) in sentences() for name in (head, tail))
    for number, (template, fact) in enumerate(sentences()):
        encoded = encode(tokenizer, template, fact)
        names = [name for _, _, name in encoded.spans]
        rows["doc_id"].append(f"d{number}")
        rows["sentence_start"].append(0)
        rows["input_ids"].append(encoded.ids)
        rows["word_starts"].append(encoded.words)
        rows["n_tokens"].append(len(encoded.ids))
        rows["split"].append("validation" if number % 8 == 7 else "train")
        rows["span_start"].append([start for start, _, _ in encoded.spans])
        rows["span_end"].append([end for _, end, _ in encoded.spans])
        rows["span_entity_row"].append([ROW[name] for name in names])
        rows["span_frequency"].append([counts[name] for name in names])
        rows["span_cosine"].append([0.9 for _ in names])
        rows["span_policies"].append(
            [POLICY_BITS["all"] | POLICY_BITS["long-tail-important"] for _ in names]
        )
        rows["fact_head_span"].append([names.index(fact[0])])
        rows["fact_relation_row"].append([ROW[fact[1]]])
        rows["fact_tail_span"].append([names.index(fact[2])])
        rows["is_statement"].append(False)
    return rows


def partly_plain(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """The same rows, but of every four one has no mention, and one has mentions and no fact."""
    spans = [name for name in columns if name.startswith("span_")]
    facts_too = [name for name in columns if name.startswith(("span_", "fact_"))]
    changed = {name: list(column) for name, column in columns.items()}
    for number in range(len(columns["doc_id"])):
        for name in {0: facts_too, 1: [name for name in facts_too if name not in spans]}.get(
            number % 4, []
        ):
            changed[name][number] = []
    return changed


def knowledge_columns(tokenizer: Any) -> dict[str, list[Any]]:
    rows: dict[str, list[Any]] = {name: [] for name in KNOWLEDGE.column_names}
    for row, name in enumerate(ENTITIES + RELATIONS):
        is_entity = name in ENTITIES
        triples = [fact for fact in facts() if name in (fact[0], fact[2])]
        heads = [fact for fact in facts() if fact[0] == name]
        rows["row"].append(row)
        rows["kind"].append("entity" if is_entity else "relation")
        rows["id"].append(100 + row)
        rows["label"].append(name)
        rows["label_ids"].append(tokenizer(name, add_special_tokens=False)["input_ids"])
        rows["frequency"].append(3 * len(triples) if is_entity else 0)
        rows["band"].append("tail" if is_entity else None)
        rows["bank_row"].append(row if is_entity else None)
        rows["triple_relation_row"].append([ROW[fact[1]] for fact in triples])
        rows["triple_other_row"].append(
            [ROW[fact[2] if fact[0] == name else fact[0]] for fact in triples]
        )
        rows["triple_is_head"].append([fact[0] == name for fact in triples])
        rows["true_tail_relation_row"].append([ROW[fact[1]] for fact in heads])
        rows["true_tail_tail_row"].append([ROW[fact[2]] for fact in heads])
        tails = {LIVES: TOWNS, COUNTRY: COUNTRIES}.get(name, [])
        rows["tail_rows"].append([ROW[tail] for tail in tails])
    return rows


def write_shards(
    folder: Path,
    tokenizer: Any,
    examples: dict[str, list[Any]],
    knowledge: dict[str, list[Any]],
    row_group: int = 16,
) -> Path:
    """A shards folder with two example files of small row groups."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder / "tokenizer")
    table = EXAMPLES.from_columns(examples)
    half = len(table) // 2
    for number, part in enumerate((table.slice(0, half), table.slice(half))):
        pq.write_table(part, folder / f"examples-{number}.parquet", row_group_size=row_group)
    pq.write_table(KNOWLEDGE.from_columns(knowledge), folder / "knowledge.parquet")
    files = {
        name: [
            PartFile(
                path=path.name,
                rows=pq.read_metadata(path).num_rows,
                num_bytes=path.stat().st_size,
                sha256=sha256_of(path),
            )
            for path in sorted(folder.glob(f"{name}*.parquet"))
        ]
        for name in ("examples", "knowledge")
    }
    manifest = Manifest(
        stage="shards",
        fingerprint="test",
        code_version="test",
        tables={
            name: TableFiles(
                version=VERSIONS[name], rows=sum(part.rows for part in parts), files=tuple(parts)
            )
            for name, parts in files.items()
        },
        extra={
            "tokenizer": "tokenizer",
            "tokenizer_sha256": sha256_of(folder / "tokenizer" / "tokenizer.json"),
            "model": "the test model",
        },
    )
    (folder / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
    return folder


def make_bert(tokenizer: Any, *, layers: int = 3, hidden: int = 32, dropout: float = 0.1) -> Any:
    import torch
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(7)
    return BertForMaskedLM(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=2 * hidden,
            max_position_embeddings=64,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            initializer_range=0.2,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def make_roberta(vocab_size: int, *, layers: int = 2, hidden: int = 32) -> Any:
    import torch
    from transformers import RobertaConfig, RobertaForMaskedLM

    torch.manual_seed(8)
    return RobertaForMaskedLM(
        RobertaConfig(
            vocab_size=vocab_size,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=2 * hidden,
            max_position_embeddings=66,
            type_vocab_size=1,
            initializer_range=0.2,
            pad_token_id=1,
            bos_token_id=0,
            eos_token_id=2,
        )
    )


def make_modernbert(vocab_size: int, *, layers: int = 3, hidden: int = 32, window: int = 8) -> Any:
    """Every third layer sees the whole sentence, the others `window` / 2 tokens on either side."""
    import torch
    from transformers import ModernBertConfig, ModernBertForMaskedLM

    torch.manual_seed(9)
    return ModernBertForMaskedLM(
        ModernBertConfig(
            vocab_size=vocab_size,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=2 * hidden,
            max_position_embeddings=64,
            local_attention=window,
            initializer_range=0.2,
            initializer_cutoff_factor=3.0,
            pad_token_id=0,
            bos_token_id=2,
            eos_token_id=3,
            cls_token_id=2,
            sep_token_id=3,
            attn_implementation="sdpa",
        )
    )


def make_family(family: str, vocab_size: int, tokenizer: Any = None) -> Any:
    """A small random model of a family; `tokenizer` only where BERT's special ids matter."""
    if family == "bert":
        return make_bert(tokenizer if tokenizer is not None else _Sized(vocab_size))
    return (make_roberta if family == "roberta" else make_modernbert)(vocab_size)


@dataclass
class _Sized:
    size: int
    pad_token_id: int = 0

    def __len__(self) -> int:
        return self.size
