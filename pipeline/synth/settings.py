"""Declare the settings of a synthetic corpus; the command's flags are made from them."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.templates.property_ids import property_number
from schemas.errors import ConfigError
from schemas.settings import at_least, key


@dataclass(frozen=True, kw_only=True, slots=True)
class SynthConfig:
    """Configure a synthetic corpus: its size, its frequencies, its noise and its probes."""

    sentences: int = key(2000, "Number of sentences that name entities, general text left out")
    subjects: int = key(800, "Number of subjects, at most, that the sentences are about")
    nowhere: int = key(200, "Number of further subjects, at most, that no sentence names")
    zipf: float = key(
        1.0,
        "Exponent of Zipf's law by which the sentences are shared out among the subjects; 0 gives "
        "all the same",
    )
    distractors: float = key(
        0.2,
        "Share of the sentences, 0 to 1, that name two entities and state no fact",
    )
    withheld: float = key(
        0.25,
        "Share of the facts of each subject, 0 to 1, that no sentence may state",
    )
    object_cap: int = key(
        20,
        "Number of facts of a relation, at most, that have the same object; 0 sets no limit",
    )
    object_share: float = key(
        0.1,
        "Share of the usable facts of a relation, above 0 to 1, that may have the same object; 1 "
        "sets no limit",
    )
    relations: tuple[str, ...] = key(
        (),
        "Relations to use, as P19; none given stands for all that have templates",
    )
    templates: str = key(
        "",
        "File of templates to use instead of our own: JSONL with relation and template",
    )
    many_tails: bool = key(
        False,
        "Keep all tails of a subject and relation, not one alone",
    )
    model: str = key(
        "",
        "Model whose tokenizer must have every object as a single token; empty takes any object",
    )
    general: str = key(
        "",
        "File, folder or glob of general text to mix in: text, a paragraph per line, or JSONL",
    )
    general_share: float = key(
        0.5,
        "Share of all words of the corpus, 0 to below 1, that are general text",
    )
    corrupt_links: float = key(
        0.0,
        "Share of the links, 0 to 1, that lead to another item than the one meant",
    )
    corrupt_facts: float = key(
        0.0,
        "Share of the sentences with a fact, 0 to 1, that state a wrong tail",
    )
    rare_max: int = key(2, "Number of mentions up to which a subject is rare")
    frequent_min: int = key(10, "Number of mentions from which a subject is frequent")
    validation: float = key(
        0.3,
        "Share of the subjects, 0 to below 1, whose probes are for validation",
    )
    document_sentences: int = key(5, "Number of sentences per document")
    seed: int = key(0, "Seed of every choice; the same seed gives the same bytes")

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        at_least(self, sentences=1, subjects=1, nowhere=0, zipf=0, object_cap=0, rare_max=1)
        at_least(self, document_sentences=1, frequent_min=self.rare_max + 1, general_share=0)
        at_least(self, distractors=0, withheld=0, corrupt_links=0, corrupt_facts=0, validation=0)
        for name in ("distractors", "withheld", "corrupt_links", "corrupt_facts"):
            if getattr(self, name) > 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, but must be from 0 to 1")
        for name in ("general_share", "validation"):
            if getattr(self, name) >= 1:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}, but must be at least 0 and below 1"
                )
        if not 0 < self.object_share <= 1:
            raise ConfigError(
                f"object_share is {self.object_share}, but must be above 0 and at most 1"
            )

        # Read only to refuse what is no id, before any work.
        for relation in self.relations:
            property_number(relation)
