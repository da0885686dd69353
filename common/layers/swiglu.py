"""The gated feed-forward part of a Transformer block: contract(silu(gate(x)) * expand(x)) (Shazeer,
2020, arXiv 2002.05202), no biases."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class SwiGLU(nn.Module):
    """Three bias-free linear maps; the norm before them belongs to the block."""

    def __init__(self, *, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, hidden_dim, bias=False)
        self.expand = nn.Linear(dim, hidden_dim, bias=False)
        self.contract = nn.Linear(hidden_dim, dim, bias=False)

    def forward(self, x: Float[Tensor, "b *n d"]) -> Float[Tensor, "b *n d"]:
        return self.contract(F.silu(self.gate(x)) * self.expand(x))
