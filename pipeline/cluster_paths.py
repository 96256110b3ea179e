"""List the paths that a stage's settings hold, and refuse those that its workers could not read."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from pipeline.config import RunConfig
from pipeline.engine import files
from pipeline.engine.cluster import DATAFLOW, PORTABLE, Options
from pipeline.link.weights import weights_file
from schemas import buckets
from schemas.errors import ConfigError
from schemas.listing import a_few
from schemas.model_folder import is_meant_as_path

# Settings of a stage that hold lists of paths.
_LISTS = {
    "kb": (("kb", "dumps"), ("kb", "redirects")),
    "titles": (("documents", "inputs"),),
    "documents": (("documents", "inputs"),),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenPath:
    """Name a path that a stage's settings hold, and the setting."""

    # As in --set: section.key.
    setting: str
    path: str
    # A path of a list is changed with all its neighbours; empty where the setting holds one path.
    neighbours: tuple[str, ...] = ()
    # A spaCy pipeline is installed; all else is a file or folder that can be copied.
    kind: Literal["path", "spacy"] = "path"


def paths_of(stages: Iterable[str], config: RunConfig) -> list[GivenPath]:
    """Return the paths in the settings of some stages, each once, in order."""
    return list(dict.fromkeys(path for stage in stages for path in _paths(stage, config)))


def _paths(stage: str, config: RunConfig) -> Iterator[GivenPath]:
    for section, key in _LISTS.get(stage, ()):
        paths: tuple[str, ...] = getattr(getattr(config, section), key)
        for path in paths:
            yield GivenPath(setting=f"{section}.{key}", path=path, neighbours=paths)
    if stage == "kb":
        yield GivenPath(setting="kb.update", path=config.kb.update)
    elif stage == "link":
        link = config.link
        yield GivenPath(setting="link.gold_spans", path=link.gold_spans)
        yield GivenPath(setting="link.weights", path=weights_file(link.weights))
        yield GivenPath(setting="link.rerank_model", path=_folder(link.rerank_model))
        yield GivenPath(setting="link.spacy_model", path=_folder(link.spacy_model), kind="spacy")
    elif stage == "importance":
        yield GivenPath(setting="importance.model", path=_folder(config.importance.model))
    elif stage == "shards":
        # Shards are made for the model of importance, unless told.
        section = "shards" if config.shards.model else "importance"
        model = config.shards.model or config.importance.model
        yield GivenPath(setting=f"{section}.model", path=_folder(model))
        yield GivenPath(
            setting="shards.statement_templates", path=config.shards.statement_templates
        )


def _folder(name: str) -> str:
    """Return a model's folder; empty for a model that is given by its name."""
    if buckets.is_bucket(name):
        return name
    return name if is_meant_as_path(name) or Path(name).is_dir() else ""


def check_paths(runner: str, run: str, paths: Iterable[GivenPath], options: Options) -> None:
    """Refuse paths that workers on other machines could not read.

    On Dataflow these are all paths of this machine. Other clusters may share a disk with it, which
    cannot be seen from here; but their workers start in a folder of their own, so a path that
    counts from this one is none there.

    Raises:
        ConfigError: all such paths, with the commands that copy them and the options that name the
            copies; or the options that name the same paths from the root on.
    """
    given = [GivenPath(setting="--run", path=run), *(path for path in paths if path.path)]
    local = [path for path in given if not buckets.is_bucket(path.path)]
    if runner.lower() == DATAFLOW:
        _refuse_local(runner, run, local, options)
    elif runner.lower() in PORTABLE and not _starts_workers_here(options):
        _refuse_relative(runner, local)


def _starts_workers_here(options: Options) -> bool:
    return str(options.get("environment_type") or "LOOPBACK").upper() == "LOOPBACK"


def _refuse_local(runner: str, run: str, local: Sequence[GivenPath], options: Options) -> None:
    if not local:
        return
    root = _bucket_of(run, options)
    names = list(dict.fromkeys(given.setting for given in local))
    lines = [
        f"--runner={runner}: its workers cannot read this machine's disk, and {a_few(names)} "
        f"{'lies' if len(names) == 1 else 'lie'} on it; copy what there is, and name the copies:"
    ]
    if names[0] == "--run":
        lines += _move_run(run, root)
    lines += _copies([given for given in local if given.setting != "--run"], root)
    raise ConfigError("\n  ".join(lines))


