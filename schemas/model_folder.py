"""Check the folder of a model by its settings and by the heads of its weights, before it is loaded.

Imports no library, and reads no weight: it costs some milliseconds, and the whole tokenizer.json. A
model that does not fit together would be loaded in part, or end in an error of a library hours
later. What is said is what is wrong, in which file, and what to do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from schemas.checksums import CHECKSUMS_NAME, sealed_damage
from schemas.regular_files import open_regular

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
INDEX = "model.safetensors.index.json"
PICKLES = ("pytorch_model*.bin", "*.bin", "*.pt", "*.pth", "*.ckpt")
# The head of a file of safetensors begins with its length.
LENGTH_BYTES, MAX_HEAD_BYTES = 8, 100 << 20
# Families whose tensors have these names, and as many layers as their settings say.
FAMILIES = frozenset(
    "bert camembert distilbert electra modernbert mpnet roberta xlm-roberta".split()
)
_LAYER = re.compile(r"(?:^|\.)layers?\.([0-9]+)\.")
# Ending of a tensor's name -> settings that give its shape; the first that the settings have counts.
_WIDTHS = ("embedding_size", "hidden_size", "dim")
_SHAPES: dict[str, tuple[tuple[str, ...], ...]] = {
    "embeddings.word_embeddings.weight": (("vocab_size",), _WIDTHS),
    "embeddings.tok_embeddings.weight": (("vocab_size",), _WIDTHS),
    "embeddings.position_embeddings.weight": (("max_position_embeddings",), _WIDTHS),
    "embeddings.token_type_embeddings.weight": (("type_vocab_size",), _WIDTHS),
    ".intermediate.dense.weight": (("intermediate_size",), ("hidden_size",)),
    ".attention.self.query.weight": (("hidden_size",), ("hidden_size",)),
    ".ffn.lin1.weight": (("hidden_dim",), ("dim",)),
    ".mlp.Wo.weight": (("hidden_size",), ("intermediate_size",)),
}
Shapes = dict[str, tuple[int, ...]]


def is_meant_as_path(model: str) -> bool:
    """Say whether a model is named by a path: on the hub a name is "model" or "owner/model"."""
    return model.startswith((".", "/", "~")) or model.count("/") > 1


def sealed_problem(name: str, folder: Path, run: Path | None = None) -> str:
    """Say what is wrong with a model by its checksums, and what to do; nothing where it has none.

    Args:
        name: what the user calls it.
        folder: of its files.
        run: the run that has exported it, where it lies in one.
    """
    damage = sealed_damage(folder, run)
    if not damage:
        return ""
    return (
        f"{name}: damaged ({damage}); copy or export the model again, or remove {CHECKSUMS_NAME} where "
        "its files were changed on purpose"
    )


def model_problem(folder: Path, *, needs_weights: bool = True) -> str:
    """Say what is wrong with a model's folder and what to do; nothing where it fits together.

    Args:
        folder: of the model.
        needs_weights: whether a folder without any weights is refused: a tokenizer serves alone.
    """
    settings, problem = _settings_of(folder)
    problem = problem or longer_tokenizer(
        str(folder), _num_tokens(folder), settings.get("vocab_size")
    )
    return problem or weights_problem(folder, needs_weights=needs_weights)


def weights_problem(folder: Path, *, needs_weights: bool = True) -> str:
    """Say what is wrong with a model's settings and weights; its tokenizer does not matter."""
    settings, problem = _settings_of(folder)
    if problem:
        return problem
    paths, problem = _weights(folder, needs_weights=needs_weights)
    if problem:
        return problem
    shapes: Shapes = {}
    path_of: dict[str, Path] = {}
    for path in paths:
        try:
            head = _head_of(path)
        except (OSError, ValueError, RecursionError) as error:
            return f"{path}: is damaged or cut off ({error}); copy the file again"
        shapes |= head
        path_of |= dict.fromkeys(head, path)
    return next(_misfits(folder, settings, shapes, path_of), "")


def _settings_of(folder: Path) -> tuple[dict[str, Any], str]:
    """Return a model's settings, or what is wrong with them."""
    try:
        settings = _json_in(folder / CONFIG)
        if not isinstance(settings, dict):
            raise TypeError("it is no JSON object")
    except FileNotFoundError:
        return {}, f"{folder}: no {CONFIG} in this folder, so it is no model; check the path"
    except (OSError, ValueError, TypeError, RecursionError) as error:
        return {}, f"{folder / CONFIG}: cannot be read ({error}); copy the model again"
    return settings, ""


def _json_in(path: Path) -> Any:  # noqa: ANN401 - the callers look at what it is
    with open_regular(path) as file:
        return json.loads(file.read())


