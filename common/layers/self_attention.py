"""A pre-norm Transformer block: x + attention(norm(x)), then x + feed_forward(norm(x)).

Direction, padding and packing come from the mask argument; positions from the rotary argument.
"""

from collections.abc import Callable

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from common.attention.attend import Backend, attend
from common.attention.masks import Mask
from common.attention.rope import apply_rotary
from common.layers.feed_forward import FeedForward


class SelfAttentionBlock(nn.Module):
    """Self-attention and feed-forward on one residual stream; `norm` builds a norm of a width."""

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int,
        feed_forward_dim: int,
        activation: Callable[[Tensor], Tensor] = nn.functional.gelu,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"{dim=} is not a multiple of {num_heads=}; heads share the width")
        self.num_heads = num_heads
        self.attention_norm = norm(dim)
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(dim, dim, bias=False)
        self.to_v = nn.Linear(dim, dim, bias=False)
        self.to_out = nn.Linear(dim, dim, bias=False)
        self.feed_forward_norm = norm(dim)
        self.feed_forward = FeedForward(dim=dim, hidden_dim=feed_forward_dim, activation=activation)

    def forward(
        self,
        x: Float[Tensor, "b s d"],
        *,
        mask: Mask | None = None,
        rotary: tuple[Float[Tensor, "b s e"], Float[Tensor, "b s e"]] | None = None,
        backend: Backend = "auto",
    ) -> Float[Tensor, "b s d"]:
        x = x + self._attention(self.attention_norm(x), mask=mask, rotary=rotary, backend=backend)
        return x + self.feed_forward(self.feed_forward_norm(x))

    def _attention(
        self,
        x: Tensor,
        *,
        mask: Mask | None,
        rotary: tuple[Tensor, Tensor] | None,
        backend: Backend,
    ) -> Tensor:
        q = rearrange(self.to_q(x), "b s (h e) -> b h s e", h=self.num_heads)
        k = rearrange(self.to_k(x), "b s (h e) -> b h s e", h=self.num_heads)
        v = rearrange(self.to_v(x), "b s (h e) -> b h s e", h=self.num_heads)
        if rotary is not None:
            q = apply_rotary(q, *rotary)
            k = apply_rotary(k, *rotary)
        attended = attend(q, k, v, mask=mask, backend=backend)
        return self.to_out(rearrange(attended, "b h s e -> b s (h e)"))
