"""FLARE as planning sees it: four towers over media and a decoder that a pipeline may cut."""

from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from common.data.document import SAMPLE_RATE_HZ
from common.data.feed import Supply
from common.objectives.language import IGNORED, linear_next_token_loss
from common.parallel.plan.claims import Claim
from common.parallel.plan.counting import Call, captured
from common.parallel.plan.footprint import (
    COMPUTED_IN,
    Footprint,
    Tower,
    Unit,
    largest_of,
    weights_among,
    weights_of,
)
from common.training.loader import MicroBatch
from common.training.run import RunConfig
from flare.config import FlareConfig
from flare.data import FlareBatch, collate
from flare.decoder import hybrid_mask, positions_in_documents
from flare.encoding import AUDIO_TEXT, IMAGE_TEXT, Caption, DocumentEncoder, FlareExample
from flare.model import FlareForConditionalGeneration
from flare.projector import Projector
from flare.task import FlareTask
from flare.task_config import FlareTaskConfig

# What was published about FLARE-13B's run.
CLAIMS = {
    "flare_13b": Claim(gpus=64, gpu="a100-80gb", days=28.0, tokens=4.2e12, gpu_hours=1.5e6),
}
CAPTION_TOKENS = 32  # of a caption's own document, the control tokens included


def footprint(
    run: RunConfig[FlareTaskConfig],
    *,
    images_per_row: float = 1.0,
    clips_per_row: float = 1.0,
    seconds: float | None = None,
    dtype: torch.dtype | None = None,
) -> Footprint:
    """The model of a run, its rows and their media; clips last `seconds`, or what the run allows.

    Equal layers are counted once: all but one (two of WavLM, whose first owns the positions) are
    left out of the model that is run. Parameters are those of the full model, on the meta device.
    """
    dtype = dtype or COMPUTED_IN[run.precision]
    # The tokenizer decides no shape.
    task = FlareTask(replace(run.task, tokenizer=None), steps=run.steps)
    config = task.model_config
    with torch.device("meta"):
        full = task.build_model().train()
        short = FlareForConditionalGeneration(_shortened(config)).train().to(dtype)
    for part in run.task.frozen:
        short.get_submodule(part).requires_grad_(False)
    pieces = _Pieces(full, short, run.task, dtype)
    images, clips = images_per_row, clips_per_row
    samples = round((seconds or run.task.max_seconds) * SAMPLE_RATE_HZ)
    text, rows = config.text_config, run.task.batch_size
    block = pieces.decoder_block()
    return Footprint(
        name=run.task.model,
        itemsize=dtype.itemsize,
        rows=rows,
        tokens_per_row=run.task.max_tokens,
        towers=(*pieces.vision(images), *pieces.audio(clips, samples)),
        layers=((block,),) * text.num_hidden_layers,
        embedding=_plain_unit("embedding", full.embedding, _nothing),
        head=pieces.head(),
        root_bytes=sum(p.numel() * p.itemsize for p in _of_root(full)),
        hidden_dim=text.hidden_size,
        caption_share=(images + clips) * CAPTION_TOKENS / run.task.max_tokens,
        pairs_per_row=images + clips,
        pair_dim=config.contrastive_dim,
    )


def rehearsed(
    run: RunConfig[FlareTaskConfig],
    *,
    rows: int,
    images_per_row: int = 1,
    clips_per_row: int = 1,
    seconds: float | None = None,
) -> tuple[FlareTask, MicroBatch[FlareBatch]]:
    """The task of a run without its files, and a micro-batch of the sizes that are planned."""
    config = replace(run.task, tokenizer=None, vision_encoder=None, audio_encoder=None)
    task = FlareTask(config, steps=run.steps)
    samples = round((seconds or config.max_seconds) * SAMPLE_RATE_HZ)
    size = task.model_config.vision_config.image_size
    encoder = DocumentEncoder(
        processor=task.processor,
        image_size=size,
        max_samples=samples,
        clip_groups=config.clip_groups,
    )
    example = _example(
        config,
        images=tuple(torch.zeros(size, size, 3, dtype=torch.uint8) for _ in range(images_per_row)),
        clips=tuple(torch.zeros(samples) for _ in range(clips_per_row)),
    )
    batch = collate([example] * rows, encoder=encoder, width=config.max_tokens)
    return task, MicroBatch(source="mixture", weight=1.0, batch=batch, supply=Supply())


