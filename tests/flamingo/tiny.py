"""A Flamingo of a few thousand parameters over any language model family, gates open."""

from typing import Any

import torch

from common.data.embedded.tokenizer import train_tokenizer
from flamingo import FlamingoConfig, FlamingoForConditionalGeneration, FlamingoProcessor

IMAGE_SIZE = 32
SHAPE = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 5}
HEADS = {"num_attention_heads": 3, "num_key_value_heads": 1}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": SHAPE | HEADS,
    "qwen3": SHAPE | HEADS | {"head_dim": 8},
    "mistral": SHAPE | HEADS,
    "gemma3_text": SHAPE | HEADS | {"head_dim": 8},
    "gpt_neox": SHAPE | {"num_attention_heads": 3},
    "opt": {
        "hidden_size": 24,
        "ffn_dim": 40,
        "num_hidden_layers": 5,
        "num_attention_heads": 3,
        "word_embed_proj_dim": 16,
        "dropout": 0.0,
    },
    "mpt": {"d_model": 24, "n_heads": 3, "n_layers": 5, "expansion_ratio": 2, "max_seq_len": 96},
}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def config(family: str = "llama", *, vocab_size: int = 97, **fields: Any) -> FlamingoConfig:
    """Every dimension different, three gated blocks before the layers 0, 2 and 4."""
    text = FAMILIES[family] | SPECIAL | {"model_type": family, "vocab_size": vocab_size}
    vision = {
        "name": "dm_nfnet_f0",
        "image_size": IMAGE_SIZE,
        "model_options": {
            "depths": (1, 1),
            "channels": (16, 32),
            "stem_chs": 16,
            "group_size": 8,
            "num_features": 40,
        },
    }
    bridge = {
        "media_dim": 28,
        "num_latents": 3,
        "resampler_layers": 2,
        "resampler_heads": 2,
        "resampler_head_dim": 10,
        "resampler_feed_forward_dim": 52,
        "num_frames": 4,
        "cross_attention_interval": 2,
        "cross_attention_head_dim": 12,
        "cross_attention_feed_forward_dim": 44,
    }
    vision["model_type"] = "flamingo_vision"
    return FlamingoConfig(vision_config=vision, text_config=text, **(bridge | fields))


def model(
    family: str = "llama", *, gates: float = 0.8, **fields: Any
) -> FlamingoForConditionalGeneration:
    """Weights large enough for images to matter; gates closed with `gates=0`."""
    torch.manual_seed(0)
    built = FlamingoForConditionalGeneration(config(family, **fields)).eval()
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if "gate" in name and parameter.ndim == 1 and name.endswith("gate"):
                parameter.fill_(gates)
            elif parameter.ndim > 1 and "vision_encoder" not in name:
                parameter.mul_(4)
    return built


def images(batch: int, items: int, *, seed: int = 0) -> torch.Tensor:
    """Random pictures as bytes."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, items, 3, IMAGE_SIZE, IMAGE_SIZE)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def processor(vocab_size: int = 300) -> FlamingoProcessor:
    """A byte-level tokenizer without a single learnt merge."""
    tokenizer = train_tokenizer(["a plain text"], vocab_size=259, max_length=512)
    return FlamingoProcessor.from_tokenizer(tokenizer, vocab_size=vocab_size, image_size=IMAGE_SIZE)
