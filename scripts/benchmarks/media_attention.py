"""Attention of text to its own images, by tiles against one dense mask: a sequence of 2048 tokens
looks at N images of 64 latents, 8 heads of 64, forward and backward, float32."""

import torch
from torch import Tensor

from common.attention.attend import attend
from common.attention.masks import media_span
from common.attention.media import attend_own_media
from scripts.benchmarks.timing import Row, alternating, ratio

TOKENS, LATENTS, HEADS, HEAD_DIM = 2048, 64, 8, 64
# "even": every image has as many tokens; "long": one image has nearly all.
CASES = [(1, "even"), *((n, kind) for n in (4, 8, 32) for kind in ("even", "long"))]
SHORT_SEGMENT = 4  # tokens of every image but one in a "long" case
REPEATS = 9


def figures() -> list[Row]:
    """A row for every number of images."""
    rows: list[Row] = []
    for num_images, kind in CASES:
        ours, dense = _case(num_images, kind)
        row: Row = {"images": num_images, "segments": kind, "tiles, ms": round(1e3 * ours, 1)}
        rows.append({**row, "dense mask, ms": round(1e3 * dense, 1), "ratio": ratio(ours, dense)})
    return rows


def _case(num_images: int, kind: str) -> tuple[float, float]:
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
    ours_s, dense_s = alternating([tiles, dense], repeats=REPEATS)
    return ours_s, dense_s


def _items(num_images: int, kind: str) -> Tensor:
    if kind == "even":
        return (torch.arange(TOKENS) * num_images // TOKENS)[None] + 1
    item = torch.ones(1, TOKENS, dtype=torch.long)
    for image in range(2, num_images + 1):
        item[:, TOKENS - (num_images - image + 1) * SHORT_SEGMENT :] = image
    return item
