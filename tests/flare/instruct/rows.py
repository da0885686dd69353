"""Sources of a training run over given conversations and pairs, for tests."""

from collections.abc import Mapping, Sequence
from functools import partial

from common.data.augmentation import AugmentConfig
from common.data.conversations.corpus import ConversationCorpus
from common.data.conversations.messages import Conversations
from common.data.conversations.pairs import Pairs
from common.data.feed import mixed
from flare.data import MixtureSource
from flare.encoding import DocumentEncoder
from flare.instruct.task_encoding import num_tokens
from flare.masking import MaskingConfig
from flare.processing import FlareProcessor
from tests.flare import tiny


def encoder_of(processor: FlareProcessor) -> DocumentEncoder:
    return DocumentEncoder(
        processor=processor, image_size=tiny.IMAGE_SIZE, max_samples=2000, clip_groups=2
    )


def corpus_of(
    processor: FlareProcessor, items: Conversations | Pairs, *, name: str = "said"
) -> ConversationCorpus:
    measure = partial(num_tokens, processor)
    return ConversationCorpus(name, items, digest=name, measure=measure)


def source_of(
    processor: FlareProcessor,
    items: Conversations | Pairs,
    *,
    rows: int,
    max_tokens: int,
    references: Mapping[str, Sequence[float]] | None = None,
) -> MixtureSource:
    """Packed rows of them, in their order."""
    return MixtureSource(
        feed=mixed([corpus_of(processor, items)], seed=0, visits=["stored"]),
        encoder=encoder_of(processor),
        masking=MaskingConfig(),
        batch_size=rows,
        weight=1.0,
        max_tokens=max_tokens,
        steps=10,
        augment_steps=0,
        augmentation=AugmentConfig(),
        seed=0,
        references=references,
    )
