"""How much each loss term counts in the loss of an update.

    loss = sum over sources  weight * sum over objectives  w * sum over terms  share * mean

`language/masked` and `language/causal` are terms of the objective `language`, `contrastive` is one
by itself. Shares are the task's factors over their sum within the objective. A term that has no
targets in an update, on any rank, is absent: it takes nothing from the others.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from common.training.task import Weighted

Scalar = Float[Tensor, ""]


@dataclass(frozen=True, kw_only=True)
class Scales:
    """Of one update; terms are named `source/term`."""

    shares: Mapping[str, float]
    weights: Mapping[str, Scalar]  # by objective that is present; empty: all are 1

    def share(self, name: str, value: Scalar) -> Scalar:
        """The term's part of its objective, before the objective is weighted."""
        return value * self.shares[name]

    def weigh(self, name: str, value: Scalar) -> Scalar:
        """The term's part of the loss; a float64 weight does not raise the loss's precision."""
        part = self.share(name, value)
        objective = objective_of(name)
        if objective not in self.weights:
            return part
        return part * self.weights[objective].to(part.dtype)


class Balance:
    """Scales of every update, and the memory of the task's weighting, if it has one."""

    def __init__(self, task: object, *, device: torch.device) -> None:
        self.task = task if isinstance(task, Weighted) else None
        self.weighting = self.task.weighting() if self.task else None
        self.device = device

    def scales(self, counts: Mapping[str, int], *, update: int) -> Scales:
        """From the targets of each term over all ranks; updates count from 1."""
        factors = self.task.factors(update) if self.task else {}
        present = {name: factors.get(_term(name), 1.0) for name in counts if counts[name] > 0}
        totals: dict[str, float] = {}
        for name, factor in present.items():
            totals[_group(name)] = totals.get(_group(name), 0.0) + factor
        shares = dict.fromkeys(counts, 0.0)
        for name, factor in present.items():
            total = totals[_group(name)]
            shares[name] = factor / total if total else 0.0
        return Scales(shares=shares, weights=self._weights({objective_of(n) for n in present}))

    def observe(self, scales: Scales, means: Mapping[str, Scalar]) -> None:
        """The update's mean losses by term over all ranks, each times its source's weight."""
        if self.weighting is None:
            return
        losses = {name: torch.zeros((), device=self.device) for name in self.weighting.names}
        for name, mean in means.items():
            objective = objective_of(name)
            losses[objective] = losses[objective] + scales.share(name, mean)
        present = [objective in scales.weights for objective in self.weighting.names]
        self.weighting.observe(torch.stack([*losses.values()]), present)

    def to_json(self) -> dict[str, object] | None:
        """The memory, exactly; None where there is none."""
        return self.weighting.to_json() if self.weighting else None

    def load(self, state: Mapping[str, object] | None) -> None:
        """Go on where `to_json` stopped. Raises UserError when the state is not the weighting's."""
        if self.weighting is not None:
            self.weighting.load(state or {})

    def _weights(self, objectives: set[str]) -> dict[str, Scalar]:
        if self.weighting is None:
            return {}
        names = self.weighting.names
        unknown = objectives - set(names)
        if unknown:
            raise ValueError(
                f"no weight for {', '.join(sorted(unknown))}; the task weighs {', '.join(names)}, "
                "and a term's objective is its name up to the first /"
            )
        present = [name in objectives for name in names]
        # Weights that have observed nothing yet lie on the CPU.
        weights = self.weighting.weights(present).to(self.device, non_blocking=True)
        return {
            name: weight
            for name, weight, counts in zip(names, weights, present, strict=True)
            if counts
        }


def objective_of(name: str) -> str:
    """mixture/language/masked -> language"""
    return name.split("/")[1]


def _term(name: str) -> str:
    """mixture/language/masked -> language/masked"""
    return name.split("/", 1)[1]


def _group(name: str) -> str:
    """mixture/language/masked -> mixture/language: the terms that share one objective."""
    return "/".join(name.split("/")[:2])
