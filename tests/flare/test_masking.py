"""What is hidden of a document, how much of it, and when."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from flare.masking import MaskingConfig, cm3, corrupt

MASK, END, FIRST_PLAIN = 5, 2, 7
PLAIN = range(FIRST_PLAIN, 1000)


def text(length: int) -> np.ndarray:
    return np.arange(FIRST_PLAIN, FIRST_PLAIN + length)


def all_of(ids: np.ndarray) -> np.ndarray:
    return np.ones(len(ids), dtype=bool)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def hide(ids: np.ndarray, maskable: np.ndarray, *, rate: float = 0.3, seed: int = 0):
    return corrupt(ids, maskable, generator(seed), rate=rate, mask_id=MASK, random_ids=PLAIN)


def runs(chosen: np.ndarray) -> list[int]:
    """Lengths of the stretches of chosen tokens."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], chosen.astype(int), [0]])))
    return (edges[1::2] - edges[::2]).tolist()


@pytest.mark.parametrize(("length", "rate"), [(13, 0.3), (40, 0.15), (7, 0.5), (200, 0.3)])
def test_the_mean_share_of_targets_is_the_rate(length: int, rate: float) -> None:
    ids = text(length)
    numbers = [hide(ids, all_of(ids), rate=rate, seed=seed)[1].sum() for seed in range(600)]
    assert set(numbers) <= {int(rate * length), int(rate * length) + 1}
    assert np.mean(numbers) == pytest.approx(rate * length, abs=0.1)


def test_spans_of_one_two_and_three_tokens_are_equally_frequent() -> None:
    ids = text(300)
    # So few targets that spans hardly ever touch; the last span of a document may be cut.
    found = [
        run for seed in range(400) for run in runs(hide(ids, all_of(ids), rate=0.04, seed=seed)[1])
    ]
    shares = [found.count(length) / len(found) for length in (1, 2, 3, 4)]
    assert shares[:3] == pytest.approx([1 / 3] * 3, abs=0.1)
    assert shares[3] < 0.05


def test_no_span_reaches_across_what_is_no_text() -> None:
    ids = text(400)
    maskable = np.arange(400) % 2 == 0  # every word stands alone, so each is drawn on its own
    together = []
    for seed in range(60):
        chosen = hide(ids, maskable, rate=0.3, seed=seed)[1][maskable]
        together.append((chosen[1:] & chosen[:-1]).mean())
    assert np.mean(together) == pytest.approx(0.3**2, abs=0.02)


def test_of_the_targets_eight_tenths_are_masked_one_random_and_one_kept() -> None:
    ids = text(300)
    masked = kept = total = 0
    others = []
    for seed in range(100):
        corrupted, chosen = hide(ids, all_of(ids), seed=seed)
        assert (corrupted[~chosen] == ids[~chosen]).all()
        masked += (corrupted[chosen] == MASK).sum()
        kept += (corrupted[chosen] == ids[chosen]).sum()
        others += corrupted[chosen & (corrupted != MASK) & (corrupted != ids)].tolist()
        total += chosen.sum()
    assert masked / total == pytest.approx(0.8, abs=0.02)
    assert kept / total == pytest.approx(0.1, abs=0.02)
    assert len(others) / total == pytest.approx(0.1, abs=0.02)
    assert set(others) <= set(PLAIN)
    assert len(set(others)) > 300


@pytest.mark.proves("H2", "masking", 100)
@settings(max_examples=100, deadline=None)
@given(st.lists(st.booleans(), max_size=30), st.integers(0, 1000))
def test_only_the_maskable_is_touched_and_at_least_one_of_it(flags: list[bool], seed: int) -> None:
    ids, maskable = text(len(flags)), np.array(flags, dtype=bool)
    corrupted, chosen = hide(ids, maskable, rate=0.05, seed=seed)
    assert not (chosen & ~maskable).any()
    assert (corrupted == ids)[~chosen].all()
    assert chosen.any() == maskable.any()


def test_what_is_hidden_does_not_depend_on_what_it_was() -> None:
    ids, changed = text(50), text(50)[::-1].copy()
    (first, chosen), (second, again) = hide(ids, all_of(ids)), hide(changed, all_of(changed))
    assert (chosen == again).all()
    assert ((first == MASK) == (second == MASK)).all()


def test_the_share_of_masked_documents_falls_to_a_causal_end() -> None:
    config = MaskingConfig()
    places = [0.0, 0.5, 0.8, 0.85, 0.8999, 0.9, 1.0]
    shares = [config.masked_share(place) for place in places]
    assert shares == pytest.approx([0.5, 0.5, 0.5, 0.3, 0.1, 0, 0], abs=1e-3)
    assert [config.mask_rate(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([0.3, 0.225, 0.15])
    assert MaskingConfig(objective="mlm_only").masked_share(0.95) == 1
    assert MaskingConfig(objective="causal").masked_share(0.1) == 0


def test_forms_are_drawn_with_the_share_of_the_moment() -> None:
    draws = generator(3)
    forms = [MaskingConfig().draw_form(0.85, draws) for _ in range(2000)]
    assert forms.count("masked") / 2000 == pytest.approx(0.3, abs=0.04)
    assert set(forms) == {"masked", "causal"}
    assert MaskingConfig(objective="cm3").draw_form(0.95, draws) == "cm3"


def test_impossible_schedules_are_refused() -> None:
    with pytest.raises(UserError, match=r"first_rate=1.5 is not a fraction"):
        MaskingConfig(first_rate=1.5)
    with pytest.raises(UserError, match="comes after causal_from"):
        MaskingConfig(share_falls_at=0.95)


@pytest.mark.proves("H2", "masking", 200)
@settings(max_examples=200, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=25), st.booleans(), st.integers(0, 10**6))
def test_cm3_keeps_every_token_and_the_order_of_media(
    flags: list[bool], is_closed: bool, seed: int
) -> None:
    """Putting the moved spans back into their holes gives the document."""
    is_text = np.array([*flags, *([False] if is_closed else [])])
    ids = np.where(is_text, text(len(is_text)), np.arange(2000, 2000 + len(is_text)))
    if is_closed:
        ids[-1] = END
    moved = cm3(ids, is_text, generator(seed), mask_id=MASK, end_id=END).tolist()
    num_spans = moved.count(MASK) // 2
    assert (1 if is_text.any() else 0) <= num_spans <= 3
    assert len(moved) == len(ids) + 2 * num_spans
    assert [i for i in moved if i >= 2000] == [i for i in ids.tolist() if i >= 2000]
    closing = [moved.pop()] if is_closed else []
    assert closing == ([END] if is_closed else [])
    pieces = _split(moved)
    kept, spans = pieces[: num_spans + 1], pieces[num_spans + 1 :]
    restored = [i for a, b in zip(kept, [*spans, []], strict=True) for i in (*a, *b)]
    assert [*restored, *closing] == ids.tolist()
    assert all(spans)


def _split(ids: list[int]) -> list[list[int]]:
    """Pieces between sentinels."""
    pieces: list[list[int]] = [[]]
    for token in ids:
        if token == MASK:
            pieces.append([])
        else:
            pieces[-1].append(token)
    return pieces


def test_cm3_moves_one_to_three_spans_mostly_one() -> None:
    ids = text(60)
    numbers = [
        int((cm3(ids, all_of(ids), generator(s), mask_id=MASK, end_id=END) == MASK).sum()) // 2
        for s in range(600)
    ]
    shares = [numbers.count(number) / 600 for number in (1, 2, 3)]
    assert shares == pytest.approx([0.736, 0.184, 0.080], abs=0.05)  # Poisson(1), clipped
