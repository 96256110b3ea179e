"""What a model has forgotten of a text: differences, intervals and agreement."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from schemas.errors import ConfigError
from tests.trelm_train import world
from tests.trelm_train.evaluate.broken import logits_by, zeroed
from trelm_train.cli import cli
from trelm_train.config import MaskingConfig
from trelm_train.data.loader import Packing, Position, assemble, plan_batches
from trelm_train.data.masking import Vocabulary, mask_batch
from trelm_train.evaluate.forgetting import (
    TextRequest,
    interval_of_mean,
    measure_text,
    readable_text,
    text_result,
)
from trelm_train.evaluate.mlm import MASK_SEED
from trelm_train.evaluate.mlm_command import MlmRequest, measure_all
from trelm_train.evaluate.text_loss import TIED, TextAnswers, answer_text, read_pieces
from trelm_train.init import train_tokenizer
from trelm_train.model.masked_lm import MaskedLm

REQUEST = TextRequest(path=Path("text.txt"), against="start")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    lines = [template.format(h=fact[0], t=fact[2]) for template, fact in world.sentences()]
    # A blank line is none, and a long one is cut.
    path.write_text("\n".join([*lines, "", " ".join(lines)]) + "\n")
    return path


@pytest.fixture
def zeroed_path(model: MaskedLm, tokenizer: Any, tmp_path: Path) -> Path:
    zeroed(model).hf.save_pretrained(tmp_path / "zeroed")
    tokenizer.save_pretrained(tmp_path / "zeroed")
    return tmp_path / "zeroed"


def answers_of(piece: Any, loss: Any, best: Any, gold: Any = None) -> TextAnswers:
    gold = np.zeros(len(piece), np.int64) if gold is None else np.asarray(gold)
    return TextAnswers(
        piece_M=np.asarray(piece),
        loss_M=np.asarray(loss, np.float64),
        gold_M=gold,
        best_M=np.asarray(best),
    )


def test_a_difference_by_hand() -> None:
    now = answers_of([0, 0, 1, 2], [2, 4, 1, 1], [7, 8, TIED, 9], gold=[7, 7, 7, 9])
    start = answers_of([0, 0, 1, 2], [1, 1, 1, 2], [7, 7, TIED, 9], gold=[7, 7, 7, 9])
    result = text_result(REQUEST, 3, now, start)
    assert (result["num_pieces"], result["num_masked"]) == (3, 4)
    assert result["loss"] == pytest.approx(2)
    assert result["accuracy"] == pytest.approx(2 / 4)
    against = result["against"]
    assert against["model"] == "start"
    assert against["loss"] == pytest.approx(5 / 4)
    assert against["accuracy"] == pytest.approx(3 / 4)
    assert against["loss_difference"] == pytest.approx((1 + 3 + 0 - 1) / 4)
    # The first and the last token; two ties are no agreement.
    assert against["agreement"] == pytest.approx(2 / 4)
    # Of two pieces drawn, the worst are 0 and 0, the best 2 and 2: the means of pieces 0, 1, 2 are
    # 2, 0 and -1.
    assert against["loss_difference_low"] == pytest.approx(-1)
    assert against["loss_difference_high"] == pytest.approx(2)
    assert "loss difference +0.7500 (95 % interval -1.0000 to +2.0000)" in readable_text(result)


def test_random_numbers_are_compared_as_by_plain_loops() -> None:
    random = np.random.default_rng(4)
    for _ in range(1000):
        size = int(random.integers(1, 12))
        # One piece: the interval is another test's, and takes longer.
        sides = [
            answers_of(np.zeros(size, int), random.random(size), random.integers(-1, 3, size),
                       random.integers(0, 3, size))
            for _ in range(2)
        ]  # fmt: skip
        now, start = sides
        result = text_result(REQUEST, 1, now, start)
        losses = [float(loss) for loss in now.loss_M]
        old = [float(loss) for loss in start.loss_M]
        assert result["loss"] == pytest.approx(sum(losses) / size)
        assert result["against"]["loss"] == pytest.approx(sum(old) / size)
        change = sum(new - before for new, before in zip(losses, old, strict=True)) / size
        assert result["against"]["loss_difference"] == pytest.approx(change)
        right = same = 0
        for place in range(size):
            right += now.best_M[place] == now.gold_M[place]
            same += now.best_M[place] == start.best_M[place] and now.best_M[place] >= 0
        assert result["accuracy"] == pytest.approx(right / size)
        assert result["against"]["agreement"] == pytest.approx(same / size)
        assert result["against"]["loss_difference_low"] is None
        assert "interval" not in readable_text(result)


def test_an_interval_is_as_wide_as_the_pieces_differ() -> None:
    """200 pieces of three tokens that are all alike: as for 200 numbers, not for 600."""
    random = np.random.default_rng(6)
    of_piece = random.normal(0.5, 2, 200)
    interval = interval_of_mean(np.repeat(of_piece, 3), np.repeat(np.arange(200), 3))
    assert interval is not None
    half = 1.96 * of_piece.std(ddof=1) / 200**0.5
    assert interval[0] == pytest.approx(of_piece.mean() - half, abs=0.15 * half)
    assert interval[1] == pytest.approx(of_piece.mean() + half, abs=0.15 * half)
    # The same every time.
    assert interval == interval_of_mean(np.repeat(of_piece, 3), np.repeat(np.arange(200), 3))


def test_pieces_that_agree_have_no_width() -> None:
    assert interval_of_mean(np.full(6, 0.5), np.array([3, 3, 5, 5, 5, 9])) == (0.5, 0.5)
    assert interval_of_mean(np.full(3, 0.5), np.array([3, 3, 3])) is None


def test_answers_equal_a_plain_forward(
    model: MaskedLm, tokenizer: Any, vocabulary: Vocabulary, text: Path
) -> None:
    pieces = read_pieces(text, tokenizer, model.max_tokens)
    assert int(pieces.sentences.ids.lengths(np.arange(len(pieces))).max()) == 64
    answers = answer_text(model, tokenizer, pieces, "the text")
    number = 0
    packing = Packing(max_tokens=64, batch_tokens=4096, limit=64)
    lengths = pieces.sentences.ids.lengths(np.arange(len(pieces)))
    for rows in plan_batches(lengths, packing):
        batch = assemble(pieces.sentences, rows, Position(), vocabulary.pad_id)
        masked = mask_batch(batch, MaskingConfig(), vocabulary, seed=MASK_SEED, epoch=0)
        for place, gold in zip(masked.target_M.tolist(), masked.gold_M.tolist(), strict=True):
            sentence = int(batch.segment_RS.reshape(-1)[place])
            start, end = int(batch.start_N[sentence]), int(batch.end_N[sentence])
            ids = torch.from_numpy(masked.input_ids_RS.reshape(-1)[start:end])[None]
            with torch.no_grad():
                logits = model.hf(input_ids=ids).logits[0, place - start]
            assert answers.piece_M[number] == batch.key_N[sentence]
            assert answers.gold_M[number] == gold
            assert answers.best_M[number] == int(logits.argmax())
            assert answers.loss_M[number] == pytest.approx(
                -float(logits.log_softmax(0)[gold]), abs=1e-3
            )
            number += 1
    assert number == len(answers.loss_M) > 50


def test_a_model_against_itself(model_path: Path, text: Path) -> None:
    request = TextRequest(path=text, against=str(model_path))
    result = measure_text(str(model_path), request, "cpu")
    against = result["against"]
    assert against["loss"] == result["loss"]
    assert against["loss_difference"] == 0
    assert (against["loss_difference_low"], against["loss_difference_high"]) == (0, 0)
    assert against["agreement"] == 1


def test_zeroed_constant_and_random_models(
    model: MaskedLm, tokenizer: Any, model_path: Path, zeroed_path: Path, text: Path
) -> None:
    size = model.config.vocab_size
    result = measure_text(str(zeroed_path), TextRequest(path=text, against=str(model_path)), "cpu")
    assert result["loss"] == pytest.approx(math.log(size))
    assert result["accuracy"] == result["against"]["agreement"] == 0
    difference = result["loss"] - result["against"]["loss"]
    assert result["against"]["loss_difference"] == pytest.approx(difference)
    low, high = (result["against"][f"loss_difference_{end}"] for end in ("low", "high"))
    assert low < difference < high

    pieces = read_pieces(text, tokenizer, model.max_tokens)
    noise = torch.Generator().manual_seed(2)
    with logits_by(model, lambda logits: torch.randn(logits.shape, generator=noise)):
        random = answer_text(model, tokenizer, pieces, "the text")
    num = len(random.loss_M)
    assert random.accuracy <= 1 / size + 4 * (1 / size / num) ** 0.5
    with logits_by(
        model, lambda logits: torch.zeros_like(logits).index_fill(1, torch.tensor([4]), 1)
    ):
        # The mask token itself is never right.
        assert answer_text(model, tokenizer, pieces, "the text").accuracy == 0


def test_a_limit_takes_the_first_pieces(model_path: Path, text: Path) -> None:
    few = measure_text(str(model_path), TextRequest(path=text, limit=5), "cpu")
    every = measure_text(str(model_path), TextRequest(path=text), "cpu")
    assert few["num_pieces"] == 5
    assert few["num_masked"] < every["num_masked"]
    assert "against" not in every


def test_another_tokenizer_is_refused(model_path: Path, text: Path, tmp_path: Path) -> None:
    other = train_tokenizer(lambda: iter(["other words altogether"] * 2), 40)
    world.make_bert(other).save_pretrained(tmp_path / "other")
    other.save_pretrained(tmp_path / "other")
    request = TextRequest(path=text, against=str(tmp_path / "other"))
    with pytest.raises(ConfigError, match="its tokenizer is not that of --against .*other: token"):
        measure_text(str(model_path), request, "cpu")


def test_a_text_without_a_masked_token(model_path: Path, text: Path) -> None:
    text.write_text("\n\n")
    with pytest.raises(ConfigError, match="text.txt is too short, no token was masked"):
        measure_text(str(model_path), TextRequest(path=text), "cpu")
    text.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="text.txt: cannot read it as UTF-8 text"):
        measure_text(str(model_path), TextRequest(path=text), "cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to measure the model on; give --shards, --text or both"),
        ({"shards": "s", "against": "m"}, "--against m: .*add --text FILE"),
        ({"text_path": "t", "items_path": "i"}, "--items i: rows are facts of shards"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MlmRequest(model="m", device="cpu", **options)


def test_the_command_measures_a_text_and_shards(
    model_path: Path, zeroed_path: Path, shards_path: Path, text: Path
) -> None:
    command = [
        "evaluate", "mlm", "--model", str(model_path), "--device", "cpu", "--text", str(text),
        "--against", str(zeroed_path),
    ]  # fmt: skip
    alone = json.loads(CliRunner().invoke(cli, [*command, "--json"], catch_exceptions=False).stdout)
    assert list(alone) == ["text"]
    assert alone["text"]["against"]["loss"] == pytest.approx(math.log(227))
    request = MlmRequest(
        model=str(model_path), device="cpu", text_path=text, against=str(zeroed_path),
        shards=shards_path,
    )  # fmt: skip
    both, lines = measure_all(request)
    assert both["text"] == alone["text"]
    assert both["num_sentences"] == 6
    output = (
        CliRunner()
        .invoke(cli, [*command, "--shards", str(shards_path)], catch_exceptions=False)
        .output
    )
    assert output == lines + "\n"
    assert "cka_score" in output
    assert "same likeliest token 0.0000" in output
