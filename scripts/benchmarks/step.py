"""A whole training step (forward, loss, backward, clipping, AdamW) beside open_flamingo's, float32.

Both have the same frozen language model, vision encoder and sizes, and learn from the same
documents: its rows hold one each, padded to the longest, as its loader makes them; ours are packed.
"full" documents are as long as a row, so nothing can be packed; the lengths of "mixed" ones are
log-normal, as those of the suite `data`. Losses are checked equal first, with closed gates.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm
from torch.optim import AdamW, Optimizer

from common.data.packing import PackState, Room, Size, pack
from common.data.transfer import on_device
from common.objectives.language import IGNORED
from common.training.optimizer import build_optimizer, clip_gradients
from common.training.run import OptimizerConfig
from flamingo.config import FlamingoConfig
from flamingo.data import FlamingoBatch, FlamingoExample, collate, join
from flamingo.model import FlamingoForConditionalGeneration
from flamingo.presets import flamingo_tiny, tiny_vision
from flamingo.task import WEIGHT_DECAY, FlamingoTask
from flamingo.task_config import FlamingoTaskConfig, SourceConfig
from scripts.benchmarks import peers
from scripts.benchmarks.memory import peak_bytes
from scripts.benchmarks.timing import CLOCK, Row, alternating, ratio

REPEATS = 7
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
OPENED = 0.5  # gates
OPTIMIZER = OptimizerConfig(peak_learning_rate=1e-4)
FIRST_WORD = 3  # ids below have a meaning
MU, SIGMA, OF, SHORTEST = 5.3, 1.0, 2048, 8  # of a document's tokens, for rows of 2048


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model and the rows that it is trained on."""

    name: str
    config: FlamingoConfig
    rows: int
    tokens: int
    images: int  # of a row


def shapes() -> list[Shape]:
    """The tiny preset, and one of width 512 with the bridge that open_flamingo always has."""
    return [
        Shape(name="tiny", config=flamingo_tiny(), rows=8, tokens=128, images=8),
        Shape(name="width 512", config=_middle(), rows=1, tokens=1024, images=16),
    ]


def figures() -> list[Row]:
    """A row for each shape and kind of documents."""
    return [_row(shape, kind) for shape in shapes() for kind in ("full", "mixed")]


@dataclass(frozen=True, kw_only=True)
class Training:
    """One update, again and again."""

    model: nn.Module
    loss: Callable[[], Tensor]  # mean over the targets
    clip: Callable[[], object]
    optimizer: Optimizer

    def __call__(self) -> None:
        """Forward, backward, clipping, optimizer."""
        self.loss().backward()
        self.clip()
        self.optimizer.step()
        self.optimizer.zero_grad()


def _row(shape: Shape, kind: str) -> Row:
    rows = _rows(shape, kind)
    documents = [document for row in rows for document in row]
    torch.manual_seed(0)
    model = FlamingoForConditionalGeneration(shape.config).to(DEVICE).train()
    packed = collate([join(row) for row in rows], padding_id=0, width=shape.tokens)
    ways = {"ours": _ours(model, on_device(packed, DEVICE))}
    row: Row = {"model": shape.name, "documents": f"{len(documents)} {kind}"}
    if not peers.is_installed("open_flamingo"):
        times = alternating([ways["ours"]], repeats=REPEATS, clock=CLOCK)
        missing = dict.fromkeys(("open_flamingo", "ratio", "of its memory"), peers.NOT_INSTALLED)
        return {**row, "ours, documents/s": round(len(documents) / times[0], 2), **missing}
    ways["open_flamingo"] = _theirs(model, on_device(collate(documents, padding_id=0), DEVICE))
    losses = [way.loss().detach() for way in ways.values()]
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)
    for way in ways.values():
        _open_gates(way.model)
    ours, theirs = alternating(list(ways.values()), repeats=REPEATS, clock=CLOCK)
    memory = [peak_bytes(way) for way in ways.values()]
    return {
        **row,
        "ours, documents/s": round(len(documents) / ours, 2),
        "open_flamingo": round(len(documents) / theirs, 2),
        "ratio": ratio(theirs, ours),
        "of its memory": ratio(*memory),
    }


