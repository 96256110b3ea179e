import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trelm_train import world
from trelm_train.data.loader import Batch, Packing
from trelm_train.data.masking import Vocabulary
from trelm_train.model.families import FAMILIES, Packed
from trelm_train.model.masked_lm import MaskedLm
from trelm_train.routing.attribution import (
    Cut,
    Targets,
    Walk,
    attribute,
    evaluating,
    make_estimator,
)
from trelm_train.routing.probes import chunks, probes_of

CPU = torch.device("cpu")
NAMES = sorted(FAMILIES)
CONTEXTS = ["exact", "fixed"]
Setting = tuple[MaskedLm, Packed, Targets]


@pytest.fixture(scope="module")
def settings_of(vocab_size: int, batch: Batch, vocabulary: Vocabulary) -> dict[str, Setting]:
    found = {}
    for family in NAMES:
        model = MaskedLm(world.make_family(family, vocab_size), CPU)
        model.hf.eval()
        probes = probes_of(batch, vocabulary, seed=1)[:6]
        probe_batch, targets = next(
            chunks(probes, Packing(max_tokens=48, batch_tokens=96, limit=64), 0)
        )
        found[family] = model, model.pack(probe_batch), targets
    return found


def missing_of(setting: Setting, attribution_ELI: Tensor, context: str) -> Tensor:
    """|sum Attr - (P(v) - P(0))| in units of what may be missing, as E x L."""
    model, packed, targets = setting
    rows = []
    with evaluating(model, "float32"), torch.no_grad():
        walk = Walk(model, packed, targets, context=context)
        for cut in walk.cuts():
            gain_E = walk.probabilities(cut, cut.neurons_TI) - walk.probabilities(
                cut, torch.zeros_like(cut.neurons_TI)
            )
            missing_E = (attribution_ELI[:, cut.layer].sum(-1) - gain_E).abs()
            rows.append(missing_E / (0.02 * gain_E.abs().clamp(min=0.01)))
    return torch.stack(rows, 1)


@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("rule", ["midpoint", "gauss_legendre"])
def test_attributions_sum_to_the_gain_in_probability(
    rule: str, context: str, family: str, settings_of: dict[str, Setting]
) -> None:
    setting = settings_of[family]
    found = attribute(*setting, make_estimator(rule, 24, context=context))
    assert float(missing_of(setting, found, context).max()) <= 1


@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("context", CONTEXTS)
def test_the_cut_probability_is_the_models(
    context: str, family: str, settings_of: dict[str, Setting]
) -> None:
    model, packed, targets = settings_of[family]
    with evaluating(model, "float32"), torch.no_grad():
        hidden = model.encode(packed).reshape(-1, model.hidden_size)[
            torch.from_numpy(targets.position_T)
        ]
        log_p = torch.log_softmax(model.logits(hidden), -1).gather(
            1, torch.from_numpy(targets.gold_T)[:, None]
        )[:, 0]
        product = (
            torch.zeros(targets.num_examples)
            .index_add(0, torch.from_numpy(targets.example_T), log_p)
            .exp()
        )
        walk = Walk(model, packed, targets, context=context)
        cuts = list(walk.cuts())
        assert [cut.layer for cut in cuts] == list(range(model.num_layers))
        for cut in cuts:
            assert torch.allclose(
                walk.probabilities(cut, cut.neurons_TI), product, rtol=1e-4, atol=1e-7
            )


