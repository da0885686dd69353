"""What a FLARE has learnt, on documents it has never seen: which caption belongs to which image or
recording, how well it predicts hidden and next tokens, and what it says about a medium alone.

Every figure is a function of the model and of fixed documents; nothing here draws at random.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from common.data.document import Document, Image, Recording
from common.data.feed import Feed
from common.evaluation.intervals import wilson_interval
from common.evaluation.metrics.recall import recalls
from common.training.task import Computed, Pairs
from flare.data import FlareBatch

RECALL_AT = (1, 5)
MOST_DRAWS = 20  # per document of a group, before a corpus counts as too small for it
NameT = TypeVar("NameT", bound=str)
# Attribute -> word as it stands in captions -> value that it names.
Forms = Mapping[str, Mapping[str, str]]


def distinct_groups(feed: Feed, *, size: int, num: int, least: int) -> list[list[Document]]:
    """Groups of documents whose captions all differ; fewer or smaller where there are too few.

    A group of fewer than `least` is left out.
    """
    groups: list[dict[str, Document]] = [{}]
    for number in range(size * num * MOST_DRAWS):
        document = feed.read(number).document
        if len(groups[-1]) == size:
            if len(groups) == num:
                break
            groups.append({})
        if document.caption is not None:
            groups[-1].setdefault(document.caption, document)
    return [list(group.values()) for group in groups if len(group) >= least]


def retrieval_figures(
    vectors: Callable[[Sequence[Document]], Pairs],
    groups: Sequence[Sequence[Document]],
    *,
    medium: str,
) -> dict[str, float]:
    """Mean recall at 1 and 5 over groups: `{"image_to_text_r1": 0.8, "text_to_image_r1": ...}`."""
    tables = []
    for group in groups:
        pairs = vectors(group)
        cosines = (
            F.normalize(pairs.media.float(), dim=-1) @ F.normalize(pairs.text.float(), dim=-1).T
        )
        tables.append(recalls(cosines, rows=medium, columns="text", at=RECALL_AT))
    return {key: sum(table[key] for table in tables) / len(tables) for key in tables[0]}


def language_figures(
    compute: Callable[[FlareBatch], Computed], batches: Sequence[FlareBatch]
) -> dict[str, float]:
    """Masked and causal loss in nats per token, and the entropy of the predicted tokens.

    The entropy is what a model pays that knows how often each token occurs and nothing else.
    """
    sums: dict[str, float] = {}
    targets: dict[str, list[Tensor]] = {}
    for batch in batches:
        for term, loss in compute(batch).losses.items():
            sums[term] = sums.get(term, 0.0) + float(loss)
            targets.setdefault(term, []).append(batch.targets[term].ids)
    figures: dict[str, float] = {}
    for term, total in sums.items():
        ids = torch.cat(targets[term])
        if len(ids):
            name = term.split("/")[-1]
            figures[f"{name}_loss"] = total / len(ids)
            figures[f"{name}_unigram_entropy"] = unigram_entropy(ids)
    return figures


def unigram_entropy(ids: Tensor) -> float:
    """Entropy in nats of the tokens' own frequencies."""
    shares = ids.bincount().double() / len(ids)
    return float(-(shares * shares.clamp(min=1e-300).log()).sum())


@dataclass(frozen=True, kw_only=True)
class CaptionScore:
    """How many of the attributes that true captions name the written captions name rightly."""

    correct: Mapping[str, int]
    named: Mapping[str, int]
    shuffled: Mapping[str, int]  # right by accident: compared with another medium's caption
    prior: Mapping[str, float]  # of always writing the most frequent value

    @property
    def accuracy(self) -> float:
        """Over all attributes."""
        return sum(self.correct.values()) / sum(self.named.values())

    @property
    def shuffled_accuracy(self) -> float:
        """The same when every medium is exchanged for the next one's."""
        return sum(self.shuffled.values()) / sum(self.named.values())

    @property
    def mean_prior(self) -> float:
        """What knowing the frequencies alone is worth."""
        total = sum(self.named.values())
        return sum(self.prior[name] * num for name, num in self.named.items()) / total

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy."""
        return wilson_interval(sum(self.correct.values()), sum(self.named.values()))


def caption_score(written: Sequence[str], true: Sequence[str], *, forms: Forms) -> CaptionScore:
    """Compare captions attribute by attribute.

    A caption written from the next medium, held against this one's truth, is what exchanging the
    media gives: the medium is all that the writer was shown.
    """
    claims = [attributes_in(text, forms=forms) for text in written]
    truths = [attributes_in(text, forms=forms) for text in true]
    exchanged = [*claims[1:], *claims[:1]]
    prior = {}
    for name in forms:
        values = [truth[name] for truth in truths if name in truth]
        prior[name] = max(map(values.count, values), default=0) / max(len(values), 1)
    return CaptionScore(
        correct=_matches(claims, truths, forms),
        named={name: sum(name in truth for truth in truths) for name in forms},
        shuffled=_matches(exchanged, truths, forms),
        prior=prior,
    )


def attributes_in(text: str, *, forms: Forms) -> dict[str, str]:
    """`two red circles` -> `{"count": "two", "colour": "red", "shape": "circle"}`; the first word
    that names an attribute counts."""
    found: dict[str, str] = {}
    for word in text.lower().replace(".", " ").replace(",", " ").split():
        for name, values in forms.items():
            if word in values:
                found.setdefault(name, values[word])
    return found


def word_forms(
    attributes: Mapping[NameT, Sequence[str]], plurals: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    """The words that name each attribute's values: `{"shape": {"bar": "bar", "bars": "bar"}}`."""
    return {
        name: {word: value for value in values for word in (value, plurals.get(value, value))}
        for name, values in attributes.items()
    }


def media_of(document: Document) -> Image | Recording:
    """The first medium of a document."""
    return next(part for part in document.parts if not isinstance(part, str))


def _matches(
    claims: Sequence[Mapping[str, str]], truths: Sequence[Mapping[str, str]], forms: Forms
) -> dict[str, int]:
    pairs = list(zip(claims, truths, strict=True))
    return {
        name: sum(name in truth and claim.get(name) == truth[name] for claim, truth in pairs)
        for name in forms
    }
