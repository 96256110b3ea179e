"""Training a re-ranker on the corpus's own links: the weight that fits, what is written, faults."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import LinkConfig
from pipeline.engine.errors import StageError
from pipeline.link.reranker import SETTINGS_FILE, RerankerSettings
from pipeline.link.stage import model_of
from pipeline.link.training import reranker
from pipeline.link.training.reranker import RerankerTraining, fit_weight, train_reranker
from schemas.durable import partial_of
from schemas.errors import ConfigError
from tests.pipeline import tiny_model
from tests.pipeline.cases import in_process

BLANK = LinkConfig(spacy_model="blank:en")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model.make(tmp_path_factory.mktemp("model")))


@given(st.integers(0, 2**32 - 1))
def test_the_weight_is_the_likeliest(seed: int) -> None:
    """No weight on a grid is likelier, by the plain sum over mentions."""
    chance = np.random.default_rng(seed)
    mentions = np.repeat(np.arange(12), chance.integers(1, 5, 12))
    scores, feature = chance.normal(size=(2, len(mentions)))
    is_gold = np.zeros(len(mentions), bool)
    for mention in range(10):  # the last two have no gold
        is_gold[chance.choice(np.flatnonzero(mentions == mention))] = True

    def loss(weight: float) -> float:
        total = 0.0
        for mention in range(10):
            rows = mentions == mention
            weighted = scores[rows] + weight * feature[rows].astype(np.float32)
            total -= float(weighted[is_gold[rows]][0] - np.log(np.exp(weighted).sum()))
        return total

    weight = fit_weight(scores, feature.astype(np.float32), mentions, is_gold, 12)
    assert 0 <= weight <= reranker.MAX_WEIGHT
    assert loss(weight) <= min(map(loss, np.arange(0, 60, 0.5))) + 1e-3


def test_no_gold_is_no_weight() -> None:
    nothing = np.zeros(0, np.int64)
    floats = np.zeros(0)
    assert fit_weight(floats, floats.astype(np.float32), nothing, nothing > 0, 3) == 0.0


def test_from_the_command_to_the_weights(
    sample_run: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reranker, "MIN_EXAMPLES", 1)
    out = tmp_path / "trained"
    done = in_process(
        "link", "train-reranker", "--run", str(sample_run), "--model", model, "--out", str(out),
        "--max-links", "20", "--set", "link.spacy_model=blank:en", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert 0 < report["links"] <= 20
    assert report["held_out_links"] > 0
    assert not partial_of(Path(out)).exists()

    settings = RerankerSettings.of(str(out))
    assert (settings.is_trained, settings.weight) == (True, report["after"]["weight"])
    weights = model_of(LinkConfig(rerank_model=str(out)))
    assert weights.weights["semantic"] == settings.weight
    # The other weights are the linker's.
    assert {**model_of(LinkConfig()).weights, "semantic": settings.weight} == weights.weights

    with pytest.raises(ConfigError, match="is there already; give another folder"):
        train_reranker(RerankerTraining(run=str(sample_run), model=model, out=str(out)), BLANK)


def test_the_weight_alone(sample_run: Path, model: str, tmp_path: Path) -> None:
    training = RerankerTraining(
        run=str(sample_run), model=model, out=str(tmp_path / "plain"), max_links=0
    )
    report = train_reranker(training, BLANK)
    assert report.keys() == {"held_out_links", "before"}
    written = json.loads((tmp_path / "plain" / SETTINGS_FILE).read_text())
    assert (written["is_trained"], written["weight"]) == (False, report["before"]["weight"])


def test_too_few_links(tmp_path: Path, sample_run: Path, model: str) -> None:
    few = RerankerTraining(run=str(sample_run), model=model, out=str(tmp_path / "x"), max_links=5)
    with pytest.raises(StageError, match=r"5 of its own links .* 50 are needed"):
        train_reranker(few, BLANK)
    assert not (tmp_path / "x").exists()
