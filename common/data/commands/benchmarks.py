"""Generated benchmarks in the layout of the official ones."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional


@dataclass(frozen=True, kw_only=True)
class Benchmarks:
    """Write generated images and sounds laid out as VQAv2, OK-VQA, COCO, ImageNet, ESC-50,
    AudioSet, AudioCaps and Clotho are, to try scripts/evaluate.py without a download."""

    # Folder of the benchmarks' folders.
    out: Positional[Path]
    # Images and sounds to evaluate in each, and as many to draw demonstrations from.
    num: int = 40
    # Seed of the images and sounds.
    seed: int = 0
