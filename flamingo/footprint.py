"""Flamingo's three stages as planning sees them: towers over images, and a language model's layers.

Each gated block belongs into the pipeline stage of the layer before which it runs. What is frozen
is taken as it runs: gradients cross the language model but not the vision encoder.
"""

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedModel

from common.data.feed import Supply
from common.objectives.language import linear_next_token_loss, next_token_loss
from common.parallel.plan.counting import Call, captured, fresh
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
from common.training.task import Batch, Task
from flamingo.caption_pairs import PairBatch
from flamingo.config import FlamingoConfig
from flamingo.data import FlamingoBatch
from flamingo.language_model import build_language_model, decoder_layers
from flamingo.language_pretraining import LanguageTask, LanguageTaskConfig, TextBatch
from flamingo.media import Media
from flamingo.model import FlamingoForConditionalGeneration
from flamingo.presets import PRESETS
from flamingo.task import FlamingoTask
from flamingo.task_config import FlamingoTaskConfig
from flamingo.vision_pretraining import ContrastiveConfig, ContrastiveTask


def footprint(
    run: RunConfig[Any],
    *,
    images_per_row: int | None = None,
    dtype: torch.dtype | None = None,
) -> Footprint:
    """The model of a run of any stage; rows hold as many images as the run allows, if not told."""
    dtype = dtype or COMPUTED_IN[run.precision]
    if isinstance(run.task, ContrastiveConfig):
        return _contrastive(run.task, dtype)
    if isinstance(run.task, LanguageTaskConfig):
        return _language(run.task, dtype)
    return _flamingo(run.task, images_per_row or run.task.max_images, dtype)


def rehearsed(
    run: RunConfig[Any], *, rows: int, images_per_row: int | None = None
) -> tuple[Task[Any, Any], MicroBatch[Any]]:
    """The task of a run, and a micro-batch of the sizes that are planned."""
    config = run.task
    length = config.max_tokens
    ids = torch.zeros(rows, length, dtype=torch.int64)
    keys, size = ["row"] * rows, PRESETS[config.model]().vision_config.image_size
    if isinstance(config, LanguageTaskConfig):
        batch = TextBatch(keys=keys, input_ids=ids, labels=ids)
        return LanguageTask(config), _part("text", batch)
    if isinstance(config, ContrastiveConfig):
        size = config.image_size or size
        pairs = PairBatch(
            keys=keys,
            pixels=torch.zeros(rows, 3, size, size, dtype=torch.uint8),
            input_ids=ids,
            valid=ids == 0,
            caption_ids=torch.arange(rows),
        )
        return ContrastiveTask(config), _part("pairs", pairs)
    task = FlamingoTask(_without_files(config))
    size, images = config.image_size or size, images_per_row or config.max_images
    documents = FlamingoBatch(
        keys=keys,
        input_ids=ids,
        labels=ids,
        media_item=ids,
        document_ids=ids,
        pixel_values=torch.zeros(rows, images, 3, size, size, dtype=torch.uint8),
        num_images=torch.full((rows,), images),
    )
    return task, _part(config.sources[0].name, documents)


def _without_files(task: FlamingoTaskConfig) -> FlamingoTaskConfig:
    """The preset's shapes; the backbones of a recipe may not be trained yet."""
    return replace(task, language_model=None, vision_encoder=None)


def _part(source: str, batch: Batch) -> MicroBatch[Any]:
    return MicroBatch(source=source, weight=1.0, batch=batch, supply=Supply())


def _flamingo(task: FlamingoTaskConfig, images: int, dtype: torch.dtype) -> Footprint:
    real = FlamingoTask(_without_files(task))
    config = real.model_config
    with torch.device("meta"):
        full = real.build_model().train()
        short = FlamingoForConditionalGeneration(_shortened(config)).train().to(dtype)
    length = task.max_tokens
    frozen = decoder_layers(full.language_model)[0]
    layer = _unit("language model layer", frozen, _layer_of(short, length))
    gated = _unit("gated block", full.gated_blocks[0], _gated_of(short, length, images))
    with_media = config.cross_attention_layers
    number = int(config.text_config.num_hidden_layers)
    return Footprint(
        name=task.model,
        itemsize=dtype.itemsize,
        rows=sum(source.batch_size for source in task.sources),
        num_sources=len(task.sources),
        tokens_per_row=length,
        towers=(_vision(full, short, images), _resampler(full, short, images)),
        layers=tuple((gated, layer) if i in with_media else (layer,) for i in range(number)),
        embedding=_embedding(full.language_model, full.new_inputs),
        head=_head(
            full.language_model,
            partial(_logits_by_chunks, short.language_model, length),
            full.new_outputs,
        ),
        root_bytes=_bytes(full.new_inputs) + _bytes(full.new_outputs),
        hidden_dim=config.text_config.hidden_size,
    )


