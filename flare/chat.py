"""A conversation with FLARE: pictures and recordings are heard and seen once, when they come."""

from collections.abc import Callable, Generator, Sequence

from common.data.conversations.messages import Part
from common.generation.cached_chat import CachedChat
from common.generation.chat import never
from flare.instruct.encoding import FlareFormat
from flare.model import FlareForConditionalGeneration
from flare.processing import FlareProcessor


class FlareChat:
    """`Chat` with FLARE, as long as its tokenizer says that texts may be."""

    def __init__(self, model: FlareForConditionalGeneration, processor: FlareProcessor) -> None:
        longest = processor.tokenizer.model_max_length
        self._chat = CachedChat(model, FlareFormat(processor), max_tokens=longest)

    def say(
        self,
        parts: Sequence[Part],
        *,
        max_new_tokens: int,
        temperature: float | None = None,
        stop: Callable[[], bool] = never,
    ) -> Generator[str]:
        """The answer so far, each time it has grown; see `common.generation.chat.Chat`.

        Raises:
            UserError: the conversation would not fit any more.
        """
        return self._chat.say(
            parts, max_new_tokens=max_new_tokens, temperature=temperature, stop=stop
        )

    def restart(self) -> None:
        """Forgets the conversation."""
        self._chat.restart()
