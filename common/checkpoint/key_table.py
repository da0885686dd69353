"""A table of keys, read in both directions: which of our tensors hold which of another code's.

Each tensor of either side stands in exactly one entry. What the other side must hold - its names
and shapes - follows from our own model through the table, so that a checkpoint is checked before
anything is read, and every key that does not fit is named.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import UserError

Tensors = tuple[Tensor, ...]
State = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Some tensors of ours and those of theirs that hold the same numbers."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    how: str
    to_ours: Callable[[Tensors], Tensors]
    to_theirs: Callable[[Tensors], Tensors]


Table = tuple[Entry, ...]


def same(ours: str, theirs: str) -> Entry:
    """One tensor under two names."""
    return Entry(ours=(ours,), theirs=(theirs,), how="same", to_ours=tuple, to_theirs=tuple)


def norm(ours: str, theirs: str) -> Table:
    """Weight and bias of a LayerNorm or a linear map."""
    return tuple(same(f"{ours}.{leaf}", f"{theirs}.{leaf}") for leaf in ("weight", "bias"))


def stacked(ours: tuple[str, ...], theirs: str) -> Entry:
    """Rows of several of our tensors, one after the other: keys and values of one projection."""
    return Entry(
        ours=ours,
        theirs=(theirs,),
        how="rows in turn",
        to_ours=lambda tensors: tensors[0].chunk(len(ours)),
        to_theirs=lambda tensors: (torch.cat(tensors),),
    )


def gathered(ours: str, theirs: tuple[str, ...]) -> Entry:
    """Rows of several of their tensors, one after the other."""
    return Entry(
        ours=(ours,),
        theirs=theirs,
        how="rows in turn",
        to_ours=lambda tensors: (torch.cat(tensors),),
        to_theirs=lambda tensors: tensors[0].chunk(len(theirs)),
    )


def leading(ours: str, theirs: str, *, dims: int = 1) -> Entry:
    """Ours has leading dimensions of size 1 that theirs has not."""
    return Entry(
        ours=(ours,),
        theirs=(theirs,),
        how="reshaped",
        to_ours=lambda tensors: (tensors[0].reshape((1,) * dims + tensors[0].shape),),
        to_theirs=lambda tensors: (tensors[0].reshape(tensors[0].shape[dims:]),),
    )


def zeros(ours: str, shape: tuple[int, ...]) -> Entry:
    """A part of ours that theirs does not have and that adds nothing while it is 0."""
    return Entry(
        ours=(ours,),
        theirs=(),
        how="zeros",
        to_ours=lambda _: (torch.zeros(shape),),
        to_theirs=lambda _: (),
    )


def to_theirs(table: Table, ours: State) -> dict[str, Tensor]:
    """Every tensor of the other code; `ours` must hold every tensor of the table."""
    state: dict[str, Tensor] = {}
    for entry in table:
        tensors = entry.to_theirs(tuple(ours[name] for name in entry.ours))
        state |= zip(entry.theirs, tensors, strict=True)
    return state


def to_ours(table: Table, theirs: State, *, like: State, source: str) -> dict[str, Tensor]:
    """Every tensor of ours, where `like` has our names and shapes (on the meta device).

    Raises:
        UserError: naming each key of `theirs` that is missing, unknown or of another shape.
    """
    check(theirs, to_theirs(table, like), source=source)
    state: dict[str, Tensor] = {}
    for entry in table:
        tensors = entry.to_ours(tuple(theirs[name] for name in entry.theirs))
        state |= zip(entry.ours, tensors, strict=True)
    return state


def shape_of(state: State, key: str, *, source: str) -> torch.Size:
    """Of a tensor from which sizes of ours follow.

    Raises:
        UserError: naming the key, when it is missing.
    """
    if key not in state:
        raise UserError(f"{source} does not fit; missing: {key}")
    return state[key].shape


def check(state: State, expected: State, *, source: str) -> None:
    """Every name and shape.

    Raises:
        UserError: naming each key that is missing, unknown or of another shape.
    """
    problems = {
        "missing": expected.keys() - state.keys(),
        "unknown": state.keys() - expected.keys(),
        "of another shape": {
            f"{name} {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
            for name in expected.keys() & state.keys()
            if state[name].shape != expected[name].shape
        },
    }
    found = [f"{what}: {', '.join(by_layer(names))}" for what, names in problems.items() if names]
    if found:
        raise UserError(f"{source} does not fit; {'; '.join(found)}")


def by_layer(names: Iterable[str]) -> list[str]:
    """One line for the layers' keys of one kind. `a.0.b`, `a.1.b`, `a.5.b` -> `a.{0-1,5}.b`"""
    layers: dict[str, list[int]] = {}
    for name in names:
        number = re.search(r"\.(\d+)\.", name)
        kind = name if number is None else name.replace(number[0], ".{}.", 1)
        layers.setdefault(kind, []).extend([int(number[1])] if number else [])
    return sorted(kind.replace("{}", _runs(numbers), 1) for kind, numbers in layers.items())


def _runs(numbers: list[int]) -> str:
    """`{0-2,5}` for 0 1 2 5; a single number alone."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = [f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs]
    return f"{{{','.join(parts)}}}" if len(numbers) > 1 else "".join(parts)


def report(table: Table) -> list[tuple[str, str, str]]:
    """Lines for a reader: their keys, how they are read, our keys."""
    return [(_joined(entry.theirs), entry.how, _joined(entry.ours)) for entry in table]


def _joined(names: Iterable[str]) -> str:
    return " + ".join(names) or "-"
