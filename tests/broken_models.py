"""Copies of a model that do not fit together, and what must be said of each."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def _settings(folder: Path, **changed: int) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def break_model(model: Path, folder: Path, how: str) -> Path:
    """Copy a BERT of two layers or more, and break the copy in one way of `BROKEN`."""
    shutil.copytree(model, folder)
    weights = folder / "model.safetensors"
    settings = json.loads((folder / "config.json").read_text())
    if how in ("vocab_size", "hidden_size", "intermediate_size", "max_position_embeddings"):
        _settings(folder, **{how: settings[how] * 2})
    elif how == "fewer layers":
        # The library would load a part of the weights, and say nothing.
        _settings(folder, num_hidden_layers=1)
    elif how == "other weights":
        tensors = load_file(weights)
        name = next(name for name in tensors if name.endswith("query.weight"))
        save_file(tensors | {name: tensors[name][:-1].clone()}, weights, {"format": "pt"})
    elif how == "pickle":
        torch.save(load_file(weights), folder / "pytorch_model.bin")
        weights.unlink()
    elif how == "cut off":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "no safetensors":
        weights.write_bytes(b"\xff" * 5000)
    elif how == "settings":
        (folder / "config.json").write_text("{")
    elif how == "long tokenizer":
        path = folder / "tokenizer.json"
        tokenizer = json.loads(path.read_text())
        number = settings["vocab_size"]
        tokenizer["model"]["vocab"] |= {"zzzz": number, "##zzzz": number + 1}
        path.write_text(json.dumps(tokenizer))
    return folder


# What is said; the file, and what to do.
BROKEN = {
    "vocab_size": "model.safetensors: .*config.json asks for .*vocab_size.*copy both again",
    "hidden_size": "model.safetensors: .*config.json asks for .*hidden_size.*copy both again",
    "intermediate_size": "model.safetensors: .*config.json asks for .*intermediate_size.*copy both again",
    "max_position_embeddings": "model.safetensors: .*max_position_embeddings.*copy both again",
    "fewer layers": "model.safetensors: has the weights of . layers.*config.json asks for 1; .*copy both",
    "other weights": "model.safetensors: .*query.weight has the shape .*copy both again",
    "pickle": "cannot load its weights .pytorch_model.bin is a pickle.*no weights in safetensors.*convert",
    "cut off": "model.safetensors: is damaged or cut off .*copy the file again",
    "no safetensors": "model.safetensors: is damaged or cut off .*impossible length.*copy the file again",
    "settings": "config.json: cannot be read .*copy the model again",
    "long tokenizer": "its tokenizer has .* tokens, but the model has embeddings for .* alone; give",
}
