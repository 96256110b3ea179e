"""Make the sections on training: losses, answers to probes, which facts were learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.learned.answer import LearnedFacts, features_table
from pipeline.report.facts import ReportContent
from pipeline.report.markup import Markup, bar, interval, joined, number, percent, table, tag
from pipeline.report.parts import figure, legend, note, para, share_cell
from pipeline.report.training import Group, ModelAnswers, TrainedRun, number_of
from pipeline.report.training_charts import COLOURS, loss_plot

# Relations of a table, those with most questions.
MAX_RELATIONS = 50


def training(content: ReportContent) -> Markup:
    """Return the losses of runs side by side, and what each of them took."""
    runs = content.training.runs
    rows = [
        (run.name, number(point.step), number(point.mlm_loss, 3), number(point.fact_loss, 3))
        for run in runs
        for point in run.points
    ]
    heads = ("Run", "#Step", "#Masked-LM loss", "#Loss of asked facts")
    caption = (
        "Means of the logged intervals, in nats. Dashed: the loss of asked facts, where there are "
        "any. Diamonds: the loss on the validation split."
    )
    keys = [(colour, run.name) for colour, run in zip(COLOURS, runs, strict=False)]
    plot = figure(loss_plot(runs), caption, table("Losses by step", heads, rows), legend(*keys))
    return joined([plot, _ends(runs)])


def _ends(runs: Sequence[TrainedRun]) -> Markup:
    """Return what runs took, and their measures before and after."""
    heads = (
        "Run", "#Steps", "#Tokens", "#Seconds", "#Weights changed", "#Validation loss before",
        "#after", "#Entities before", "#after", "#Knowledge score before", "#after",
    )  # fmt: skip
    rows = [(run.name, *_end(run.summary)) for run in runs]
    return table("What the runs took, and what came of them", heads, rows)


def _end(summary: dict[str, Any]) -> tuple[str, ...]:
    found = (summary.get(f"validation_{when}") for when in ("before", "after"))
    before, after = (measured if isinstance(measured, dict) else {} for measured in found)
    measures = (
        number(number_of(measured, name), 3)
        for name in ("loss", "entity_loss", "cka_score")
        for measured in (before, after)
    )
    return (
        number(number_of(summary, "steps")),
        number(number_of(summary, "tokens")),
        number(number_of(summary, "training_s"), 1),
        percent(number_of(summary, "weights_updated_share")),
        *measures,
    )


def probes(content: ReportContent) -> Markup:
    """Return how often models answer right, by the band of the subject and by relation."""
    models = content.training.answers
    heads = ("Model", "#Questions", "#P@1, mean over relations", "#P@1, mean over questions")
    rows = [
        (model.name, number(model.num_items), percent(model.macro), percent(model.micro))
        for model in models
    ]
    text = (
        "A cloze question counts as right where no candidate is as likely as the right answer. "
        "The share of right answers stands beside the number of questions."
    )
    return joined(
        [
            para(text),
            table("Answers of the models", heads, rows),
            _by_group("P@1 by band of the subject", "Band", models, [one.bands for one in models]),
            _by_group("P@1 by relation", "Relation", models, _most_asked(models)),
        ]
    )


def _most_asked(models: Sequence[ModelAnswers]) -> list[list[Group]]:
    """Return the relations with most questions to the first model, of all models."""
    ranked = sorted(models[0].relations, key=lambda group: (-group.num_items, group.name))
    names = {group.name for group in ranked[:MAX_RELATIONS]}
    return [[group for group in model.relations if group.name in names] for model in models]


def _by_group(
    caption: str, head: str, models: Sequence[ModelAnswers], groups: Sequence[Sequence[Group]]
) -> Markup:
    """Return a table with a row per group and a column per model."""
    by_name = [{group.name: group for group in of_model} for of_model in groups]
    # The order of the first model that has the group.
    names = list(dict.fromkeys(name for of_model in by_name for name in of_model))
    rows = [
        (name, *(_answer_cell(of_model.get(name), colour)
                 for of_model, colour in zip(by_name, COLOURS, strict=False)))
        for name in names
    ]  # fmt: skip
    return table(caption, (head, *(model.name for model in models)), rows)


def _answer_cell(group: Group | None, colour: str) -> object:
    return "–" if group is None else share_cell(group.p_at_1, colour, group.num_items)


def learned(content: ReportContent) -> Markup:
    """Return how well the run's statistics alone tell which facts a model knows."""
    found = content.training.learned
    if not isinstance(found, LearnedFacts):
        return note(f"Nothing can be said: {found}.")

    whole, *features = features_table(found).to_pylist()
    text = (
        f"{whole['meaning']}. From the statistics of this run alone, a logistic model that has not "
        "met a fact's subject puts a known fact above an unknown one with a chance of ",
        tag("b", f"{whole['auc']:.2f}"),
        f" ({interval(whole['low'], whole['high'])}); .5 is a guess. This is what each feature tells "
        "by itself, and what all of them lose without it.",
    )
    heads = ("Feature", "What it is", "Alone", "#95 %", "#Lost without", "#Weight")
    rows = [
        (
            row["feature"],
            row["meaning"],
            _auc_cell(row["auc"]),
            interval(row["low"], row["high"]),
            number(row["lost_without"], 3),
            number(row["weight"], 2),
        )
        for row in features
    ]
    return joined([para(*text), table("What tells known facts from others: AUC", heads, rows)])


def _auc_cell(auc: float) -> Markup:
    """Return an AUC as number and bar."""
    value = tag("span", number(auc, 2), class_="share-number")
    return tag("span", value, bar(auc, "linked"), class_="share")
