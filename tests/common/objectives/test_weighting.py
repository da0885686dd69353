"""Dynamic weights: each scheme against its formula, written down once more in plain numbers."""

import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from common.errors import UserError
from common.objectives.weighting import Kind, Weighting, build_weighting

BASE = {"language": 1.0, "image_text": 0.5, "audio_text": 0.25}
KINDS: list[Kind] = ["fixed", "uncertainty", "dwa", "rlw", "famo"]
ALL = [True, True, True]
every_kind = pytest.mark.parametrize("kind", KINDS)


def build(kind: Kind) -> Weighting:
    return build_weighting(kind, BASE, seed=3)


def losses_at(update: int) -> list[float]:
    """Three curves of different sizes and speeds, with a ripple."""
    ripple = 1 + 0.1 * math.sin(update)
    speeds = (0.001, 0.02, 0.005)
    sizes = (9.0, 0.7, 4.0)
    return [size * ripple * math.exp(-v * update) for size, v in zip(sizes, speeds, strict=True)]


def observe(weighting: Weighting, updates: range, present: list[bool] = ALL) -> None:
    for update in updates:
        weighting.observe(torch.tensor(losses_at(update), dtype=torch.float64), present)


def assert_near(found: Tensor, expected: list[float]) -> None:
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.tolist(), expected, rtol=1e-12, atol=1e-12)


def softmax(logits: list[float]) -> list[float]:
    total = sum(math.exp(x) for x in logits)
    return [math.exp(x) / total for x in logits]


def running_means(values: list[float]) -> list[float]:
    means, mean = [], 0.0
    for number, value in enumerate(values, start=1):
        mean += (value - mean) / min(number, 50)
        means.append(mean)
    return means


def relative_losses(updates: int) -> list[list[float]]:
    """l of every objective (rows) after every update (columns)."""
    rows = []
    for objective in range(3):
        means = running_means([losses_at(update)[objective] for update in range(updates)])
        rows.append([1.0 if n < 10 else mean / means[9] for n, mean in enumerate(means, start=1)])
    return rows


def test_fixed_weights_are_the_base_weights_for_ever():
    weighting = build("fixed")
    observe(weighting, range(30))
    assert weighting.names == ("language", "image_text", "audio_text")
    assert weighting.weights(ALL).tolist() == [1.0, 0.5, 0.25]


def test_uncertainty_descends_on_its_loss_by_autograd():
    weighting = build("uncertainty")
    observe(weighting, range(120))
    expected = []
    for base, relative in zip(BASE.values(), relative_losses(120), strict=True):
        s = torch.zeros((), dtype=torch.float64, requires_grad=True)
        for loss in relative:
            (slope,) = torch.autograd.grad((-s).exp() * loss / 2 + s / 2, s)
            s = (s - 0.01 * slope).clamp(-2, 3).detach().requires_grad_()
        expected.append(base * math.exp(-s.item()))
    assert_near(weighting.weights(ALL), expected)
    assert expected[1] > 1.05 * BASE["image_text"]  # the fastest has moved


def test_uncertainty_settles_where_every_weighted_loss_is_alike():
    weighting = build("uncertainty")
    for update in range(1500):
        first = torch.tensor([4.0, 4.0, 4.0]), torch.tensor([4.0, 2.0, 8.0])
        weighting.observe(first[0 if update < 10 else 1], ALL)
    torch.testing.assert_close(
        weighting.weights(ALL), torch.tensor([1.0, 1.0, 0.125]).double(), rtol=1e-3, atol=0.0
    )


def test_dwa_compares_the_last_two_full_windows_of_twenty():
    weighting = build("dwa")
    observe(weighting, range(39))
    assert_near(weighting.weights(ALL), list(BASE.values()))  # no two windows yet
    observe(weighting, range(39, 71))  # 3 full windows and half a one
    ratios = []
    for objective in range(3):
        values = [losses_at(update)[objective] for update in range(60)]
        ratios.append(sum(values[40:]) / sum(values[20:40]))
    shares = softmax([ratio / 2 for ratio in ratios])
    expected = [3 * base * share for base, share in zip(BASE.values(), shares, strict=True)]
    assert_near(weighting.weights(ALL), expected)


def test_random_weights_are_a_softmax_of_normal_numbers_of_the_update():
    weighting = build("rlw")
    drawn = []
    for update in range(500):
        key = np.array([3, update], dtype=np.uint64)
        numbers = np.random.Generator(np.random.Philox(key=key)).standard_normal(3)
        shares = softmax(numbers.tolist())
        expected = [3 * base * share for base, share in zip(BASE.values(), shares, strict=True)]
        assert_near(weighting.weights(ALL), expected)
        assert_near(weighting.weights(ALL), expected)  # asking twice draws once
        drawn.append(expected)
        observe(weighting, range(update, update + 1))
    means = torch.tensor(drawn).mean(dim=0)
    torch.testing.assert_close(means, torch.tensor([1.0, 0.5, 0.25]), rtol=0.1, atol=0.0)


