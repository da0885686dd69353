"""Pictures of captions: media in a grid, images as they are and recordings as spectrograms, each
above what the model wrote and, where that differs, what is true."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.data.document import SAMPLE_RATE_HZ, Image, Recording

COLUMNS = 4
WINDOW = 512  # samples of a spectrum
LOUDEST_DB, SOFTEST_DB = 0.0, -60.0


@dataclass(frozen=True, kw_only=True)
class CaptionedMedium:
    """A medium, the caption written from it and its true one."""

    medium: Image | Recording
    written: str
    true: str


def captions_picture(items: Sequence[CaptionedMedium], path: Path) -> None:
    """Right captions in green; others in red above the true ones."""
    rows = -(-len(items) // COLUMNS)
    figure = Figure(figsize=(3.1 * COLUMNS, 2.9 * rows), layout="constrained")
    for axes in (panels := figure.subplots(rows, COLUMNS, squeeze=False).flatten()):
        axes.set_axis_off()
    for axes, item in zip(panels[: len(items)], items, strict=True):
        axes.set_axis_on()
        draw_medium(axes, item.medium)
        is_right = item.written.strip() == item.true.strip()
        lines = [item.written.strip() or "(nothing)", *([] if is_right else [f"({item.true})"])]
        axes.set_title(
            "\n".join(fill(line, 36) for line in lines),
            fontsize=9,
            color="#2a7a2a" if is_right else "#b02020",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def draw_medium(axes: Axes, medium: Image | Recording) -> None:
    """An image as it is, a recording as a spectrogram with its scales."""
    if not isinstance(medium, Recording):
        axes.imshow(medium)
        axes.set(xticks=[], yticks=[])
        return
    loudness = _spectrogram(medium)
    seconds = len(medium.samples) / SAMPLE_RATE_HZ
    axes.imshow(
        loudness,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=SOFTEST_DB,
        vmax=LOUDEST_DB,
        extent=(0, seconds, 0, SAMPLE_RATE_HZ / 2000),
    )
    axes.set_xlabel("s", fontsize=8)
    axes.set_ylabel("kHz", fontsize=8)
    axes.tick_params(labelsize=7)


def _spectrogram(recording: Recording) -> np.ndarray:
    """Decibels below the loudest, frequencies by time."""
    padded = np.pad(recording.samples, (0, max(0, WINDOW - len(recording.samples))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[:: WINDOW // 4]
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW), axis=1)).T
    return 20 * np.log10(power / max(power.max(), 1e-12) + 1e-6)
