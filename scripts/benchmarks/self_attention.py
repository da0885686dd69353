"""Attention of FLARE's decoder over packed rows: 2048 tokens, 20 query and 4 key heads of 128,
documents of both directions, forward and backward, float32."""

import torch
import torch.nn.functional as F
from torch import Tensor

from common.attention.attend import attend
from flare.decoder import hybrid_mask
from scripts.benchmarks.memory import peak_bytes
from scripts.benchmarks.timing import Row, Run, alternating, ratio

TOKENS, HEADS, KEY_HEADS, HEAD_DIM = 2048, 20, 4, 128
# Of documents, filling a row; every other one sees both directions.
PACKED = {
    "8 documents": (310, 90, 512, 201, 333, 128, 400, 74),
    "2 documents": (1300, 748),
}
REPEATS = 7
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def figures() -> list[Row]:
    """For every packing ours and its slow twins, then the floor, which sees the past alone."""
    return [row for name in PACKED for row in _case(name)]


def _case(name: str) -> list[Row]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, heads, TOKENS, HEAD_DIM) for heads in (HEADS, KEY_HEADS, KEY_HEADS, HEADS)]
    q, k, v, grad = (torch.randn(shape, generator=generator).to(DEVICE) for shape in shapes)
    lengths = torch.tensor(PACKED[name])
    documents = torch.arange(len(lengths)).repeat_interleave(lengths)[None].to(DEVICE)
    mask = hybrid_mask(documents, documents % 2 == 0)
    inputs = [x.requires_grad_() for x in (q, k, v)]

    def backward(out: Tensor) -> tuple[Tensor, ...]:
        return out.detach(), *torch.autograd.grad(out, inputs, grad)

    def dense() -> Tensor:
        return mask.dense(batch=1, num_queries=TOKENS, num_keys=TOKENS, device=DEVICE)

    def ours() -> tuple[Tensor, ...]:
        return backward(attend(q, k, v, mask=mask))

    def dense_mask() -> tuple[Tensor, ...]:
        sdpa = F.scaled_dot_product_attention
        return backward(sdpa(q, k, v, attn_mask=dense(), enable_gqa=True))

    def repeated_keys() -> tuple[Tensor, ...]:
        keys, values = (x.repeat_interleave(HEADS // KEY_HEADS, dim=1) for x in (k, v))
        return backward(F.scaled_dot_product_attention(q, keys, values, attn_mask=dense()))

    def floor() -> tuple[Tensor, ...]:
        return backward(F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True))

    for actual, *expected in zip(ours(), dense_mask(), repeated_keys(), strict=True):
        for other in expected:
            torch.testing.assert_close(actual, other, rtol=1e-3, atol=1e-4)
    ways: list[tuple[str, Run]] = [
        ("dense mask", dense_mask),
        ("ours", ours),
        ("dense mask, keys repeated", repeated_keys),
        ("no mask but the triangle", floor),
    ]
    memory = [peak_bytes(run) for _, run in ways]
    times = alternating([run for _, run in ways], repeats=REPEATS)
    return [
        {
            "packed": name,
            "way": way,
            "time, ms": round(1e3 * times[i]),
            "time ratio": ratio(times[i], times[0]),
            "memory, MB": round(memory[i] / 1e6, 1),
            "memory ratio": ratio(memory[i], memory[0]),
        }
        for i, (way, _) in enumerate(ways)
    ]