def longer_tokenizer(model: str, num_tokens: int, vocab_size: object) -> str:
    """Say so where a tokenizer has more tokens than a model has embeddings; else nothing.

    The ids above would be read from nowhere.
    """
    if not isinstance(vocab_size, int) or num_tokens <= vocab_size:
        return ""
    return (
        f"{model}: its tokenizer has {num_tokens:,} tokens, but the model has embeddings for "
        f"{vocab_size:,} alone; give the model the tokenizer that it was trained with, or resize its "
        "embeddings (`resize_token_embeddings`)"
    )


def _num_tokens(folder: Path) -> int:
    """Return one more than the highest id of tokenizer.json; 0 where that cannot be told."""
    try:
        tokenizer = _json_in(folder / TOKENIZER)
        vocabulary = tokenizer["model"]["vocab"]
        # A unigram vocabulary is a list, and the place of a piece is its id.
        ids = vocabulary.values() if isinstance(vocabulary, dict) else [len(vocabulary) - 1]
        added = [token["id"] for token in tokenizer.get("added_tokens") or ()]
        return max([-1, *ids, *added]) + 1
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        # What is wrong with it the library says when it is loaded.
        return 0


def _weights(folder: Path, *, needs_weights: bool) -> tuple[list[Path], str]:
    """Return the files of a model's weights, or what is wrong with them."""
    if (folder / INDEX).is_file() and not (folder / "model.safetensors").is_file():
        try:
            listed = _json_in(folder / INDEX)["weight_map"]
            names = sorted(set(map(str, listed.values())))
        except (OSError, ValueError, KeyError, AttributeError, RecursionError) as error:
            return [], f"{folder / INDEX}: cannot be read ({error}); copy the model again"
        missing = next((name for name in names if not (folder / name).is_file()), "")
        if missing:
            return [], f"{folder / missing}: is missing, and {INDEX} names it; copy the model again"
        return [folder / name for name in names], ""

    paths = [folder / "model.safetensors"]
    paths = paths if paths[0].is_file() else sorted(folder.glob("*.safetensors"))
    pickled = next((path for form in PICKLES for path in sorted(folder.glob(form))), None)
    if not paths and pickled is not None:
        return [], (
            f"{folder}: cannot load its weights ({pickled.name} is a pickle, which may run any program "
            "when it is read, and there are no weights in safetensors); convert the model with "
            "`save_pretrained` where you trust it, and give the new folder"
        )
    if not paths and needs_weights:
        return [], (
            f"{folder}: cannot load its weights (no weights in safetensors are there, and no other form "
            "is read); use a model that has them, or convert it with `save_pretrained`"
        )
    return paths, ""


def _head_of(path: Path) -> Shapes:
    """Return the shapes of a file's tensors.

    Raises:
        ValueError: it is no file of safetensors, or was cut off.
    """
    num_bytes = path.stat().st_size
    with open_regular(path) as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if not 2 <= length <= min(MAX_HEAD_BYTES, num_bytes - LENGTH_BYTES):
            raise ValueError("its head has an impossible length")
        head = json.loads(file.read(length))
    try:
        tensors = {name: entry for name, entry in head.items() if name != "__metadata__"}
        end = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
        shapes = {name: tuple(map(int, entry["shape"])) for name, entry in tensors.items()}
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError("its head is none of safetensors") from error
    if LENGTH_BYTES + length + end != num_bytes:
        raise ValueError(f"{num_bytes:,} bytes where its head says {LENGTH_BYTES + length + end:,}")
    return shapes


def _misfits(
    folder: Path, settings: Mapping[str, Any], shapes: Shapes, path_of: Mapping[str, Path]
) -> Iterator[str]:
    """Yield what does not fit between a model's settings and its tensors."""
    advice = "the two files are of different models: copy both again"
    if settings.get("model_type") not in FAMILIES:
        return
    for name, shape in shapes.items():
        keys = next((keys for ending, keys in _SHAPES.items() if name.endswith(ending)), ())
        wanted = tuple(
            next((settings[key] for key in some if key in settings), None) for some in keys
        )
        is_told = keys and len(wanted) == len(shape) and None not in wanted
        if is_told and wanted != shape:
            names = " and ".join(next(key for key in some if key in settings) for some in keys)
            yield (
                f"{path_of[name]}: {name} has the shape {list(shape)}, but {folder / CONFIG} asks for "
                f"{list(wanted)} ({names}); {advice}"
            )

    layers = {int(found.group(1)) for name in shapes if (found := _LAYER.search(name))}
    wanted_layers = settings.get("num_hidden_layers", settings.get("n_layers"))
    if layers and isinstance(wanted_layers, int) and max(layers) + 1 != wanted_layers:
        yield (
            f"{path_of[next(iter(path_of))]}: has the weights of {max(layers) + 1} layers, but "
            f"{folder / CONFIG} asks for {wanted_layers}; {advice}"
        )
