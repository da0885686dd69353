"""The gated relative-position bias of WavLM (Chen et al., 2022, section 2.2), never b * h * s * n
in memory: one row of relative positions per head, and one factor per head and query."""

from dataclasses import dataclass

from einops import rearrange
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class GatedRelativeBias:
    """Adds gate[b, h, q] * table[h, k - q + n - 1] to the score of query q and key k.

    `table` has p = 2n - 1 columns, from k - q = -(n - 1) to n - 1. Three keys and table a b c d e:
    query 0 sees c d e, query 1 b c d, query 2 a b c, each times its gate.
    """

    table: Float[Tensor, "h p"]
    gate: Float[Tensor, "b h s"]

    def __post_init__(self) -> None:
        num_columns, num_queries = self.table.shape[1], self.gate.shape[2]
        if num_columns % 2 == 0 or num_queries > self.num_keys:
            raise ValueError(
                f"a table of {num_columns} columns does not serve {num_queries} queries; "
                "it needs 2n - 1 columns for n keys and at most n queries"
            )

    @property
    def num_keys(self) -> int:
        return (self.table.shape[1] + 1) // 2

    @property
    def needs_gradient(self) -> bool:
        return self.table.requires_grad or self.gate.requires_grad

    def dense(self) -> Float[Tensor, "b h s n"]:
        """All of it: what no attention but the reference makes."""
        # Window i of the row starts at relative position i - (n - 1) and so is query n - 1 - i's.
        rows = self.table.unfold(-1, self.num_keys, 1).flip(1)[:, : self.gate.shape[2]]
        return rearrange(self.gate, "b h s -> b h s 1") * rows
