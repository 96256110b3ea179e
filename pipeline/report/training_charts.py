"""Draw the losses of training runs.

Pure: the same rows give the same markup.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.report.markup import Markup, tag
from pipeline.report.svg import Chart, Frame, Scale, frames, path, short, steps, x_axis, y_axis
from pipeline.report.training import LossPoint, TrainedRun

# Classes of the colours of runs, in their order.
COLOURS = ("head", "tail", "torso", "anchors")
# Half the width of the mark of an evaluation.
DIAMOND = 5.0


def loss_plot(runs: Sequence[TrainedRun]) -> Chart:
    """Return the chart of losses by step, a colour per run."""
    # A run that goes on may have been evaluated after its last logged interval.
    every_step = [point.step for run in runs for point in run.points]
    every_step += [step for run in runs for step, _ in run.evaluations]
    last_step = max(every_step, default=1)
    losses = [
        loss
        for run in runs
        for loss in (
            *(point.mlm_loss for point in run.points),
            *(point.fact_loss for point in run.points),
            *(loss for _, loss in run.evaluations),
        )
        if loss is not None
    ]
    highest = max(losses, default=1.0)

    def draw(frame: Frame) -> list[Markup]:
        x = Scale(0, max(last_step, 1), frame.left, frame.plot_right)
        y = Scale(0, highest * 1.05, frame.plot_bottom, frame.top)
        return [
            x_axis(frame, x, [(value, short(value)) for value in steps(last_step)], "step"),
            y_axis(frame, y, [(value, short(value)) for value in steps(highest)], "loss (nats)"),
            *(
                tag("g", *_run(run, x, y), class_=colour)
                for run, colour in zip(runs, COLOURS, strict=False)
            ),
        ]

    wide, narrow = frames(360, 300, top=24)
    return Chart(
        name="losses",
        title="Losses by step",
        description="; ".join(_described(run) for run in runs) + ".",
        draw=draw,
        wide=wide,
        narrow=narrow,
    )


def _described(run: TrainedRun) -> str:
    known = [point for point in run.points if point.mlm_loss is not None]
    if not known:
        return f"{run.name}: no step was logged"
    return (
        f"{run.name}: masked-LM loss from {known[0].mlm_loss:.2f} at step {known[0].step:,} to "
        f"{known[-1].mlm_loss:.2f} at step {known[-1].step:,}"
    )


def _run(run: TrainedRun, x: Scale, y: Scale) -> list[Markup]:
    """Return the curves and marks of one run."""
    masked = [(point, point.mlm_loss) for point in run.points if point.mlm_loss is not None]
    asked = [(point, point.fact_loss) for point in run.points if point.fact_loss is not None]
    elements = []
    for points, class_ in ((masked, "line"), (asked, "line asked")):
        if len(points) > 1:
            elements.append(path([(x(point.step), y(loss)) for point, loss in points], class_))
    elements += [_dot(run.name, point, x, y) for point, _ in masked]
    for step, loss in run.evaluations:
        across, down = x(step), y(loss)
        sides = ((0, -DIAMOND), (DIAMOND, 0), (0, DIAMOND), (-DIAMOND, 0))
        corners = [(across + aside, down + below) for aside, below in sides]
        tip = f"{run.name}\nstep {step:,}: validation loss {loss:.3f}"
        shape = " ".join(f"{left:g},{top:g}" for left, top in corners)
        elements.append(tag("polygon", class_="mark", points=shape, data_tip=tip))
    return elements


def _dot(name: str, point: LossPoint, x: Scale, y: Scale) -> Markup:
    assert point.mlm_loss is not None
    tip = f"{name}\nstep {point.step:,}: masked-LM loss {point.mlm_loss:.3f}"
    if point.fact_loss is not None:
        tip += f", asked facts {point.fact_loss:.3f}"
    return tag("circle", class_="mark", cx=x(point.step), cy=y(point.mlm_loss), r=2.5, data_tip=tip)
