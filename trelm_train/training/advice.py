"""Say which settings of a run keep it from what the objective needs, with what was measured."""

from __future__ import annotations

from trelm_train.config import DEEP, Config

# Below this share of the FFN's neurons six layers learned half as many facts as the upper half did.
ENOUGH_ROWS = 0.25


def frozen_warnings(config: Config, num_layers: int) -> list[str]:
    """Return a sentence for each setting with which a run learns hardly any fact.

    The figures are those of docs/evidence.md; `config` is settled.
    """
    routing, facts = config.routing, config.facts
    chooses_any = facts.policy != "none" and facts.share > 0
    # Beside a contrastive loss the targets have the share that it leaves them.
    weighs = facts.weight > 0 and not (config.cka.enabled and config.cka.mlm_share == 0)
    is_asking = facts.enabled and chooses_any and weighs
    warnings = []
    if facts.enabled and chooses_any and not weighs:
        warnings.append(
            f"facts.weight={facts.weight:g} with cka.mlm_share={config.cka.mlm_share:g} gives asked "
            "facts no weight in the loss: they are hidden and never learned; use --set facts.weight=1, "
            "and --set cka.mlm_share=0.5 where contrast is on"
        )

    # Asking and contrast take their facts from the same choice.
    if not chooses_any and (facts.enabled or config.cka.enabled):
        warnings.append(
            f"facts.policy={facts.policy} with facts.share={facts.share:g} chooses no fact, so none is "
            "asked or compared; use --set facts.policy=all --set facts.share=1, or switch both off by "
            "--set facts.enabled=false --set cka.enabled=false"
        )
    if config.cka.enabled and config.cka.form != "head" and not is_asking:
        warnings.append(
            f"cka.form={config.cka.form} alone never asks the LM head for a fact, and taught next to "
            "none in any measurement; add --set facts.enabled=true"
        )
    warnings += _idle_scales(config)
    if routing.policy == "full" or not is_asking:
        return warnings

    trains_more = routing.train_embeddings or routing.train_attention
    if num_layers < DEEP and not trains_more:
        warnings.append(
            f"routing.policy={routing.policy} trains neurons of the FFN alone, which taught a model "
            "of 2 layers next to no fact; use --set routing.policy=full, or add "
            "--set routing.train_embeddings=true --set routing.train_head=true"
        )
    elif routing.policy != "ffn_all" and routing.share < ENOUGH_ROWS and not trains_more:
        warnings.append(
            f"routing.share={routing.share:g} trains few neurons: 10 % of 6 layers learned half as "
            "many facts as the whole FFN of the upper layers did; use --set routing.policy=auto, "
            "or --set routing.share=0.25 --set routing.layer_budget=-1"
        )
    return warnings


def _idle_scales(config: Config) -> list[str]:
    """Return a sentence for each factor on the rate of weights that this run leaves as they are."""
    train, routing = config.train, config.routing
    if routing.policy == "full":
        return []
    scales = (
        ("train.embedding_rate_scale", train.embedding_rate_scale, "train_embeddings"),
        ("train.head_rate_scale", train.head_rate_scale, "train_head"),
    )
    return [
        f"{name}={scale:g} does nothing, because routing.policy={routing.policy} does not train "
        f"that part; add --set routing.{switch}=true"
        for name, scale, switch in scales
        if scale != 1 and not getattr(routing, switch)
    ]
