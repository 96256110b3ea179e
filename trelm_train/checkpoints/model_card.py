"""Write the card of an exported model: the `README.md` that model hubs show.

Goes in: what a run's folder says of itself. Comes out: data with their fingerprint, objective,
figures and licences, under the header that hubs read. A figure that was not measured is called so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas import buckets
from schemas.durable import write_durably
from schemas.model_folder import is_meant_as_path
from schemas.settings import to_dict
from trelm_train.config import ASK_MENTIONS, OPERATIONAL, CardConfig, Config
from trelm_train.reporting.markdown import markdown_table, one_line

CARD = "README.md"
NOT_STATED = "not stated"
# Measures of `evaluate mlm` and what they are called here.
MEASURES = {
    "loss": "masked-LM loss, nats per masked token",
    "accuracy": "masked tokens guessed right",
    "entity_loss": "masked-LM loss inside linked mentions",
    "near_rare_loss": "masked-LM loss beside rare mentions",
    "cka_score": "knowledge score (1: knows nothing)",
}
USE = """```python
from transformers import pipeline

fill = pipeline("fill-mask", model={name})
fill(f"Lausanne lies in {{fill.tokenizer.mask_token}}.")
```"""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedModel:
    """Hold what a card says of a model."""

    # The run's description: `run.json`.
    run: Mapping[str, Any]
    config: Config
    step: int
    tokens: int
    # Measures of `evaluate mlm` before and after training, where they were taken.
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    has_bank: bool
    # Of `summary.json`; empty for a checkpoint.
    summary: Mapping[str, Any]


def write_card(folder: Path, trained: TrainedModel) -> None:
    """Write the card into a model's folder.

    It has no checksum among those of the model: it is meant to be edited.
    """
    write_durably(folder / CARD, card_of(trained))


def card_of(trained: TrainedModel) -> str:
    """Return the card of a model as Markdown, with the header that hubs read."""
    name = one_line(trained.config.card.name) or "model"
    parts = [
        f"---\n{_header(trained)}\n---",
        f"# {name}",
        _about(trained),
        "## Use",
        USE.format(name=json.dumps(name, ensure_ascii=False)),
        "## Data",
        _data(trained.run),
        "## Objective",
        _objective(trained.config),
        "## Figures",
        _figures(trained),
        "## Licences",
        _licences(trained.config.card, str(trained.run["model"])),
        "## Limits",
        "It knows what its corpus stated, and may state what is wrong or out of date. The figures "
        "above are of sentences held back from the same corpus; they are no benchmark.",
    ]
    return "\n\n".join(parts) + "\n"


def _header(trained: TrainedModel) -> str:
    """Return the metadata as YAML."""
    from huggingface_hub import ModelCardData

    card, base = trained.config.card, str(trained.run["model"])
    # A path of this machine would be a dead link; "folder/name" may be one, too. Runs of older
    # versions do not say.
    is_folder = trained.run.get("data", {}).get("is_model_folder", Path(base).exists())
    is_hub_name = not (buckets.is_bucket(base) or is_meant_as_path(base) or is_folder)
    data = ModelCardData(
        base_model=base if is_hub_name else None,
        language=card.language or None,
        library_name="transformers",
        license=card.license or None,
        pipeline_tag="fill-mask",
        tags=["trelm", "wikidata", "long-tail"],
    )
    return str(data.to_yaml())


def _about(trained: TrainedModel) -> str:
    version = trained.run.get("versions", {}).get("trelm", "unknown")
    bank = (
        " The memory bank beside it (`bank/`) is not needed to use the model."
        if trained.has_bank
        else ""
    )
    return (
        f"A masked language model, continued from {_base_name(str(trained.run['model']))} by TRELM "
        f"{version} on text whose entities are linked to Wikidata: {trained.step:,} steps, "
        f"{trained.tokens:,} tokens. It loads in plain transformers.{bank}"
    )


def _base_name(model: str) -> str:
    """Return a name without the folders of the machine that trained it."""
    is_place = buckets.is_bucket(model) or is_meant_as_path(model)
    return f"`{model.rstrip('/').rpartition('/')[2] if is_place else model}`"


def _data(run: Mapping[str, Any]) -> str:
    data = run.get("data", {})
    rows = [
        ("fingerprint of the shards", f"`{run['fingerprint']}`"),
        ("SHA-256 of the tokenizer", f"`{data['tokenizer_sha256']}`" if data else NOT_STATED),
        ("sentences", f"{data['sentences']:,}" if data else NOT_STATED),
        ("entities and relations", f"{data['knowledge_rows']:,}" if data else NOT_STATED),
    ]
    return _table(("", ""), rows)


def _objective(config: Config) -> str:
    """Return the objective in words, and the settings that are not the defaults."""
    asked = "any linked mention" if config.facts.ask == ASK_MENTIONS else "the tails of facts"
    parts = [
        "masked-LM training",
        f"{asked} asked at masks ({config.facts.policy})" if config.facts.enabled else "",
        f"contrast ({config.cka.form})" if config.cka.enabled else "",
        "injection of relations" if config.injection.enabled else "",
        "a memory bank of notes" if config.memory.enabled else "",
        f"weights trained by `routing.policy={config.routing.policy}`",
    ]
    settings = "\n".join(_changed_settings(config)) or "# none"
    return (
        f"{', '.join(part for part in parts if part)}.\n\n"
        "Settings that differ from the defaults, automatic ones as they were chosen:\n\n"
        f"```toml\n{settings}\n```"
    )


def _changed_settings(config: Config) -> list[str]:
    """Return the settings that decide what is learned and are not the defaults, as lines of TOML."""
    defaults = to_dict(Config())
    return [
        f"{section}.{name} = {json.dumps(value)}"
        for section, values in to_dict(config).items()
        for name, value in values.items()
        if not {section, f"{section}.{name}"} & OPERATIONAL and defaults[section].get(name) != value
    ]


def _figures(trained: TrainedModel) -> str:
    """Return what was measured before and after, and what it took."""
    rows = [
        (title, _number(trained.before.get(name)), _number(trained.after.get(name)))
        for name, title in MEASURES.items()
        if trained.before.get(name) is not None or trained.after.get(name) is not None
    ]
    measured = (
        _table(("on the validation split", "before", "after"), rows)
        if rows
        else "Not measured on the validation split."
    )
    summary = trained.summary
    if not summary:
        return measured
    return (
        # No seconds: the same run gives the same card, however often it was stopped.
        f"{measured}\n\n{summary['weights_updated_share']:.1%} of the {summary['num_weights']:,} "
        "weights changed."
    )


def _licences(card: CardConfig, base: str) -> str:
    rows = [
        ("this model", card.license or f"{NOT_STATED}; state it before you publish"),
        ("its start", f"that of {_base_name(base)}"),
        ("facts and ids", "Wikidata, CC0"),
        ("text", card.text or f"{NOT_STATED}; Wikipedia's is CC BY-SA"),
    ]
    return _table(("what", "licence"), rows)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    return "\n".join(markdown_table(head, rows))


def _number(value: float | None) -> str:
    return NOT_STATED if value is None else f"{value:.3f}"
