"""Zero-shot classification of sounds by the vectors of prompts that name their classes: ESC-50,
where each clip has one of 50, and AudioSet, where each has some of 527 and every class ranks all
clips."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from common.data.audio import read_audio
from common.errors import UserError
from common.evaluation.benchmarks.image_classes import read_templates
from common.evaluation.benchmarks.items import ClassifiedSounds
from common.evaluation.benchmarks.sounds import ESC50_FOLDS, read_audio_set, read_esc50
from common.evaluation.metrics.average_precision import average_precision
from common.evaluation.metrics.recall import num_before
from common.evaluation.scores import Sample, Score, SuiteResult
from common.evaluation.shots.demonstrations import part_of
from common.evaluation.shots.figures import in_turn
from common.evaluation.suites.embedding import (
    chance_score,
    class_vectors,
    classes_note,
    medium_vectors,
    missing_clips,
    share_score,
)
from common.evaluation.work import Workplace

NUM_SAMPLES = 8
TEMPLATES = ("this is a sound of {}.",)


@dataclass(frozen=True, kw_only=True)
class SoundClassesConfig:
    """Whether recordings are most similar to the names of their classes."""

    # Whose official files these are.
    dataset: Literal["esc50", "audioset"]
    # ESC-50's folder, which holds meta and audio; AudioSet's folder of clips.
    sounds: Path
    # AudioSet's eval_segments.csv.
    segments: Path | None = None
    # AudioSet's class_labels_indices.csv.
    classes: Path | None = None
    # Templates, one a line, such as `this is a sound of {}.`, the only one if none are given.
    templates: Path | None = None

    def __post_init__(self) -> None:
        given = [self.segments, self.classes]
        if self.dataset == "audioset" and None in given:
            raise UserError("audioset needs --segments and --classes, its two tables")
        if self.dataset == "esc50" and given != [None, None]:
            raise UserError("esc50 takes no segments and classes, which are AudioSet's tables")


def run_sound_classes(config: SoundClassesConfig, model: object, work: Workplace) -> SuiteResult:
    """ESC-50's accuracy in all, per fold and per class; AudioSet's macro mean average precision.

    Raises:
        UserError: a file is malformed, or the model does not embed texts and sounds.
    """
    listed = _read(config)
    found = replace(listed, sounds=tuple(part_of(listed.sounds, work.limit)))
    templates = TEMPLATES if config.templates is None else read_templates(config.templates)
    classes = class_vectors(found.names, templates=templates, model=model, work=work)
    sounds = medium_vectors(
        [item.sound for item in found.sounds],
        keys=[f"{place}_{item.key}" for place, item in enumerate(found.sounds)],
        kind="sound",
        model=model,
        work=work,
    )
    cosines = sounds @ classes.T
    labels = torch.zeros(cosines.shape, dtype=torch.bool)
    for place, item in enumerate(found.sounds):
        labels[place, list(item.labels)] = True
    is_hit = num_before(cosines, labels) < 1
    if config.dataset == "esc50":
        name, scores = "ESC-50 zero-shot", _accuracies(config, found, is_hit)
    else:
        name, scores = "AudioSet zero-shot", _precisions(found, cosines, labels)
    return SuiteResult(
        name=name,
        scores=tuple(scores),
        samples=tuple(_samples(found, is_hit, cosines)),
        notes=(
            classes_note(found.names, templates),
            *missing_clips(listed.missing, num_found=len(listed.sounds)),
        ),
    )


def _read(config: SoundClassesConfig) -> ClassifiedSounds:
    if config.segments is None or config.classes is None:
        return read_esc50(config.sounds)
    return read_audio_set(config.segments, config.classes, sounds=config.sounds)


def _accuracies(
    config: SoundClassesConfig, found: ClassifiedSounds, is_hit: Bool[Tensor, " n"]
) -> Iterator[Score]:
    yield share_score("accuracy", is_hit)
    yield chance_score("accuracy", 1 / len(found.names), num=len(is_hit))
    for fold in ESC50_FOLDS:
        own = {item.key for item in read_esc50(config.sounds, folds=(fold,)).sounds}
        chosen = torch.tensor([item.key in own for item in found.sounds])
        if chosen.any():
            yield share_score("accuracy", is_hit[chosen], part={"fold": str(fold)})
    labels = torch.tensor([item.labels[0] for item in found.sounds])
    for label in labels.unique().tolist():
        part = {"class": found.names[label]}
        yield share_score("accuracy", is_hit[labels == label], part=part)


def _precisions(
    found: ClassifiedSounds, cosines: Float[Tensor, "n k"], labels: Bool[Tensor, "n k"]
) -> Iterator[Score]:
    """Classes without a clip have no figure, as there is nothing to find."""
    each = {
        label: average_precision(cosines[:, label].numpy(), labels[:, label].numpy())
        for label in labels.any(dim=0).nonzero()[:, 0].tolist()
    }
    num = len(labels)
    chance = [_expected_precision(int(labels[:, label].sum()), num) for label in each]
    yield Score(metric="mAP", value=100 * float(np.mean([*each.values()])), num=num)
    yield chance_score("mAP", float(np.mean(chance)), num=num)
    for label, precision in each.items():
        part = {"class": found.names[label]}
        yield Score(metric="average precision", value=100 * precision, num=num, part=part)


def _expected_precision(positives: int, num: int) -> float:
    """Average precision of an order drawn at random, on average: 1 of 2 -> 0.75."""
    places = np.arange(1, num + 1)
    # Behind a clip that was found, the others that were found before it are spread evenly.
    others = (places - 1) * (positives - 1) / max(num - 1, 1)
    return float(np.mean((1 + others) / places))


def _samples(
    found: ClassifiedSounds, is_hit: Bool[Tensor, " n"], cosines: Float[Tensor, "n k"]
) -> Iterator[Sample]:
    for place in in_turn(is_hit.tolist(), num=NUM_SAMPLES):
        item = found.sounds[place]
        yield Sample(
            media=(read_audio(item.sound),),
            asked=f"the nearest of {len(found.names)} classes",
            written=found.names[int(cosines[place].argmax())],
            expected=tuple(found.names[label] for label in item.labels),
            is_hit=bool(is_hit[place]),
        )
