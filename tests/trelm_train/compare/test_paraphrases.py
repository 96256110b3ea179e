"""Facts of an experiment that are asked in several ways: scores, tables, refusals, fingerprints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import ConfigError
from tests.trelm_train.compare.conftest import PLAIN, WriteExperiment, toml_of, write_probes
from trelm_train.compare.compare import CompareRequest, compare
from trelm_train.compare.experiment import ParaphraseSet, load_experiment
from trelm_train.compare.plan import inputs_of
from trelm_train.compare.questions import ask_paraphrases
from trelm_train.evaluate.paraphrase_items import probe
from trelm_train.evaluate.paraphrases import ParaphraseOptions
from trelm_train.model.masked_lm import MaskedLm

PATTERNS = ("[X] lives in [Y] .", "[Y] is where [X] lives .")


@pytest.fixture
def facts(tmp_path: Path) -> ParaphraseSet:
    folder, patterns = write_probes(tmp_path / "facts"), tmp_path / "patterns"
    patterns.mkdir()
    rows = [json.dumps({"pattern": pattern}) for pattern in PATTERNS]
    (patterns / "P1.jsonl").write_text("\n".join(rows) + "\n")
    return ParaphraseSet(name="pararel", folder=str(folder), patterns=str(patterns))


def with_facts(path: Path, facts: ParaphraseSet, **changed: Any) -> Path:
    values = {"name": facts.name, "folder": facts.folder, "patterns": facts.patterns, **changed}
    path.write_text(path.read_text() + "\n" + toml_of("[[paraphrases]]", values))
    return path


def test_the_rates_are_those_of_evaluate_paraphrases(
    model: MaskedLm, tokenizer: Any, model_path: Path, facts: ParaphraseSet
) -> None:
    options = ParaphraseOptions(probes=Path(facts.folder), patterns=Path(facts.patterns))
    wanted = probe(str(model_path), "cpu", options)
    rates = ask_paraphrases(model, tokenizer, facts)
    assert rates["num_items"] == wanted["num_items"] > 2
    assert {name: rates[name] for name in wanted["macro"]} == wanted["macro"]
    assert 0 < rates["consistent_majority"] < rates["constant_consistency"] == 1


def test_a_limit_asks_fewer_facts(model: MaskedLm, tokenizer: Any, facts: ParaphraseSet) -> None:
    limited = ParaphraseSet(name="a", folder=facts.folder, patterns=facts.patterns, limit=2)
    assert ask_paraphrases(model, tokenizer, limited)["num_items"] == 2


@pytest.mark.slow
def test_a_comparison_of_paraphrases_alone_has_their_tables(
    write_experiment: WriteExperiment,
    facts: ParaphraseSet,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    path = write_experiment(arms={"mlm": PLAIN}, seeds=[0], budgets=[1], steps=2)
    text = path.read_text()
    path.write_text(text[: text.index("[[probes]]")] + text[text.index("[[arms]]") :])
    with_facts(path, facts)
    (page,) = compare(CompareRequest(configs=(path,), out=tmp_path / "out"))

    results = [json.loads(one.read_text()) for one in page.parent.rglob("result.json")]
    assert len(results) == 2
    for one in results:
        right = one["measures"]["paraphrases/pararel"]["accuracy_mean"]
        assert f"pararel {100 * right:.1f} %" in caplog.text
    summary = (page.parent / "summary.md").read_text()
    for title in (
        "Right answers over all patterns, pararel",
        "Facts that all patterns have right, pararel",
        "Pairs of patterns with one answer, pararel",
    ):
        assert f"## {title} (%)" in summary
        assert title in page.read_text()
    # A constant answer is right as often as the commonest object, and always agrees with itself.
    majority = results[0]["measures"]["paraphrases/pararel"]["majority"]
    assert summary.count(f"The best constant answer: {100 * majority:.1f}.") == 2
    assert "The best constant answer: 100.0." in summary
    assert "the best constant answer is as good as mlm" in summary.split("one answer, pararel")[1]


@pytest.mark.parametrize("name", ["folder", "patterns"])
@pytest.mark.parametrize("value", ["", "/none/there"])
def test_a_folder_that_is_not_there_is_refused(
    write_experiment: WriteExperiment, facts: ParaphraseSet, name: str, value: str
) -> None:
    path = with_facts(write_experiment(), facts, **{name: value})
    with pytest.raises(
        ConfigError, match=f"paraphrases 'pararel': {name} = '{value}' is no folder"
    ):
        load_experiment(path)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("patterns/P1.jsonl", '{"pattern": "[Y] ."}\n', r"row 1 has no \[X\]"),
        ("patterns/P1.jsonl", "{", "not JSON"),
        ("facts/P1.jsonl", "{", "not JSON"),
    ],
)
def test_files_are_read_before_any_training(
    write_experiment: WriteExperiment,
    facts: ParaphraseSet,
    tmp_path: Path,
    file: str,
    text: str,
    message: str,
) -> None:
    (tmp_path / file).write_text(text)
    path = with_facts(write_experiment(), facts)
    with pytest.raises(ConfigError, match=f"paraphrases 'pararel': .*{message}"):
        load_experiment(path)


def test_folders_that_share_no_relation_are_refused(
    write_experiment: WriteExperiment, facts: ParaphraseSet, tmp_path: Path
) -> None:
    (tmp_path / "patterns" / "P1.jsonl").rename(tmp_path / "patterns" / "P7.jsonl")
    with pytest.raises(ConfigError, match="no patterns for any relation"):
        load_experiment(with_facts(write_experiment(), facts))
    with pytest.raises(ConfigError, match="limit = -1 must be 0"):
        load_experiment(with_facts(write_experiment(), facts, limit=-1))


def test_facts_that_a_model_cannot_be_asked_are_an_error(
    model: MaskedLm, tokenizer: Any, facts: ParaphraseSet
) -> None:
    rows = [json.dumps({"sub_label": "Ada", "obj_label": "never in the vocabulary"})]
    (Path(facts.folder) / "P1.jsonl").write_text("\n".join(rows) + "\n")
    with pytest.raises(ConfigError, match="no fact of .* has an object that is one token"):
        ask_paraphrases(model, tokenizer, facts)


def test_a_changed_pattern_is_another_input(
    write_experiment: WriteExperiment, facts: ParaphraseSet
) -> None:
    plain = inputs_of(load_experiment(write_experiment()))
    experiment = load_experiment(with_facts(write_experiment(), facts))
    before = inputs_of(experiment)
    assert before != plain
    (Path(facts.patterns) / "P1.jsonl").write_text(json.dumps({"pattern": "[X] in [Y] ."}) + "\n")
    assert inputs_of(experiment) != before


def test_other_files_are_no_input(write_experiment: WriteExperiment, facts: ParaphraseSet) -> None:
    experiment = load_experiment(with_facts(write_experiment(), facts))
    before = inputs_of(experiment)
    (Path(facts.patterns) / "P1_notes.jsonl").write_text("notes")
    (Path(facts.patterns) / "P99.jsonl").mkdir()
    assert inputs_of(experiment) == before
