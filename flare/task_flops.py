"""Floating-point operations of a FLARE's parts, counted on a model without memory: not on the one
that is trained, for ranks may hold shards or stages of that."""

from collections.abc import Callable
from functools import cached_property, partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from common.attention.masks import causal
from common.data.document import SAMPLE_RATE_HZ
from flare.config import FlareConfig
from flare.data import FlareBatch
from flare.model import FlareForConditionalGeneration


class PartFlops:
    """Of one forward pass, except `batch`; each part is counted once."""

    def __init__(self, config: FlareConfig) -> None:
        self.config = config
        self._of_clips: dict[int, float] = {}

    def batch(self, batch: FlareBatch, *, tokens: int) -> float:
        """Forward and backward: 6 N per token through the decoder; encoders and projectors as
        counted by torch."""
        decoder = sum(p.numel() for p in self._model.decoder.parameters())
        predicted = sum(len(target.ids) for target in batch.targets.values())
        text = 6.0 * (decoder * tokens + self._model.head.weight.numel() * predicted)
        images = 3.0 * self._image * len(batch.pixel_values)
        groups = [group for group in batch.clips.waveforms if len(group)]
        return (
            text + images + sum(3.0 * self._clip(group.shape[1]) * len(group) for group in groups)
        )

    def blocks(self, num_tokens: int) -> list[float]:
        """Of each decoder block on a row; those of the head with the last."""
        decoder, head = self._model.decoder, self._model.head
        x = torch.zeros(1, num_tokens, head.in_features, device="meta")
        places = torch.arange(x.shape[1], device="meta")[None]
        advance = partial(decoder.advance, positions=places, mask=causal(), backend="sdpa")
        block = _counted(lambda: advance(decoder.blocks[:1], x))
        *others, last = [block] * len(decoder.blocks)
        return [*others, last + _counted(lambda: head(x))]

    @cached_property
    def _image(self) -> float:
        size = self.config.vision_config.image_size
        pixels = torch.zeros(1, 3, size, size, device="meta")
        return _counted(lambda: self._model.encode_images(pixels))

    def _clip(self, num_samples: int) -> float:
        """Of a clip padded to a length, counted for the next half second above it."""
        num_samples += -num_samples % (SAMPLE_RATE_HZ // 2)
        if num_samples not in self._of_clips:
            waveform = torch.zeros(1, num_samples, device="meta")
            lengths = torch.full((1,), num_samples, device="meta")
            self._of_clips[num_samples] = _counted(
                lambda: self._model.encode_audio(waveform, lengths)
            )
        return self._of_clips[num_samples]

    @cached_property
    def _model(self) -> FlareForConditionalGeneration:
        with torch.device("meta"):
            return FlareForConditionalGeneration(self.config).eval().requires_grad_(False)


def _counted(run: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return float(counter.get_total_flops())
