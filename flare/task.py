"""FLARE's training task: one language model learns from text, images and sounds at once.

    loss = w1 * (rho * masked + (1 - rho) * causal)  +  w2 * image-text  +  w3 * audio-text
           [ +  w4 * preference ]

Masked and causal are next-token losses of the documents that see both directions and of those that
see the past only; the contrasts are taken over the whole update, whatever it is cut into. The
weights w move with the losses (`common/objectives/weighting.py`). Every part of the model runs in
every micro-batch, with or without images and recordings in it. Tuning differs in its documents: of
conversations the assistant's words are predicted, of pairs the preferred answers, and the last term
prefers these over the others (`common/objectives/preferences.py`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from common.checkpoint.pretrained import read_config, read_model, read_part
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
from common.training.processes import Processes
from common.training.task import Computed, Finish, Gather, Pairs, ParameterGroup, Start
from flare import passes
from flare.config import FlareConfig
from flare.corpora import CorpusSplit, embedded_tokenizer, is_conversation, open_feed
from flare.data import PREFERENCE, FlareBatch, MixtureSource, collate
from flare.encoding import DocumentEncoder
from flare.held_out import HeldOut, held_out_pairs
from flare.instruct.task_encoding import num_tokens
from flare.instruct.task_figures import conversation_figures
from flare.model import FlareForConditionalGeneration
from flare.parallelize import parallelize
from flare.presets import PRESETS
from flare.processing import FlareProcessor
from flare.safety.task_reference import references_of
from flare.task_config import FlareTaskConfig
from flare.task_flops import PartFlops

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
        is_tuned = all(is_conversation(source.kind) for source in self.config.sources)
        if is_meta or (self.config.folder is None and not is_tuned):
            model = FlareForConditionalGeneration(self.model_config)
        else:
            model = self._trained_model(torch.float32)
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
        return self._flops.blocks(self.config.max_tokens)

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
        base = {**vars(self.config.objective_weights)}
        if not self.config.pairs:
            del base[PREFERENCE]
        return build_weighting(self.config.weighting, base, seed=self.config.data_seed)

    def factors(self, update: int) -> Mapping[str, float]:
        """Shares of the masked and the causal term, as the documents are divided."""
        share = self.config.masking.masked_share((update - 1) / self.steps)
        return {"language/masked": share, "language/causal": 1 - share}

    def counts(self, source: str, batch: FlareBatch) -> Mapping[str, int]:
        """Predicted tokens, contrasted pairs, and pairs of answers."""
        targets = {term: len(target.ids) for term, target in batch.targets.items()}
        if batch.answers is not None:
            targets[PREFERENCE] = len(batch.answers.reference) // 2
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
        """The last norm, the language losses and that of pairs, the captions' vectors."""
        return passes.finish(model, batch, x, z_loss=self.config.z_loss, beta=self.config.beta)

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
        return self._flops.batch(batch, tokens=self.tokens(batch))

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
        """Losses and retrieval on held-out documents; of embedded conversations the answers."""
        return self.held_out.figures(model) | conversation_figures(
            model, self.processor, self.config.sources, seed=self.config.data_seed
        )

    def prepare(self, folder: Path, *, processes: Processes, dtype: torch.dtype) -> None:
        """Of runs on pairs the references: those in the folder, or scored by the model now."""
        if not self.config.pairs:
            return
        corpora = zip(self._source.feed.corpora, self.config.sources, strict=True)
        found = references_of(
            [corpus for corpus, source in corpora if source in self.config.pairs],
            folder,
            build=lambda: self._trained_model(dtype),
            encoder=self._source.encoder,
            max_tokens=self.config.max_tokens,
            processes=processes,
        )
        self._references.update(found)

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
                measure=partial(num_tokens, self.processor),
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
            references=self._references if training and config.pairs else None,
        )

    @cached_property
    def _references(self) -> dict[str, list[float]]:
        """Of answers before training; `prepare` fills them in."""
        return {}

    def _trained_model(self, dtype: torch.dtype) -> FlareForConditionalGeneration:
        """All weights of the folder that training goes on from."""
        kind, folder = FlareForConditionalGeneration, self.config.folder
        if folder is None:
            raise UserError(
                f"conversations tune a trained model, not {self.config.model} with random weights; "
                "give its folder as --task.model"
            )
        model = read_model(kind, folder, config=self.model_config, dtype=dtype, spare=())
        assert isinstance(model, kind)
        return model.train()

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
        return read_part(AutoTokenizer, folder, what="tokenizer")

    @cached_property
    def _flops(self) -> PartFlops:
        return PartFlops(self.model_config)
