"""A conversation with FLARE: pictures and recordings are seen and heard once, when they come."""

from common.generation.cached_chat import CachedChat
from flare.instruct.encoding import FlareFormat
from flare.model import FlareForConditionalGeneration
from flare.processing import FlareProcessor


def flare_chat(model: FlareForConditionalGeneration, processor: FlareProcessor) -> CachedChat:
    """A new conversation, as long as the tokenizer says that texts may be."""
    return CachedChat(
        model, FlareFormat(processor), max_tokens=processor.tokenizer.model_max_length
    )