def _ours(model: FlamingoForConditionalGeneration, batch: FlamingoBatch) -> Training:
    source = SourceConfig(name="documents", kind="scenes", batch_size=1, weight=1.0)
    task = FlamingoTask(FlamingoTaskConfig(model="flamingo_tiny", sources=(source,)))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    count = sum(task.counts("documents", batch).values())
    return Training(
        model=model,
        loss=lambda: task.compute(model, "documents", batch).losses["documents"] / count,
        clip=lambda: clip_gradients(
            parameters, norm_of=get_total_norm, max_norm=OPTIMIZER.clip_norm
        ),
        optimizer=build_optimizer(model, task.parameter_groups(model), OPTIMIZER),
    )


def _theirs(ours: FlamingoForConditionalGeneration, batch: FlamingoBatch) -> Training:
    """As its training loop does it, a document a row."""
    model = peers.flamingo(ours)
    images = rearrange(batch.pixel_values, "b m c y x -> b m 1 c y x")
    mask = (batch.input_ids != 0).long()
    new = [ours.config.image_token_id, ours.config.end_of_chunk_token_id]
    embedding = model.get_submodule("lang_encoder.model.embed_tokens").get_parameter("weight")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def loss() -> Tensor:
        out = model(images, batch.input_ids, attention_mask=mask, labels=batch.labels)
        mean: Tensor = out.loss
        return mean

    def clip() -> None:
        # All of the embedding has a gradient; only the new tokens' rows keep it.
        kept = torch.zeros_like(embedding)
        kept[new] = 1
        embedding.grad = None if embedding.grad is None else embedding.grad * kept
        clip_grad_norm_(trained, OPTIMIZER.clip_norm)

    gated = [p for name, p in model.named_parameters() if "gated_cross" in name]
    rest = [p for p in trained if all(p is not other for other in gated)]
    groups = [{"params": gated, "weight_decay": WEIGHT_DECAY}, {"params": rest, "weight_decay": 0}]
    optimizer = AdamW(groups, lr=OPTIMIZER.peak_learning_rate)
    return Training(model=model, loss=loss, clip=clip, optimizer=optimizer)


@torch.no_grad()
def _open_gates(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if name.endswith("gate"):
            parameter.fill_(OPENED)


def _rows(shape: Shape, kind: str) -> list[list[FlamingoExample]]:
    """The documents of each packed row."""
    drawn: dict[int, FlamingoExample] = {}

    def size_of(number: int) -> Size:
        drawn[number] = _document(shape, kind, number)
        return Size(tokens=len(drawn[number].ids), images=len(drawn[number].images))

    room = Room(tokens=shape.tokens, images=shape.images)
    rows, _ = pack(size_of, PackState(), num_rows=shape.rows, room=room)
    return [[drawn[number] for number in row] for row in rows]


def _document(shape: Shape, kind: str, number: int) -> FlamingoExample:
    """Images at even distances among random words."""
    generator = torch.Generator().manual_seed(number)
    tokens, images = shape.tokens, shape.images
    if kind == "mixed":
        drawn = torch.randn((), generator=generator).mul(SIGMA).add(MU).exp() * tokens / OF
        tokens = int(drawn.clamp(SHORTEST, tokens))
        images = max(1, images * tokens // shape.tokens)
    image_id = shape.config.image_token_id
    ids = torch.randint(FIRST_WORD, image_id, (tokens,), generator=generator)
    ids[torch.arange(images) * tokens // images] = image_id
    is_image = ids == image_id
    side = shape.config.vision_config.image_size
    pixels = torch.randint(256, (images, 3, side, side), generator=generator, dtype=torch.uint8)
    return FlamingoExample(
        key=str(number),
        ids=ids,
        labels=ids.masked_fill(is_image, IGNORED),
        items=is_image.cumsum(0),
        documents=torch.zeros_like(ids),
        images=pixels,
    )


def _middle() -> FlamingoConfig:
    return FlamingoConfig(
        vision_config=tiny_vision(),
        text_config={
            "model_type": "llama",
            "vocab_size": 4096,
            "hidden_size": 512,
            "intermediate_size": 1376,
            "num_hidden_layers": 4,
            "num_attention_heads": 8,
            "num_key_value_heads": 8,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        media_dim=128,  # the vision encoder's, as open_flamingo must have it
        num_latents=64,
        resampler_layers=6,
        resampler_heads=8,
        resampler_head_dim=64,
        resampler_feed_forward_dim=512,
        cross_attention_interval=2,
        cross_attention_head_dim=64,
        cross_attention_feed_forward_dim=2048,
    )
