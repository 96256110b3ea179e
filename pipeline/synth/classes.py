"""Say of every fact what the corpus does with it: the classes of the probes. Pure.

Classes, of which a fact has one at most:

    stated-rare, stated-middle, stated-frequent   a sentence states it; by the subject's mentions
    misstated   sentences state it with a wrong tail only
    kb-only     the subject is mentioned, and no sentence with it names the object
    nowhere     the subject's name does not occur in the corpus at all
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.synth.corpus import Sentence
from pipeline.synth.facts import Fact, Pool
from pipeline.synth.names import NameFinder
from pipeline.synth.settings import SynthConfig

STATED = ("stated-rare", "stated-middle", "stated-frequent")
MISSTATED, KB_ONLY, NOWHERE = "misstated", "kb-only", "nowhere"
CLASSES = (*STATED, MISSTATED, KB_ONLY, NOWHERE)
# Facts that no class fits, for example because another sentence names subject and object.
NO_CLASS = ""
VALIDATION, TEST = "validation", "test"
PARTS = (TEST, VALIDATION)


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownFact:
    """Hold what is known of a fact."""

    fact: Fact
    # Sentences that state it, and sentences that state a wrong tail instead.
    num_stated: int
    num_misstated: int
    # Mentions of its subject in the corpus.
    num_mentions: int
    kind: str
    # validation or test: all facts of a subject are in one part.
    part: str


def count_mentions(sentences: Sequence[Sentence]) -> Counter[int]:
    """Count how often the text names each item."""
    return Counter(qid for sentence in sentences for qid in (sentence.subject, sentence.other))


def classify(sentences: Sequence[Sentence], pool: Pool, config: SynthConfig) -> list[KnownFact]:
    """Return what is known of every fact of the subjects that matter, in the pool's order.

    These are the mentioned subjects, and `config.nowhere` of those whose name does not occur.
    """
    names_near, all_names = _names_near(sentences, pool)
    mentions = count_mentions(sentences)

    # A corrupted sentence states nothing true, so it counts apart.
    stated = Counter(
        sentence.fact for sentence in sentences if sentence.fact and not sentence.is_corrupted
    )
    misstated = Counter(sentence.fact for sentence in sentences if sentence.is_corrupted)

    # The name may occur inside another one without a link: such a subject is not absent.
    absent = [
        qid for qid in pool.facts_of if not mentions[qid] and pool.labels[qid] not in all_names
    ]
    # The first ones in the order of the seed: as random as any others.
    absent = absent[: config.nowhere]
    subjects = [qid for qid in pool.facts_of if mentions[qid]] + absent

    # By the rank in the whole pool: whether a subject is mentioned does not move it.
    ranks = {qid: rank for rank, qid in enumerate(pool.facts_of)}
    facts = []
    for subject in subjects:
        for fact in pool.facts_of[subject]:
            kind = NOWHERE
            # One true sentence is enough: a fact that is stated and misstated counts as stated.
            if stated[fact]:
                kind = frequency_class(mentions[subject], config)
            elif mentions[subject] and pool.labels[fact.object] in names_near[subject]:
                # Another sentence names both, perhaps a true one: "A married B" also says B married A.
                kind = NO_CLASS
            elif misstated[fact]:
                kind = MISSTATED
            elif mentions[subject]:
                kind = KB_ONLY
            facts.append(
                KnownFact(
                    fact=fact,
                    num_stated=stated[fact],
                    num_misstated=misstated[fact],
                    num_mentions=mentions[subject],
                    kind=kind,
                    part=part_of_rank(ranks[subject], config.validation),
                )
            )
    return facts


def frequency_class(num_mentions: int, config: SynthConfig) -> str:
    """Return the class of a stated fact, by the mentions of its subject."""
    is_frequent = num_mentions >= config.frequent_min
    return STATED[0] if num_mentions <= config.rare_max else STATED[1 + is_frequent]


def _names_near(sentences: Sequence[Sentence], pool: Pool) -> tuple[dict[int, set[str]], set[str]]:
    """Return the names in the sentences of each mentioned item, and all names in the corpus."""
    # Names in the text, not links: a model reads what stands there, linked or not.
    finder = NameFinder(pool.labels.values())
    near: dict[int, set[str]] = defaultdict(set)
    # Both items are near each name: an object may be the subject of facts too.
    for sentence in sentences:
        names = finder.names_in(sentence.text)
        near[sentence.subject] |= names
        near[sentence.other] |= names
    return near, {name for names in near.values() for name in names}


def part_of_rank(rank: int, share: float) -> str:
    """Return the part of the subject of a rank in the pool, from 0.

    Subjects stand in the order of their frequency, so a share that is spread evenly over the ranks
    has subjects of every frequency, and depends on nothing else than the rank.
    """
    # True at each rank where the number of chosen subjects so far reaches the next whole one.
    is_chosen = int((rank + 1) * share) > int(rank * share)
    return VALIDATION if is_chosen else TEST
