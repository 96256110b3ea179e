"""Make what the training benchmarks work on: shards of the kit's articles, and models of two shapes
with random weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import ROOT

SHAPES = {
    "tiny": (64, 2),
    "mini": (256, 4),
    "base": (768, 12),
}  # hidden size, layers; heads of 64, FFN four times as wide


def kit_shards(folder: Path, family: str = "bert", *, quick: bool = False) -> str:
    """Make or find shards of the kit's articles and extracts (with `quick`: of the sample) for one
    family's tokenizer.
    """
    # They load Beam, which models and rows do without.
    from benchmarks.linking_data import command
    from benchmarks.shards_data import finished_run, tokenizer_folders

    made = folder / f"shards-{family}"
    if not (made / "run" / "shards" / "manifest.json").exists():
        run = Path(finished_run(folder, quick=quick))
        made.mkdir(parents=True, exist_ok=True)
        if not (made / "run").exists():
            command("-c", f"import shutil; shutil.copytree({str(run)!r}, {str(made / 'run')!r})")
        command(
            "-m",
            "pipeline.cli",
            "shards",
            "--run",
            str(made / "run"),
            "--model",
            tokenizer_folders(folder)[family],
        )
    return str(made / "run" / "shards")


def random_model(
    folder: Path, shape: str, shards: str, *, dropout: float, spread: float = 0.02
) -> str:
    """Make or find an untrained BERT of a shape with the vocabulary of the shards; return its
    folder.

    `spread` is the standard deviation of its weights.
    """
    import torch
    from transformers import BertConfig, BertForMaskedLM

    from trelm_train.checkpoints.export import export_model
    from trelm_train.data.shards import open_shards
    from trelm_train.model.masked_lm import MaskedLm, load_tokenizer

    made = folder / f"model-{shape}-{dropout:g}-{spread:g}"
    if not (made / "model.safetensors").exists():
        opened = open_shards(Path(shards))
        hidden, layers = SHAPES[shape]
        torch.manual_seed(0)
        hf = BertForMaskedLM(
            BertConfig(
                vocab_size=len(load_tokenizer(str(opened.tokenizer_path))),
                hidden_size=hidden,
                num_hidden_layers=layers,
                num_attention_heads=hidden // 64,
                intermediate_size=4 * hidden,
                initializer_range=spread,
                hidden_dropout_prob=dropout,
                attention_probs_dropout_prob=dropout,
            )
        )
        export_model(MaskedLm(hf, torch.device("cpu")), opened.tokenizer_path, made)
    return str(made)


def training_rows(shards: str) -> list[Any]:
    """Return the token ids of every training sentence, in file order."""
    from trelm_train.data.loader import read_sentences
    from trelm_train.data.shards import open_shards

    sentences = read_sentences(list(open_shards(Path(shards)).row_groups), "train")
    return np.split(np.asarray(sentences.ids.values, np.int64), sentences.ids.offsets[1:-1])


__all__ = ["ROOT", "SHAPES", "kit_shards", "random_model", "training_rows"]
