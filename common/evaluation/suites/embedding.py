"""What the suites that compare vectors share: vectors of media and texts, made in batches that
survive an interruption, and the ranks that follow from their cosines."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.data.audio import read_audio
from common.data.images import read_image
from common.errors import UserError
from common.evaluation.benchmarks.image_classes import prompts
from common.evaluation.intervals import wilson_interval
from common.evaluation.metrics.recall import num_before
from common.evaluation.models import ImageEmbedder, SoundEmbedder, TextEmbedder
from common.evaluation.scores import Score
from common.evaluation.shots.exemplars import MediumKind
from common.evaluation.work import Workplace, vectors

ROWS_AT_ONCE = 1024  # of a table of cosines


def medium_vectors(
    paths: Sequence[Path],
    *,
    keys: Sequence[str],
    kind: MediumKind,
    model: object,
    work: Workplace,
) -> Float[Tensor, "n e"]:
    """Vectors of media, which are decoded batch by batch.

    Raises:
        UserError: the model embeds no media of this kind, or a file is damaged.
    """
    return vectors(paths, keys=keys, embed=_embedder(model, kind), work=work, name=kind)


def text_vectors(
    texts: Sequence[str], *, keys: Sequence[str], model: object, work: Workplace
) -> Float[Tensor, "n e"]:
    """Vectors of captions or prompts.

    Raises:
        UserError: the model embeds no texts.
    """
    if not isinstance(model, TextEmbedder):
        raise UserError(f"{type(model).__name__} embeds no texts; evaluate a contrastive model")
    return vectors(texts, keys=keys, embed=model.text_vectors, work=work, name="text")


def class_vectors(
    names: Sequence[str], *, templates: Sequence[str], model: object, work: Workplace
) -> Float[Tensor, "k e"]:
    """Vectors of classes: those of all their prompts averaged, then of length 1 again, as CLIP's.

    Raises:
        UserError: the model embeds no texts.
    """
    found = text_vectors(
        [prompt for name in names for prompt in prompts(name, templates)],
        keys=[f"{label}/{place}" for label in range(len(names)) for place in range(len(templates))],
        model=model,
        work=work,
    )
    each = rearrange(found, "(k p) e -> k p e", k=len(names))
    return F.normalize(each.mean(dim=1), dim=-1)


def ranks(
    rows: Float[Tensor, "n e"],
    columns: Float[Tensor, "m e"],
    *,
    row_owner: Int[Tensor, " n"],
    column_owner: Int[Tensor, " m"],
) -> Int[Tensor, " n"]:
    """How many columns of others are as similar to each row as the best of its own or more."""
    starts = range(0, len(rows), ROWS_AT_ONCE)
    parts = [slice(start, start + ROWS_AT_ONCE) for start in starts]
    return torch.cat(
        [
            num_before(rows[part] @ columns.T, row_owner[part, None] == column_owner)
            for part in parts
        ]
    )


def share_score(
    metric: str, is_hit: Bool[Tensor, " n"], *, part: Mapping[str, str] | None = None
) -> Score:
    """How many of some examples are hits, in per cent, with Wilson's interval."""
    hits, num = int(is_hit.sum()), len(is_hit)
    low, high = wilson_interval(hits, num)
    return Score(
        metric=metric,
        value=100 * hits / num,
        num=num,
        interval=(100 * low, 100 * high),
        part=part or {},
    )


def chance_score(metric: str, share: float, *, num: int) -> Score:
    """What answers drawn at random reach on average, in per cent."""
    return Score(metric=metric, value=100 * share, num=num, setting={"baseline": "chance"})


def classes_note(names: Sequence[str], templates: Sequence[str]) -> str:
    """`6 classes in prompts as 'a photo of a {}.' and 2 more`"""
    others = f" and {len(templates) - 1} more" if len(templates) > 1 else ""
    return f"{len(names)} classes in prompts as {templates[0]!r}{others}"


def missing_clips(missing: Sequence[str], *, num_found: int) -> tuple[str, ...]:
    """A note about clips that are listed but have no file: `3 of 975 clips were missing`."""
    total = num_found + len(missing)
    return (f"{len(missing)} of {total} clips were missing",) if missing else ()


def _embedder(model: object, kind: MediumKind) -> Callable[[Sequence[Path]], Tensor]:
    if kind == "image" and isinstance(model, ImageEmbedder):
        return lambda paths: model.image_vectors([read_image(path) for path in paths])
    if kind == "sound" and isinstance(model, SoundEmbedder):
        return lambda paths: model.sound_vectors([read_audio(path) for path in paths])
    raise UserError(f"{type(model).__name__} embeds no {kind}s; evaluate a model that does")
