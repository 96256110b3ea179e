"""Refuse a folder, here or in a bucket, in which a new run would overwrite something."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from schemas.buckets import Location
from schemas.errors import ConfigError
from schemas.occupied import TRAINER, occupant
from schemas.settings import is_written_here


def refuse_foreign(
    place: Location, names: Iterable[str], own: Collection[str], settings: tuple[str, str]
) -> None:
    """Refuse a folder without a run's description that holds what is no run's.

    Args:
        place: of the new run.
        names: of all that lies directly in it.
        own: names of what a run has there before it has a description.
        settings: name of the file of a run's settings, and its text; empty where it is not there.

    Raises:
        ConfigError: says what it holds.
    """
    names = sorted(name for name in names if not name.startswith("."))
    foreign = [name for name in names if name not in own]
    name, text = settings
    if name in names and not is_written_here(text):
        foreign.insert(0, f"a {name} of your own")
    # Nothing is asked of a place that is empty.
    holds = occupant(place) if names else ""
    kind = f" ({holds})" if holds not in ("", TRAINER) else ""
    if foreign or kind:
        raise ConfigError(
            f"{place}: holds {', '.join(foreign[:3] or names[:3])}{kind}, which is no run of trelm-train; "
            "give a new or an empty folder as --out"
        )
