"""Packing: nothing lost, nothing twice, rows never too full, but nearly full."""

import json
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data.packing import PackState, Room, Size, pack
from tests.timing import within


def packed(
    sizes: Sequence[Size], *, num_rows: int, room: Room, updates: int
) -> tuple[list[list[tuple[int, ...]]], PackState]:
    state, rows = PackState(), []
    for _ in range(updates):
        new, state = pack(lambda n: sizes[n % len(sizes)], state, num_rows=num_rows, room=room)
        rows.append(new)
    return rows, state


SIZES = st.builds(
    Size, tokens=st.integers(1, 50), images=st.integers(0, 3), clips=st.integers(0, 2)
)


@pytest.mark.proves("H2", "packing", 80)
@settings(max_examples=80, deadline=None)
@given(st.lists(SIZES, min_size=1, max_size=40), st.integers(1, 7))
def test_every_document_is_packed_once_and_no_row_is_too_full(
    sizes: list[Size], num_rows: int
) -> None:
    room = Room(tokens=50, images=4, clips=3)
    updates, state = packed(sizes, num_rows=num_rows, room=room, updates=6)
    numbers = [number for rows in updates for row in rows for number in row]
    assert sorted([*numbers, *state.waiting]) == list(range(state.next_number))
    for row in (row for rows in updates for row in rows):
        held = [sizes[number % len(sizes)] for number in row]
        assert held
        assert sum(size.tokens for size in held) <= 50
        assert sum(size.images for size in held) <= 4
        assert sum(size.clips for size in held) <= 3


def test_what_waits_comes_first_in_the_next_update() -> None:
    lengths = np.random.default_rng(0).integers(5, 60, 4000).tolist()
    sizes = [Size(tokens=length) for length in lengths]
    state = PackState()
    for _ in range(30):
        before = set(state.waiting)
        rows, state = pack(lambda n: sizes[n], state, num_rows=9, room=Room(tokens=64))
        assert before <= {number for row in rows for number in row}


def test_the_state_is_all_that_a_later_update_needs() -> None:
    sizes = [
        Size(tokens=length) for length in np.random.default_rng(1).integers(1, 64, 500).tolist()
    ]
    whole, _ = packed(sizes, num_rows=5, room=Room(tokens=64), updates=8)
    first, state = packed(sizes, num_rows=5, room=Room(tokens=64), updates=3)
    state = PackState.from_json(json.loads(json.dumps(state.to_json())))
    for expected in whole[3:]:
        rows, state = pack(lambda n: sizes[n % 500], state, num_rows=5, room=Room(tokens=64))
        assert rows == expected
    assert whole[:3] == first


@pytest.mark.parametrize("num_rows", [8, 256])
def test_rows_of_log_normal_documents_are_nearly_full(num_rows: int) -> None:
    generator = np.random.default_rng(0)
    lengths = np.clip(generator.lognormal(5.3, 1.0, 100_000), 8, 2048).astype(int).tolist()
    state, used, updates = PackState(), 0, max(2, 400 // num_rows)
    for _ in range(updates):
        rows, state = pack(
            lambda n: Size(tokens=lengths[n]), state, num_rows=num_rows, room=Room(tokens=2048)
        )
        used += sum(lengths[number] for row in rows for number in row)
    assert used > 0.99 * updates * num_rows * 2048


def test_the_state_of_an_update_of_4096_rows_is_small_and_quick() -> None:
    generator = np.random.default_rng(0)
    lengths = np.clip(generator.lognormal(5.3, 1.0, 100_000), 8, 2048).astype(int).tolist()
    _, state = pack(
        lambda n: Size(tokens=lengths[n]), PackState(), num_rows=4096, room=Room(tokens=2048)
    )
    text = json.dumps(state.to_json())
    assert within(1, lambda: PackState.from_json(json.loads(json.dumps(state.to_json())))) == state
    assert len(text) < 1_000_000
