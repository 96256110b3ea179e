import pytest
import torch
from torch import nn

from tests.trelm_train import world
from trelm_train.model.dropout import QuickDropout, attention_dropout, drop, set_dropout
from trelm_train.model.masked_lm import MaskedLm


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_share_and_scale(probability: float) -> None:
    torch.manual_seed(0)
    out = drop(torch.ones(1000, 1001), probability)
    assert float((out == 0).float().mean()) == pytest.approx(probability, abs=0.002)
    assert float(out.mean()) == pytest.approx(1.0, abs=0.01)
    assert len(out.unique()) == 2
    rows, columns = (
        (out == 0).float().mean(1),
        (out == 0).float().mean(0),
    )  # no pattern along either axis
    assert float(rows.std()) == pytest.approx(
        (probability * (1 - probability) / 1001) ** 0.5, rel=0.2
    )
    assert float(columns.std()) == pytest.approx(
        (probability * (1 - probability) / 1000) ** 0.5, rel=0.2
    )
    neighbours = torch.corrcoef(torch.stack([out[:, :-1].flatten(), out[:, 1:].flatten()]))[0, 1]
    assert abs(float(neighbours)) < 0.005


def test_the_gradient_goes_where_the_value_went() -> None:
    x = torch.randn(50, 7, requires_grad=True)
    out = drop(x, 0.3)
    out.backward(torch.ones_like(out))
    assert torch.equal(x.grad == 0, out == 0)
    assert torch.allclose(x.grad[out != 0], torch.full_like(x.grad[out != 0], 1 / 0.7), rtol=1e-4)


def test_a_seed_fixes_the_draw() -> None:
    x = torch.randn(33, 5)
    torch.manual_seed(3)
    first = drop(x, 0.5)
    torch.manual_seed(3)
    assert torch.equal(drop(x, 0.5), first)
    assert not torch.equal(drop(x, 0.5), first)


def test_nothing_is_dropped_without_need() -> None:
    x = torch.randn(4, 4)
    assert drop(x, 0.0) is x
    module = QuickDropout(0.5).eval()
    assert module(x) is x


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_models_dropout(family: str, model: MaskedLm, roberta: MaskedLm) -> None:
    hf = (model if family == "bert" else roberta).hf
    before = hf.config.hidden_dropout_prob
    set_dropout(hf)
    modules = [module for module in hf.modules() if isinstance(module, nn.Dropout)]
    assert modules
    assert all(isinstance(module, QuickDropout) and module.p == before for module in modules)
    set_dropout(hf, 0.25)
    assert all(module.p == 0.25 for module in hf.modules() if isinstance(module, nn.Dropout))
    assert attention_dropout(hf) == 0.25
    assert hf.config.hidden_dropout_prob == before  # an exported model says what it said


def test_attention_dropout_is_found(tokenizer: object) -> None:
    assert attention_dropout(world.make_bert(tokenizer, dropout=0.2)) == 0.2
