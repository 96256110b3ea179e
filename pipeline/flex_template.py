"""Start one stage from a Flex template of Dataflow: its launcher runs this file with options alone.

`--stage=link --run=gs://…` becomes `trelm-pipeline link --run=gs://…`. The launcher gives
`--template_location`, so the job is described and not waited for; the job itself writes the manifest.
`flex_template.json` beside this file describes the parameters to Google's console.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

# Between two settings of the parameter `set`.
BETWEEN = ";"
RUNNER = "--runner=DataflowRunner"


def words_of(arguments: Sequence[str]) -> list[str]:
    """Return the words of the command line that a template's parameters stand for.

    >>> words_of(["--stage=link", "--set=link.top_k=5; link.fuzzy=false", "--run=gs://b/run"])
    ['link', '--runner=DataflowRunner', '--set=link.top_k=5', '--set=link.fuzzy=false', '--run=gs://b/run']

    Raises:
        SystemExit: no stage.
    """
    stages, words = [], []
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name == "--stage":
            stages.append(value)
        elif name == "--set":
            words += [f"--set={part.strip()}" for part in value.split(BETWEEN) if part.strip()]
        elif name == "--redo":
            # A flag of ours; parameters have values.
            words += ["--redo"] if value == "true" else []
        elif value or "=" not in argument:
            # A parameter that is left empty in the console is given empty.
            words.append(argument)
    if len(stages) != 1 or not stages[0]:
        raise SystemExit("Error: give the parameter stage once, such as --stage=link")
    if not any(word.startswith("--runner") for word in words):
        words.insert(0, RUNNER)
    return [stages[0], *words]


def main() -> NoReturn:
    """Run the stage that the parameters name."""
    from pipeline.cli import main as run

    run(words_of(sys.argv[1:]))


if __name__ == "__main__":
    # Python looks for modules beside a file that it runs, and ours have everyday names.
    sys.path[:] = [place for place in sys.path if Path(place) != Path(__file__).parent]
    main()
