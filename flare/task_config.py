"""What decides a training run of FLARE, beside what every run is decided by."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from common.data.augmentation import AugmentConfig
from common.errors import UserError
from common.objectives.weighting import Kind as WeightingKind
from flare.corpora import SourceConfig
from flare.instruct.task_corpora import PAIR_KINDS
from flare.masking import MaskingConfig
from flare.presets import PRESETS

Part = Literal["vision_encoder", "vision_projector", "audio_encoder", "audio_projector", "decoder"]


@dataclass(frozen=True, kw_only=True)
class ObjectiveWeights:
    """Where the weights of the loss start; `fixed` leaves them there."""

    language: float = 1.0
    image_text: float = 0.5
    audio_text: float = 0.5
    preference: float = 1.0  # of pairs, where there are any


@dataclass(frozen=True, kw_only=True)
class FlareTaskConfig:
    """Model, objectives and data of a training run: pre-training, or tuning on conversations."""

    # Preset of the model, or the folder of a FLARE whose weights training goes on from.
    model: str
    # Packed rows of one update, over all ranks.
    batch_size: int
    # Tokens of a row, the soft tokens of images and recordings included.
    max_tokens: int
    # Longest recording; the rest is cut.
    max_seconds: float
    # Groups of similar lengths in which the recordings of a micro-batch are heard: more groups pad
    # less, but where parameters are sharded each of them gathers the audio encoder once more.
    clip_groups: int = 2
    # What the documents are drawn from.
    sources: tuple[SourceConfig, ...]
    # Decoupled weight decay of matrices and convolutions.
    weight_decay: float
    # Which tokens are hidden, in which documents, and when.
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    # How the weights of the objectives move.
    weighting: WeightingKind = "uncertainty"
    # Where they start.
    objective_weights: ObjectiveWeights = field(default_factory=ObjectiveWeights)
    # Contrast by softmax over all negatives, or by a sigmoid per pair (SigLIP).
    contrast: Literal["infonce", "siglip"] = "infonce"
    # Factor of logsumexp^2 of the logits, which keeps them from drifting.
    z_loss: float = 1e-4
    # Of pairs: how dearly the model pays for leaving what it was.
    beta: float = 0.1
    # Local weights of the vision encoder (timm's names); None: random.
    vision_encoder: Path | None = None
    # Local weights of WavLM (transformers' names); None: random.
    audio_encoder: Path | None = None
    # Folder of a tokenizer; None: that of the model's folder, or the small one of generated data.
    tokenizer: Path | None = None
    # Standard deviation of a random vision encoder's position embedding at the start: timm's 0.02
    # drowns in the patches' 0.3, and a short run would not learn to tell left from right.
    position_scale: float = 0.02
    # Parts that are not trained.
    frozen: tuple[Part, ...] = ()
    # Share of the image patches left out while training (FLIP).
    patch_drop: float = 0.0
    # Probability that a layer of WavLM is passed by while training.
    layer_drop: float = 0.0
    # Share of WavLM's frames hidden while training (SpecAugment along time).
    hidden_frames: float = 0.0
    # Updates at the start of training during which images are cropped and jittered at random.
    augment_steps: int = 0
    # Strength of the augmentation.
    augmentation: AugmentConfig = field(default_factory=AugmentConfig)
    # Generated pairs: members of a family differ in one attribute; 1 for no families.
    family_size: int = 4
    # Seed of the data.
    data_seed: int = 0

    def __post_init__(self) -> None:
        if self.folder is not None and not (self.folder / "config.json").is_file():
            raise UserError(
                f"no preset {self.model!r} and no folder of a model; presets are "
                f"{', '.join(PRESETS)}"
            )
        if not self.sources:
            raise UserError("no sources; give at least one, e.g. kind scenes")
        if self.z_loss < 0:
            raise UserError(f"z_loss must not be negative, but is {self.z_loss}")
        if self.beta <= 0:
            raise UserError(f"beta must be above 0, but is {self.beta}")
        if self.position_scale < 0:
            raise UserError(f"position_scale must not be negative, but is {self.position_scale}")
        for name in ("patch_drop", "layer_drop", "hidden_frames"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise UserError(f"{name} must lie in 0..1, 1 excluded, not {value}")

    @property
    def pairs(self) -> tuple[SourceConfig, ...]:
        """The sources that are pairs of answers."""
        return tuple(source for source in self.sources if source.kind in PAIR_KINDS)

    @property
    def folder(self) -> Path | None:
        """Of the model that training goes on from; None where a preset is built anew."""
        return None if self.model in PRESETS else Path(self.model)
