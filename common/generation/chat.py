"""What a conversation with a model is to those that hold one: parts are said, the answer is
written while it is read, and what was said before is remembered. It does not know a model."""

from collections.abc import Callable, Generator, Sequence
from typing import Protocol, runtime_checkable

from common.data.conversations.messages import Part


def never() -> bool:
    """The answer is read to its end."""
    return False


@runtime_checkable
class Chat(Protocol):
    """One conversation; turns and media of it are read once, when they come."""

    def say(
        self,
        parts: Sequence[Part],
        *,
        max_new_tokens: int,
        temperature: float | None = None,
        stop: Callable[[], bool] = never,
    ) -> Generator[str]:
        """Says a user's turn and yields the answer so far, each time it has grown.

        Greedy, or sampled when a temperature is given. `stop` is asked before each token; then, or
        when it is closed, what was written so far counts as the whole answer.

        Raises:
            UserError: a part is of no kind that the model knows, or the conversation would not fit
                into the model's context any more; nothing was said then.
        """

    def restart(self) -> None:
        """Forgets the conversation."""
