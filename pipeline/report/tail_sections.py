"""Sections on the tail: the rank plot, the bands, semantic importance by band."""

from __future__ import annotations

from typing import Any

from pipeline.report import tail_charts
from pipeline.report.data import DEFAULT_POLICY, Band
from pipeline.report.facts import Facts
from pipeline.report.markup import (
    Markup,
    interval,
    item_link,
    joined,
    number,
    percent,
    signed,
    table,
)
from pipeline.report.parts import chip, figure, missing, note, para, share_cell

SURE = 0.05  # p below which one fit is said to be better than the other


def rank(found: Facts) -> Markup:
    """The rank plot with the fitted power law."""
    if not found.points:
        return note("No mention is linked, so there is nothing to rank.")
    rows = [
        (number(one.rank), item_link(one.qid, one.label), chip(one.band), number(one.num_mentions))
        for one in found.points
    ]
    caption = (
        "Each dot is an entity. The line is the fitted power law, the shade around it its interval."
    )
    values = table(
        "Entities of the rank plot",
        ("#Rank", "Entity", "Band", "#Mentions"),
        rows[:: -(-len(rows) // 60)],
    )
    return joined(
        [
            para(fit_in_words(found.tail)),
            figure(tail_charts.rank_plot(found.points, found.tail, found.bands), caption, values),
        ]
    )


def fit_in_words(tail: dict[str, Any]) -> str:
    """What was fitted, and whether it fits better than a lognormal."""
    if tail["power_law_exponent"] is None:
        return "Too few entities, or all alike: no power law was fitted."
    ends = interval(tail["power_law_exponent_low"], tail["power_law_exponent_high"])
    spread = f" (95% interval {ends}, {tail['num_bootstrap']:,} resamples)" if ends else ""
    text = (
        f"A discrete power law with exponent {tail['power_law_exponent']:.2f}{spread} fits the {tail['power_law_entities']:,} "
        f"entities with {tail['power_law_x_min']:,} mentions or more; that is a slope of −{tail['zipf_exponent']:.2f} in this "
        f"plot. Kolmogorov–Smirnov distance: {tail['power_law_ks']:.3f}."
    )
    ratio, chance = tail["power_law_vs_lognormal"], tail["power_law_vs_lognormal_p"]
    if ratio is None:
        return text
    if chance is None or chance >= SURE:
        verdict = "neither fits clearly better"
    else:
        verdict = "the power law fits better" if ratio > 0 else "the lognormal fits better"
    said = "" if chance is None else ", p < 0.001" if chance < 0.001 else f", p = {chance:.3f}"
    return f"{text} Against a lognormal, {verdict} (Vuong's ratio {signed(ratio)}{said})."


def bands(found: Facts) -> Markup:
    """The band table."""
    if not found.bands:
        return note("No mention is linked, so there are no bands.")
    entities, mentions = (
        sum(values)
        for values in zip(
            *((one.num_entities, one.num_mentions) for one in found.bands), strict=True
        )
    )
    rows = [_band_row(one, entities, mentions) for one in found.bands]
    heads = (
        "Band",
        "#Mentions each",
        "Entities",
        "Mentions",
        "#Mean SI",
        "#With a fact in the text",
        "#Targets",
    )
    text = (
        f"An entity with {number(found.tail['head_min_mentions'])} mentions or more is in the head, one with "
        f"{number(found.tail['torso_min_mentions'])} or more in the torso, the rest is the tail{_mass(found)}. A fact is in "
        "the text where a triple's other end is in the same document. Targets are the mentions that the policy "
        f"{DEFAULT_POLICY} chooses for injection."
    )
    lacking = [
        missing(found, stage, what)
        for stage, what, there in (
            ("importance", "Semantic importance (SI)", bool(found.changes)),
            ("shards", "The choice of targets", found.bands[0].num_targets is not None),
        )
        if not there
    ]
    return joined([para(text), table("Bands in figures", heads, rows, quiet=True), *lacking])


def _mass(found: Facts) -> str:
    """How the limits were found, where they follow from shares of the mentions."""
    stats = found.manifests["stats"].config
    if stats.get("bands", "mass") != "mass" or "head_mass" not in stats:
        return ""
    head, torso = (percent(stats[name], 0) for name in ("head_mass", "torso_mass"))
    return f": the most frequent entities that hold {head} of the links, and those up to {torso}"


def _band_row(one: Band, entities: int, mentions: int) -> tuple[object, ...]:
    of_entities, of_mentions = (
        one.num_entities / max(entities, 1),
        one.num_mentions / max(mentions, 1),
    )
    each = (
        number(one.least) if one.least == one.most else f"{number(one.least)} to {number(one.most)}"
    )
    targets = one.num_targets
    return (
        chip(one.name),
        each,
        share_cell(of_entities, one.name, one.num_entities),
        share_cell(of_mentions, one.name, one.num_mentions),
        number(one.mean_si, 4),
        f"{number(one.num_supported)} ({percent(one.num_supported / one.num_entities, 0)})",
        "–"
        if targets is None
        else f"{number(targets)} ({percent(targets / max(one.num_mentions, 1), 0)})",
    )


def importance(found: Facts) -> Markup:
    """Semantic importance by band."""
    if not found.changes:
        return missing(found, "importance", "Semantic importance")
    model = (
        str(found.manifests["importance"].config.get("model", "")).rstrip("/").rsplit("/", 1)[-1]
    )
    text = (
        "How much the representation of a sentence changes when an entity in it is replaced: 1 − cosine under the frozen "
        f"encoder {model}. SI is 1 / cosine; the farther right a band lies, the more its entities matter to their sentences."
    )
    shares = (0.05, 0.25, 0.5, 0.75, 0.95)
    rows = [
        (
            chip(name),
            number(int(one.counts.sum())),
            *(f"{one.quantile(share):.4f}" for share in shares),
            f"{one.mean_si:.4f}",
        )
        for name, one in found.changes.items()
    ]
    heads = (
        "Band",
        "#Mentions",
        *(f"#{percent(share, 0)} quantile" for share in shares),
        "#Mean SI",
    )
    caption = "Share of each band's mentions; above it the median, the middle half and the range from 5% to 95%."
    return joined(
        [
            para(text),
            figure(
                tail_charts.change_plot(found.changes),
                caption,
                table("1 − cosine by band", heads, rows),
            ),
        ]
    )
