"""Make the choices of a corpus from its seed. Pure.

Each purpose has a generator of its own, so that another share of one kind of noise leaves all other
choices as they are. Corrupted shares are nested: what is corrupted at 10 % is so at 30 % too.
"""

from __future__ import annotations

import random


def generator(seed: int, purpose: str) -> random.Random:
    """Return the generator of a purpose; text as a seed gives the same numbers everywhere."""
    # A text is hashed by the module itself, so the numbers do not depend on PYTHONHASHSEED.
    return random.Random(f"trelm synth {seed} {purpose}")


def share_of(num_items: int, share: float, chooser: random.Random) -> set[int]:
    """Return exactly a share of the numbers below `num_items`, rounded to a whole number."""
    # A prefix of one order: a smaller share is a part of a larger one.
    numbers = list(range(num_items))
    chooser.shuffle(numbers)
    return set(numbers[: round(share * num_items)])


def zipf_counts(num_sentences: int, num_subjects: int, exponent: float) -> list[int]:
    """Share out sentences by Zipf's law: rank r gets a part that is proportional to r^-exponent.

    The counts are as near to the law as whole numbers can be (largest remainders), add up to
    `num_sentences`, and fall with the rank. Ranks that would get none are left out.
    """
    weights = [rank**-exponent for rank in range(1, num_subjects + 1)]
    total = sum(weights)
    shares = [num_sentences * weight / total for weight in weights]
    counts = [int(share) for share in shares]

    # Of equal remainders the higher rank is first, so the counts fall with the rank.
    remainders = sorted(range(num_subjects), key=lambda rank: (counts[rank] - shares[rank], rank))
    for rank in remainders[: num_sentences - sum(counts)]:
        counts[rank] += 1

    # A remainder may have lifted a rank above the one before it.
    return sorted((count for count in counts if count), reverse=True)
