"""Attention with QK-norm and SwiGLU do what their equations say."""

import pytest
import torch
from einops import repeat
from torch.nn import functional as F
from torch.testing import assert_close

from common.attention.attend import Backend
from common.attention.masks import causal
from common.attention.rope import apply_rotary, rotary
from common.layers.attention import Attention
from common.layers.swiglu import SwiGLU

EPS = 1e-6


def attention(*, context_dim: int = 12) -> Attention:
    torch.manual_seed(0)
    layer = Attention(
        dim=12, context_dim=context_dim, num_heads=6, num_key_heads=2, head_dim=4, norm_eps=EPS
    )
    with torch.no_grad():
        layer.q_norm.weight.uniform_(0.5, 2)
        layer.k_norm.weight.uniform_(0.5, 2)
    return layer


def split(x: torch.Tensor) -> torch.Tensor:
    return x.unflatten(-1, (-1, 4)).transpose(1, 2)


def by_hand(layer: Attention, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    """The equations, head by head; three query heads read one key head."""
    q = F.rms_norm(split(x @ layer.to_q.weight.mT), (4,), layer.q_norm.weight, EPS)
    k = F.rms_norm(split(context @ layer.to_k.weight.mT), (4,), layer.k_norm.weight, EPS)
    v = split(context @ layer.to_v.weight.mT)
    k, v = (repeat(y, "b g n e -> b (g r) n e", r=3) for y in (k, v))
    out = (q @ k.mT / 2).softmax(-1) @ v
    return out.transpose(1, 2).flatten(2) @ layer.to_out.weight.mT


def test_cross_attention_is_its_equations() -> None:
    layer, x, context = attention(context_dim=9), torch.randn(2, 5, 12), torch.randn(2, 7, 9)
    assert_close(layer(x, context), by_hand(layer, x, context))


def test_scores_do_not_grow_with_the_queries_and_keys() -> None:
    layer, x = attention(), torch.randn(2, 5, 12)
    before = layer(x, x)
    with torch.no_grad():
        layer.to_q.weight.mul_(1000)
        layer.to_k.weight.mul_(1000)
    assert_close(layer(x, x), before, atol=1e-4, rtol=1e-4)


def test_chunks_through_a_cache_equal_the_whole() -> None:
    layer, x = attention(), torch.randn(2, 5, 12)
    cos, sin = rotary(torch.arange(5).expand(2, 5), head_dim=4, base=100.0)
    whole = layer(x, x, mask=causal(), rotary=(cos, sin))
    past: list[tuple[torch.Tensor, torch.Tensor]] = []

    def cache(k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        past.append((k, v))
        return torch.cat([k for k, _ in past], 2), torch.cat([v for _, v in past], 2)

    chunks = [
        layer(
            x[:, part],
            x[:, part],
            mask=causal(offset=part.start),
            rotary=(cos[:, part], sin[:, part]),
            cache=cache,
        )
        for part in (slice(0, 3), slice(3, 5))
    ]
    assert_close(torch.cat(chunks, 1), whole)
    assert past[0][0].shape == (2, 2, 3, 4)


def test_keys_are_turned_after_their_norm() -> None:
    layer, x = attention(), torch.randn(2, 5, 12)
    tables = rotary(torch.arange(5).expand(2, 5), head_dim=4, base=100.0)
    seen = []
    layer(x, x, rotary=tables, cache=lambda k, v: seen.append(k) or (k, v))
    assert_close(seen[0], apply_rotary(layer.k_norm(split(layer.to_k(x))), *tables))


@pytest.mark.parametrize("backend", ["sdpa", "flex"])
def test_autocast_gives_the_same_in_half_the_bits(backend: Backend) -> None:
    layer, x = attention(), torch.randn(2, 5, 12)
    dtypes = []
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = layer(
            x,
            x,
            mask=causal(),
            cache=lambda k, v: dtypes.append({k.dtype, v.dtype}) or (k, v),
            backend=backend,
        )
    assert dtypes == [{torch.bfloat16}]
    assert_close(half.float(), layer(x, x, mask=causal()), atol=2e-2, rtol=2e-2)


def test_key_heads_that_do_not_divide_the_heads_are_refused() -> None:
    with pytest.raises(ValueError, match="num_heads=6 is not a multiple of num_key_heads=4"):
        Attention(dim=12, context_dim=12, num_heads=6, num_key_heads=4, head_dim=4, norm_eps=EPS)


def test_swiglu_is_three_bias_free_maps() -> None:
    layer, x = SwiGLU(dim=3, hidden_dim=7), torch.randn(2, 5, 3)
    gate, expand, contract = layer.parameters()
    assert (gate.shape, expand.shape, contract.shape) == ((7, 3), (7, 3), (3, 7))
    gated = x @ gate.mT
    assert_close(layer(x), (gated * gated.sigmoid() * (x @ expand.mT)) @ contract.mT)