@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("context", CONTEXTS)
def test_a_changed_neuron_goes_through_the_whole_model(
    context: str, family: str, settings_of: dict[str, Setting]
) -> None:
    """Against the library's own forward with the neurons of the target rows replaced in one layer.

    Fixed context: with the other rows put back to what they were after every layer.
    """
    model, packed, targets = settings_of[family]
    at = torch.from_numpy(targets.position_T)
    others = (
        torch.ones(packed.input_ids_RS.numel(), dtype=torch.bool)
        .index_fill(0, at, False)
        .nonzero()[:, 0]
    )
    with evaluating(model, "float32"), torch.no_grad():
        plain: dict[int, Tensor] = {}
        handles = [
            layer.register_forward_hook(
                lambda _m, _i, out, number=number: plain.__setitem__(number, out)
            )
            for number, layer in enumerate(model.layers)
        ]
        model.encode(packed)
        for handle in handles:
            handle.remove()
        walk = Walk(model, packed, targets, context=context)
        for cut in walk.cuts():
            changed = cut.neurons_TI * 0.3

            def replace(
                _module: object, inputs: tuple[Tensor, ...], changed: Tensor = changed
            ) -> tuple[Tensor, ...]:
                return (inputs[0].flatten(0, 1).index_copy(0, at, changed).view_as(inputs[0]),)

            def put_back(number: int, out: Tensor) -> Tensor:
                return (
                    out.flatten(0, 1)
                    .index_copy(0, others, plain[number].flatten(0, 1)[others])
                    .view_as(out)
                )

            handles = [model.family.ffn(cut.layer).w_out.register_forward_pre_hook(replace)]
            if context == "fixed":
                handles += [
                    layer.register_forward_hook(
                        lambda _m, _i, out, number=number: put_back(number, out)
                    )
                    for number, layer in enumerate(model.layers)
                ]
            hidden = model.encode(packed).flatten(0, 1)[at]
            for handle in handles:
                handle.remove()
            log_p = torch.log_softmax(model.logits(hidden), -1).gather(1, walk.gold_T[:, None])[
                :, 0
            ]
            wanted = torch.zeros(targets.num_examples).index_add(0, walk.example_T, log_p).exp()
            assert torch.allclose(walk.probabilities(cut, changed), wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("family", NAMES)
def test_a_fixed_context_is_exact_in_the_top_two_layers(
    family: str, settings_of: dict[str, Setting]
) -> None:
    """Nothing reads the other tokens' states above them."""
    exact, fixed = (
        attribute(*settings_of[family], make_estimator("midpoint", 1, context=context))
        for context in ("exact", "fixed")
    )
    top = exact[:, -2:]
    assert torch.allclose(fixed[:, -2:], top, rtol=1e-4, atol=1e-6 * float(top.abs().max()))
    if exact.shape[1] > 2:
        assert not torch.allclose(
            fixed[:, 0], exact[:, 0], rtol=1e-2, atol=1e-3 * float(exact[:, 0].abs().max())
        )


@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("context", CONTEXTS)
def test_captum_agrees(context: str, family: str, settings_of: dict[str, Setting]) -> None:
    """Captum's integrated gradients of P(v_l := v) from the zero vector, one layer and one example
    at a time.
    """
    from captum.attr import IntegratedGradients

    model, packed, targets = settings_of[family]
    ours = attribute(model, packed, targets, make_estimator("gauss_legendre", 8, context=context))
    for example in range(2):
        rows = np.flatnonzero(targets.example_T == example)
        one = Targets(
            position_T=targets.position_T[rows],
            example_T=np.zeros(len(rows), np.int64),
            gold_T=targets.gold_T[rows],
            num_examples=1,
        )
        with evaluating(model, "float32"):
            walk = Walk(model, packed, one, context=context)
            for cut in walk.cuts():

                def f(many: Tensor, walk: Walk = walk, cut: Cut = cut) -> Tensor:
                    return torch.cat(
                        [
                            walk.probabilities(cut, v.view(cut.neurons_TI.shape).float())
                            for v in many
                        ]
                    )

                flat = cut.neurons_TI.reshape(1, -1)
                oracle = IntegratedGradients(f).attribute(flat, n_steps=8, method="gausslegendre")
                wanted = oracle.view(len(rows), -1).sum(0).float()
                assert torch.allclose(
                    ours[example, cut.layer], wanted, atol=1e-5 * float(wanted.abs().max()) + 1e-8
                )


@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("context", CONTEXTS)
def test_sentences_do_not_see_each_other(
    context: str, family: str, settings_of: dict[str, Setting]
) -> None:
    """Attribution of packed probes equals that of each alone."""
    model, packed, targets = settings_of[family]
    how = make_estimator("midpoint", 1, context=context)
    together = attribute(model, packed, targets, how)
    ids, segment = packed.input_ids_RS, packed.mask_R1SS
    for example in range(targets.num_examples):
        rows = np.flatnonzero(targets.example_T == example)
        row, column = divmod(int(targets.position_T[rows[0]]), ids.shape[1])
        mine = segment[row, 0, column].nonzero()[:, 0]
        alone = Packed(
            input_ids_RS=ids[row, mine][None],
            position_ids_RS=packed.position_ids_RS[row, mine][None],
            mask_R1SS=torch.ones(1, 1, len(mine), len(mine), dtype=torch.bool),
        )
        asked = Targets(
            position_T=targets.position_T[rows] - row * ids.shape[1] - int(mine[0]),
            example_T=np.zeros(len(rows), np.int64),
            gold_T=targets.gold_T[rows],
            num_examples=1,
        )
        single = attribute(model, alone, asked, how)[0]
        assert torch.allclose(
            single, together[example], rtol=1e-3, atol=1e-5 * float(single.abs().max())
        )


def overlap(left: Tensor, right: Tensor, share: float = 0.1) -> float:
    count = round(left.numel() * share)
    a, b = (set(scores.flatten().topk(count).indices.tolist()) for scores in (left, right))
    return len(a & b) / count


@pytest.mark.parametrize("family", NAMES)
def test_one_midpoint_picks_nearly_the_same_neurons(
    family: str, settings_of: dict[str, Setting]
) -> None:
    """Loose on purpose: random weights bend more than trained ones (see the kit's model below)."""
    setting = settings_of[family]
    exact = attribute(*setting, make_estimator("gauss_legendre", 16)).sum(0)
    assert overlap(attribute(*setting, make_estimator("midpoint", 1)).sum(0), exact) >= 0.7
    narrow = attribute(
        *setting, make_estimator("midpoint", 1, precision="bfloat16", context="fixed")
    ).sum(0)
    assert narrow.dtype == torch.float32
    assert overlap(narrow, exact) >= 0.6


@pytest.mark.parametrize("context", CONTEXTS)
def test_layers_below_the_first_stay_zero(context: str, settings_of: dict[str, Setting]) -> None:
    setting, how = settings_of["bert"], make_estimator("midpoint", 1, context=context)
    top = attribute(*setting, how, first_layer=1)
    assert not top[:, :1].any()
    every = attribute(*setting, how)
    assert torch.equal(top[:, 1:], every[:, 1:])


def test_nothing_is_left_behind(model: MaskedLm, settings_of: dict[str, Setting]) -> None:
    _, packed, targets = settings_of["bert"]
    model.hf.train()
    trained = {name for number, (name, _) in enumerate(model.hf.named_parameters()) if number % 2}
    for name, parameter in model.hf.named_parameters():
        parameter.requires_grad_(name in trained)
    attribute(model, packed, targets, make_estimator("midpoint", 1))
    assert model.hf.training
    assert all(parameter.grad is None for parameter in model.hf.parameters())
    assert {
        name for name, parameter in model.hf.named_parameters() if parameter.requires_grad
    } == trained
    none = Targets(
        position_T=np.zeros(0, np.int64),
        example_T=np.zeros(0, np.int64),
        gold_T=np.zeros(0, np.int64),
        num_examples=0,
    )
    assert attribute(model, packed, none, make_estimator("midpoint", 1)).shape == (0, 3, 64)


@pytest.mark.parametrize(
    ("rule", "points"),
    [("midpoint", (0.25, 0.75)), ("left", (0.0, 0.5)), ("gauss_legendre", (0.2113249, 0.7886751))],
)
def test_estimator(rule: str, points: tuple[float, float]) -> None:
    found = make_estimator(rule, 2)
    assert found.points == pytest.approx(points)
    assert sum(found.weights) == pytest.approx(1.0)
