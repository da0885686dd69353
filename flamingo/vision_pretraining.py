"""The first stage: a vision encoder learns from image-caption pairs (paper, appendix B.1.3).

The image tower is the encoder that Flamingo freezes later, its tokens averaged and projected; the
text tower is a small bidirectional Transformer; both meet in InfoNCE with a learned temperature.
Only the image tower is exported. Negatives are the other captions of the update, over all ranks and
micro-batches.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from common.checkpoint.pretrained import read_part
from common.data.augmentation import AugmentConfig
from common.data.corpus import Corpus, MadeCorpus, Split
from common.data.feed import Feed, mixed
from common.data.shards.corpus import open_shards
from common.data.transfer import on_device
from common.encoders.text import TextEncoder
from common.encoders.vision import VisionEncoder
from common.errors import UserError
from common.evaluation.metrics.recall import recalls
from common.objectives.contrastive import Contrast, clamped_scale, info_nce
from common.parallel.sharding import Sharding
from common.training.task import Computed, Gather, Pairs, ParameterGroup
from flamingo.caption_pairs import (
    Group,
    PairBatch,
    PairSource,
    generated_groups,
    generated_pairs,
    held_out_groups,
)
from flamingo.corpora import EMBEDDED_VOCAB_SIZE, embedded_tokenizer, open_corpus
from flamingo.parallelize import parallelize_towers
from flamingo.presets import PRESETS

INITIAL_SCALE = 1 / 0.07  # of the logits, as in CLIP
VALIDATION_CAPTIONS = 64  # distinct captions that compete for an image
VALIDATION_GROUPS = 4
RECALL_AT = (1, 5)
SAMPLE_IMAGES = 3  # per kind of held-out data


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig:
    """Towers and data of the contrastive stage."""

    # Preset whose vision encoder is trained.
    model: str
    # Pairs of one update, over all ranks; all of them are one another's negatives.
    batch_size: int
    # Width of the space in which images and captions meet.
    embedding_dim: int
    # Width of the text tower.
    text_dim: int
    # Blocks of the text tower.
    text_layers: int
    # Attention heads of the text tower.
    text_heads: int
    # Longest caption in tokens; the rest is cut.
    max_tokens: int
    # Decoupled weight decay of matrices and convolutions.
    weight_decay: float
    # Image side in pixels; None: the preset's.
    image_size: int | None = None
    # Folders of image-caption pairs, or of shards of them; none: generated scenes and digits.
    pairs: tuple[Path, ...] = ()
    # Pairs of each folder in proportion to those of the others; none: all alike.
    pair_weights: tuple[float, ...] = ()
    # Folder of a tokenizer; None: the small byte-level one of the generated data.
    tokenizer: Path | None = None
    # Initial gain of an NFNet's residual branches: 0 as published; 1 lets a short run use them.
    residual_gain: float = 0.0
    # Generated data: the shards that `prepare_data.py embedded` wrote; None: generated on the way.
    generated: Path | None = None
    # Generated data: scenes of a family differ in one attribute; 1 for no families.
    family_size: int = 4
    # Generated data: share of handwritten digits.
    digit_share: float = 0.15
    # Updates at the start of training during which images are cropped and jittered at random.
    augment_steps: int = 0
    # Strength of the augmentation.
    augmentation: AugmentConfig = field(default_factory=AugmentConfig)
    # Seed of the data.
    data_seed: int = 0

    def __post_init__(self) -> None:
        if self.model not in PRESETS:
            raise UserError(f"no preset {self.model!r}; presets are {', '.join(PRESETS)}")
        if self.batch_size < 2:
            raise UserError(f"batch_size={self.batch_size} leaves no negatives; use at least 2")
        if self.family_size < 1:
            raise UserError(f"family_size must be at least 1, not {self.family_size}")
        if self.pair_weights and len(self.pair_weights) != len(self.pairs):
            raise UserError(
                f"{len(self.pairs)} folders of pairs need as many pair_weights, not "
                f"{len(self.pair_weights)}"
            )
        if self.pairs and self.generated is not None:
            raise UserError("give pairs or generated, not both")
        if not 0 <= self.digit_share <= 1:
            raise UserError(f"digit_share must lie in 0..1, not {self.digit_share}")


class ContrastiveModel(nn.Module):
    """Two towers and a temperature."""

    def __init__(self, *, vision: VisionEncoder, text: TextEncoder, embedding_dim: int) -> None:
        super().__init__()
        self.vision = vision
        self.token_norm = nn.LayerNorm(vision.dim)
        self.image_projection = nn.Linear(vision.dim, embedding_dim, bias=False)
        self.text = text
        self.log_scale = nn.Parameter(torch.full((1,), math.log(INITIAL_SCALE)))

    def encode_images(self, pixels: UInt8[Tensor, "b c y x"]) -> Float[Tensor, "b d"]:
        """Vectors of images, not normalised: the mean of the normed tokens, projected."""
        return self.image_projection(self.token_norm(self.vision(pixels)).mean(dim=1))

    def encode_captions(
        self, input_ids: Int[Tensor, "b s"], *, valid: Bool[Tensor, "b s"]
    ) -> Float[Tensor, "b d"]:
        """Vectors of captions, not normalised."""
        return self.text(input_ids, valid=valid)


class ContrastiveTask:
    """`ContrastiveConfig` made real; see `common.training.task.Task` for the methods."""

    def __init__(self, config: ContrastiveConfig) -> None:
        self.config = config

    def build_model(self) -> ContrastiveModel:
        """Both towers with random weights."""
        text = TextEncoder(
            vocab_size=len(self.tokenizer),
            dim=self.config.text_dim,
            num_layers=self.config.text_layers,
            num_heads=self.config.text_heads,
            feed_forward_dim=4 * self.config.text_dim,
            output_dim=self.config.embedding_dim,
        )
        vision = self._build_encoder()
        _set_residual_gain(vision, self.config.residual_gain)
        return ContrastiveModel(vision=vision, text=text, embedding_dim=self.config.embedding_dim)

    def blocks(self, model: ContrastiveModel) -> Iterator[nn.Module]:
        """Of both towers."""
        yield from model.vision.blocks
        yield from model.text.blocks

    def parallelize(self, model: ContrastiveModel, sharding: Sharding) -> None:
        """Block by block."""
        parallelize_towers(vision=model.vision, text=model.text, sharding=sharding)

    def sources(self) -> Mapping[str, PairSource]:
        """One source: all pairs."""
        return {"pairs": self._source}

    def parameter_groups(self, model: ContrastiveModel) -> list[ParameterGroup]:
        """Decay on matrices and convolutions only, not on gains, biases and the temperature."""
        trained = [p for p in model.parameters() if p.requires_grad]
        matrices = [p for p in trained if p.numel() > max(p.shape)]
        vectors = [p for p in trained if p.numel() == max(p.shape)]
        decay = self.config.weight_decay
        return [
            ParameterGroup(name="matrices", parameters=matrices, weight_decay=decay),
            ParameterGroup(name="vectors", parameters=vectors, weight_decay=0.0),
        ]

    def counts(self, source: str, batch: PairBatch) -> Mapping[str, int]:
        """Number of pairs."""
        return {"contrastive": len(batch.keys)}

    def compute(self, model: ContrastiveModel, source: str, batch: PairBatch) -> Computed:
        """Nothing but vectors to be contrasted."""
        return Computed(pairs=self.pairs(model, source, batch))

    def pairs(self, model: ContrastiveModel, source: str, batch: PairBatch) -> Mapping[str, Pairs]:
        """Vectors of the images and of their captions."""
        return {
            "contrastive": Pairs(
                media=model.encode_images(batch.pixels),
                text=model.encode_captions(batch.input_ids, valid=batch.valid),
                ids=batch.caption_ids,
            )
        }

    def contrast(
        self, model: ContrastiveModel, term: str, pairs: Pairs, *, gather: Gather
    ) -> Contrast:
        """InfoNCE of the local pairs against all pairs of the update."""
        return info_nce(
            pairs.media,
            pairs.text,
            log_scale=model.log_scale,
            duplicates=pairs.ids,
            gather=gather,
        )

    def flops(self, model: ContrastiveModel, source: str, batch: PairBatch) -> float:
        """Three forward passes: counted for an image, 2 N per token of a caption."""
        blocks = sum(p.numel() for p in model.text.blocks.parameters())
        words = int(batch.valid.sum())
        return 3.0 * (self._flops_per_image * len(batch.keys) + 2 * blocks * words)

    def tokens(self, batch: PairBatch) -> int:
        """Tokens of captions, without padding, and of images."""
        return int(batch.valid.sum()) + self._meta_encoder.num_tokens * len(batch.keys)

    def monitor(self, model: ContrastiveModel) -> dict[str, float]:
        """The factor of the similarities: one over the temperature."""
        return {"temperature/scale": clamped_scale(model.log_scale.detach()).item()}

    @torch.no_grad()
    def validate(self, model: ContrastiveModel) -> dict[str, float]:
        """Recall at 1 and 5 among distinct captions, both ways, per kind of held-out data."""
        figures = {}
        for name, groups in self._held_out.items():
            tables = [self._recalls(model, group) for group in groups]
            for key in tables[0]:
                values = [table[key] for table in tables]
                figures[f"validation/{name}_{key}"] = sum(values) / len(values)
        return figures

    @torch.no_grad()
    def samples(self, model: ContrastiveModel) -> list[str]:
        """The caption that a held-out image would choose, and its own."""
        lines = []
        for name, (group, *_) in self._held_out.items():
            chosen = self._similarities(model, group)[:SAMPLE_IMAGES].argmax(dim=1).tolist()
            lines += [
                f"{name}: {group[choice].text} (data: {pair.text})"
                for pair, choice in zip(group, chosen, strict=False)
            ]
        return lines

    def export(self, model: ContrastiveModel, folder: Path) -> None:
        """The vision encoder alone, as `VisionEncoder.from_folder` reads it."""
        model.vision.save(folder)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The text tower's tokenizer."""
        folder = self.config.tokenizer
        if folder is None:
            return embedded_tokenizer(EMBEDDED_VOCAB_SIZE)
        if not folder.is_dir():
            raise UserError(f"tokenizer folder {folder} does not exist; check the path")
        return read_part(AutoTokenizer, folder, what="tokenizer")

    @cached_property
    def _source(self) -> PairSource:
        return PairSource(
            feed=self._feed("train"),
            tokenizer=self.tokenizer,
            image_size=self._image_size,
            max_tokens=self.config.max_tokens,
            batch_size=self.config.batch_size,
            weight=1.0,
            augment_steps=self.config.augment_steps,
            augmentation=self.config.augmentation,
            seed=self.config.data_seed,
        )

    def _feed(self, split: Split) -> Feed:
        """The user's pairs, or generated ones to train on, in the order of their families."""
        own = self.config.pairs
        if not own:
            return mixed([self._generated_pairs()], seed=self.config.data_seed, visits=["stored"])
        return mixed(
            self._own_pairs(split),
            seed=self.config.data_seed,
            visits=["shuffled"] * len(own),
            weights=self.config.pair_weights or [1.0] * len(own),
        )

    def _own_pairs(self, split: Split) -> list[Corpus]:
        seed, tokenizer = self.config.data_seed, self.tokenizer
        return [
            open_corpus("image_pairs", path=path, split=split, seed=seed, tokenizer=tokenizer)
            for path in self.config.pairs
        ]

    def _generated_pairs(self) -> Corpus:
        config = self.config
        if config.generated is not None:
            return open_shards(config.generated)
        make = generated_pairs(
            seed=config.data_seed, family_size=config.family_size, digit_share=config.digit_share
        )
        digest = f"pairs/{config.data_seed}/{config.family_size}/{config.digit_share}"
        return MadeCorpus("pairs", make, digest=digest, tokenizer=self.tokenizer)

    @cached_property
    def _held_out(self) -> Mapping[str, Sequence[Group]]:
        captions, groups = VALIDATION_CAPTIONS, VALIDATION_GROUPS
        if not self.config.pairs:
            return generated_groups(seed=self.config.data_seed, captions=captions, groups=groups)
        return held_out_groups(self._feed("validation"), captions=captions, groups=groups)

    @property
    def _image_size(self) -> int:
        return self.config.image_size or PRESETS[self.config.model]().vision_config.image_size

    def _build_encoder(self) -> VisionEncoder:
        vision = PRESETS[self.config.model]().vision_config
        return VisionEncoder(
            name=vision.name,
            image_size=self._image_size,
            model_options=vision.model_options or {},
            mean=vision.image_mean,
            std=vision.image_std,
        )

    @cached_property
    def _meta_encoder(self) -> VisionEncoder:
        with torch.device("meta"):
            return self._build_encoder()

    @cached_property
    def _flops_per_image(self) -> int:
        size = self._image_size
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self._meta_encoder(torch.zeros(1, 3, size, size, device="meta"))
        return int(counter.get_total_flops())

    def _recalls(self, model: ContrastiveModel, group: Group) -> dict[str, float]:
        similarities = self._similarities(model, group)
        return recalls(similarities, rows="image", columns="text", at=RECALL_AT)

    def _similarities(self, model: ContrastiveModel, group: Group) -> Float[Tensor, "b b"]:
        """Cosines of the group's images (rows) and captions (columns)."""
        batch = self._source.collate([self._source.encode(pair) for pair in group])
        batch = on_device(batch, model.log_scale.device)
        image = F.normalize(model.encode_images(batch.pixels).float(), dim=-1)
        text = model.encode_captions(batch.input_ids, valid=batch.valid)
        return image @ F.normalize(text.float(), dim=-1).T


def tiny_contrastive() -> ContrastiveConfig:
    """The tiny preset's stage on generated data.

    Goes with AdamW at 2e-3, betas 0.9 and 0.95, 40 updates of warm-up, cosine to 0, clip 1.0.
    """
    return ContrastiveConfig(
        model="flamingo_tiny",
        batch_size=128,
        embedding_dim=64,
        text_dim=64,
        text_layers=2,
        text_heads=4,
        max_tokens=32,
        weight_decay=0.05,
        residual_gain=1.0,
    )


def _set_residual_gain(vision: VisionEncoder, gain: float) -> None:
    """Only NFNets have such gains; other encoders are left as they are."""
    for name, parameter in vision.named_parameters():
        if name.endswith("skipinit_gain"):
            nn.init.constant_(parameter, gain)
