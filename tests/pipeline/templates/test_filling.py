"""Filled templates: names at their places."""

from __future__ import annotations

import pytest

from pipeline.templates.filling import fill


@pytest.mark.parametrize("template", ["[X] and [Y].", "[Y] is before [X].", "So [X] of [Y] is."])
@pytest.mark.parametrize("names", [("Paris", "Côte d’Ivoire"), ("[Y]", "x")])
def test_names_stand_where_the_spans_say(template: str, names: tuple[str, str]) -> None:
    written = fill(template, *names)
    spans = (written.subject, written.object)
    assert tuple(written.text[start:end] for start, end in spans) == names
