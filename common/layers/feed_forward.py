"""The position-wise feed-forward part of a Transformer block: out(activation(in(x))), no biases."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn


def squared_relu(x: Tensor) -> Tensor:
    """max(x, 0)^2 (Primer, So et al. 2021), the activation of Flamingo's inserted layers."""
    return x.relu().square()


class FeedForward(nn.Module):
    """Two bias-free linear maps around an activation; the norm before it belongs to the block."""

    def __init__(
        self, *, dim: int, hidden_dim: int, activation: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.expand = nn.Linear(dim, hidden_dim, bias=False)
        self.activation = activation
        self.contract = nn.Linear(hidden_dim, dim, bias=False)

    def forward(self, x: Float[Tensor, "b *n d"]) -> Float[Tensor, "b *n d"]:
        return self.contract(self.activation(self.expand(x)))