def _language(task: LanguageTaskConfig, dtype: torch.dtype) -> Footprint:
    text = PRESETS[task.model]().text_config
    short_text = deepcopy(text)
    short_text.num_hidden_layers = 1
    with torch.device("meta"):
        full = build_language_model(text).train()
        short = build_language_model(short_text).train().to(dtype)

    def prepare(rows: int) -> Call:
        length = task.max_tokens
        ids = torch.zeros(rows, length, dtype=torch.int64, device="meta")
        # Without a mask transformers would look into the tokens, and there are none.
        mask = torch.zeros(rows, 1, length, length, dtype=dtype, device="meta")
        run = partial(short, ids, attention_mask=mask, use_cache=False)
        call = captured(run, decoder_layers(short)[0])
        return replace(call, options={**call.options, "attention_mask": None})

    layer = _unit("language model layer", decoder_layers(full)[0], prepare)
    return Footprint(
        name=task.model,
        itemsize=dtype.itemsize,
        rows=task.batch_size,
        tokens_per_row=task.max_tokens,
        towers=(),
        layers=((layer,),) * text.num_hidden_layers,
        embedding=_embedding(full),
        head=_head(full, partial(_all_logits, short, task.max_tokens)),
        hidden_dim=text.hidden_size,
    )


def _contrastive(task: ContrastiveConfig, dtype: torch.dtype) -> Footprint:
    with torch.device("meta"):
        full = ContrastiveTask(task).build_model().train()
    model = deepcopy(full).to(dtype)
    size = model.vision.image_size

    def images(items: int) -> Call:
        pixels = torch.empty(items, 3, size, size, dtype=torch.uint8, device="meta")
        return _call(model.encode_images, pixels, owner=model)

    def captions(items: int) -> Call:
        ids = torch.zeros(items, task.max_tokens, dtype=torch.int64, device="meta")
        encode = partial(model.encode_captions, valid=ids == 0)
        return _call(encode, ids, owner=model)

    words = _unit("text encoder", full.text, captions)
    beside = (full.vision, full.token_norm, full.image_projection)
    owned = [p for part in beside for p in part.parameters()]
    owned += full.parameters(recurse=False)
    pictures = Unit(name="vision encoder", prepare=images, weights=weights_among(owned))
    return Footprint(
        name=f"{task.model} vision",
        itemsize=dtype.itemsize,
        rows=task.batch_size,
        tokens_per_row=task.max_tokens + model.vision.num_tokens,
        towers=(
            _tower(pictures, full.vision.blocks, 1.0),
            _tower(words, full.text.blocks, 1.0),
        ),
        root_bytes=sum(map(_bytes, beside[1:])),
        pairs_per_row=1.0,
        pair_dim=task.embedding_dim,
    )


def _vision(
    full: FlamingoForConditionalGeneration, short: FlamingoForConditionalGeneration, images: int
) -> Tower:
    encoder = short.vision_encoder
    size = encoder.image_size

    def prepare(items: int) -> Call:
        pixels = torch.empty(items, 3, size, size, dtype=torch.uint8, device="meta")
        return _call(encoder, pixels, owner=encoder)

    whole = _unit("vision encoder", full.vision_encoder, prepare)
    return _tower(whole, full.vision_encoder.blocks, float(images))


def _resampler(
    full: FlamingoForConditionalGeneration, short: FlamingoForConditionalGeneration, images: int
) -> Tower:
    encoder, resampler = short.vision_encoder, short.resampler

    def prepare(items: int) -> Call:
        shape = (1, items, 1, encoder.num_tokens, encoder.dim)
        features = torch.empty(*shape, dtype=resampler.latents.dtype, device="meta")
        return _call(resampler, features, owner=resampler)

    def of_layer(items: int) -> Call:
        call = prepare(items)
        return captured(lambda: call.function(*call.arguments), resampler.layers[0])

    whole = _unit("resampler", full.resampler, prepare)
    return replace(
        _tower(whole, full.resampler.layers, float(images)),
        block=_unit("resampler layer", resampler.layers[0], of_layer),
        shown=len(resampler.layers),
        depth=len(full.resampler.layers),
    )


