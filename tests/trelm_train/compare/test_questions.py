from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from schemas.errors import ConfigError
from tests.trelm_train import world
from tests.trelm_train.compare.conftest import write_probes
from tests.trelm_train.evaluate.broken import logits_by, with_one
from trelm_train.compare.experiment import ProbeSet, TextSet
from trelm_train.compare.measure import count_flops
from trelm_train.compare.questions import ask_probes, text_loss
from trelm_train.evaluate.finite import NotFiniteError
from trelm_train.evaluate.lama import Options, evaluate_lama
from trelm_train.model.masked_lm import MaskedLm


@pytest.fixture
def probes(tmp_path: Path) -> ProbeSet:
    return ProbeSet(name="held", folder=str(write_probes(tmp_path / "probes")))


def test_probes_are_scored_as_evaluate_lama_scores_them(
    model: MaskedLm, tokenizer: Any, probes: ProbeSet
) -> None:
    answers = ask_probes(model, tokenizer, probes)
    options = Options(probes=Path(probes.folder), relations=probes.found.relations)
    wanted = evaluate_lama(model, tokenizer, options)
    measures = answers.measures()
    assert measures["num_items"] == wanted["num_items"] > 5
    assert measures["p_at_1_by_relation"] == pytest.approx(wanted["macro"]["p_at_1"])
    for name in ("p_at_1", "p_at_10", "mrr"):
        assert measures[name] == pytest.approx(wanted["micro"][name])
    assert all(log_p < 0 for log_p in answers.log_p)
    # The best rank has the highest probability among the candidates.
    assert answers.subject[0].startswith("Q")


