"""A sheet of samples as training meets them: images as they are, recordings as spectrograms, texts
wrapped, the parts of a document one below the other."""

from collections.abc import Sequence
from itertools import accumulate, zip_longest
from pathlib import Path
from textwrap import shorten, wrap
from typing import TypeAlias

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.data.document import SAMPLE_RATE_HZ, Document, Image, Recording

COLUMNS = 4
PARTS_SHOWN = 4
LINE, LINES = 38, 12  # characters, and lines of a text that are shown
LINE_HEIGHT, MEDIUM_HEIGHT = 0.15, 2.2  # inches
WINDOW = 256  # samples of a spectrum
Part: TypeAlias = str | Image | Recording


def samples_picture(documents: Sequence[Document], path: Path) -> None:
    """The first parts of each document in a column of its own, its key above."""
    bands = [documents[i : i + COLUMNS] for i in range(0, len(documents), COLUMNS)]
    rows = [row for band in bands for row in _rows(band)]
    heights = [max(map(_height, row)) for row in rows]
    figure = Figure(figsize=(3.2 * COLUMNS, sum(heights) + 0.4 * len(bands)), layout="constrained")
    grid = figure.subplots(len(rows), COLUMNS, squeeze=False, height_ratios=heights)
    for panels, row in zip(grid, rows, strict=True):
        for axes, part in zip(panels, row, strict=True):
            axes.set_axis_off()
            _draw(axes, part)
    ends = accumulate(len(_rows(band)) for band in bands)
    for end, band in zip(ends, bands, strict=True):
        first = grid[end - len(_rows(band))]
        for axes, document in zip(first[: len(band)], band, strict=True):
            title = shorten(document.key, LINE)
            axes.set_title(title, fontsize=7, loc="left", color="#666666")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def _rows(band: Sequence[Document]) -> list[tuple[Part, ...]]:
    """First parts, second parts, ... of some documents, empty texts where there are none."""
    columns = [document.parts[:PARTS_SHOWN] for document in band]
    columns += [()] * (COLUMNS - len(band))
    return list(zip_longest(*columns, fillvalue=""))


def _height(part: Part) -> float:
    return 0.1 + LINE_HEIGHT * len(_lines(part)) if isinstance(part, str) else MEDIUM_HEIGHT


def _lines(text: str) -> list[str]:
    lines = [line for paragraph in text.splitlines() for line in wrap(paragraph, LINE)]
    return lines[:LINES] + ["..."] * (len(lines) > LINES)


def _draw(axes: Axes, part: Part) -> None:
    if isinstance(part, str):
        # A dollar would begin a formula.
        text = "\n".join(_lines(part)).replace("$", r"\$")
        axes.text(0, 1, text, fontsize=8, va="top", transform=axes.transAxes)
    elif isinstance(part, Recording):
        axes.set_axis_on()
        # The least of noise, since the logarithm of silence is none.
        samples = part.samples + 1e-6
        axes.specgram(samples, NFFT=WINDOW, Fs=SAMPLE_RATE_HZ, noverlap=WINDOW // 2, cmap="magma")
        axes.set_xlabel(f"{len(part.samples) / SAMPLE_RATE_HZ:.1f} s", fontsize=7)
        axes.set(xticks=[], yticks=[])
    else:
        axes.imshow(part)
