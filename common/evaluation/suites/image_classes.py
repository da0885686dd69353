"""Zero-shot classification of images as CLIP's: an image belongs to the class whose prompts it is
most similar to, their vectors averaged over the templates. ImageNet's validation tree, or any
folder of classes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from common.data.images import read_image
from common.errors import UserError
from common.evaluation.benchmarks.image_classes import read_classified_images, read_templates
from common.evaluation.benchmarks.items import LabelledImage
from common.evaluation.scores import Sample, Score, SuiteResult
from common.evaluation.shots.demonstrations import part_of
from common.evaluation.shots.figures import in_turn
from common.evaluation.suites.embedding import (
    chance_score,
    class_vectors,
    classes_note,
    medium_vectors,
    ranks,
    share_score,
)
from common.evaluation.work import Workplace

NUM_SAMPLES = 8
TEMPLATES = ("a photo of a {}.",)


@dataclass(frozen=True, kw_only=True)
class ImageClassesConfig:
    """Whether images are most similar to the names of their classes."""

    # Folder that holds a folder of images for each class.
    images: Path
    # Lines `n01440764 tench, Tinca tinca` (LOC_synset_mapping.txt); none: folders bear the names.
    names: Path | None = None
    # Templates, one a line, such as `a photo of a {}.`, which is the only one if none are given.
    templates: Path | None = None
    # Each k of top-k.
    at: tuple[int, ...] = (1, 5)
    # What the report calls the benchmark.
    title: str = "ImageNet"

    def __post_init__(self) -> None:
        if not self.at or min(self.at) < 1:
            raise UserError(f"{self.at=}: name a k, numbers from 1 on")


def run_image_classes(config: ImageClassesConfig, model: object, work: Workplace) -> SuiteResult:
    """Top-k accuracy with Wilson intervals, over all images and per class.

    Raises:
        UserError: a file is malformed, or the model does not embed texts and images.
    """
    found = read_classified_images(config.images, names=config.names)
    templates = TEMPLATES if config.templates is None else read_templates(config.templates)
    items = part_of(found.images, work.limit)  # of all classes some, for they come in their order
    classes = class_vectors(found.names, templates=templates, model=model, work=work)
    images = medium_vectors(
        [item.image for item in items],
        keys=[item.image.relative_to(config.images).as_posix() for item in items],
        kind="image",
        model=model,
        work=work,
    )
    labels = torch.tensor([item.label for item in items])
    before = ranks(images, classes, row_owner=labels, column_owner=torch.arange(len(classes)))
    return SuiteResult(
        name=f"{config.title} zero-shot",
        scores=tuple(_scores(found.names, before, labels, config=config)),
        samples=tuple(_samples(found.names, items, before, images, classes)),
        notes=(classes_note(found.names, templates),),
    )


def _scores(
    names: Sequence[str],
    before: Int[Tensor, " n"],
    labels: Int[Tensor, " n"],
    *,
    config: ImageClassesConfig,
) -> Iterator[Score]:
    for k in config.at:
        yield share_score(f"top-{k} accuracy", before < k)
        share = min(1.0, k / len(names))
        yield chance_score(f"top-{k} accuracy", share, num=len(before))
    first = config.at[0]
    for label in labels.unique().tolist():
        own = before[labels == label] < first
        yield share_score(f"top-{first} accuracy", own, part={"class": names[label]})


def _samples(
    names: Sequence[str],
    items: Sequence[LabelledImage],
    before: Int[Tensor, " n"],
    images: Float[Tensor, "n e"],
    classes: Float[Tensor, "k e"],
) -> Iterator[Sample]:
    for place in in_turn((before < 1).tolist(), num=NUM_SAMPLES):
        item = items[place]
        yield Sample(
            media=(read_image(item.image),),
            asked=f"the nearest of {len(names)} classes",
            written=names[int((classes @ images[place]).argmax())],
            expected=(names[item.label],),
            is_hit=bool(before[place] < 1),
        )
