"""What a weighting of losses remembers: columns of numbers, one entry per objective.

The columns lie on the device of the losses that they describe and never wait for it; only a
checkpoint reads them back. They are float64, and come back from a checkpoint exact to the bit.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from common.errors import UserError

# As JSON stores it.
State = dict[str, object]


class Ledger:
    """Columns by name, and the base weight of every objective."""

    def __init__(
        self, base: Mapping[str, float], *, kind: str, columns: Mapping[str, float]
    ) -> None:
        """columns: the number that every entry of a column starts from."""
        self.names = tuple(base)
        self.kind = kind
        self.base = torch.tensor(list(base.values()), dtype=torch.float64)
        self.columns = {name: torch.full_like(self.base, start) for name, start in columns.items()}

    def __getitem__(self, column: str) -> Float[Tensor, " k"]:
        return self.columns[column]

    def write(self, column: str, values: Float[Tensor, " k"], *, where: Bool[Tensor, " k"]) -> None:
        """New values for some objectives; the others keep theirs."""
        self.columns[column] = torch.where(where, values, self.columns[column])

    def receive(
        self, losses: Float[Tensor, " k"], present: Sequence[bool]
    ) -> tuple[Float[Tensor, " k"], Bool[Tensor, " k"]]:
        """The losses in the columns' precision, and which of them count: present and finite ones.

        From now on the columns lie on the device of these losses.
        """
        device, dtype = losses.device, precision(losses.device)
        self.base = self.base.to(device, dtype)
        self.columns = {name: column.to(device, dtype) for name, column in self.columns.items()}
        losses = losses.detach().to(dtype)
        return losses, self._flags(present) & losses.isfinite()

    def share_out(
        self, logits: Float[Tensor, " k"], present: Sequence[bool]
    ) -> Float[Tensor, " k"]:
        """base x p x softmax(logits) over the p present objectives, 0 for the others.

        base 2 3 5, logits 0 0 0, the second absent -> 2 0 5
        """
        softmax = logits.masked_fill(~self._flags(present), -torch.inf).softmax(dim=0)
        # Without any present objective there is nothing to weigh, and the softmax is not a number.
        return self.base * sum(present) * softmax.nan_to_num()

    def to_json(self) -> State:
        """Kind, names and columns; waits for the device."""
        columns = {name: column.tolist() for name, column in self.columns.items()}
        return {"kind": self.kind, "objectives": list(self.names), "columns": columns}

    def load(self, state: Mapping[str, object]) -> None:
        """Take over what `to_json` gave. Raises UserError when another weighting gave it."""
        for key, own in (("kind", self.kind), ("objectives", list(self.names))):
            if state.get(key) != own:
                raise UserError(
                    f"the stored loss weights have {key} {state.get(key)!r}, this run has "
                    f"{own!r}; resume with the weighting that the run began with"
                )
        columns = state.get("columns")
        if not isinstance(columns, dict) or columns.keys() != self.columns.keys():
            raise UserError(f"the stored loss weights lack the columns {', '.join(self.columns)}")
        self.columns = {name: mine.new_tensor(columns[name]) for name, mine in self.columns.items()}

    def _flags(self, present: Sequence[bool]) -> Bool[Tensor, " k"]:
        # Asynchronous: a plain copy to the device would wait for all its work.
        flags = torch.tensor(list(present), dtype=torch.bool)
        return flags.to(self.base.device, non_blocking=True)


def precision(device: torch.device) -> torch.dtype:
    """float64, except on Apple's devices, which have none."""
    return torch.float32 if device.type == "mps" else torch.float64
