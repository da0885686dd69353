"""Packing by sizes alone: log-normal documents into rows of 2048 tokens, best fit against one after
another in order, and the state that a checkpoint keeps of it."""

import json
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from common.data.packing import PackState, Room, Size, pack
from scripts.benchmarks.timing import Row, alternating, ratio

TOKENS = 2048
MU, SIGMA, SHORTEST = 5.3, 1.0, 8  # of the documents' lengths
NUM_DOCUMENTS = 200_000
NUM_ROWS = (8, 256, 2048)
STATE_ROWS = 4096
REPEATS = 7


def figures() -> list[Row]:
    """A row for the fill and the time of every number of rows, one for the state."""
    generator = np.random.default_rng(0)
    lengths = generator.lognormal(MU, SIGMA, NUM_DOCUMENTS).clip(SHORTEST, TOKENS).astype(int)
    sizes = [Size(tokens=length) for length in lengths.tolist()]
    return [row for num_rows in NUM_ROWS for row in _packing(sizes, num_rows)] + [_state(sizes)]


def _packing(sizes: list[Size], num_rows: int) -> list[Row]:
    fills, times, state = [], [], PackState()
    lengths = [size.tokens for size in sizes]
    for _ in range(REPEATS):
        start = time.process_time()
        rows, state = _packed(sizes, state, num_rows)
        times.append(time.process_time() - start)
        held = [sum(lengths[n] for n in row) for row in rows]
        assert max(held) <= TOKENS
        fills.append(sum(held) / (num_rows * TOKENS))
    ours, plain = float(np.mean(fills)), _fill_in_order(lengths, REPEATS * num_rows)
    return [
        {
            "figure": f"fill of {num_rows} rows (plain: in order)",
            "ours": round(ours, 4),
            "plain": round(plain, 4),
            "ratio": ratio(ours, plain),
            "wanted": "ours >= 0.95",
        },
        {
            "figure": f"packing of {num_rows} rows, ms",
            "ours": round(1e3 * median(times), 1),
            "plain": "",
            "ratio": "",
            "wanted": "",
        },
    ]


def _packed(
    sizes: list[Size], state: PackState, num_rows: int
) -> tuple[list[tuple[int, ...]], PackState]:
    return pack(lambda n: sizes[n], state, num_rows=num_rows, room=Room(tokens=TOKENS))


def _fill_in_order(lengths: list[int], num_rows: int) -> float:
    """A new row begins where the next document does not fit."""
    used, full, left = 0, 0, TOKENS
    for length in lengths:
        if length > left:
            full, left = full + 1, TOKENS
        if full == num_rows:
            break
        used, left = used + length, left - length
    return used / (num_rows * TOKENS)


def _state(sizes: list[Size]) -> Row:
    _, state = _packed(sizes, PackState(), STATE_ROWS)
    with TemporaryDirectory() as folder:
        path = Path(folder, "state.json")

        def save_and_load() -> PackState:
            path.write_text(json.dumps(state.to_json()))
            return PackState.from_json(json.loads(path.read_text()))

        assert save_and_load() == state
        (took,) = alternating([save_and_load], repeats=REPEATS)
        num_bytes = path.stat().st_size
    return {
        "figure": f"state of {STATE_ROWS} rows, ms to save and load ({num_bytes} bytes)",
        "ours": round(1e3 * took, 2),
        "plain": "",
        "ratio": "",
        "wanted": "< 1000",
    }
