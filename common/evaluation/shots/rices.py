"""RICES (Yang et al., 2022): the demonstrations are the examples whose images are most similar to
the query's, by the cosine of vectors, the most similar one last. A medium's vector is made once
and kept; similarities are looked at in pieces, never as one table of all queries and examples."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from common.evaluation.shots.demonstrations import Choose, check_enough
from common.evaluation.shots.exemplars import Exemplar, is_same_medium
from common.evaluation.work import Workplace, vectors

ROWS_AT_ONCE, COLUMNS_AT_ONCE = 1_024, 16_384
# Media that are looked at beyond those that are wanted, as some may be the query's own.
SPARE = 4


def rices_demonstrations(
    queries: Sequence[Exemplar],
    pool: Sequence[Exemplar],
    *,
    most: int,
    embed: Callable[[Sequence[Path]], Float[Tensor, "m e"]],
    work: Workplace,
) -> Choose:
    """Examples with the most similar media; all those of one medium follow each other.

    Args:
        most: how many examples will be wanted at most.
        embed: vectors of length 1 of media.
    """
    asked, shown = _by_medium(queries), _by_medium(pool)
    asked_vectors = _vectors(asked, embed, work=work, name="rices/queries")
    shown_vectors = _vectors(shown, embed, work=work, name="rices/pool")
    # Of all queries at once: a few at a time would read the pool's vectors again and again.
    ranking = nearest(asked_vectors, shown_vectors, num=most + SPARE)
    row_of = {path: row for row, path in enumerate(asked)}
    examples = list(shown.values())

    def first(query: Exemplar, media: Iterable[int], num: int) -> list[Exemplar]:
        found: list[Exemplar] = []
        for own in (examples[medium] for medium in media):
            if len(found) < num and not is_same_medium(own[0], query):
                found += own
        return found[:num]

    def choose(place: int, num: int) -> tuple[Exemplar, ...]:
        query = queries[place]
        row = row_of[query.medium]
        found = first(query, ranking[row].tolist(), num)
        if len(found) < num:
            whole = nearest(asked_vectors[row : row + 1], shown_vectors, num=len(examples))[0]
            found = first(query, whole.tolist(), num)
        check_enough(len(found), num=num, query=query)
        return tuple(reversed(found))

    return lambda places, num: [choose(place, num) for place in places]


def nearest(
    queries: Float[Tensor, "n e"], pool: Float[Tensor, "m e"], *, num: int
) -> Int[Tensor, "n k"]:
    """Rows of the pool by falling inner product with each query, of equal ones the earlier first.

    There are `num` of them, or as many as the pool has.
    """
    return torch.cat([_ranked(part, pool, num=num) for part in queries.split(ROWS_AT_ONCE)])


def _ranked(
    queries: Float[Tensor, "n e"], pool: Float[Tensor, "m e"], *, num: int
) -> Int[Tensor, "n k"]:
    best = queries.new_empty(len(queries), 0)
    places = torch.empty(len(queries), 0, dtype=torch.int64)
    for start in range(0, len(pool), COLUMNS_AT_ONCE):
        similarities = queries @ pool[start : start + COLUMNS_AT_ONCE].T
        columns = _largest(similarities, num=min(num, similarities.shape[1]))
        best = torch.cat([best, similarities.gather(1, columns)], dim=1)
        places = torch.cat([places, columns + start], dim=1)
        # What stands before is earlier in the pool, and a stable sort leaves it there.
        best, order = best.sort(dim=1, descending=True, stable=True)
        best, places = best[:, :num], places.gather(1, order)[:, :num]
    return places


def _largest(table: Float[Tensor, "n m"], *, num: int) -> Int[Tensor, "n k"]:
    """Columns of the largest values, in their order. `topk` alone may take any of equal ones."""
    values, columns = table.topk(num, dim=1)
    if num:
        is_open = (table >= values[:, -1:]).sum(dim=1) > num
        ranked = table[is_open].argsort(dim=1, descending=True, stable=True)
        columns[is_open] = ranked[:, :num]
    return columns.sort(dim=1).values


def _by_medium(exemplars: Sequence[Exemplar]) -> dict[Path, list[Exemplar]]:
    found: dict[Path, list[Exemplar]] = {}
    for exemplar in exemplars:
        found.setdefault(exemplar.medium, []).append(exemplar)
    return found


def _vectors(
    media: Iterable[Path],
    embed: Callable[[Sequence[Path]], Float[Tensor, "m e"]],
    *,
    work: Workplace,
    name: str,
) -> Float[Tensor, "n e"]:
    paths = list(media)
    return vectors(paths, keys=[str(path) for path in paths], embed=embed, work=work, name=name)
