"""A processor and a model of a few weights, pictures and sounds, for tests of alignment."""

import numpy as np

from common.data.document import Recording
from common.data.embedded.tokenizer import train_tokenizer
from flare.model import FlareForConditionalGeneration
from flare.processing import FlareProcessor
from tests.flare import tiny

VOCAB = 300
TOKEN_IDS = ("image_token_id", "audio_token_id", "mask_token_id", "emb_token_id")
RED = np.full((40, 44, 3), (225, 25, 30), dtype=np.uint8)
BLUE = np.full((44, 40, 3), (40, 70, 245), dtype=np.uint8)
HUM = Recording(samples=tiny.clips(1)[0].numpy())
HISS = Recording(samples=tiny.clips(1, samples=700, seed=1)[0].numpy())


def processor() -> FlareProcessor:
    """A tokenizer of bytes with the merges of a few words."""
    return FlareProcessor.from_tokenizer(
        train_tokenizer(["User: what is red Assistant: a red ring"], vocab_size=275),
        vocab_size=VOCAB,
        image_size=tiny.IMAGE_SIZE,
        image_queries=tiny.IMAGE_QUERIES,
        audio_queries=tiny.AUDIO_QUERIES,
    )


def model(made_for: FlareProcessor) -> FlareForConditionalGeneration:
    """A model whose control tokens are the processor's."""
    ids = {name: getattr(made_for, name) for name in TOKEN_IDS}
    return tiny.model(vocab_size=VOCAB, **ids)
