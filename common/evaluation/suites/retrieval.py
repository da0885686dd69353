"""Retrieval by vectors: which caption belongs to an image or a recording, and the other way round,
with the captions of each medium as the official protocols of COCO, Flickr30k, AudioCaps and Clotho
count them, beside what chance would find."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import comb
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from common.data.randomness import generator_at
from common.errors import UserError
from common.evaluation.benchmarks.captioned import (
    TITLES,
    CaptionedDataset,
    CaptionedMedia,
    CaptionedMedium,
    read_captioned,
)
from common.evaluation.benchmarks.captions import Split
from common.evaluation.intervals import RESAMPLES
from common.evaluation.scores import Sample, Score, SuiteResult
from common.evaluation.shots.exemplars import MediumKind, read_medium
from common.evaluation.shots.figures import in_turn
from common.evaluation.suites.embedding import (
    chance_score,
    medium_vectors,
    missing_clips,
    ranks,
    text_vectors,
)
from common.evaluation.work import Workplace

NUM_SAMPLES = 8


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig:
    """Whether captions find their images or recordings, and these their captions."""

    # Whose official files these are; coco: COCO's own annotations, coco-karpathy: Karpathy's.
    dataset: CaptionedDataset
    # File of captions: dataset_coco.json, captions_val2014.json, dataset_flickr30k.json or
    # results.csv, AudioCaps' test.csv, clotho_captions_evaluation.csv.
    captions: Path
    # Folder of the images or recordings; of coco-karpathy the one that holds val2014.
    media: Path
    # Splits of Karpathy's files; the other files hold one split each.
    splits: tuple[Split, ...] = ("test",)
    # How many captions of each medium count, its first ones; a few images of COCO have 6 or 7.
    captions_per_medium: int = 5
    # Each k of R@k.
    at: tuple[int, ...] = (1, 5, 10)

    def __post_init__(self) -> None:
        if not self.splits or not self.at or min(*self.at, self.captions_per_medium) < 1:
            raise UserError(
                f"{self.splits=} {self.at=} {self.captions_per_medium=}: name a split and a k, "
                "numbers from 1 on"
            )


def run_retrieval(config: RetrievalConfig, model: object, work: Workplace) -> SuiteResult:
    """R@k both ways; intervals are of the bootstrap over media, with their captions, among the
    same others.

    Raises:
        UserError: a file is malformed, or the model does not embed texts and media of this kind.
    """
    found = _read(config)
    items = work.evaluated(found.media)
    sizes = [len(item.captions) for item in items]
    owner = torch.arange(len(items)).repeat_interleave(torch.tensor(sizes))
    media = medium_vectors(
        [item.path for item in items],
        keys=[item.key for item in items],
        kind=found.kind,
        model=model,
        work=work,
    )
    texts = text_vectors(
        [caption for item in items for caption in item.captions],
        keys=[f"{item.key}/{place}" for item in items for place in range(len(item.captions))],
        model=model,
        work=work,
    )
    places = torch.arange(len(media))
    captions_before = ranks(media, texts, row_owner=places, column_owner=owner)
    media_before = ranks(texts, media, row_owner=owner, column_owner=places)
    return SuiteResult(
        name=f"{TITLES[config.dataset]} retrieval",
        scores=(
            *_scores(
                f"{found.kind} to text",
                captions_before,
                places,
                at=config.at,
                chance=partial(_captions_by_chance, sizes),
            ),
            *_scores(
                f"text to {found.kind}",
                media_before,
                owner,
                at=config.at,
                chance=partial(_media_by_chance, sizes),
            ),
        ),
        samples=tuple(_samples(found.kind, items, captions_before, media, texts)),
        notes=(
            *missing_clips(found.missing, num_found=len(found.media)),
            *_repeated_captions(items),
        ),
    )


def _read(config: RetrievalConfig) -> CaptionedMedia:
    found = read_captioned(
        config.dataset, config.captions, media=config.media, splits=config.splits
    )
    if bare := [item.key for item in found.media if not item.captions]:
        raise UserError(f"{config.captions}: {bare[0]} has no caption; remove it")
    first = slice(config.captions_per_medium)
    media = (replace(item, captions=item.captions[first]) for item in found.media)
    return replace(found, media=tuple(media))


def _scores(
    direction: str,
    before: Int[Tensor, " n"],
    owner: Int[Tensor, " n"],
    *,
    at: Sequence[int],
    chance: Callable[[int], float],
) -> Iterator[Score]:
    """Of searches that belong to media, each with how many wrong ones came before the right one."""
    sizes = owner.bincount()
    for k in at:
        hits = torch.bincount(owner, weights=(before < k).double())
        low, high = _interval(hits.numpy(), sizes.numpy())
        yield Score(
            metric=f"R@{k} {direction}",
            value=100 * float(hits.sum() / sizes.sum()),
            num=len(before),
            interval=(100 * low, 100 * high),
        )
        yield chance_score(f"R@{k} {direction}", chance(k), num=len(before))


def _interval(hits: Float[np.ndarray, " n"], sizes: Int[np.ndarray, " n"]) -> tuple[float, float]:
    """95 % percentile interval of all hits over all searches, media being drawn with theirs."""
    # Media that are alike in both are drawn together: how often is multinomial.
    kinds, counts = np.unique(np.stack([hits, sizes]), axis=1, return_counts=True)
    num = len(hits)
    generator = generator_at(seed=0, index=num, stream="retrieval/bootstrap")
    draws = generator.multinomial(num, counts / num, size=RESAMPLES)
    low, high = np.quantile((draws @ kinds[0]) / (draws @ kinds[1]), [0.025, 0.975])
    return float(low), float(high)


def _captions_by_chance(sizes: Sequence[int], k: int) -> float:
    """How often one of a medium's own captions is among k of all, drawn at random."""
    num = sum(sizes)
    drawn = min(k, num)
    # It is not where all k come from the captions of others.
    missed = [comb(num - own, drawn) / comb(num, drawn) for own in sizes]
    return 1 - sum(missed) / len(sizes)


def _media_by_chance(sizes: Sequence[int], k: int) -> float:
    """How often a caption's one medium is among k of all."""
    return min(1.0, k / len(sizes))


def _repeated_captions(items: Sequence[CaptionedMedium]) -> tuple[str, ...]:
    """A note about captions that belong to several media: no vectors can tell whose they are."""
    owners = Counter(caption for item in items for caption in {*item.captions})
    repeated = sum(owners[caption] > 1 for item in items for caption in item.captions)
    if not repeated:
        return ()
    total = sum(len(item.captions) for item in items)
    return (
        f"{repeated} of {total} captions are also those of other media; such equals count against "
        "the model",
    )


def _samples(
    kind: MediumKind,
    items: Sequence[CaptionedMedium],
    before: Int[Tensor, " n"],
    media: Float[Tensor, "n e"],
    texts: Float[Tensor, "m e"],
) -> Iterator[Sample]:
    """Media with the captions that are nearest to them."""
    captions = [caption for item in items for caption in item.captions]
    for place in in_turn((before < 1).tolist(), num=NUM_SAMPLES):
        yield Sample(
            media=(read_medium(items[place].path, kind=kind),),
            asked=f"the nearest of {len(captions)} captions",
            written=captions[int((texts @ media[place]).argmax())],
            expected=items[place].captions,
            is_hit=bool(before[place] < 1),
        )