def test_famo_steps_with_adam_and_weighs_like_its_logarithmic_loss():
    weighting = build("famo")
    observe(weighting, range(120))
    relative = torch.tensor(relative_losses(120), dtype=torch.float64)
    # The reference implementation's arithmetic, on the relative losses.
    xi = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([xi], lr=0.025, weight_decay=0.01)
    for update in range(10, 120):
        gain = relative[:, update - 1].log() - relative[:, update].log()
        (xi.grad,) = torch.autograd.grad(xi.softmax(dim=0), xi, grad_outputs=gain)
        adam.step()
    losses = relative[:, -1].clone().requires_grad_()
    z = xi.detach().softmax(dim=0)
    (losses.log() * z / (z / losses).sum().detach()).sum().backward()
    expected = 3 * torch.tensor(list(BASE.values())) * losses.grad
    assert_near(weighting.weights(ALL), expected.tolist())
    assert (xi.detach().abs() > 0.05).any()


@every_kind
def test_an_absent_objective_neither_moves_nor_dilutes_the_others(kind: Kind):
    partly, two = build(kind), build_weighting(kind, dict(list(BASE.items())[:2]), seed=3)
    observe(partly, range(10))
    observe_two(two, range(10))
    before = column_of(partly, 2)
    for update in range(10, 90):
        losses = [*losses_at(update)[:2], math.nan]  # nothing was measured: nobody may look
        partly.observe(torch.tensor(losses, dtype=torch.float64), [True, True, False])
        observe_two(two, range(update, update + 1))
    assert column_of(partly, 2) == before
    found = partly.weights([True, True, False])[:2]
    torch.testing.assert_close(found, two.weights([True, True]))


def observe_two(weighting: Weighting, updates: range) -> None:
    for update in updates:
        losses = torch.tensor(losses_at(update)[:2], dtype=torch.float64)
        weighting.observe(losses, [True, True])


def column_of(weighting: Weighting, objective: int) -> dict[str, float]:
    columns = weighting.to_json()["columns"]
    return {name: column[objective] for name, column in columns.items()}


@every_kind
def test_an_objective_that_is_alone_has_its_own_weight_only(kind: Kind):
    weighting = build(kind)
    observe(weighting, range(70))
    alone = [False, True, False]
    found = weighting.weights(alone)[1]
    if kind == "uncertainty":
        assert found == weighting.weights(ALL)[1]
    else:
        torch.testing.assert_close(found.item(), BASE["image_text"])
    assert weighting.weights([False] * 3).isfinite().all()


@every_kind
def test_a_state_comes_back_from_json_exact_to_the_bit(kind: Kind):
    straight, resumed = build(kind), build(kind)
    observe(straight, range(67))
    resumed.load(json.loads(json.dumps(straight.to_json())))
    for update in range(67, 110):
        assert torch.equal(resumed.weights(ALL), straight.weights(ALL))
        for weighting in (straight, resumed):
            observe(weighting, range(update, update + 1), [update % 3 > 0, True, update % 2 > 0])
    assert resumed.to_json() == straight.to_json()


@every_kind
@pytest.mark.parametrize("solved", [0.0, 1e-12])
def test_a_loss_of_nearly_zero_takes_no_weight_to_the_sky(kind: Kind, solved: float):
    weighting = build(kind)
    observe(weighting, range(15))
    for update in range(15, 701):
        losses = torch.tensor([*losses_at(15)[:1], solved, losses_at(15)[2]])
        weighting.observe(losses, ALL)
        if update % 100 == 0:
            weights = weighting.weights(ALL) / torch.tensor(list(BASE.values()))
            assert weights.max() <= math.exp(2) + 1e-6
            if kind != "rlw":  # which is random, whatever the losses
                assert weights.min() > 0.02


@every_kind
def test_a_first_loss_of_exactly_zero_divides_nothing(kind: Kind):
    weighting = build(kind)
    for update in range(90):
        losses = torch.tensor([3.0, 0.0 if update < 50 else 1.0, 2.0])
        weighting.observe(losses, ALL)
        weights = weighting.weights(ALL)
        assert weights.isfinite().all()
        assert (weights > 0).all()


@every_kind
def test_an_infinite_loss_is_not_learned_from(kind: Kind):
    weighting = build(kind)
    observe(weighting, range(30))
    before = weighting.to_json()["columns"]
    weighting.observe(torch.tensor([math.inf, math.nan, -math.inf]), ALL)
    assert weighting.to_json()["columns"] == before


@every_kind
def test_the_losses_keep_their_graph_to_themselves(kind: Kind):
    weighting = build(kind)
    for _ in range(45):
        weighting.observe(torch.rand(3, requires_grad=True), ALL)
    assert not weighting.weights(ALL).requires_grad


def test_the_state_of_another_weighting_is_refused():
    state = build("famo").to_json()
    with pytest.raises(UserError, match=r"kind 'famo', this run has 'uncertainty'"):
        build("uncertainty").load(state)
    with pytest.raises(UserError, match=r"objectives \['language', 'image_text', 'audio_text'\]"):
        build_weighting("famo", {"language": 1.0}, seed=0).load(state)
    with pytest.raises(UserError, match="lack the columns xi"):
        build("famo").load({**state, "columns": {}})


@pytest.mark.parametrize("base", [{}, {"language": -1.0}, {"language": math.nan}])
def test_base_weights_that_cannot_be_are_refused(base: dict[str, float]):
    with pytest.raises(UserError, match="base weights must be numbers from 0 on"):
        build_weighting("fixed", base, seed=0)
