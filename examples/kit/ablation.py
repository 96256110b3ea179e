"""What each group of the linker's features is worth, with intervals.

    export TRELM_KIT=/path/to/kit
    python examples/kit/ablation.py --run runs/both --gold $TRELM_KIT/el-dev --annotated-lines

The run needs kb and index alone (examples/kit-both.toml). Each group of features gets no weight in
turn, the rest stay as shipped. Printed per group: how much F1 end to end and accuracy at the gold
spans change, in points, all gold files pooled, with the 95 % interval of 2,000 bootstrap samples of
documents, drawn alike for both sides. Nothing is fitted again, so this is what a group adds to
these weights, not to the best weights without it. `--weights` instead compares a file
of weights that `link train` wrote with the shipped ones.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from pipeline.config import LinkConfig
from pipeline.engine.tables import RunPaths
from pipeline.index.extended_index import IndexFolders
from pipeline.link.disambiguation import Model
from pipeline.link.evaluation.comparison import golds_of, in_annotated_lines
from pipeline.link.evaluation.gold_files import link_file
from pipeline.link.evaluation.score_table import gold_files
from pipeline.link.features import GROUPS
from pipeline.link.gold import load_gold
from pipeline.link.linker import Linker
from pipeline.link.stage import LinkResources, model_of, open_resources, reach_of
from pipeline.link.weights import load_weights

SAMPLES = 2_000
# Per document: right, linked and gold mentions end to end; right ones at the gold spans.
COUNTS = ("right", "linked", "gold", "right_given")
Counts = np.ndarray


def counted(
    resources: LinkResources, paths: RunPaths, files: Sequence[str], *, annotated_lines: bool
) -> Counts:
    """Counts of each document of all files, shape (documents, 4)."""
    config = LinkConfig()
    rows: list[list[int]] = []
    for path in files:
        documents = load_gold(path)
        linked = link_file(resources, documents, config)
        golds = golds_of(paths, documents.values(), resources.entities)
        links = linked.end_to_end
        if annotated_lines:
            links = in_annotated_lines(links, documents)
        number = {doc_id: len(rows) + place for place, doc_id in enumerate(documents)}
        rows += [[0] * len(COUNTS) for _ in documents]
        for key, link in links.items():
            rows[number[key[0]]][1] += link.qid is not None
        for gold in golds:
            if gold.in_kb:
                row = rows[number[gold.key[0]]]
                row[0] += gold.key in links and links[gold.key].qid == gold.qid
                row[2] += 1
                row[3] += gold.key in linked.at_gold and linked.at_gold[gold.key].qid == gold.qid
    return np.array(rows, np.int64).reshape(-1, len(COUNTS))


def scores(sums: Counts) -> Counts:
    """F1 end to end and accuracy at the gold spans, in percent, of sums with shape (..., 4)."""
    right, linked, gold, given = np.moveaxis(sums, -1, 0)
    return 100 * np.stack(
        [2 * right / np.maximum(linked + gold, 1), given / np.maximum(gold, 1)], axis=-1
    )


def difference(ours: Counts, base: Counts, seed: int = 0) -> tuple[Counts, Counts]:
    """Difference of both scores, shape (2,), and its interval, shape (2, 2)."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(ours), size=(SAMPLES, len(ours)))
    sampled = scores(ours[drawn].sum(axis=1)) - scores(base[drawn].sum(axis=1))
    return scores(ours.sum(axis=0)) - scores(base.sum(axis=0)), np.percentile(
        sampled, (2.5, 97.5), axis=0
    )


def models(shipped: Model, weights: str) -> Mapping[str, Model]:
    """What is compared with the shipped weights."""
    if weights:
        return {weights: load_weights(weights)}
    return {
        f"without {group}": replace(
            shipped, weights={k: v for k, v in shipped.weights.items() if k not in names}
        )
        for group, names in GROUPS.items()
        if any(shipped.weights.get(name) for name in names)
    }


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--run", required=True, help="run with an index")
    parser.add_argument("--gold", required=True, action="append", help="gold file, or folder")
    parser.add_argument("--annotated-lines", action="store_true", help="as in link score")
    parser.add_argument("--weights", default="", help="weights to compare with the shipped ones")
    arguments = parser.parse_args()

    config, paths = LinkConfig(anchors=False), RunPaths(root=arguments.run)
    files = gold_files(arguments.gold)
    resources = open_resources(config, IndexFolders.of(paths))
    shipped = model_of(config)

    def of(model: Model) -> Counts:
        linker = Linker(resources.index, resources.entities, model, reach_of(config))
        return counted(
            replace(resources, linker=linker),
            paths,
            files,
            annotated_lines=arguments.annotated_lines,
        )

    base = of(shipped)
    found = scores(base.sum(axis=0))
    sys.stdout.write(
        f"shipped weights, {len(base)} documents: F1 {found[0]:.1f} %, gold spans {found[1]:.1f} %\n\n"
        "| | F1 end to end, points (95 %) | gold spans, points (95 %) |\n| --- | --- | --- |\n"
    )
    for name, model in models(shipped, arguments.weights).items():
        change, interval = difference(of(model), base)
        cells = [
            f"{change[which]:+.1f} ({interval[0, which]:+.1f} … {interval[1, which]:+.1f})"
            for which in (0, 1)
        ]
        sys.stdout.write(f"| {name} | {' | '.join(cells)} |\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