@pytest.mark.parametrize("uhn", ["string", "MODEL"])
def test_uhn_leaves_out_what_evaluate_lama_leaves_out(
    model: MaskedLm,
    tokenizer: Any,
    model_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uhn: str,
) -> None:
    monkeypatch.setenv("TRELM_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "lama"
    # Relations of persons are those that the name cloze asks; one name holds its answer.
    write_probes(folder)
    for old, new in (("P1", "P19"), ("P2", "P36")):
        (folder / f"{old}.jsonl").rename(folder / f"{new}.jsonl")
        text = (folder / "relations.jsonl").read_text()
        (folder / "relations.jsonl").write_text(text.replace(f'"{old}"', f'"{new}"'))
    rows = (folder / "P36.jsonl").read_text().splitlines()
    first = json.loads(rows[0])
    rows[0] = json.dumps({**first, "sub_label": f"Old {first['obj_label']}"})
    (folder / "P36.jsonl").write_text("\n".join(rows) + "\n")

    wanted_uhn = str(model_path) if uhn == "MODEL" else uhn
    found = ask_probes(model, tokenizer, ProbeSet(name="held", folder=str(folder), uhn=wanted_uhn))
    wanted = evaluate_lama(model, tokenizer, Options(probes=folder, relations=None, uhn=wanted_uhn))
    everything = ask_probes(model, tokenizer, ProbeSet(name="held", folder=str(folder)))
    assert len(found.rank) == wanted["num_items"] < len(everything.rank)
    assert found.measures()["mrr"] == pytest.approx(wanted["micro"]["mrr"])


def test_google_re_is_found_by_its_published_names(
    model: MaskedLm, tokenizer: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "data" / "Google_RE"
    folder.mkdir(parents=True)
    rows = [{"sub_label": head, "obj_label": tail, "judgments": [{"judgment": "yes"}]}
            for head, stated, tail in world.facts() if stated == world.LIVES]  # fmt: skip
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "place_of_birth_test.jsonl").write_text(text)
    found = ask_probes(model, tokenizer, ProbeSet(name="google", folder=str(folder.parent)))
    assert set(found.relation) == {"place_of_birth"}
    # Objects of one token count.
    assert len(found.rank) == sum(" " not in row["obj_label"] for row in rows) > 0


def test_rows_with_their_own_sentence_are_drawn_and_parted_by_it(
    model: MaskedLm, tokenizer: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "data" / "Squad"
    folder.mkdir(parents=True)
    # SQuAD's rows all have the same subject, ConceptNet's have none.
    rows = [{"masked_sentences": [f"{head} lives in [MASK] ."], "obj_label": tail, "sub_label": "Squad"}
            for head, stated, tail in world.facts() if stated == world.LIVES and " " not in tail]  # fmt: skip
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "test.jsonl").write_text(text)

    def asked(*ends: float) -> list[str]:
        probes = ProbeSet(name="squad", folder=str(folder.parent), subjects=ends)
        return ask_probes(model, tokenizer, probes).subject

    sentences = {row["masked_sentences"][0] for row in rows}
    assert set(asked(0, 1)) == sentences
    assert set(asked(0, 0.5)) | set(asked(0.5, 1)) == sentences
    assert not set(asked(0, 0.5)) & set(asked(0.5, 1))


def test_a_limit_counts_items_of_a_relation(
    model: MaskedLm, tokenizer: Any, probes: ProbeSet
) -> None:
    limited = ProbeSet(name="held", folder=probes.folder, limit=2)
    assert len(ask_probes(model, tokenizer, limited).rank) <= 4


def test_parts_share_no_subject(model: MaskedLm, tokenizer: Any, probes: ProbeSet) -> None:
    whole = ask_probes(model, tokenizer, probes).subject
    parts = [
        ask_probes(
            model, tokenizer, ProbeSet(name="part", folder=probes.folder, subjects=ends)
        ).subject
        for ends in ((0.0, 0.5), (0.5, 1.0))
    ]
    assert sorted(parts[0] + parts[1]) == sorted(whole)
    assert not set(parts[0]) & set(parts[1])


def test_probes_without_an_item_are_refused(
    model: MaskedLm, tokenizer: Any, probes: ProbeSet, tmp_path: Path
) -> None:
    words = tmp_path / "words.txt"
    words.write_text("lives\n")
    narrow = ProbeSet(name="held", folder=probes.folder, common_vocab=str(words))
    with pytest.raises(ConfigError, match="no item of"):
        ask_probes(model, tokenizer, narrow)


def test_the_loss_of_a_text_is_the_same_every_time(
    model: MaskedLm, tokenizer: Any, tmp_path: Path
) -> None:
    path = tmp_path / "text.txt"
    path.write_text(
        "\n".join(["Flavia lives in Strelsau .", "", "Zenda is a town in Ruritania ."] * 20)
    )
    text = TextSet(name="general", path=str(path))
    first = text_loss(model, tokenizer, text)
    torch.manual_seed(3)
    assert text_loss(model, tokenizer, text) == first
    assert first["num_masked"] > 10
    fewer = text_loss(model, tokenizer, TextSet(name="general", path=str(path), sentences=20))
    assert 0 < fewer["num_masked"] < first["num_masked"]


def test_a_text_longer_than_the_model_is_cut(
    model: MaskedLm, tokenizer: Any, tmp_path: Path
) -> None:
    path = tmp_path / "text.txt"
    path.write_text("the king of Ruritania visited Zenda " * 60)
    assert text_loss(model, tokenizer, TextSet(name="long", path=str(path)))["loss"] > 0


def test_a_broken_model_has_no_loss_of_a_text(
    model: MaskedLm, tokenizer: Any, tmp_path: Path
) -> None:
    path = tmp_path / "text.txt"
    path.write_text("the king of Ruritania visited Zenda " * 6)
    text = TextSet(name="general", path=str(path))
    with (
        logits_by(model, with_one(float("nan"))),
        pytest.raises(NotFiniteError, match="the text 'general'"),
    ):
        text_loss(model, tokenizer, text)


def test_an_empty_text_is_refused(model: MaskedLm, tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("\n\n")
    with pytest.raises(ConfigError, match="too short"):
        text_loss(model, tokenizer, TextSet(name="empty", path=str(path)))


def test_flops_of_products_by_hand() -> None:
    left, right = torch.ones(3, 4, requires_grad=True), torch.ones(4, 5)
    assert count_flops(lambda: left @ right) == 2 * 3 * 4 * 5
    # The product again, and the gradient of one factor: the other one is frozen.
    assert count_flops(lambda: (left @ right).sum().backward()) == 2 * 2 * 3 * 4 * 5


def test_flops_of_attention_by_hand() -> None:
    query = torch.ones(1, 2, 6, 8, requires_grad=True)
    attend = torch.nn.functional.scaled_dot_product_attention
    products = 2 * 2 * 6 * 6 * 8
    assert count_flops(lambda: attend(query, query, query)) == 2 * products
    assert count_flops(lambda: attend(query, query, query).sum().backward()) == 7 * products
