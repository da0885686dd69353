"""A conversation with a Flamingo that was tuned on conversations: pictures are encoded once, when
they come."""

from common.generation.cached_chat import CachedChat
from flamingo.chat_format import FlamingoFormat
from flamingo.model import FlamingoForConditionalGeneration
from flamingo.processing import FlamingoProcessor

LENGTHS = ("max_position_embeddings", "max_seq_len")  # as families call them


def flamingo_chat(
    model: FlamingoForConditionalGeneration, processor: FlamingoProcessor
) -> CachedChat:
    """A new conversation, as long as the language model has positions."""
    text = model.config.text_config
    longest = next((getattr(text, name) for name in LENGTHS if hasattr(text, name)), None)
    return CachedChat(model, FlamingoFormat(processor), max_tokens=longest)
