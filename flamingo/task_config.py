"""What a run of Flamingo's main stage is told about model and data."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from common.data.augmentation import AugmentConfig
from common.errors import UserError
from flamingo import corpora
from flamingo.presets import PRESETS


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One data set of the update."""

    # Name in metrics and tables.
    name: str
    # The first three are generated; interleaved and image_pairs need a path. Conversations:
    # instructions, requests; by path: llava, m3it.
    kind: corpora.Kind
    # Folder of shards or of pairs, or a .jsonl file of documents. Of generated kinds the shards
    # that `prepare_data.py embedded` wrote, or None to generate them on the way. Of conversations
    # a file of records.
    path: Path | None = None
    # Folder that the names of media in a file of records are relative to; None: that of the file.
    media: Path | None = None
    # Rows of one update, over all ranks.
    batch_size: int
    # Factor of its loss in the update.
    weight: float
    # Share of documents whose text is bound to the next image (the paper's p_next).
    next_image_probability: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.next_image_probability <= 1:
            raise UserError(
                f"source {self.name}: next_image_probability must lie in 0..1, "
                f"not {self.next_image_probability}"
            )
        if self.batch_size < 1:
            raise UserError(f"source {self.name}: batch_size must be at least 1")


@dataclass(frozen=True, kw_only=True)
class FlamingoTaskConfig:
    """Model, data and what is trained."""

    # Preset of the architecture: flamingo_tiny, flamingo_3b, flamingo_9b or flamingo_80b.
    model: str
    # The data sets; all of them are in every update.
    sources: tuple[SourceConfig, ...]
    # Folder of a trained Flamingo to go on from, with all its parts; None: a new bridge.
    start: Path | None = None
    # Folder of a causal language model with its tokenizer; None: random weights.
    language_model: Path | None = None
    # Folder of a vision encoder from the contrastive stage; None: random weights.
    vision_encoder: Path | None = None
    # Precision in which the frozen parts are kept.
    frozen_precision: Literal["fp32", "bf16"] = "bf16"
    # Tokens of a row, packed with documents that do not see one another; a longer one is cut.
    max_tokens: int = 2048
    # Most images of a row; a document with more is cut.
    max_images: int = 8
    # Image side in pixels; None: the preset's.
    image_size: int | None = None
    # Updates at the start of training during which images are cropped and jittered at random.
    augment_steps: int = 0
    # Strength of the augmentation.
    augmentation: AugmentConfig = field(default_factory=AugmentConfig)
    # Seed of the data.
    data_seed: int = 0

    def __post_init__(self) -> None:
        if self.model not in PRESETS:
            raise UserError(f"no preset {self.model!r}; presets are {', '.join(PRESETS)}")
        if not self.sources:
            raise UserError("a run needs at least one source")
        if self.start is not None and (self.language_model or self.vision_encoder):
            raise UserError("start has all parts; leave out language_model and vision_encoder")
