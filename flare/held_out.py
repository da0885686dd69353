"""Held-out documents of a FLARE run, and the figures that are taken on them while it trains and at
its end: generated ones by combinations that training never shows, the user's by their last records.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from transformers import PreTrainedTokenizerBase

from common.data.document import Document
from common.data.embedded.captions import PLURALS
from common.data.embedded.digits import DIGIT_WORDS
from common.data.embedded.scenes import ATTRIBUTES
from common.data.embedded.sound_captions import SOUND_PLURALS
from common.data.embedded.sounds import SOUND_ATTRIBUTES
from common.data.feed import Feed
from common.data.prompts import OUTPUT_PROMPT
from common.data.transfer import on_device
from common.evaluation.perplexity import perplexity
from common.training.task import Computed, Pairs
from flare.corpora import GENERATED, CorpusSplit, Kind, SourceConfig, open_feed
from flare.data import FlareBatch
from flare.evaluation import (
    CaptionScore,
    Forms,
    caption_score,
    distinct_groups,
    language_figures,
    media_of,
    retrieval_figures,
    word_forms,
)
from flare.generation import complete
from flare.model import FlareForConditionalGeneration
from flare.processing import FlareProcessor

MOST_CAPTION_TOKENS = 32
GENERATION_BATCH = 32
SAMPLES = 3
# Attributes by the words of captions, singular and plural.
FORMS: Mapping[str, Forms] = {
    "image": word_forms(ATTRIBUTES, PLURALS),
    "audio": word_forms(SOUND_ATTRIBUTES, SOUND_PLURALS),
}


@dataclass(frozen=True, kw_only=True)
class HeldOutPairs:
    """Documents of one medium and its caption that were never trained on."""

    name: str  # e.g. unseen_scenes
    medium: str  # image or audio
    feed: Feed
    prompt: tuple[str, ...]  # what stands between a medium and its caption
    has_attributes: bool  # generated captions name attributes; a user's are shown only
    group_size: int  # captions that compete for a medium


# Kind -> name, medium and split of its held-out pairs.
HELD_OUT: dict[Kind, tuple[tuple[str, str, CorpusSplit], ...]] = {
    "scenes": (
        ("unseen_scenes", "image", "validation"),
        ("unseen_scene_pairs", "image", "unseen_pairs"),
    ),
    "sounds": (
        ("unseen_sounds", "audio", "validation"),
        ("unseen_sound_pairs", "audio", "unseen_pairs"),
    ),
    "digits": (("held_out_digits", "image", "validation"),),
    "speech": (("held_out_voice", "audio", "validation"),),
    "image_pairs": (("image_pairs", "image", "validation"),),
    "audio_pairs": (("audio_pairs", "audio", "validation"),),
}


def held_out_pairs(
    source: SourceConfig, *, seed: int, tokenizer: PreTrainedTokenizerBase
) -> list[HeldOutPairs]:
    """The held-out pairs of one kind of training documents; none for kinds without captions."""
    found = []
    for name, medium, split in HELD_OUT.get(source.kind, ()):
        feed = open_feed([source], split=split, seed=seed, family_size=1, tokenizer=tokenizer)
        found.append(
            HeldOutPairs(
                name=name,
                medium=medium,
                feed=feed,
                prompt=(OUTPUT_PROMPT,) if source.kind in GENERATED else (),
                has_attributes=source.kind in ("scenes", "sounds"),
                group_size=len(DIGIT_WORDS) if source.kind in ("digits", "speech") else 64,
            )
        )
    return found


class HeldOut:
    """What a task is judged by.

    vectors: pairs of a model for captioned documents, in their order.
    compute: losses of a model on a batch.
    """

    def __init__(
        self,
        *,
        pairs: Sequence[HeldOutPairs],
        batches: Callable[[], Sequence[FlareBatch]],
        vectors: Callable[[FlareForConditionalGeneration, str, Sequence[Document]], Pairs],
        compute: Callable[[FlareForConditionalGeneration, FlareBatch], Computed],
    ) -> None:
        self.pairs, self.batches = pairs, batches
        self.vectors, self.compute = vectors, compute

    @torch.no_grad()
    def language(self, model: FlareForConditionalGeneration) -> dict[str, float]:
        """Masked and causal loss on held-out rows, each beside its unigram entropy."""
        batches = [on_device(batch, model.device) for batch in self.batches()]
        return language_figures(partial(self.compute, model), batches)

    @torch.no_grad()
    def retrieval(
        self, model: FlareForConditionalGeneration, *, groups: int
    ) -> dict[str, dict[str, float]]:
        """Recall among distinct captions, per kind of held-out pairs that has two of them."""
        tables = {}
        for pairs in self.pairs:
            chosen = distinct_groups(pairs.feed, size=pairs.group_size, num=groups, least=2)
            vectors = partial(self.vectors, model, pairs.medium)
            if chosen:
                tables[pairs.name] = retrieval_figures(vectors, chosen, medium=pairs.medium)
        return tables

    def captions(
        self, model: FlareForConditionalGeneration, processor: FlareProcessor, *, num: int
    ) -> dict[str, tuple[CaptionScore, list["WrittenCaption"]]]:
        """Captions written from a medium alone, scored by the attributes that they name."""
        return {
            pairs.name: score_captions(pairs, write_captions(model, processor, pairs, num=num))
            for pairs in self.pairs
            if pairs.has_attributes
        }

    def figures(self, model: FlareForConditionalGeneration) -> dict[str, float]:
        """What a run logs at a validation."""
        language = self.language(model)
        figures = {f"validation/{name}": value for name, value in language.items()}
        if "causal_loss" in language:
            figures["validation/perplexity"] = perplexity(language["causal_loss"], 1)
        for name, table in self.retrieval(model, groups=1).items():
            recalls = {key: value for key, value in table.items() if key.endswith("_r1")}
            figures |= {f"validation/{name}_{key}": value for key, value in recalls.items()}
        return figures

    def samples(self, model: FlareForConditionalGeneration, processor: FlareProcessor) -> list[str]:
        """A few captions of every kind of held-out media, with the true ones."""
        return [
            f"{pairs.name}: {caption.text} (data: {caption.truth})"
            for pairs in self.pairs
            for caption in write_captions(model, processor, pairs, num=SAMPLES)
        ]


@dataclass(frozen=True, kw_only=True)
class WrittenCaption:
    """What the model wrote about a document's medium."""

    document: Document
    text: str

    @property
    def truth(self) -> str:
        """The document's own caption."""
        assert self.document.caption is not None
        return self.document.caption


def write_captions(
    model: FlareForConditionalGeneration,
    processor: FlareProcessor,
    pairs: HeldOutPairs,
    *,
    num: int,
) -> list[WrittenCaption]:
    """Greedy captions of the first `num` media; nothing else tells what it shows."""
    (documents,) = distinct_groups(pairs.feed, size=num, num=1, least=1)
    texts: list[str] = []
    for start in range(0, len(documents), GENERATION_BATCH):
        prompts = [
            [media_of(d), *pairs.prompt] for d in documents[start : start + GENERATION_BATCH]
        ]
        texts += complete(model, processor, prompts, max_new_tokens=MOST_CAPTION_TOKENS)
    return [WrittenCaption(document=d, text=t) for d, t in zip(documents, texts, strict=True)]


def score_captions(
    pairs: HeldOutPairs, captions: list[WrittenCaption]
) -> tuple[CaptionScore, list[WrittenCaption]]:
    """The captions with their score."""
    score = caption_score(
        [caption.text for caption in captions],
        [caption.truth for caption in captions],
        forms=FORMS[pairs.medium],
    )
    return score, captions
