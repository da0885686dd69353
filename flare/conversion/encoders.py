"""Configurations of a FLARE's encoders as the checkpoints beside them describe them.

Weights are read by `FlareForConditionalGeneration.load_backbones`: WavLM under transformers' names,
the vision tower under timm's.
"""

from pathlib import Path

import torch
from transformers import WavLMConfig

from common.checkpoint.pretrained import model_type, read_config
from common.encoders.vision import DESCRIPTION_FILE, VisionEncoder, read_description
from common.errors import UserError
from flare.config import FlareAudioConfig, FlareVisionConfig

_WAVLM = {
    "dim": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "feed_forward_dim": "intermediate_size",
    "conv_dims": "conv_dim",
    "conv_kernels": "conv_kernel",
    "conv_strides": "conv_stride",
    "position_kernel": "num_conv_pos_embeddings",
    "position_groups": "num_conv_pos_embedding_groups",
    "num_buckets": "num_buckets",
    "max_distance": "max_bucket_distance",
    "layer_norm_eps": "layer_norm_eps",
}


def audio_config(source: Path | None, *, otherwise: FlareAudioConfig) -> FlareAudioConfig:
    """Of a WavLM's folder; `otherwise` when nothing describes the weights.

    Raises:
        UserError: when the folder holds another model.
    """
    if source is None or not (source / "config.json").is_file():
        return otherwise
    config = read_config(source)
    if not isinstance(config, WavLMConfig):
        raise UserError(f"{source} holds a {model_type(source)}, not a wavlm")
    return FlareAudioConfig(**{ours: getattr(config, name) for ours, name in _WAVLM.items()})


def wavlm_config(audio: FlareAudioConfig) -> WavLMConfig:
    """transformers' configuration of the same model."""
    fields = {name: getattr(audio, ours) for ours, name in _WAVLM.items()}
    return WavLMConfig(
        **{name: [*value] if isinstance(value, tuple) else value for name, value in fields.items()},
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
    )


def vision_config(source: Path | None, *, otherwise: FlareVisionConfig) -> FlareVisionConfig:
    """Of a folder of our vision encoder; `otherwise` when nothing describes the weights.

    Raises:
        UserError: when there is no vision encoder in the folder.
    """
    if source is None or not source.is_dir():
        return otherwise
    if not (source / DESCRIPTION_FILE).is_file() and (source / "config.json").is_file():
        raise UserError(
            f"{source} holds a {model_type(source)} of transformers; make a vision encoder of it "
            "first: scripts/convert.py clip"
        )
    description = read_description(source) | {"layer": None}
    with torch.device("meta"):
        encoder = VisionEncoder(**description)  # type: ignore[arg-type]  # JSON
    return FlareVisionConfig(
        name=encoder.name,
        image_size=encoder.image_size,
        model_options=encoder.model_options,
        image_mean=encoder.mean,
        image_std=encoder.std,
        # A convolutional network is read at its end.
        layer=otherwise.layer if hasattr(encoder.model, "blocks") else None,
    )
