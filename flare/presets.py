"""The sizes of FLARE, and what each of their components holds.

"ViT-H/14 (2.5B)" and "WavLM-Large (1B)" are the encoders with their projectors: the encoders alone
hold 0.63B and 0.32B.
"""

from collections.abc import Callable

import torch
from torch import nn

from flare.config import (
    FlareAudioConfig,
    FlareConfig,
    FlareProjectorConfig,
    FlareTextConfig,
    FlareVisionConfig,
)
from flare.model import FlareForConditionalGeneration


def flare_tiny() -> FlareConfig:
    """Minutes on a CPU: the same parts with small numbers."""
    projector = {
        "num_layers": 2,
        "num_heads": 4,
        "head_dim": 32,
        "feed_forward_dim": 256,
        "num_queries": 8,
    }
    return FlareConfig(
        text_config=FlareTextConfig(
            vocab_size=1024,
            hidden_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            intermediate_size=384,
        ),
        vision_config=FlareVisionConfig(
            image_size=32,
            model_options={"patch_size": 4, "embed_dim": 96, "depth": 4, "num_heads": 4},
            image_mean=(0.2, 0.2, 0.2),  # of the generated scenes
            image_std=(0.25, 0.25, 0.25),
        ),
        audio_config=FlareAudioConfig(
            dim=96,
            num_layers=3,
            num_heads=4,
            feed_forward_dim=256,
            conv_dims=(32,) * 7,
            position_kernel=16,
            position_groups=4,
            num_buckets=64,
            max_distance=200,
        ),
        vision_projector=FlareProjectorConfig(**projector),
        audio_projector=FlareProjectorConfig(**projector),
        contrastive_dim=64,
        initializer_range=0.09,  # 1 / sqrt(128), where 0.02 suits a width of 2500
    )


def flare_1b() -> FlareConfig:
    """The smallest size around encoders with public weights: ViT-B/16 and WavLM-Large."""
    projector = {"num_layers": 4, "num_heads": 8, "head_dim": 128, "feed_forward_dim": 2560}
    return FlareConfig(
        text_config=FlareTextConfig(
            hidden_size=1024,
            num_hidden_layers=28,
            num_attention_heads=8,
            num_key_value_heads=2,
            intermediate_size=2816,
        ),
        vision_config=FlareVisionConfig(name="vit_base_patch16_clip_224"),
        vision_projector=FlareProjectorConfig(**projector),
        audio_projector=FlareProjectorConfig(**projector),
        contrastive_dim=512,
        initializer_range=0.03,
    )


def flare_13b() -> FlareConfig:
    """128 layers of width 2560, ViT-H/14 and WavLM-Large; the configuration's defaults."""
    return FlareConfig()


PRESETS: dict[str, Callable[[], FlareConfig]] = {
    "flare_tiny": flare_tiny,
    "flare_1b": flare_1b,
    "flare_13b": flare_13b,
}


def count_parameters(config: FlareConfig) -> dict[str, int]:
    """Parameters per component, of the real model built on the meta device."""
    with torch.device("meta"):
        model = FlareForConditionalGeneration(config)
    parts: dict[str, tuple[nn.Module, ...]] = {
        "decoder": (model.embedding, model.decoder, model.head),
        "vision encoder": (model.vision_encoder,),
        "vision projector": (model.vision_projector,),
        "audio encoder": (model.audio_encoder,),
        "audio projector": (model.audio_projector,),
    }
    counts = {
        name: sum(p.numel() for module in modules for p in module.parameters())
        for name, modules in parts.items()
    }
    total = sum(p.numel() for p in model.parameters())
    return counts | {
        "contrastive heads": total - sum(counts.values()),
        "vision side": counts["vision encoder"] + counts["vision projector"],
        "audio side": counts["audio encoder"] + counts["audio projector"],
        "total": total,
    }
