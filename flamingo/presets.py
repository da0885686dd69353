"""The sizes of Flamingo, and what each of their components holds.

The published table (appendix A.1) counts 1.4B + 1.2B + 194M + 435M for 3B, 7.1B + 1.6B for 9B and
70B + 10B for 80B. Its language models are Chinchillas, which nobody can load; each preset has the
shape of an open one. Its 9B row prints 40 layers and 10 gated blocks, but 7.1B and 1.6B are what 32
layers and 8 blocks hold: these are taken.
"""

from collections.abc import Callable

import torch
from torch import nn

from flamingo.config import FlamingoConfig, FlamingoVisionConfig
from flamingo.model import FlamingoForConditionalGeneration

# NFNet-F6 emits 3072 channels; 16 heads of 128 and a projection to 1536 make the printed 194M.
_RESAMPLER = {
    "media_dim": 1536,
    "num_latents": 64,
    "resampler_layers": 6,
    "resampler_heads": 16,
    "resampler_head_dim": 128,
    "resampler_feed_forward_dim": 6144,
    "num_frames": 8,
}


def flamingo_tiny() -> FlamingoConfig:
    """Minutes on a CPU: an NFNet, a Llama and a bridge of the same design, with small numbers."""
    return FlamingoConfig(
        vision_config=tiny_vision(),
        text_config={
            "model_type": "llama",
            "vocab_size": 1024,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 1024,
            "initializer_range": 0.09,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        media_dim=128,
        num_latents=8,
        resampler_layers=2,
        resampler_heads=4,
        resampler_head_dim=32,
        resampler_feed_forward_dim=512,
        cross_attention_interval=1,
        cross_attention_head_dim=32,
        cross_attention_feed_forward_dim=512,
        initializer_range=0.09,  # 1 / sqrt(128), where 0.02 suits a width of 2500
    )


def tiny_vision() -> FlamingoVisionConfig:
    """The family of the paper's F6 at 32 x 32 pixels."""
    return FlamingoVisionConfig(
        name="dm_nfnet_f0",
        image_size=32,
        model_options={
            "depths": (1, 2),
            "channels": (64, 128),
            "stem_chs": 96,
            "group_size": 32,
            "num_features": 128,
            "output_stride": 4,  # 8 x 8 tokens
        },
        image_mean=(0.2, 0.2, 0.2),  # of the generated scenes
        image_std=(0.25, 0.25, 0.25),
    )


def flamingo_3b() -> FlamingoConfig:
    """A gated block before each of 24 layers (paper: "every layer" at 3B)."""
    return FlamingoConfig(
        text_config=_llama(
            vocab_size=32_000,
            hidden_size=2048,
            intermediate_size=5632,
            num_hidden_layers=24,
            num_attention_heads=16,
            num_key_value_heads=16,
        ),
        cross_attention_interval=1,
        cross_attention_feed_forward_dim=8192,
        **_RESAMPLER,
    )


def flamingo_9b() -> FlamingoConfig:
    """The shape of Mistral-7B, a gated block before every 4th of its 32 layers."""
    return FlamingoConfig(
        text_config=_llama(
            model_type="mistral",
            vocab_size=32_000,
            hidden_size=4096,
            intermediate_size=14_336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
        ),
        cross_attention_interval=4,
        cross_attention_feed_forward_dim=16_384,
        **_RESAMPLER,
    )


def flamingo_80b() -> FlamingoConfig:
    """The shape of Llama-3-70B, a gated block before every 7th of its 80 layers: 12 of them."""
    return FlamingoConfig(
        text_config=_llama(
            vocab_size=128_256,
            hidden_size=8192,
            intermediate_size=28_672,
            num_hidden_layers=80,
            num_attention_heads=64,
            num_key_value_heads=8,
            max_position_embeddings=8192,
            rope_theta=500_000.0,
        ),
        cross_attention_interval=7,
        cross_attention_feed_forward_dim=32_768,
        **_RESAMPLER,
    )


PRESETS: dict[str, Callable[[], FlamingoConfig]] = {
    "flamingo_tiny": flamingo_tiny,
    "flamingo_3b": flamingo_3b,
    "flamingo_9b": flamingo_9b,
    "flamingo_80b": flamingo_80b,
}


def count_parameters(config: FlamingoConfig) -> dict[str, int]:
    """Parameters per component, of the real model built on the meta device."""
    with torch.device("meta"):
        model = FlamingoForConditionalGeneration(config)
    parts: dict[str, tuple[nn.Module, ...]] = {
        "language model": (model.language_model,),
        "vision encoder": (model.vision_encoder,),
        "resampler": (model.resampler,),
        "gated cross-attention": (model.gated_cross_attention,),
        "new tokens": (model.new_inputs, model.new_outputs),
    }
    counts = {
        name: sum(p.numel() for module in modules for p in module.parameters())
        for name, modules in parts.items()
    }
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return counts | {"total": total, "trained": trained}


def _llama(*, model_type: str = "llama", **shape: int | float) -> dict[str, int | float | str]:
    return {"model_type": model_type, "head_dim": 128, "tie_word_embeddings": False, **shape}