def _example(
    config: FlareTaskConfig, *, images: tuple[Tensor, ...], clips: tuple[Tensor, ...]
) -> FlareExample:
    """A row whose masked documents come first."""
    length = config.max_tokens
    ids = torch.zeros(length, dtype=torch.int64)
    masked, predicted = _shares(config, length)
    labels = torch.full_like(ids, IGNORED)
    labels[1 : predicted + 1] = labels[masked + 1 :] = 0
    words = torch.zeros(CAPTION_TOKENS, dtype=torch.int64)
    captions = [
        Caption(term=term, medium=number, ids=words, caption_id=number)
        for term, media in ((IMAGE_TEXT, images), (AUDIO_TEXT, clips))
        for number in range(len(media))
    ]
    return FlareExample(
        key="row",
        ids=ids,
        labels=labels,
        documents=torch.zeros_like(ids),
        bidirectional=torch.arange(length) < masked,
        images=images,
        clips=clips,
        captions=tuple(captions),
    )


def _shares(config: FlareTaskConfig, length: int) -> tuple[int, int]:
    """At the start of training: tokens of masked documents, and those of them to be predicted."""
    share = config.masking.masked_share(0.0)
    masked = round(length * share)
    return masked, round(length * share * config.masking.mask_rate(0.0))


class _Pieces:
    """Units of the short model, with the full one's parameters."""

    def __init__(
        self,
        full: FlareForConditionalGeneration,
        short: FlareForConditionalGeneration,
        task: FlareTaskConfig,
        dtype: torch.dtype,
    ) -> None:
        self.full, self.short, self.task, self.dtype = full, short, task, dtype

    def vision(self, images: float) -> tuple[Tower, Tower]:
        """Encoder, and projector with the map to vectors."""
        encoder, size = self.short.vision_encoder, self.short.vision_encoder.image_size
        vit, read = self.full.vision_encoder.model, self.full.vision_encoder.layer

        def pixels(items: int) -> Call:
            pictures = torch.empty(items, 3, size, size, dtype=torch.uint8, device="meta")
            return _call(encoder, pictures)

        kept = 1 - self.task.patch_drop
        num_features = round(self.full.vision_encoder.num_tokens * kept)
        first = _tower("vision encoder", [self.full.vision_encoder], vit.blocks, pixels, images)
        # Blocks behind the one that is read hold parameters and do nothing.
        depth = len(vit.blocks) if read is None else read % len(vit.blocks) + 1
        first = _with_blocks(first, pixels, encoder.model.blocks[0], shown=1, depth=depth)
        features = self._features(num_features, encoder.dim)
        run = _projection(self.short.vision_projector, self.short.image_vector, features)
        parts = (self.full.vision_projector, self.full.image_vector)
        block = self.short.vision_projector.blocks[0]
        return first, _projector_tower("vision projector", *parts, block, run, items=images)

    def audio(self, clips: float, samples: int) -> tuple[Tower, Tower]:
        """As `vision`."""
        encoder = self.short.audio_encoder

        def waveforms(items: int) -> Call:
            lengths = torch.full((items,), samples, device="meta")
            return _call(encoder, torch.empty(items, samples, device="meta"), lengths)

        layers, own = encoder.encoder.layers, self.full.audio_encoder.encoder.layers
        first = _tower("audio encoder", [self.full.audio_encoder], own, waveforms, clips)
        first = _with_blocks(first, waveforms, layers[-1], shown=len(layers), depth=len(own))
        features = self._features(encoder.num_frames(samples), encoder.dim)
        run = _projection(self.short.audio_projector, self.short.audio_vector, features)
        parts = (self.full.audio_projector, self.full.audio_vector)
        block = self.short.audio_projector.blocks[0]
        return first, _projector_tower("audio projector", *parts, block, run, items=clips)

    def decoder_block(self) -> Unit:
        """Any of the decoder's equal blocks."""
        decoder, length = self.short.decoder, self.task.max_tokens
        width = self.short.config.text_config.hidden_size

        def prepare(rows: int) -> Call:
            x = torch.empty(rows, length, width, device="meta", dtype=self.dtype)
            documents = torch.zeros(rows, length, dtype=torch.int64, device="meta")

            def run() -> Tensor:
                return decoder(
                    x.requires_grad_(),
                    positions=positions_in_documents(documents),
                    mask=hybrid_mask(documents, documents == 0),
                    backend=self.short.config.attention_backend,
                )

            return captured(run, decoder.blocks[0])

        return _plain_unit("decoder block", self.full.decoder.blocks[0], prepare)

    def head(self) -> Unit:
        """Final norm, output layer with both language losses, the captions' map, temperatures."""
        length = self.task.max_tokens
        masked, predicted = _shares(self.task, length)
        vocabulary, width = self.full.head.weight.shape

        def prepare(rows: int) -> Call:
            # On fake CPU tensors: autocast, which the loss turns off, knows no meta device.
            fake = FakeTensorMode()
            with fake:
                weight = nn.Parameter(torch.empty(vocabulary, width, dtype=self.dtype))
                hidden = torch.empty(rows * length, width, dtype=self.dtype, requires_grad=True)

            def run(hidden: Tensor, weight: Tensor) -> Tensor:
                with fake:
                    counts = [rows * predicted, rows * (length - masked)]
                    losses = [
                        linear_next_token_loss(
                            hidden[:number],
                            weight,
                            torch.zeros(number, dtype=torch.int64),
                            z_loss=self.task.z_loss,
                        )
                        for number in counts
                    ]
                    return losses[0] + losses[1]

            return Call(function=run, arguments=(hidden, weight), weights=(weight,))

        elsewhere = {*self.full.image_vector.parameters(), *self.full.audio_vector.parameters()}
        owned = [p for p in _of_root(self.full) if p not in elsewhere]
        return Unit(name="head and loss", prepare=prepare, weights=weights_among(owned))

    def _features(self, number: int, width: int) -> Callable[[int], Tensor]:
        return lambda items: torch.empty(
            items, number, width, device="meta", dtype=self.dtype, requires_grad=True
        )


