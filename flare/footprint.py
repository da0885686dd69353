"""FLARE as planning sees it: four towers over media and a decoder that a pipeline may cut."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from common.data.document import SAMPLE_RATE_HZ
from common.objectives.language import linear_next_token_loss
from common.parallel.plan.claims import Claim
from common.parallel.plan.counting import Call, captured
from common.parallel.plan.footprint import Footprint, Tower, Unit
from common.training.run import RunConfig
from flare.config import FlareConfig
from flare.decoder import hybrid_mask, positions_in_documents
from flare.model import FlareForConditionalGeneration
from flare.presets import PRESETS
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
    dtype: torch.dtype = torch.bfloat16,
) -> Footprint:
    """The model of a run, its rows and their media; clips last `seconds`, or what the run allows.

    Equal layers are counted once: all but one (two of WavLM, whose first owns the positions) are
    left out of the model that is run. Parameters are those of the full model, on the meta device.
    """
    config = PRESETS[run.task.model]()
    if run.task.patch_drop:
        options = config.vision_config.model_options or {}
        config.vision_config.model_options = options | {"patch_drop_rate": run.task.patch_drop}
    full, short = _built(config, run.task), _built(_shortened(config), run.task).to(dtype)
    pieces = _Pieces(full, short, run.task, dtype)
    images, clips = images_per_row, clips_per_row
    samples = round((seconds or run.task.max_seconds) * SAMPLE_RATE_HZ)
    text, rows = config.text_config, run.task.batch_size
    block = pieces.decoder_block()
    return Footprint(
        name=run.task.model,
        rows=rows,
        tokens_per_row=run.task.max_tokens,
        towers=(*pieces.vision(images), *pieces.audio(clips, samples)),
        layers=((block,),) * text.num_hidden_layers,
        embedding=_plain_unit("embedding", full.embedding, _nothing),
        head=pieces.head(),
        hidden_dim=text.hidden_size,
        media_tokens_per_row=images * config.vision_projector.num_queries
        + clips * config.audio_projector.num_queries,
        caption_share=(images + clips) * CAPTION_TOKENS / run.task.max_tokens,
        pairs_per_row=images + clips,
        pair_dim=config.contrastive_dim,
    )


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
        first = _tower("vision encoder", [self.full.vision_encoder], pixels, images)
        # Blocks behind the one that is read hold parameters and do nothing.
        depth = len(vit.blocks) if read is None else read % len(vit.blocks) + 1
        first = _with_blocks(first, pixels, encoder.model.blocks[0], shown=1, depth=depth)
        parts = [self.full.vision_projector, self.full.image_vector]
        features = self._features(num_features, encoder.dim)
        run = _projection(self.short.vision_projector, self.short.image_vector, features)
        second = _tower("vision projector", parts, run, images)
        return first, _with_blocks(
            second,
            run,
            self.short.vision_projector.blocks[0],
            shown=1,
            depth=len(self.full.vision_projector.blocks),
        )

    def audio(self, clips: float, samples: int) -> tuple[Tower, Tower]:
        """As `vision`."""
        encoder = self.short.audio_encoder

        def waveforms(items: int) -> Call:
            lengths = torch.full((items,), samples, device="meta")
            return _call(encoder, torch.empty(items, samples, device="meta"), lengths)

        layers = encoder.encoder.layers
        first = _tower("audio encoder", [self.full.audio_encoder], waveforms, clips)
        depth = len(self.full.audio_encoder.encoder.layers)
        first = _with_blocks(first, waveforms, layers[-1], shown=len(layers), depth=depth)
        first = replace(first, recomputes=False)
        parts = [self.full.audio_projector, self.full.audio_vector]
        features = self._features(encoder.num_frames(samples), encoder.dim)
        run = _projection(self.short.audio_projector, self.short.audio_vector, features)
        second = _tower("audio projector", parts, run, clips)
        return first, _with_blocks(
            second,
            run,
            self.short.audio_projector.blocks[0],
            shown=1,
            depth=len(self.full.audio_projector.blocks),
        )

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

        return _plain_unit("decoder block", decoder.blocks[0], prepare)

    def head(self) -> Unit:
        """Final norm, output layer with both language losses, the captions' map, temperatures."""
        masking, length = self.task.masking, self.task.max_tokens
        share = masking.masked_share(0.0)
        shares = (share * masking.mask_rate(0.0), 1 - share)  # predicted: masked, causal
        vocabulary, width = self.full.head.weight.shape

        def prepare(rows: int) -> Call:
            # On fake CPU tensors: autocast, which the loss turns off, knows no meta device.
            fake = FakeTensorMode()
            with fake:
                weight = nn.Parameter(torch.empty(vocabulary, width, dtype=self.dtype))
                hidden = torch.empty(rows * length, width, dtype=self.dtype, requires_grad=True)

            def run(hidden: Tensor, weight: Tensor) -> Tensor:
                with fake:
                    counts = [round(rows * length * part) for part in shares]
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

        model = self.full
        owned = [model.decoder.norm, model.head, model.text_vector]
        scalars = [p for p in model.parameters(recurse=False) if p.requires_grad]
        number = sum(map(_size, owned)) + sum(p.numel() for p in scalars)
        return Unit(name="head and loss", prepare=prepare, parameters=number, trained=number)

    def _features(self, number: int, width: int) -> Callable[[int], Tensor]:
        return lambda items: torch.empty(
            items, number, width, device="meta", dtype=self.dtype, requires_grad=True
        )


def _built(config: FlareConfig, task: FlareTaskConfig) -> FlareForConditionalGeneration:
    with torch.device("meta"):
        model = FlareForConditionalGeneration(config)
    for part in task.frozen:
        model.get_submodule(part).requires_grad_(False)
    return model.train()


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
    name: str, parts: list[nn.Module], prepare: Callable[[int], Call], items: float
) -> Tower:
    number = sum(_size(part) for part in parts)
    trained = sum(p.numel() for part in parts for p in part.parameters() if p.requires_grad)
    whole = Unit(name=name, prepare=prepare, parameters=number, trained=trained)
    return Tower(whole=whole, items_per_row=items)


def _with_blocks(
    tower: Tower, prepare: Callable[[int], Call], block: nn.Module, *, shown: int, depth: int
) -> Tower:
    def of_block(items: int) -> Call:
        call = prepare(items)
        return captured(lambda: call.function(*call.arguments, **call.options), block)

    unit = _plain_unit(f"{tower.name} block", block, of_block)
    return replace(tower, block=unit, shown=shown, depth=depth)


def _plain_unit(name: str, module: nn.Module, prepare: Callable[[int], Call]) -> Unit:
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    return Unit(name=name, prepare=prepare, parameters=_size(module), trained=trained)


def _call(module: nn.Module, *arguments: Tensor) -> Call:
    return Call(function=module, arguments=arguments, weights=tuple(module.parameters()))


def _nothing(rows: int) -> Call:
    """Looking up a row of a table is no arithmetic."""
    return Call(function=lambda: None)


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
