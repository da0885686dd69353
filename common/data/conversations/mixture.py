"""What a round is tuned on: conversations of several sets, in exact proportions."""

from collections.abc import Sequence
from functools import cached_property

from common.data.conversations.messages import Conversation, Conversations
from common.data.mixture import Mixture
from common.errors import UserError


class Mixed:
    """`num` conversations of weighted sets; a set that is used up begins again."""

    def __init__(self, sets: Sequence[tuple[float, Conversations]], *, num: int, seed: int) -> None:
        if any(not len(conversations) for _, conversations in sets):
            raise UserError("a set of the mixture is empty; leave it out")
        self.sets, self.num, self.seed = sets, num, seed

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> Conversation:
        if not 0 <= index < self.num:
            raise IndexError(f"conversation {index} of {self.num}")
        chosen, number = self._mixture(index)
        conversations = self.sets[chosen][1]
        return conversations[number % len(conversations)]

    @cached_property
    def _mixture(self) -> Mixture:
        return Mixture([weight for weight, _ in self.sets], seed=self.seed)