def _of_root(model: FlareForConditionalGeneration) -> Iterator[nn.Parameter]:
    """What `parallelize` leaves to the root of the sharding."""
    vectors = (model.image_vector, model.audio_vector, model.text_vector)
    for part in (model.decoder.norm, model.head, *vectors):
        yield from part.parameters()
    yield from model.parameters(recurse=False)


def _shortened(config: FlareConfig) -> FlareConfig:
    config = deepcopy(config)
    config.text_config.num_hidden_layers = 1
    config.audio_config.num_layers = min(config.audio_config.num_layers, 2)
    config.vision_projector.num_layers = config.audio_projector.num_layers = 1
    # One block runs: the last but one of two where the output of the last is not read.
    read = config.vision_config.layer
    depth = {"depth": 1 if read is None else max(1, -read)}
    config.vision_config.model_options = (config.vision_config.model_options or {}) | depth
    return config


def _projection(
    projector: nn.Module, vector: nn.Module, features: Callable[[int], Tensor]
) -> Callable[[int], Call]:
    def run(features: Tensor) -> tuple[Tensor, Tensor]:
        tokens, summary = projector(features)
        return tokens, vector(summary)

    weights = tuple([*projector.parameters(), *vector.parameters()])
    return lambda items: Call(function=run, arguments=(features(items),), weights=weights)


def _tower(
    name: str,
    parts: list[nn.Module],
    blocks: Iterable[nn.Module],
    prepare: Callable[[int], Call],
    items: float,
) -> Tower:
    whole = Unit(name=name, prepare=prepare, weights=weights_of(*parts))
    return Tower(whole=whole, items_per_row=items, largest_unit=largest_of(whole, blocks))


def _projector_tower(
    name: str,
    projector: Projector,
    vector: nn.Module,
    block: nn.Module,
    prepare: Callable[[int], Call],
    *,
    items: float,
) -> Tower:
    """`block` is any of the projector's, as `prepare` runs it."""
    tower = _tower(name, [projector, vector], projector.blocks, prepare, items)
    return _with_blocks(tower, prepare, block, shown=1, depth=len(projector.blocks))


def _with_blocks(
    tower: Tower, prepare: Callable[[int], Call], block: nn.Module, *, shown: int, depth: int
) -> Tower:
    def of_block(items: int) -> Call:
        call = prepare(items)
        return captured(lambda: call.function(*call.arguments, **call.options), block)

    unit = _plain_unit(f"{tower.name} block", block, of_block)
    return replace(tower, block=unit, shown=shown, depth=depth)


def _plain_unit(name: str, module: nn.Module, prepare: Callable[[int], Call]) -> Unit:
    return Unit(name=name, prepare=prepare, weights=weights_of(module))


def _call(module: nn.Module, *arguments: Tensor) -> Call:
    return Call(function=module, arguments=arguments, weights=tuple(module.parameters()))


def _nothing(rows: int) -> Call:
    """Looking up a row of a table is no arithmetic."""
    return Call(function=lambda: None)
