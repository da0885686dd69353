"""Which examples stand before a query. A choice is a function of a query's place among the queries
and of how many examples are wanted; more examples hold the fewer ones as their end, and none shows
the query's own medium."""

from collections.abc import Callable, Sequence
from itertools import count
from typing import TypeAlias, TypeVar

from common.data.randomness import generator_at
from common.errors import UserError
from common.evaluation.shots.exemplars import Exemplar, is_same_medium

T = TypeVar("T")
PATIENCE = 20  # draws for each wanted example until the pool is counted


# So many examples for each of the queries at some places, in reading order.
Choose: TypeAlias = Callable[[Sequence[int], int], list[tuple[Exemplar, ...]]]


def random_demonstrations(
    queries: Sequence[Exemplar], pool: Sequence[Exemplar], *, seed: int
) -> Choose:
    """Examples drawn for each query alone, from its place and the seed."""

    def draw(place: int, num: int) -> tuple[Exemplar, ...]:
        query = queries[place]
        generator = generator_at(seed=seed, index=place, stream="shots/random")
        drawn: dict[int, Exemplar] = {}
        for attempt in count():
            if len(drawn) == num:
                break
            if attempt == PATIENCE * num:  # all pools but tiny ones are left before
                others = [not is_same_medium(example, query) for example in pool]
                check_enough(sum(others), num=num, query=query)
            number = int(generator.integers(len(pool)))
            if number not in drawn and not is_same_medium(pool[number], query):
                drawn[number] = pool[number]
        return tuple(reversed(drawn.values()))

    return lambda places, num: [draw(place, num) for place in places]


def check_enough(num_others: int, *, num: int, query: Exemplar) -> None:
    """There must be enough examples that do not show the query's medium.

    Raises:
        UserError: there are not.
    """
    if num_others < num:
        raise UserError(
            f"{num} demonstrations were asked for, but {num_others} examples of the training pool "
            f"do not show {query.medium}; ask for fewer shots or name a larger training file"
        )


def part_of(pool: Sequence[T], size: int | None) -> Sequence[T]:
    """As many of a pool, in its order, drawn once and always the same; None or too many: all."""
    if size is None or size >= len(pool):
        return pool
    generator = generator_at(seed=0, index=size, stream="shots/pool")
    return [pool[number] for number in sorted(generator.permutation(len(pool))[:size].tolist())]
