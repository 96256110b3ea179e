"""Hold the templates of a synthetic corpus, by relation. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Relation:
    """Hold the templates of a relation: those of the corpus, and those held out for probes."""

    predicate: int
    label: str
    # 1-1, N-1, N-M, or empty: as LAMA has it.
    kind: str
    known: tuple[str, ...]
    held: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Templates:
    """Hold all templates."""

    relations: dict[int, Relation]
    distractors: tuple[str, ...]