def _refuse_relative(runner: str, local: Sequence[GivenPath]) -> None:
    relative = [given for given in local if not Path(given.path).is_absolute()]
    if not relative:
        return
    whole = {}
    for given in relative:
        paths = [
            path if buckets.is_bucket(path) else str(Path(path).absolute())
            for path in given.neighbours or (given.path,)
        ]
        value = json.dumps(paths) if given.neighbours else paths[0]
        whole[given.setting] = (
            f"--run {shlex.quote(value)}"
            if given.setting == "--run"
            else f"--set {shlex.quote(f'{given.setting}={value}')}"
        )
    raise ConfigError(
        f"--runner={runner}: its workers start in a folder of their own, where {a_few(whole)} name "
        f"nothing; give paths from the root on, of a disk that all machines share: {' '.join(whole.values())}"
    )


def _bucket_of(run: str, options: Options) -> str:
    """Return the bucket to which a user would copy: of the run, else of Beam's own files."""
    for place in (run, options.get("temp_location") or ""):
        if place.startswith("gs://"):
            return "/".join(place.split("/")[:3])
    return "gs://BUCKET"


def _move_run(run: str, root: str) -> list[str]:
    path = Path(run)
    target = f"{root}/{path.name or 'run'}"
    copy = f"gcloud storage rsync --recursive {shlex.quote(run)} {target}"
    return [*([copy] if path.is_dir() else []), f"--run {target}"]


def _copies(local: Sequence[GivenPath], root: str) -> list[str]:
    """Return the commands that copy paths, then the options that name the copies."""
    places = _places([path.path for path in local if path.kind == "path"], root)
    commands, options = [], {}
    for given in local:
        if given.kind == "spacy":
            options[given.setting] = _install_spacy(given.path)
            continue
        commands.append(_copy(given.path, places[given.path]))
        copies = [places.get(path, path) for path in given.neighbours or (given.path,)]
        value = json.dumps(copies) if given.neighbours else copies[0]
        options[given.setting] = f"--set {shlex.quote(f'{given.setting}={value}')}"
    return [*commands, *options.values()]


def _places(paths: Sequence[str], root: str) -> dict[str, str]:
    """Return where each path is copied, under its own name.

    Where two copies could meet, each has a folder of its own: two of a name would be one object, and
    a pattern would match the copies of others too.
    """
    names = {path: _below(path) if _is_pattern(path) else _last_name(path) for path in paths}
    has_pattern = any(map(_is_pattern, names))
    are_alike = len(set(names.values())) < len(names)
    # A pattern of folders would match what other commands have copied there before.
    is_deep = has_pattern and any("/" in name or "**" in name for name in names.values())
    is_apart = are_alike or is_deep or (has_pattern and len(names) > 1)
    return {
        path: f"{root}/inputs/{number}/{name}" if is_apart else f"{root}/inputs/{name}"
        for number, (path, name) in enumerate(names.items(), start=1)
    }


def _is_pattern(path: str) -> bool:
    # A path that exists is meant literally, as where inputs are read.
    return any(character in path for character in files.GLOB_CHARACTERS) and not Path(path).exists()


def _last_name(path: str) -> str:
    """Return the last name of a path; of `.` and `..` that of the folder they mean."""
    name = path.rstrip("/").rpartition("/")[2]
    return name if name.strip(".") else Path(path).resolve().name


def _folder_before(pattern: str) -> str:
    """Return the folder before the first name with a wildcard, as the pattern spells it."""
    literal = cast(re.Match[str], files.LITERAL.match(pattern))[0]
    return literal[: literal.rfind("/") + 1]


def _below(pattern: str) -> str:
    """Return a pattern's part from its first name with a wildcard on."""
    return pattern[len(_folder_before(pattern)) :]


def _copy(path: str, place: str) -> str:
    """Return the command that copies a path; a pattern's files go into a folder."""
    if Path(path).is_dir():
        return f"gcloud storage rsync --recursive {shlex.quote(path)} {shlex.quote(place)}"
    if not _is_pattern(path):
        return f"gcloud storage cp {shlex.quote(path)} {shlex.quote(place)}"
    folder, below = _folder_before(path), _below(path)
    target = place.removesuffix(below)
    if "/" not in below and "**" not in below:
        return f"gcloud storage cp {shlex.quote(path)} {shlex.quote(target)}"
    if folder == "/":
        return f"move what {path} names below a folder of its own, and give that folder's pattern"
    # Copied one by one, files of a name in different folders would become one object.
    source = shlex.quote(folder.rstrip("/") or ".")
    return f"gcloud storage rsync --recursive {source} {shlex.quote(target.rstrip('/'))}"


def _install_spacy(path: str) -> str:
    return (
        f"python -m spacy package {shlex.quote(path)} packages --build wheel, then put the wheel into "
        "the workers' image and give its name with --spacy-model (docs/runners.md)"
    )
