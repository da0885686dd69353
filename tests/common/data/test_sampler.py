"""Orders and mixtures: everything once an epoch, in exact proportions, from the position alone."""

import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.data.mixture import Mixture, whole_shares
from common.data.sampler import Order, Visit
from common.errors import UserError


@pytest.mark.proves("H2", "order of samples", 100)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=7).filter(any),
    st.integers(1, 4),
    st.integers(0, 99),
)
def test_every_epoch_visits_every_sample_once(sizes: list[int], window: int, seed: int) -> None:
    order, total = Order(sizes, seed=seed, window_shards=window), sum(sizes)
    for epoch in range(3):
        visits = [order(epoch * total + place) for place in range(total)]
        assert sorted(visit.sample for visit in visits) == list(range(total))
        assert {visit.epoch for visit in visits} == {epoch}


def test_an_order_is_a_function_of_the_position_alone() -> None:
    sizes = [5, 11, 3, 8]
    forward = [Order(sizes, seed=1, window_shards=2)(position) for position in range(60)]
    order = pickle.loads(pickle.dumps(Order(sizes, seed=1, window_shards=2)))
    for position in np.random.default_rng(0).permutation(60).tolist():
        assert order(position) == forward[position]
    assert [Order(sizes, seed=2, window_shards=2)(p) for p in range(60)] != forward


def test_epochs_differ_and_reads_stay_inside_a_window() -> None:
    sizes = [10] * 12
    order = Order(sizes, seed=0, window_shards=3)
    epochs = [[order(e * 120 + place).sample for place in range(120)] for e in (0, 1)]
    assert epochs[0] != epochs[1]
    for start in range(0, 120, 30):
        assert len({sample // 10 for sample in epochs[0][start : start + 30]}) == 3


def test_stored_samples_keep_their_order() -> None:
    order = Order([2, 3], seed=0, visits="stored")
    assert [order(position) for position in (0, 4, 5)] == [Visit(0, 0), Visit(0, 4), Visit(1, 0)]
    with pytest.raises(UserError, match="no samples to draw from"):
        Order([0, 0], seed=0)


def test_a_mixture_keeps_its_weights_exactly_and_leaves_no_document_out() -> None:
    mixture = Mixture([1.5, 1.0, 0.5], seed=0)
    drawn = [mixture(number) for number in range(6 * 20)]
    for turn in range(20):
        part = drawn[6 * turn : 6 * turn + 6]
        assert Counter(chosen for chosen, _ in part) == {0: 3, 1: 2, 2: 1}
    for chosen, share in enumerate((3, 2, 1)):
        assert [index for c, index in drawn if c == chosen] == list(range(20 * share))
    assert len({tuple(c for c, _ in drawn[6 * t : 6 * t + 6]) for t in range(20)}) > 5
    again = pickle.loads(pickle.dumps(mixture))
    assert [again(number) for number in reversed(range(120))] == drawn[::-1]


def test_weights_become_the_smallest_whole_shares() -> None:
    assert whole_shares([3.0, 3.0, 0.5, 0.5, 1.0]) == [6, 6, 1, 1, 2]
    assert whole_shares([0.4, 0.2, 0.4]) == [2, 1, 2]
    with pytest.raises(UserError, match="must be positive"):
        whole_shares([1.0, 0.0])
    with pytest.raises(UserError, match="no data sets"):
        whole_shares([])
