"""Multi-head attention with grouped key heads and QK-norm, for self- and cross-attention.

Queries and keys pass an RMSNorm over the head width before they are turned and compared (Henry et
al. 2020, Dehghani et al. 2023), which bounds the scores at any depth. No biases, no dropout.
"""

from collections.abc import Callable

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from common.attention.attend import Backend, attend
from common.attention.masks import Mask
from common.attention.rope import apply_rotary


class Attention(nn.Module):
    """Queries from `x`, keys and values from `context`; query head i reads key head i * g // h."""

    def __init__(
        self,
        *,
        dim: int,
        context_dim: int,
        num_heads: int,
        num_key_heads: int,
        head_dim: int,
        norm_eps: float,
    ) -> None:
        super().__init__()
        if num_heads % num_key_heads:
            raise ValueError(f"{num_heads=} is not a multiple of {num_key_heads=}")
        self.num_heads, self.num_key_heads = num_heads, num_key_heads
        self.to_q = nn.Linear(dim, num_heads * head_dim, bias=False)
        self.to_k = nn.Linear(context_dim, num_key_heads * head_dim, bias=False)
        self.to_v = nn.Linear(context_dim, num_key_heads * head_dim, bias=False)
        self.to_out = nn.Linear(num_heads * head_dim, dim, bias=False)
        self.q_norm = nn.RMSNorm(head_dim, eps=norm_eps)
        self.k_norm = nn.RMSNorm(head_dim, eps=norm_eps)

    def forward(
        self,
        x: Float[Tensor, "b s d"],
        context: Float[Tensor, "b n w"],
        *,
        mask: Mask | None = None,
        rotary: tuple[Float[Tensor, "b s e"], Float[Tensor, "b s e"]] | None = None,
        cache: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
        backend: Backend = "auto",
    ) -> Float[Tensor, "b s d"]:
        """`rotary` turns queries and keys alike and so wants the tokens of `x` as context.

        `cache` takes this call's keys and values and returns those of all calls so far.
        """
        q = rearrange(self.to_q(x), "b s (h e) -> b h s e", h=self.num_heads)
        k = rearrange(self.to_k(context), "b n (g e) -> b g n e", g=self.num_key_heads)
        v = rearrange(self.to_v(context), "b n (g e) -> b g n e", g=self.num_key_heads)
        # Under autocast the norms' gains stay float32; one dtype takes the fused kernels.
        precision = self.q_norm.weight.dtype
        q = self.q_norm(q.to(precision)).to(v.dtype)
        k = self.k_norm(k.to(precision)).to(v.dtype)
        if rotary is not None:
            q, k = apply_rotary(q, *rotary), apply_rotary(k, *rotary)
        if cache is not None:
            k, v = cache(k, v)
        attended = attend(q, k, v, mask=mask, backend=backend)
        return self.to_out(rearrange(attended, "b h s e -> b s (h e)"))
