"""Times our way beside the plain way, in one process, alternating, results checked equal.

    python scripts/benchmark.py media-attention
    python scripts/benchmark.py loss --json

media-attention: one sequence of 2048 text tokens looks at N images of 64 latents, 8 heads of 64,
forward and backward, float32. "even": every image has as many tokens; "long": one image has nearly
all. loss: the language-model loss of 2048 positions of width 512 over a vocabulary of 65,536,
forward and backward, float32, two threads: by chunks, and through all logits at once.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from common.attention.attend import attend
from common.attention.masks import media_span
from common.attention.media import attend_own_media
from common.objectives.language import linear_next_token_loss

TOKENS, LATENTS, HEADS, HEAD_DIM = 2048, 64, 8, 64
CASES = [(1, "even"), *((n, kind) for n in (4, 8, 32) for kind in ("even", "long"))]
SHORT_SEGMENT = 4  # tokens of every image but one in a "long" case
REPEATS = 9

POSITIONS, VOCABULARY, WIDTH = 2048, 65_536, 512
MASKED_POSITIONS = 307  # 15 %, as masked language modeling selects them
LOSS_THREADS = 2
LOSS_REPEATS = 7

# Heading -> value; the same for every row of a table.
Row = dict[str, int | float | str]


def main() -> int:
    """Prints one suite's figures as a table, or as JSON with the machine they were taken on."""
    suites = {"media-attention": media_attention, "loss": loss}
    parser = argparse.ArgumentParser(description="Times our way beside the plain way.")
    parser.add_argument("suite", choices=suites)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    chosen = parser.parse_args()
    rows = suites[chosen.suite]()
    if chosen.json:
        machine = {"torch": torch.__version__, "processor": platform.machine()}
        figures = {"suite": chosen.suite, "threads": torch.get_num_threads(), "rows": rows}
        print(json.dumps({**figures, **machine}, indent=2))
        return 0
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console(width=100).print(table)
    return 0


def media_attention() -> list[Row]:
    """Own-image attention by tiles against one dense mask."""
    rows: list[Row] = []
    for num_images, kind in CASES:
        ours, dense = _media_case(num_images, kind)
        row: Row = {"images": num_images, "segments": kind, "tiles, ms": round(1e3 * ours, 1)}
        rows.append({**row, "dense mask, ms": round(1e3 * dense, 1), "ratio": _ratio(ours, dense)})
    return rows


def loss() -> list[Row]:
    """The loss by chunks against all logits; memory is the peak beyond the weight's gradient."""
    torch.set_num_threads(LOSS_THREADS)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(POSITIONS, WIDTH, generator=generator, requires_grad=True)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator).mul_(WIDTH**-0.5).requires_grad_()
    targets = torch.randint(VOCABULARY, (POSITIONS,), generator=generator)

    def by_chunks(positions: int = POSITIONS) -> tuple[Tensor, ...]:
        rows, wanted = hidden[:positions], targets[:positions]
        value = linear_next_token_loss(rows, weight, wanted, z_loss=0.0)
        return (value.detach(), *torch.autograd.grad(value, (hidden, weight)))

    def all_logits() -> tuple[Tensor, ...]:
        value = F.cross_entropy(hidden @ weight.T, targets, reduction="sum")
        return (value.detach(), *torch.autograd.grad(value, (hidden, weight)))

    for ours, theirs in zip(by_chunks(), all_logits(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    ways: list[tuple[str, int, Callable[[], object]]] = [
        ("all logits", POSITIONS, all_logits),
        ("by chunks", POSITIONS, by_chunks),
        ("by chunks, 15 %", MASKED_POSITIONS, lambda: by_chunks(MASKED_POSITIONS)),
    ]
    memory = [_peak_bytes(run) - 4 * weight.numel() for _, _, run in ways]
    rounds = [[_seconds(run) for _, _, run in ways] for _ in range(LOSS_REPEATS)]
    times = [median(column) for column in zip(*rounds, strict=True)]
    return [
        {
            "way": name,
            "positions": positions,
            "memory, MB": round(memory[i] / 1e6, 1),
            "memory ratio": _ratio(memory[i], memory[0]),
            "time, s": round(times[i], 2),
            "time ratio": _ratio(times[i], times[0]),
        }
        for i, (name, positions, _) in enumerate(ways)
    ]


def _peak_bytes(run: Callable[[], object]) -> int:
    """The most bytes of tensors alive at once, from every allocation the profiler has recorded."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    assert record.profiler is not None
    assert record.profiler.kineto_results is not None
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def _media_case(num_images: int, kind: str) -> tuple[float, float]:
    """Median seconds of both ways."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(1, HEADS, TOKENS, HEAD_DIM, generator=generator, requires_grad=True)
    shape = (1, num_images, HEADS, LATENTS, HEAD_DIM)
    k = torch.randn(shape, generator=generator, requires_grad=True)
    v = torch.randn(shape, generator=generator, requires_grad=True)
    grad = torch.randn(q.shape, generator=generator)
    item = _items(num_images, kind)
    mask = media_span(item, item, tokens_per_item=LATENTS)

    def tiles() -> tuple[Tensor, ...]:
        return torch.autograd.grad(attend_own_media(q, k, v, item=item), (q, k, v), grad)

    def dense() -> tuple[Tensor, ...]:
        flat_k, flat_v = (x.transpose(1, 2).flatten(2, 3) for x in (k, v))
        out = attend(q, flat_k, flat_v, mask=mask, backend="sdpa")
        return torch.autograd.grad(out, (q, k, v), grad)

    for ours, theirs in zip(tiles(), dense(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    times = [(_seconds(tiles), _seconds(dense)) for _ in range(REPEATS)]
    return median(t for t, _ in times), median(d for _, d in times)


def _items(num_images: int, kind: str) -> Tensor:
    if kind == "even":
        return (torch.arange(TOKENS) * num_images // TOKENS)[None] + 1
    item = torch.ones(1, TOKENS, dtype=torch.long)
    for image in range(2, num_images + 1):
        item[:, TOKENS - (num_images - image + 1) * SHORT_SEGMENT :] = image
    return item


def _ratio(ours: float, theirs: float) -> float:
    return round(ours / theirs, 3)


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
