"""Chapter: examples with their media, hits and misses as the suites have chosen them."""

from pathlib import Path
from textwrap import shorten

import PIL.Image
from matplotlib.figure import Figure

from common.data.document import Recording
from common.evaluation.caption_plots import draw_medium
from common.evaluation.models import Medium
from common.evaluation.scores import Sample
from common.evaluation.suite_files import read_result
from common.evaluation.suite_plots import expected_words
from common.evaluation.technical_report.document import (
    Block,
    Card,
    Chapter,
    Origin,
    Sheet,
    paragraph,
)
from common.evaluation.technical_report.inputs import Inputs

MOST = 8  # of a benchmark
LONGEST = 90  # characters of a text
MOST_PIXELS = 384  # along a side


def examples(inputs: Inputs, pictures: Path) -> Chapter | None:
    """A sheet for each suite; None where no suite kept samples."""
    blocks: list[Block] = []
    for number, evaluation in enumerate(inputs.evaluations):
        samples = read_result(evaluation.folder).samples[:MOST] if evaluation.is_suite else ()
        if samples:
            cards = tuple(
                _card(sample, pictures / f"example_{number:02d}_{place}.png")
                for place, sample in enumerate(samples)
            )
            caption = f"{evaluation.results.data['name']}, {evaluation.model_name}."
            origin = Origin(file=evaluation.results.file, key=("samples",))
            blocks.append(Sheet(cards=cards, caption=caption, origins=(origin,)))
    if not blocks:
        return None
    words = (
        "Hits in green, misses in red with what was expected, chosen by the suites and not by "
        "hand. Recordings are spectrograms."
    )
    return Chapter(title="Examples", blocks=(paragraph(words), *blocks))


def _card(sample: Sample, file: Path) -> Card:
    medium = sample.media[-1] if sample.media else None  # those before it are demonstrations
    if medium is not None:
        _draw(medium, file)
    return Card(
        file=None if medium is None else file,
        is_photo=not isinstance(medium, Recording),
        asked=shorten(sample.asked, LONGEST, placeholder=" …"),
        written=shorten(sample.written, LONGEST, placeholder=" …") or "(nothing)",
        expected=shorten(expected_words(sample), LONGEST, placeholder=" …"),
        is_hit=sample.is_hit,
    )


def _draw(medium: Medium, file: Path) -> None:
    if not isinstance(medium, Recording):
        image = PIL.Image.fromarray(medium)
        image.thumbnail((MOST_PIXELS, MOST_PIXELS))
        image.save(file)
        return
    figure = Figure(figsize=(1.9, 1.9), layout="constrained")
    draw_medium(figure.subplots(), medium)
    figure.savefig(file, dpi=150)
    # Few colours are enough for a spectrogram, and a fraction of the bytes.
    PIL.Image.open(file).convert("RGB").quantize(64).save(file, optimize=True)
