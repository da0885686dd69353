"""A conversation with a Flamingo that was tuned on conversations: pictures are encoded once, when
they come."""

from collections.abc import Callable, Generator, Sequence

from common.data.conversations.messages import Part
from common.generation.cached_chat import CachedChat
from common.generation.chat import never
from flamingo.chat_format import FlamingoFormat
from flamingo.model import FlamingoForConditionalGeneration
from flamingo.processing import FlamingoProcessor

LENGTHS = ("max_position_embeddings", "max_seq_len")  # as families call them


class FlamingoChat:
    """`Chat` with a Flamingo, as long as its language model has positions."""

    def __init__(
        self, model: FlamingoForConditionalGeneration, processor: FlamingoProcessor
    ) -> None:
        text = model.config.text_config
        longest = next((getattr(text, name) for name in LENGTHS if hasattr(text, name)), None)
        self._chat = CachedChat(model, FlamingoFormat(processor), max_tokens=longest)

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
            UserError: a part is a recording, or the conversation would not fit any more.
        """
        return self._chat.say(
            parts, max_new_tokens=max_new_tokens, temperature=temperature, stop=stop
        )

    def restart(self) -> None:
        """Forgets the conversation."""
        self._chat.restart()
