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
DESKTOP_WIDTH, PHONE_WIDTH = 1280, 390
PICTURES = (
    ("report.png", DESKTOP_WIDTH, "light"),
    ("report-phone-dark.png", PHONE_WIDTH, "dark"),
)


def main() -> None:
    """Write the report of the demo's run, and its pictures."""
    from pipeline.report.build import write_report
    from tests.pipeline.report.browser import ENTER, browser

    written = write_report(RUN, gold=GOLD)
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


if __name__ == "__main__":
    main()
