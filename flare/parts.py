"""The parts of a FLARE as its configuration describes them, with random weights."""

from torch import nn

from common.encoders.vision import VisionEncoder
from common.encoders.wavlm import WavLM
from flare.config import FlareConfig, FlareProjectorConfig, FlareTextConfig, FlareVisionConfig
from flare.decoder import Decoder
from flare.projector import Projector


def build_vision_encoder(vision: FlareVisionConfig) -> VisionEncoder:
    """timm's model."""
    encoder = VisionEncoder(
        name=vision.name,
        image_size=vision.image_size,
        model_options=vision.model_options or {},
        mean=vision.image_mean,
        std=vision.image_std,
        layer=vision.layer,
    )
    _keep_own_initialisation(encoder)
    return encoder


def build_audio_encoder(config: FlareConfig) -> WavLM:
    """Our WavLM."""
    audio = config.audio_config
    encoder = WavLM(
        dim=audio.dim,
        num_layers=audio.num_layers,
        num_heads=audio.num_heads,
        feed_forward_dim=audio.feed_forward_dim,
        conv_dims=audio.conv_dims,
        conv_kernels=audio.conv_kernels,
        conv_strides=audio.conv_strides,
        position_kernel=audio.position_kernel,
        position_groups=audio.position_groups,
        num_buckets=audio.num_buckets,
        max_distance=audio.max_distance,
        layer_norm_eps=audio.layer_norm_eps,
        layer_drop=audio.layer_drop,
        mask_time_share=audio.mask_time_share,
        mask_time_length=audio.mask_time_length,
        backend=config.attention_backend,
    )
    _keep_own_initialisation(encoder)
    return encoder


def build_projector(
    config: FlareConfig, projector: FlareProjectorConfig, *, feature_dim: int
) -> Projector:
    """From features of an encoder to tokens of the decoder."""
    return Projector(
        feature_dim=feature_dim,
        dim=config.text_config.hidden_size,
        num_layers=projector.num_layers,
        num_heads=projector.num_heads,
        head_dim=projector.head_dim,
        feed_forward_dim=projector.feed_forward_dim,
        num_queries=projector.num_queries,
        norm_eps=config.text_config.rms_norm_eps,
        backend=config.attention_backend,
    )


def build_decoder(text: FlareTextConfig) -> Decoder:
    """All layers, without the tables of tokens."""
    return Decoder(
        dim=text.hidden_size,
        num_layers=text.num_hidden_layers,
        num_heads=text.num_attention_heads,
        num_key_heads=text.num_key_value_heads,
        head_dim=text.head_dim,
        feed_forward_dim=text.intermediate_size,
        norm_eps=text.rms_norm_eps,
        rotary_base=text.rotary_base,
    )


def _keep_own_initialisation(encoder: nn.Module) -> None:
    """The encoder has initialised itself; transformers must not again."""
    for module in encoder.modules():
        module.__dict__["_is_hf_initialized"] = True
