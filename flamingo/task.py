"""The main training stage: a frozen language model learns to look (paper, section 3.1).

Next-token loss on interleaved documents and on pairs, each data set with its own weight inside one
update. Trained are the gated cross-attention, the resampler and the two new tokens' rows.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from common.checkpoint.pretrained import read_processor
from common.data.corpus import Split
from common.data.packing import PackState
from common.data.transfer import on_device
from common.encoders.vision import VisionEncoder
from common.errors import UserError
from common.evaluation.perplexity import perplexity
from common.objectives.language import IGNORED
from common.parallel.sharding import Sharding, whole
from common.training.task import Computed, ParameterGroup
from flamingo import corpora
from flamingo.chat_format import FlamingoFormat
from flamingo.config import FlamingoConfig, FlamingoVisionConfig
from flamingo.conversations import dialogue_samples, num_tokens
from flamingo.data import DocumentEncoder, DocumentSource, FlamingoBatch
from flamingo.generation import complete
from flamingo.language_model import build_language_model, decoder_layers
from flamingo.model import FlamingoForConditionalGeneration, build_vision_encoder
from flamingo.parallelize import parallelize
from flamingo.presets import PRESETS
from flamingo.processing import FlamingoProcessor
from flamingo.started import (
    is_without_memory,
    load_local,
    started_config,
    started_model,
    vision_config_of,
)
from flamingo.task_config import FlamingoTaskConfig, SourceConfig

WEIGHT_DECAY = 0.1  # of the gated cross-attention's matrices; resampler, norms and gates have none
VALIDATION_ROWS = 64  # per data set
VALIDATION_BATCH = 16
NUM_SAMPLES = 3
GREY = 128  # what a blind model is shown


class FlamingoTask:
    """`FlamingoTaskConfig` made real; see `common.training.task.Task` for the methods."""

    def __init__(self, config: FlamingoTaskConfig) -> None:
        self.config = config

    def build_model(self) -> FlamingoForConditionalGeneration:
        """Frozen parts from their folders or random, the bridge new, gates closed."""
        if self.config.start is not None and not is_without_memory():
            return started_model(
                self.config.start, self.model_config, frozen_dtype=self._frozen_dtype
            )
        self._refuse_random_backbones()
        return FlamingoForConditionalGeneration.from_backbones(
            self.model_config,
            language_model=self._language_model().to(self._frozen_dtype),
            vision_encoder=self._vision_encoder().to(self._frozen_dtype),
        )

    def blocks(self, model: FlamingoForConditionalGeneration) -> Iterator[nn.Module]:
        """Of all parts that gradients cross."""
        yield from model.resampler.layers
        yield from model.gated_blocks
        yield from decoder_layers(model.language_model)

    def parallelize(self, model: FlamingoForConditionalGeneration, sharding: Sharding) -> None:
        """Block by block."""
        parallelize(model, sharding)

    def sources(self) -> Mapping[str, DocumentSource]:
        """The data sets of an update by name."""
        return {source.name: self._source(source, split="train") for source in self.config.sources}

    def parameter_groups(self, model: FlamingoForConditionalGeneration) -> list[ParameterGroup]:
        """Decay on the matrices of the gated blocks only (paper, appendix B.1.2)."""
        gated = set(model.gated_cross_attention.parameters())
        trained = [p for p in model.parameters() if p.requires_grad]
        matrices = [p for p in trained if p in gated and p.ndim > 1]
        rest = [p for p in trained if not (p in gated and p.ndim > 1)]
        return [
            ParameterGroup(name="gated matrices", parameters=matrices, weight_decay=WEIGHT_DECAY),
            ParameterGroup(name="everything else", parameters=rest, weight_decay=0.0),
        ]

    def counts(self, source: str, batch: FlamingoBatch) -> Mapping[str, int]:
        """Number of tokens that are predicted."""
        return {source: int((batch.labels[:, 1:] != IGNORED).sum())}

    def compute(
        self, model: FlamingoForConditionalGeneration, source: str, batch: FlamingoBatch
    ) -> Computed:
        """Summed next-token loss of the source's rows."""
        return Computed(losses={source: _summed_loss(model, batch)})

    def flops(
        self, model: FlamingoForConditionalGeneration, source: str, batch: FlamingoBatch
    ) -> float:
        """4 N_frozen + 6 N_trained per token: gradients cross the frozen language model."""
        frozen = sum(p.numel() for p in model.language_model.parameters())
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        return float((4 * frozen + 6 * trained) * self.tokens(batch))

    def tokens(self, batch: FlamingoBatch) -> int:
        """Tokens without padding."""
        padding = self.processor.tokenizer.pad_token_id
        return int((batch.input_ids != padding).sum())

    def monitor(self, model: FlamingoForConditionalGeneration) -> dict[str, float]:
        """|tanh gate| of every gated block."""
        figures = {}
        for block in model.gated_blocks:
            for name in ("attention", "feed_forward"):
                gate = whole(block.get_parameter(f"{name}_gate").detach())
                figures[f"gate/{block.layer}/{name}"] = abs(gate.tanh().item())
        return figures

    @torch.no_grad()
    def validate(self, model: FlamingoForConditionalGeneration) -> dict[str, float]:
        """Perplexity on held-out documents, and what seeing the images is worth in nats."""
        sighted, blind, tokens = 0.0, 0.0, 0
        for config in self.config.sources:
            source = self._source(config, split="validation")
            rows, _ = source.pack(0, PackState())
            for start in range(0, len(rows), VALIDATION_BATCH):
                examples = [source.example(row) for row in rows[start : start + VALIDATION_BATCH]]
                batch = on_device(source.collate(examples), model.device)
                grey = replace(batch, pixel_values=torch.full_like(batch.pixel_values, GREY))
                sighted += float(_summed_loss(model, batch))
                blind += float(_summed_loss(model, grey))
                tokens += sum(self.counts(config.name, batch).values())
        return {
            "validation/loss": sighted / tokens,
            "validation/perplexity": perplexity(sighted, tokens),
            "validation/blind_gap": (blind - sighted) / tokens,
        }

    def samples(self, model: FlamingoForConditionalGeneration) -> list[str]:
        """Completions of held-out documents, with the prompt's last words before them."""
        source = self._source(self.config.sources[0], split="validation")
        documents = [source.feed.read(number).document for number in range(NUM_SAMPLES)]
        if corpora.is_conversation(self.config.sources[0].kind):
            return dialogue_samples(model, self.processor, documents)
        prompts = [corpora.as_prompt(document) for document in documents]
        texts = complete(model, self.processor, [p for p, _ in prompts], max_new_tokens=24)
        return [
            f"{prompt[-1] if isinstance(prompt[-1], str) else ''} -> {text} (data: {truth.strip()})"
            for (prompt, truth), text in zip(prompts, texts, strict=True)
        ]

    def export(self, model: FlamingoForConditionalGeneration, folder: Path) -> None:
        """A folder that `AutoModelForImageTextToText` and `AutoProcessor` load."""
        model.save_pretrained(folder)
        self.processor.save_pretrained(folder)

    @cached_property
    def processor(self) -> FlamingoProcessor:
        """Tokenizer and image processing; with roles in its template if it is tuned on them."""
        processor = self._processor()
        if any(corpora.is_conversation(source.kind) for source in self.config.sources):
            return FlamingoFormat.with_roles(processor).processor
        return processor

    def _processor(self) -> FlamingoProcessor:
        if self.config.start is not None:
            return cast(FlamingoProcessor, read_processor(FlamingoProcessor, self.config.start))
        text = self.model_config.text_config
        size = self.model_config.vision_config.image_size
        return FlamingoProcessor.from_tokenizer(
            self._tokenizer(text.vocab_size), vocab_size=text.vocab_size, image_size=size
        )

    @cached_property
    def model_config(self) -> FlamingoConfig:
        """The preset, with the configurations of the backbones that are given, or the start's."""
        start = self.config.start
        config = PRESETS[self.config.model]() if start is None else started_config(start)
        vision = config.vision_config
        if self.config.vision_encoder is not None:
            vision = vision_config_of(self.config.vision_encoder)
        if self.config.image_size is not None:
            vision = FlamingoVisionConfig(
                **{name: getattr(vision, name) for name in FlamingoVisionConfig.__annotations__}
                | {"image_size": self.config.image_size}
            )
        text = config.text_config
        if self.config.language_model is not None:
            text = load_local(AutoConfig, self.config.language_model)
            if not hasattr(text, "vocab_size"):
                raise UserError(
                    f"{self.config.language_model} holds a {text.model_type}, no language model; "
                    "give the folder of a causal one"
                )
        bridge = FlamingoConfig.__annotations__.keys() - {"vision_config", "text_config"}
        return FlamingoConfig(
            vision_config=vision,
            text_config=text,
            **{name: getattr(config, name) for name in bridge},
        )

    @property
    def _frozen_dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.config.frozen_precision == "bf16" else torch.float32

    def _refuse_random_backbones(self) -> None:
        """Frozen random weights teach nothing; the tiny ones serve tests, the others are huge."""
        given = {
            "--task.language-model": self.config.language_model,
            "--task.vision-encoder": self.config.vision_encoder,
        }
        missing = [option for option, folder in given.items() if folder is None]
        if missing and self.config.model != "flamingo_tiny" and not is_without_memory():
            raise UserError(
                f"{self.config.model} keeps its backbones frozen and needs trained ones; "
                f"give {' and '.join(missing)}"
            )

    def _vision_encoder(self) -> VisionEncoder:
        if self.config.vision_encoder is not None and not is_without_memory():
            return VisionEncoder.from_folder(self.config.vision_encoder)
        return build_vision_encoder(self.model_config.vision_config)

    def _language_model(self) -> PreTrainedModel:
        folder = self.config.language_model
        if folder is None or is_without_memory():
            return build_language_model(self.model_config.text_config)
        return load_local(AutoModelForCausalLM, folder, dtype=self._frozen_dtype)

    def _tokenizer(self, vocab_size: int) -> PreTrainedTokenizerBase:
        if self.config.language_model is None:
            return corpora.embedded_tokenizer(vocab_size)
        return load_local(AutoTokenizer, self.config.language_model)

    def _source(self, config: SourceConfig, *, split: Split) -> DocumentSource:
        training = split == "train"
        return DocumentSource(
            feed=corpora.open_feed(
                config.kind,
                path=config.path,
                split=split,
                seed=self.config.data_seed,
                tokenizer=self.processor.tokenizer,
                media=config.media,
                measure=partial(num_tokens, self.processor),
            ),
            encoder=DocumentEncoder(
                processor=self.processor,
                image_size=self.model_config.vision_config.image_size,
                max_tokens=self.config.max_tokens,
                max_images=self.config.max_images,
            ),
            batch_size=config.batch_size if training else VALIDATION_ROWS,
            weight=config.weight,
            next_image_probability=config.next_image_probability if training else 0.0,
            augment_steps=self.config.augment_steps if training else 0,
            augmentation=self.config.augmentation,
            seed=self.config.data_seed,
        )


def _summed_loss(
    model: FlamingoForConditionalGeneration, batch: FlamingoBatch
) -> Float[Tensor, ""]:
    loss: Tensor = model(
        batch.input_ids,
        pixel_values=batch.pixel_values,
        num_images=batch.num_images,
        media_item=batch.media_item,
        document_ids=batch.document_ids,
        labels=batch.labels,
        num_items_in_batch=1,
        skip_logits=True,
    ).loss
    return loss
