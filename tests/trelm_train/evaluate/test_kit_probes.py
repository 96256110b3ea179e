"""Real patterns, a real vocabulary and a real text of the data kit, with its small BERT."""

from pathlib import Path
from typing import Any

import pytest
import torch

from trelm_train.evaluate.forgetting import TextRequest, measure_text
from trelm_train.evaluate.paraphrases import ParaphraseOptions, ask_all, collect, result_of
from trelm_train.evaluate.prober import Prober
from trelm_train.evaluate.pseudo_likelihood import pseudo_log_likelihoods
from trelm_train.model.masked_lm import MaskedLm, load_pretrained, load_tokenizer

pytestmark = pytest.mark.kit


@pytest.fixture(scope="module")
def real_path(kit: Path) -> Path:
    return kit / "model" / "splade-tiny-msmarco-mlm"


@pytest.fixture(scope="module")
def real(real_path: Path) -> MaskedLm:
    return load_pretrained(str(real_path), torch.device("cpu"))


@pytest.fixture(scope="module")
def real_tokenizer(real_path: Path) -> Any:
    return load_tokenizer(str(real_path))


def test_the_patterns_of_pararel(kit: Path, real: MaskedLm, real_tokenizer: Any) -> None:
    probes = kit / "probes"
    options = ParaphraseOptions(
        probes=probes / "pararel_trex_lms_vocab", patterns=probes / "pararel_patterns", limit=4
    )
    prober = Prober(real, real_tokenizer, None)
    read = collect(prober, options)
    answers = ask_all(prober, read)
    result = result_of(read, answers)
    assert result["num_relations"] == 13
    assert result["num_items"] == 13 * 4
    assert result["num_questions"] == 78 * 4
    assert result["relations_with_one_pattern"] == ["P1001"]
    assert result["relations"]["P30"]["candidates"] == 5
    assert result["relations"]["P1376"]["patterns"] == 14

    relation = next(one for one in read.relations if one.name == "P30")
    for number, pattern in enumerate(relation.patterns):
        for place, item in enumerate(relation.items):
            text = pattern.replace("[X]", item.row.sub_label).replace("[Y]", "[MASK]")
            ids = real_tokenizer(text)["input_ids"]
            with torch.no_grad():
                logits = real.hf(input_ids=torch.tensor([ids])).logits[0]
            at_mask = logits[ids.index(real_tokenizer.mask_token_id)]
            best = max(relation.candidates.tolist(), key=lambda token: float(at_mask[token]))
            assert answers["P30"].best_PI[number, place] == best


def test_statements_with_words_of_several_pieces(real: MaskedLm, real_tokenizer: Any) -> None:
    texts = ["Strelsau Island is in Antarctica.", "Genovia borders Ruritania."]
    encodings = real_tokenizer(texts).encodings
    pad, mask = real_tokenizer.pad_token_id, real_tokenizer.mask_token_id
    scores = pseudo_log_likelihoods(real, pad, mask, encodings)
    for encoding, score in zip(encodings, scores.tolist(), strict=True):
        wanted = 0.0
        for position, word in enumerate(encoding.word_ids):
            if word is None:
                continue
            ids = [
                mask if place >= position and encoding.word_ids[place] == word else token
                for place, token in enumerate(encoding.ids)
            ]
            with torch.no_grad():
                logits = real.hf(input_ids=torch.tensor([ids])).logits[0, position]
            wanted += float(logits.log_softmax(0)[encoding.ids[position]])
        assert score == pytest.approx(wanted, abs=1e-2)
        # Some word has several pieces.
        assert len(set(encoding.word_ids)) < len(encoding.word_ids) - 1


def test_nothing_is_forgotten_of_wikitext(kit: Path, real_path: Path) -> None:
    text = kit / "text" / "wikitext-2" / "valid.txt"
    request = TextRequest(path=text, against=str(real_path), limit=40)
    result = measure_text(str(real_path), request, "cpu")
    assert result["num_pieces"] == 40
    assert result["num_masked"] > 300
    assert result["against"]["loss_difference"] == 0
    assert result["against"]["agreement"] == 1
