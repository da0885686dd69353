"""Times our attention beside the plain way, in one process, alternating, results checked equal.

    python scripts/benchmark.py media-attention

One sequence of 2048 text tokens looks at N images of 64 latents, 8 heads of 64, forward and
backward, float32. "even": every image has as many tokens; "long": one image has nearly all.
"""

import sys
import time
from collections.abc import Callable
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from common.attention.attend import attend
from common.attention.masks import media_span
from common.attention.media import attend_own_media

TOKENS, LATENTS, HEADS, HEAD_DIM = 2048, 64, 8, 64
CASES = [(1, "even"), *((n, kind) for n in (4, 8, 32) for kind in ("even", "long"))]
SHORT_SEGMENT = 4  # tokens of every image but one in a "long" case
REPEATS = 9


def main() -> int:
    """Prints the table; exit status 2 for an unknown suite."""
    suites = {"media-attention": media_attention}
    chosen = sys.argv[1:]
    if len(chosen) != 1 or chosen[0] not in suites:
        print(f"error: name one suite: {', '.join(suites)}", file=sys.stderr)
        return 2
    Console(width=100).print(suites[chosen[0]]())
    return 0


def media_attention() -> Table:
    """Own-image attention by tiles against one dense mask."""
    table = Table("images", "segments", "tiles, ms", "dense mask, ms", "ratio")
    for num_images, kind in CASES:
        ours, dense = _media_case(num_images, kind)
        row = (f"{1e3 * ours:.1f}", f"{1e3 * dense:.1f}", f"{ours / dense:.2f}")
        table.add_row(str(num_images), kind, *row)
    return table


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


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
