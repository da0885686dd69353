"""FLARE's training task: one language model learns from text, images and sounds at once.

    loss = w1 * (rho * masked + (1 - rho) * causal)  +  w2 * image-text  +  w3 * audio-text

Masked and causal are next-token losses of the documents that see both directions and of those that
see the past only; the contrasts are taken over the whole update, whatever it is cut into. The
weights w move with the losses (`common/objectives/weighting.py`). Every part of the model runs in
every micro-batch, with or without images and recordings in it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from common.attention.masks import causal
from common.checkpoint.pretrained import read_config, read_model
from common.data.document import SAMPLE_RATE_HZ, Document
from common.data.packing import PackState
from common.data.transfer import on_device
from common.errors import UserError
from common.objectives.contrastive import (
    Contrast,
    clamp_scale_,
    clamped_scale,
    info_nce,
    sigmoid_loss,
)
from common.objectives.weighting import Weighting, build_weighting
from common.parallel.sharding import Sharding
from common.training.task import Computed, Finish, Gather, Pairs, ParameterGroup, Start
from flare import passes
from flare.config import FlareConfig
from flare.corpora import CorpusSplit, embedded_tokenizer, open_feed
from flare.data import FlareBatch, MixtureSource, collate
from flare.encoding import DocumentEncoder
from flare.held_out import HeldOut, held_out_pairs
from flare.model import FlareForConditionalGeneration
from flare.parallelize import parallelize
from flare.presets import PRESETS
from flare.processing import FlareProcessor
from flare.task_config import FlareTaskConfig

VALIDATION_ROWS = 64
VALIDATION_BATCH = 16


class FlareTask:
    """`FlareTaskConfig` made real; see `common.training.task.Task` for the methods."""

    chain = "decoder.blocks"

    def __init__(self, config: FlareTaskConfig, *, steps: int) -> None:
        self.config, self.steps = config, steps

    def build_model(self) -> FlareForConditionalGeneration:
        """The model with random weights or with those of a folder; encoders from local files."""
        is_meta = torch.get_default_device().type == "meta"
        if is_meta or self.config.folder is None:
            model = FlareForConditionalGeneration(self.model_config)
        else:
            model = _whole_model(self.config.folder, self.model_config)
        if not is_meta:
            if self.config.folder is None and self.config.vision_encoder is None:
                positions = model.vision_encoder.model.pos_embed
                nn.init.trunc_normal_(positions, std=self.config.position_scale)
            model.load_backbones(vision=self.config.vision_encoder, audio=self.config.audio_encoder)
        for part in self.config.frozen:
            model.get_submodule(part).requires_grad_(False)
        return model

    def blocks(self, model: FlareForConditionalGeneration) -> Iterator[nn.Module]:
        """Of encoders, projectors and decoder."""
        yield from model.vision_encoder.blocks
        yield from model.vision_projector.blocks
        yield from model.audio_encoder.encoder.layers
        yield from model.audio_projector.blocks
        yield from model.decoder.blocks

    def parallelize(self, model: FlareForConditionalGeneration, sharding: Sharding) -> None:
        """Block by block."""
        parallelize(model, sharding, costs=self.costs)

    def costs(self) -> list[float]:
        """Operations of each decoder block on a row, forward; those of the head with the last."""
        decoder, head = self._meta_model.decoder, self._meta_model.head
        x = torch.zeros(1, self.config.max_tokens, head.in_features, device="meta")
        places = torch.arange(x.shape[1], device="meta")[None]
        advance = partial(decoder.advance, positions=places, mask=causal(), backend="sdpa")
        block = _counted_flops(lambda: advance(decoder.blocks[:1], x))
        *others, last = [block] * len(decoder.blocks)
        return [*others, last + _counted_flops(lambda: head(x))]

    def sources(self) -> Mapping[str, MixtureSource]:
        """One source: packed rows of all kinds of documents."""
        return {"mixture": self._source}

    def parameter_groups(self, model: FlareForConditionalGeneration) -> list[ParameterGroup]:
        """Decay on matrices and convolutions only: not on gains, biases and temperatures."""
        trained = [p for p in model.parameters() if p.requires_grad]
        matrices = [p for p in trained if p.numel() > max(p.shape)]
        vectors = [p for p in trained if p.numel() == max(p.shape)]
        decay = self.config.weight_decay
        return [
            ParameterGroup(name="matrices", parameters=matrices, weight_decay=decay),
            ParameterGroup(name="vectors", parameters=vectors, weight_decay=0.0),
        ]

    def weighting(self) -> Weighting:
        """How language, images and sounds are weighted against each other."""
        base = vars(self.config.objective_weights)
        return build_weighting(self.config.weighting, base, seed=self.config.data_seed)

    def factors(self, update: int) -> Mapping[str, float]:
        """Shares of the masked and the causal term, as the documents are divided."""
        share = self.config.masking.masked_share((update - 1) / self.steps)
        return {"language/masked": share, "language/causal": 1 - share}

    def counts(self, source: str, batch: FlareBatch) -> Mapping[str, int]:
        """Predicted tokens and contrasted pairs."""
        targets = {term: len(target.ids) for term, target in batch.targets.items()}
        return targets | {term: len(pairs.media) for term, pairs in batch.pairs.items()}

    def compute(
        self, model: FlareForConditionalGeneration, source: str, batch: FlareBatch
    ) -> Computed:
        """Language losses of all rows, and the vectors to be contrasted."""
        begun = self.start(model, source, batch)
        x = self.advance(model, model.decoder.blocks, begun.hidden, batch)
        done = self.finish(model, source, batch, x)
        return Computed(losses=done.losses, pairs=begun.paired(done.texts))

    def pairs(
        self, model: FlareForConditionalGeneration, source: str, batch: FlareBatch
    ) -> Mapping[str, Pairs]:
        """The same vectors as `compute` gives, from the rows of captions alone."""
        begun, captions = self.start(model, source, batch), batch.captions()
        x = begun.hidden[-len(captions.input_ids) :]
        x = self.advance(model, model.decoder.blocks, x, captions)
        return begun.paired(self.finish(model, source, captions, x).texts)

    def start(self, model: FlareForConditionalGeneration, source: str, batch: FlareBatch) -> Start:
        """Encoders, projectors and embeddings."""
        return passes.start(model, batch)

    def advance(
        self,
        model: FlareForConditionalGeneration,
        blocks: Iterable[nn.Module],
        x: Float[Tensor, "b s d"],
        batch: FlareBatch,
    ) -> Float[Tensor, "b s d"]:
        """Some of the decoder's blocks."""
        return passes.advance(model, blocks, x, batch)

    def finish(
        self,
        model: FlareForConditionalGeneration,
        source: str,
        batch: FlareBatch,
        x: Float[Tensor, "b s d"],
    ) -> Finish:
        """The last norm, the language losses, the captions' vectors."""
        return passes.finish(model, batch, x, z_loss=self.config.z_loss)

    def contrast(
        self, model: FlareForConditionalGeneration, term: str, pairs: Pairs, *, gather: Gather
    ) -> Contrast:
        """Media against captions over the whole update, each kind with its own temperature."""
        kind = term.split("_", maxsplit=1)[0]
        log_scale = model.get_parameter(f"{kind}_log_scale")
        if self.config.contrast == "infonce":
            return info_nce(
                pairs.media, pairs.text, log_scale=log_scale, duplicates=pairs.ids, gather=gather
            )
        return sigmoid_loss(
            pairs.media,
            pairs.text,
            log_scale=log_scale,
            bias=model.get_parameter(f"{kind}_bias"),
            duplicates=pairs.ids,
            gather=gather,
        )

    def after_update(self, model: FlareForConditionalGeneration) -> None:
        """Temperatures stay in CLIP's range."""
        clamp_scale_(model.image_log_scale)
        clamp_scale_(model.audio_log_scale)

    def flops(self, model: FlareForConditionalGeneration, source: str, batch: FlareBatch) -> float:
        """6 N per token through the decoder; encoders and projectors as counted by torch."""
        # Not the model's own: stages of a pipeline hold a part of it.
        decoder = sum(p.numel() for p in self._meta_model.decoder.parameters())
        predicted = sum(len(target.ids) for target in batch.targets.values())
        text = 6.0 * (
            decoder * self.tokens(batch) + self._meta_model.head.weight.numel() * predicted
        )
        images = 3.0 * self._flops_per_image * len(batch.pixel_values)
        groups = [group for group in batch.clips.waveforms if len(group)]
        audio = sum(3.0 * self._flops_per_clip(group.shape[1]) * len(group) for group in groups)
        return text + images + audio

    def tokens(self, batch: FlareBatch) -> int:
        """Tokens without padding, soft tokens of images and recordings included."""
        return int((batch.input_ids != self.processor.tokenizer.pad_token_id).sum())

    def monitor(self, model: FlareForConditionalGeneration) -> dict[str, float]:
        """The factors of the similarities: one over the temperatures."""
        return {
            f"temperature/{kind}": clamped_scale(scale.detach()).item()
            for kind, scale in (("image", model.image_log_scale), ("audio", model.audio_log_scale))
        }

    def validate(self, model: FlareForConditionalGeneration) -> dict[str, float]:
        """Losses and retrieval on held-out documents."""
        return self.held_out.figures(model)

    def samples(self, model: FlareForConditionalGeneration) -> list[str]:
        """Captions of held-out images and recordings."""
        return self.held_out.samples(model, self.processor)

    def export(self, model: FlareForConditionalGeneration, folder: Path) -> None:
        """A folder that transformers' Auto classes load."""
        model.save_pretrained(folder)
        self.processor.save_pretrained(folder)

    @cached_property
    def processor(self) -> FlareProcessor:
        """Tokenizer, image and audio processing."""
        config = self._named_config()
        return FlareProcessor.from_tokenizer(
            self._tokenizer(),
            vocab_size=config.text_config.vocab_size,
            image_size=config.vision_config.image_size,
            image_queries=config.vision_projector.num_queries,
            audio_queries=config.audio_projector.num_queries,
        )

    @cached_property
    def model_config(self) -> FlareConfig:
        """The named one with what this run changes; ids of control tokens are the tokenizer's."""
        config = self._named_config()
        for name in ("image_token_id", "audio_token_id", "mask_token_id", "emb_token_id"):
            setattr(config, name, getattr(self.processor, name))
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            setattr(config.text_config, name, getattr(self.processor.tokenizer, name))
        config.contrastive = self.config.contrast
        if self.config.patch_drop:
            options = config.vision_config.model_options or {}
            rate = {"patch_drop_rate": self.config.patch_drop}
            config.vision_config.model_options = options | rate
        config.audio_config.layer_drop = self.config.layer_drop
        config.audio_config.mask_time_share = self.config.hidden_frames
        return config

    @cached_property
    def held_out(self) -> HeldOut:
        """Documents that are never trained on, and how they are read."""
        pairs = [
            pairs
            for source in self.config.sources
            for pairs in held_out_pairs(
                source, seed=self.config.data_seed, tokenizer=self.processor.tokenizer
            )
        ]
        return HeldOut(
            pairs=pairs,
            batches=self._validation_batches,
            vectors=self._vectors,
            compute=lambda model, batch: self.compute(model, "mixture", batch),
        )

    def _vectors(
        self, model: FlareForConditionalGeneration, medium: str, documents: Sequence[Document]
    ) -> Pairs:
        """Vectors of captioned documents of one medium, in their order."""
        encoder, unused = self._source.encoder, np.random.default_rng(0)
        examples = [
            encoder.encode(
                document,
                encoder.tokens(document),
                unused,
                form="causal",
                mask_rate=0.0,
                max_tokens=self.config.max_tokens,
            )
            for document in documents
        ]
        batch = on_device(collate(examples, encoder=encoder), model.device)
        return self.pairs(model, "mixture", batch)[f"{medium}_text"]

    def _validation_batches(self) -> list[FlareBatch]:
        source = self._mixture(split="validation")
        rows, _ = source.pack(0, PackState())
        examples = [source.example(row) for row in rows]
        starts = range(0, len(examples), VALIDATION_BATCH)
        return [source.collate(examples[start : start + VALIDATION_BATCH]) for start in starts]

    @cached_property
    def _source(self) -> MixtureSource:
        return self._mixture(split="train")

    def _mixture(self, *, split: CorpusSplit) -> MixtureSource:
        config, training = self.config, split == "train"
        return MixtureSource(
            feed=open_feed(
                config.sources,
                split=split,
                seed=config.data_seed,
                family_size=config.family_size if training else 1,
                tokenizer=self.processor.tokenizer,
            ),
            encoder=DocumentEncoder(
                processor=self.processor,
                image_size=self.model_config.vision_config.image_size,
                max_samples=round(config.max_seconds * SAMPLE_RATE_HZ),
                clip_groups=config.clip_groups,
            ),
            masking=config.masking,
            batch_size=config.batch_size if training else VALIDATION_ROWS,
            weight=1.0,
            max_tokens=config.max_tokens,
            steps=self.steps,
            augment_steps=config.augment_steps if training else 0,
            augmentation=config.augmentation,
            seed=config.data_seed,
        )

    def _named_config(self) -> FlareConfig:
        folder = self.config.folder
        if folder is None:
            return PRESETS[self.config.model]()
        config = read_config(folder)
        if not isinstance(config, FlareConfig):
            raise UserError(f"{folder} holds a {config.model_type}, no FLARE; convert it first")
        return config

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        folder = self.config.tokenizer or self.config.folder
        if folder is None:
            return embedded_tokenizer()
        if not folder.is_dir():
            raise UserError(f"tokenizer folder {folder} does not exist; check the path")
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)

    @cached_property
    def _flops_per_image(self) -> float:
        size = self.model_config.vision_config.image_size
        pixels = torch.zeros(1, 3, size, size, device="meta")
        return _counted_flops(lambda: self._meta_model.encode_images(pixels))

    def _flops_per_clip(self, num_samples: int) -> float:
        """Of a clip padded to a length, counted for the next half second above it."""
        num_samples += -num_samples % (SAMPLE_RATE_HZ // 2)
        if num_samples not in self._clip_flops:
            waveform = torch.zeros(1, num_samples, device="meta")
            lengths = torch.full((1,), num_samples, device="meta")
            self._clip_flops[num_samples] = _counted_flops(
                lambda: self._meta_model.encode_audio(waveform, lengths)
            )
        return self._clip_flops[num_samples]

    @cached_property
    def _clip_flops(self) -> dict[int, float]:
        return {}

    @cached_property
    def _meta_model(self) -> FlareForConditionalGeneration:
        with torch.device("meta"):
            return FlareForConditionalGeneration(self.model_config).eval().requires_grad_(False)


def _counted_flops(run: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return float(counter.get_total_flops())


def _whole_model(folder: Path, config: FlareConfig) -> FlareForConditionalGeneration:
    """All weights of a folder, in single precision."""
    kind = FlareForConditionalGeneration
    model = read_model(kind, folder, config=config, dtype=torch.float32, spare=())
    assert isinstance(model, kind)
    return model.train()
