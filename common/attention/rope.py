"""Rotary position embedding (Su et al., 2021) in the half-rotation convention of Llama.

Channel i of a head is paired with channel i + e/2 and turned by position * base^(-2i/e). Positions
are an argument, so that packed documents restart at 0 and cached decoding continues. No scaling
of the frequencies for longer contexts.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def rotary(
    positions: Int[Tensor, "b s"], *, head_dim: int, base: float
) -> tuple[Float[Tensor, "b s e"], Float[Tensor, "b s e"]]:
    """Cosine and sine tables in float32, each half of the channels alike."""
    if head_dim % 2:
        raise ValueError(f"{head_dim=} is odd; rotary embedding turns pairs of channels")
    channels = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32)
    frequencies = base ** (-channels / head_dim)
    angles = positions[:, :, None].float() * frequencies
    both_halves = torch.cat([angles, angles], dim=-1)
    return both_halves.cos(), both_halves.sin()


def apply_rotary(
    x: Float[Tensor, "b h s e"], cos: Float[Tensor, "b s e"], sin: Float[Tensor, "b s e"]
) -> Float[Tensor, "b h s e"]:
    """Queries or keys turned by their positions; at least in float32, returned in x's dtype."""
    first, second = x.to(torch.promote_types(x.dtype, cos.dtype)).chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return (x * cos[:, None] + turned * sin[:, None]).to(x.dtype)
