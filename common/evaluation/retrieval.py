"""Recall at k of retrieval both ways, between media and the one text that belongs to each."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor


def recalls(
    similarities: Float[Tensor, "b b"], *, rows: str, columns: str, at: Sequence[int]
) -> dict[str, float]:
    """How often the match, on the diagonal, is among the k most similar.

    rows="image", columns="text", at=(1, 5) -> image_to_text_r1, image_to_text_r5, text_to_image_r1,
    text_to_image_r5
    """
    directions = {
        f"{rows}_to_{columns}": similarities,
        f"{columns}_to_{rows}": similarities.T,
    }
    figures = {}
    for name, table in directions.items():
        # All that are not less similar come before: a constant or broken model finds nothing.
        before = (~(table < table.diagonal()[:, None])).sum(dim=1) - 1
        for k in at:
            figures[f"{name}_r{k}"] = float((before < k).float().mean())
    return figures
