"""Make the sections on the tail: the rank plot, the bands, semantic importance by band."""

from __future__ import annotations

from typing import Any

from pipeline.report import tail_charts
from pipeline.report.data import DEFAULT_POLICY, Band
from pipeline.report.facts import ReportContent
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

# Below this p, one fit is called better than the other.
SURE = 0.05
# The table below the rank plot has at most about this number of rows.
MAX_RANK_ROWS = 60
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def rank(content: ReportContent) -> Markup:
    """Return the rank plot with the fitted power law."""
    if not content.points:
        return note("No mention is linked, so there is nothing to rank.")

    rows = [
        (
            number(point.rank),
            item_link(point.qid, point.label),
            chip(point.band),
            number(point.num_mentions),
        )
        for point in content.points
    ]
    # The table repeats the plot: a sample of its points is enough.
    step = -(-len(rows) // MAX_RANK_ROWS)
    heads = ("#Rank", "Entity", "Band", "#Mentions")
    values = table("Entities of the rank plot", heads, rows[::step])

    caption = (
        "Each dot is an entity. The line is the fitted power law, the shade around it its interval."
    )
    chart = tail_charts.rank_plot(content.points, content.tail, content.bands)
    return joined([para(fit_in_words(content.tail)), figure(chart, caption, values)])


def fit_in_words(tail: dict[str, Any]) -> str:
    """Say which power law was fitted, and whether it fits better than a lognormal.

    Args:
        tail: the one row of `tail_summary`.
    """
    if tail["power_law_exponent"] is None:
        return "Too few entities, or all alike: no power law was fitted."

    ends = interval(tail["power_law_exponent_low"], tail["power_law_exponent_high"])
    spread = f" (95% interval {ends}, {tail['num_bootstrap']:,} resamples)" if ends else ""
    text = (
        f"A discrete power law with exponent {tail['power_law_exponent']:.2f}{spread} fits the "
        f"{tail['power_law_entities']:,} entities with {tail['power_law_x_min']:,} mentions or "
        f"more; that is a slope of −{tail['zipf_exponent']:.2f} in this plot. "
        f"Kolmogorov–Smirnov distance: {tail['power_law_ks']:.3f}."
    )

    # The ratio is missing where both likelihoods underflow.
    ratio, p_value = tail["power_law_vs_lognormal"], tail["power_law_vs_lognormal_p"]
    if ratio is None:
        return text
    # The sign of the ratio means nothing where chance explains it.
    if p_value is None or p_value >= SURE:
        verdict = "neither fits clearly better"
    else:
        verdict = "the power law fits better" if ratio > 0 else "the lognormal fits better"

    p_text = "" if p_value is None else f", {_p_in_words(p_value)}"
    return f"{text} Against a lognormal, {verdict} (Vuong's ratio {signed(ratio)}{p_text})."


def _p_in_words(p_value: float) -> str:
    """Return a p value to three decimals; a smaller one as below 0.001."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def bands(content: ReportContent) -> Markup:
    """Return the table of bands."""
    if not content.bands:
        return note("No mention is linked, so there are no bands.")

    num_entities = sum(band.num_entities for band in content.bands)
    num_mentions = sum(band.num_mentions for band in content.bands)
    rows = [_band_row(band, num_entities, num_mentions) for band in content.bands]
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
        f"An entity with {number(content.tail['head_min_mentions'])} mentions or more is in the "
        f"head, one with {number(content.tail['torso_min_mentions'])} or more in the torso, the "
        f"rest is the tail{_mass(content)}. A fact is in the text where a triple's other end is in "
        f"the same document. Targets are the mentions that the policy {DEFAULT_POLICY} chooses for "
        "injection."
    )

    # Columns without figures get a note with the command that makes them.
    notes = []
    if not content.changes:
        notes.append(missing(content, "importance", "Semantic importance (SI)"))
    if content.bands[0].num_targets is None:
        notes.append(missing(content, "shards", "The choice of targets"))
    return joined([para(text), table("Bands in figures", heads, rows, quiet=True), *notes])


def _mass(content: ReportContent) -> str:
    """Return how the limits were chosen, where they follow from shares of the mentions."""
    stats = content.manifests["stats"].config
    # With fixed counts there is nothing to explain.
    if stats.get("bands", "mass") != "mass" or "head_mass" not in stats:
        return ""
    head, torso = (percent(stats[name], 0) for name in ("head_mass", "torso_mass"))
    return f": the most frequent entities that hold {head} of the links, and those up to {torso}"


def _band_row(band: Band, num_entities: int, num_mentions: int) -> tuple[object, ...]:
    """Return the cells of a band; the totals are those of all bands."""
    entity_share = band.num_entities / max(num_entities, 1)
    mention_share = band.num_mentions / max(num_mentions, 1)
    supported_share = percent(band.num_supported / band.num_entities, 0)

    # One number, where all entities of the band have equally many mentions.
    mentions_each = number(band.least)
    if band.least != band.most:
        mentions_each = f"{number(band.least)} to {number(band.most)}"

    targets = "–"
    if band.num_targets is not None:
        target_share = percent(band.num_targets / max(band.num_mentions, 1), 0)
        targets = f"{number(band.num_targets)} ({target_share})"
    return (
        chip(band.name),
        mentions_each,
        share_cell(entity_share, band.name, band.num_entities),
        share_cell(mention_share, band.name, band.num_mentions),
        number(band.mean_si, 4),
        f"{number(band.num_supported)} ({supported_share})",
        targets,
    )


def importance(content: ReportContent) -> Markup:
    """Return semantic importance by band."""
    if not content.changes:
        # The stage may have run, and have scored nothing that counts here.
        if "importance" in content.manifests and "importance" not in content.outdated:
            return para("No mention of a linked entity was scored in the sample of sentences.")
        return missing(content, "importance", "Semantic importance")

    # The setting may be a path: its last folder names the model.
    model_path = str(content.manifests["importance"].config.get("model", ""))
    model = model_path.rstrip("/").rsplit("/", 1)[-1]
    text = (
        "How much the representation of a sentence changes when an entity in it is replaced: "
        f"1 − cosine under the frozen encoder {model}. SI is 1 / cosine; the farther right a band "
        "lies, the more its entities matter to their sentences."
    )

    is_sample = content.manifests["importance"].config.get("mentions") == "needed"
    if is_sample:
        text += (
            " Only the mentions that injection needs were scored; these figures are of a random "
            "sample of sentences, with the 95% interval of the mean."
        )
    rows = [
        (
            chip(band),
            number(int(changes.counts.sum())),
            *(f"{changes.quantile(share):.4f}" for share in QUANTILES),
            f"{changes.mean_si:.4f}"
            + (f" ± {changes.margin:.4f}" if changes.margin is not None else ""),
        )
        for band, changes in content.changes.items()
    ]
    quantile_heads = [f"#{percent(share, 0)} quantile" for share in QUANTILES]
    values = table("1 − cosine by band", ("Band", "#Mentions", *quantile_heads, "#Mean SI"), rows)

    caption = (
        "Share of each band's mentions; above it the median, the middle half and the range from "
        "5% to 95%."
    )
    chart = tail_charts.change_plot(content.changes)
    return joined([para(text), figure(chart, caption, values)])
