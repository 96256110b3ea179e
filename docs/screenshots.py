"""Makes the pictures of the report in docs/ from the demo's run: `make demo`, then `python
docs/screenshots.py`.

Needs Chromium and its driver, as the tests of the report do.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
RUN = "demo/run"
GOLD = "examples/tiny/gold.jsonl"
LOOKED_FOR = "chopin"
TRAINING_SECTIONS = ["training", "probes", "learned"]
DESKTOP_WIDTH, PHONE_WIDTH = 1280, 390
PICTURES = (
    ("report.png", DESKTOP_WIDTH, "light"),
    ("report-phone-dark.png", PHONE_WIDTH, "dark"),
)


def main() -> None:
    """Write the report of the demo's run, and its pictures."""
    from pipeline.report.build import write_report
    from pipeline.report.training import TrainingSources
    from tests.pipeline.report.browser import ENTER, browser

    sources = TrainingSources(
        runs=("demo/train",),
        items=("demo/before.parquet", "demo/after.parquet"),
        before="demo/before.parquet",
    )
    written = write_report(RUN, gold=GOLD, sources=sources)
    with tempfile.TemporaryDirectory() as profile, browser(Path(profile)) as page:
        for name, width, scheme in PICTURES:
            page.open(Path(written.path).absolute(), (width, 900), scheme)
            page.element("query").send_keys(LOOKED_FOR)
            page.press(ENTER)
            page.run("document.activeElement.blur(); window.scrollTo(0, 0)")
            page.settle()
            height = round(
                page.run(
                    "return document.querySelector('#rank figcaption').getBoundingClientRect().bottom + 16"
                )
            )
            page.picture(Path(__file__).parent / name, width, height)

        page.open(Path(written.path).absolute(), (DESKTOP_WIDTH, 900), "light")
        # The sections on training alone: everything else is taken off the page.
        page.run(
            "for (const one of document.querySelectorAll('main > *, .bar-top'))"
            " if (!arguments[0].includes(one.id)) one.remove()",
            TRAINING_SECTIONS,
        )
        page.settle()
        height = round(
            page.run("return document.querySelector('main').getBoundingClientRect().bottom")
        )
        page.picture(Path(__file__).parent / "report-training.png", DESKTOP_WIDTH, height)


if __name__ == "__main__":
    main()
