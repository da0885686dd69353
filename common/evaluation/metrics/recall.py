"""Recall at k of retrieval both ways, between media and the texts that belong to them: of an image
any of its captions (COCO and Flickr30k have five) counts as found, of a caption its one image."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def recalls(
    similarities: Float[Tensor, "rows columns"],
    *,
    rows: str,
    columns: str,
    at: Sequence[int],
    row_of_column: Sequence[int] | None = None,
) -> dict[str, float]:
    """How often a match is among the k most similar.

    rows="image", columns="text", at=(1, 5) -> image_to_text_r1, image_to_text_r5, text_to_image_r1,
    text_to_image_r5

    Args:
        row_of_column: of each column the row it belongs to, `(0, 0, 1, 1)` for two images with two
            captions each; None: as many columns as rows, matches on the diagonal.

    Raises:
        ValueError: a row has no column, or there are more or fewer owners than columns.
    """
    num_rows, num_columns = similarities.shape
    owners = range(num_rows) if row_of_column is None else row_of_column
    if len(owners) != num_columns or set(owners) != set(range(num_rows)):
        raise ValueError(
            f"{num_columns} columns of {num_rows} rows need as many owners, every row one at least"
        )
    matches = torch.zeros(similarities.shape, dtype=torch.bool, device=similarities.device)
    matches[torch.tensor(owners), torch.arange(num_columns)] = True
    directions = {
        f"{rows}_to_{columns}": num_before(similarities, matches),
        f"{columns}_to_{rows}": num_before(similarities.T, matches.T),
    }
    return {
        f"{name}_r{k}": float((before < k).float().mean())
        for name, before in directions.items()
        for k in at
    }


def num_before(
    table: Float[Tensor, "rows columns"], matches: Bool[Tensor, "rows columns"]
) -> Int[Tensor, " rows"]:
    """How many wrong columns come before the best right one of each row; found among the first k
    is what has fewer than k before it."""
    best = table.masked_fill(~matches, -torch.inf).amax(dim=1, keepdim=True)
    # All that are not less similar come before: a constant or broken model finds nothing.
    return (~(table < best) & ~matches).sum(dim=1)