def _layer_of(model: FlamingoForConditionalGeneration, length: int) -> Callable[[int], Call]:
    layer = decoder_layers(model.language_model)[0]
    return lambda rows: captured(lambda: _run(model, rows, length, images=1), layer)


def _gated_of(
    model: FlamingoForConditionalGeneration, length: int, images: int
) -> Callable[[int], Call]:
    block = model.gated_blocks[0]

    def prepare(rows: int) -> Call:
        call = captured(lambda: _run(model, rows, length, images=images), block)
        text, media = call.arguments
        assert isinstance(media, Media)
        # Its latents must not lead back into the resampler.
        return replace(call, arguments=(text, replace(media, latents=fresh(media.latents))))

    return prepare


def _run(model: FlamingoForConditionalGeneration, rows: int, length: int, *, images: int) -> object:
    size = model.vision_encoder.image_size
    ids = torch.zeros(rows, length, dtype=torch.int64, device="meta")
    pixels = torch.empty(rows, images, 3, size, size, dtype=torch.uint8, device="meta")
    return model(ids, pixel_values=pixels, media_item=ids, document_ids=ids)


def _embedding(language_model: PreTrainedModel, *new: nn.Module) -> Unit:
    table = language_model.get_input_embeddings()
    return _unit("embedding", nn.ModuleList([table, *new]), _nothing)


def _head(full: PreTrainedModel, prepare: Callable[[int], Call], *new: nn.Module) -> Unit:
    """Final norm, output layer and loss."""
    layers = {id(p) for layer in decoder_layers(full) for p in layer.parameters()}
    table = {id(p) for p in full.get_input_embeddings().parameters()}
    owned = [p for p in full.parameters() if id(p) not in layers | table]
    owned += [p for module in new for p in module.parameters()]
    return Unit(name="head and loss", prepare=prepare, weights=weights_among(owned))


def _all_logits(short: PreTrainedModel, length: int, rows: int) -> Call:
    head = short.get_output_embeddings()
    shape = (rows, length, head.in_features)
    hidden = torch.empty(*shape, dtype=short.dtype, device="meta", requires_grad=True)
    labels = torch.zeros(rows, length, dtype=torch.int64, device="meta")
    return _call(lambda h, y: next_token_loss(head(h), y)[0], hidden, labels, owner=head)


def _logits_by_chunks(short: PreTrainedModel, length: int, rows: int) -> Call:
    """Of a frozen head, as if every token were a target."""
    head, number = short.get_output_embeddings(), rows * (length - 1)
    fake = FakeTensorMode()  # autocast, which the loss asks, knows no meta device
    with fake:
        weight = torch.empty(*head.weight.shape, dtype=short.dtype)
        shape = (number, head.in_features)
        hidden = torch.empty(*shape, dtype=short.dtype, requires_grad=True)

    def run(hidden: Tensor) -> Tensor:
        with fake:
            targets = torch.zeros(number, dtype=torch.int64)
            return linear_next_token_loss(hidden, weight, targets, z_loss=0.0)

    return Call(function=run, arguments=(hidden,))


def _shortened(config: FlamingoConfig) -> FlamingoConfig:
    config = deepcopy(config)
    config.text_config.num_hidden_layers = config.resampler_layers = 1
    return config


def _tower(whole: Unit, blocks: Iterable[nn.Module], items: float) -> Tower:
    return Tower(whole=whole, items_per_row=items, largest_unit=largest_of(whole, blocks))


def _unit(name: str, module: nn.Module, prepare: Callable[[int], Call]) -> Unit:
    return Unit(name=name, prepare=prepare, weights=weights_of(module))


def _call(function: Callable[..., object], *arguments: Tensor, owner: nn.Module) -> Call:
    return Call(function=function, arguments=arguments, weights=tuple(owner.parameters()))


def _nothing(rows: int) -> Call:
    """Looking up a row of a table is no arithmetic."""
    return Call(function=lambda: None)


def _bytes(module: nn.Module) -> int:
    return sum(p.numel() * p.itemsize for p in module.parameters())
