"""A FLARE of some ten thousand parameters, every dimension different."""

from typing import Any

import torch

from flare.config import (
    FlareAudioConfig,
    FlareConfig,
    FlareProjectorConfig,
    FlareTextConfig,
    FlareVisionConfig,
)
from flare.model import FlareForConditionalGeneration

VOCAB = 97
IMAGE_SIZE = 32
IMAGE_QUERIES, AUDIO_QUERIES = 3, 2
IMAGE, CLIP = [3] * IMAGE_QUERIES, [4] * AUDIO_QUERIES  # their slots
MASK, EMB = 5, 6


def config(*, vocab_size: int = VOCAB, **fields: Any) -> FlareConfig:
    """Three blocks of width 24; 16 patches per image, a frame per 20 samples."""
    projector = {"num_layers": 2, "num_heads": 2, "head_dim": 10, "feed_forward_dim": 36}
    parts = {
        "text_config": FlareTextConfig(
            vocab_size=vocab_size,
            hidden_size=24,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            intermediate_size=40,
        ),
        "vision_config": FlareVisionConfig(
            image_size=IMAGE_SIZE,
            model_options={"patch_size": 8, "embed_dim": 28, "depth": 3, "num_heads": 2},
        ),
        "audio_config": FlareAudioConfig(
            dim=20,
            num_layers=2,
            num_heads=2,
            feed_forward_dim=44,
            conv_dims=(12, 12, 12),
            conv_kernels=(10, 3, 2),
            conv_strides=(5, 2, 2),
            position_kernel=6,
            position_groups=4,
            num_buckets=16,
            max_distance=30,
        ),
        "vision_projector": FlareProjectorConfig(num_queries=IMAGE_QUERIES, **projector),
        "audio_projector": FlareProjectorConfig(num_queries=AUDIO_QUERIES, **projector),
        "contrastive_dim": 14,
        "initializer_range": 0.2,
    }
    return FlareConfig(**(parts | fields))


def model(**fields: Any) -> FlareForConditionalGeneration:
    """In evaluation mode; branches loud enough for media and neighbours to matter."""
    torch.manual_seed(0)
    built = FlareForConditionalGeneration(config(**fields)).eval()
    with torch.no_grad():
        for block in built.decoder.blocks:
            block.attention.to_out.weight.mul_(4)
            block.feed_forward.contract.weight.mul_(4)
    return built


def images(num: int, *, seed: int = 0) -> torch.Tensor:
    """Random pictures as bytes."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num, 3, IMAGE_SIZE, IMAGE_SIZE)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def clips(num: int, *, samples: int = 400, seed: int = 0) -> torch.Tensor:
    """Random sounds."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, samples, generator=generator) / 5
