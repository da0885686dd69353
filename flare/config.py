"""Configuration of a FLARE: decoder, vision and audio encoder, and the projectors between them.

The defaults are FLARE-13B's: 9.5B in the decoder, 2.5B on the vision side, 1.0B on the audio side.
"""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

# Statistics of CLIP's pre-training images, which LAION's ViTs keep.
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
# 16 kHz becomes a frame of 25 ms every 20 ms; the shortest clip is 400 samples.
WAVLM_KERNELS, WAVLM_STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)


@strict
class FlareTextConfig(PreTrainedConfig):
    """The decoder; its vocabulary includes the control tokens."""

    __no_type_check__ = True  # transformers checks the fields itself, see `strict`
    model_type = "flare_text"
    base_config_key = "text_config"

    vocab_size: int = 65_536
    hidden_size: int = 2560
    num_hidden_layers: int = 128
    num_attention_heads: int = 20
    num_key_value_heads: int = 4
    head_dim: int = 128
    intermediate_size: int = 7296
    rms_norm_eps: float = 1e-6
    rotary_base: float = 10_000.0

    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    tie_word_embeddings: bool = False


@strict
class FlareVisionConfig(PreTrainedConfig):
    """A timm vision transformer by name, read at the output of one of its blocks."""

    __no_type_check__ = True  # as above
    model_type = "flare_vision"
    base_config_key = "vision_config"

    name: str = "vit_huge_patch14_clip_224"
    image_size: int = 224
    model_options: dict[str, Any] | None = None  # handed to `timm.create_model`
    # Per channel, of pixels in 0..1; a list when read from JSON.
    image_mean: Any = CLIP_MEAN
    image_std: Any = CLIP_STD
    layer: int | None = -2  # block whose output is read, from the end; None: after the last norm

    def __post_init__(self, **kwargs: Any) -> None:
        self.image_mean, self.image_std = tuple(self.image_mean), tuple(self.image_std)
        super().__post_init__(**kwargs)


@strict
class FlareAudioConfig(PreTrainedConfig):
    """A WavLM; the defaults are WavLM-Large's."""

    __no_type_check__ = True  # as above
    model_type = "flare_audio"
    base_config_key = "audio_config"

    dim: int = 1024
    num_layers: int = 24
    num_heads: int = 16
    feed_forward_dim: int = 4096
    # One per convolution; lists when read from JSON.
    conv_dims: Any = (512,) * len(WAVLM_KERNELS)
    conv_kernels: Any = WAVLM_KERNELS
    conv_strides: Any = WAVLM_STRIDES
    position_kernel: int = 128
    position_groups: int = 16
    num_buckets: int = 320
    max_distance: int = 800
    layer_norm_eps: float = 1e-5
    layer_drop: float = 0.0  # in training, the share of layers that are passed by
    mask_time_share: float = 0.0  # in training, the share of frames that are hidden
    mask_time_length: int = 10  # frames of one hidden span

    def __post_init__(self, **kwargs: Any) -> None:
        for name in ("conv_dims", "conv_kernels", "conv_strides"):
            setattr(self, name, tuple(getattr(self, name)))
        super().__post_init__(**kwargs)
        if not len(self.conv_dims) == len(self.conv_kernels) == len(self.conv_strides):
            raise ValueError("conv_dims, conv_kernels and conv_strides differ in length")


@strict
class FlareProjectorConfig(PreTrainedConfig):
    """What turns an encoder's features into soft tokens; the defaults are the vision side's."""

    __no_type_check__ = True  # as above
    model_type = "flare_projector"

    num_layers: int = 20
    num_heads: int = 20
    head_dim: int = 128
    feed_forward_dim: int = 6144
    num_queries: int = 64  # soft tokens per image or clip; one more query feeds the contrast


@strict
class FlareConfig(PreTrainedConfig):
    """The whole model."""

    __no_type_check__ = True  # as above
    model_type = "flare"
    sub_configs = {  # noqa: RUF012 - transformers' own class attribute
        "text_config": FlareTextConfig,
        "vision_config": FlareVisionConfig,
        "audio_config": FlareAudioConfig,
        "vision_projector": FlareProjectorConfig,
        "audio_projector": FlareProjectorConfig,
    }

    # Configurations, or their fields; `__post_init__` makes configurations of both.
    text_config: Any = None
    vision_config: Any = None
    audio_config: Any = None
    vision_projector: Any = None
    audio_projector: Any = None

    contrastive_dim: int = 1024
    contrastive: Literal["infonce", "siglip"] = "infonce"

    image_token_id: int = 3
    audio_token_id: int = 4
    mask_token_id: int = 5
    emb_token_id: int = 6

    initializer_range: float = 0.02
    attention_backend: Literal["auto", "reference", "sdpa", "flex"] = "auto"
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        if self.audio_projector is None:
            self.audio_projector = {"num_layers": 8, "feed_forward_dim": 5248}
        for name, kind in self.sub_configs.items():
            given = getattr(self, name)
            if not isinstance(given, PreTrainedConfig):
                fields = {key: value for key, value in (given or {}).items() if key != "model_type"}
                setattr(self, name, kind(**fields))
        super().__post_init__(**kwargs)
        ids = [getattr(self, f"{name}_token_id") for name in ("image", "audio", "mask", "emb")]
        text = self.text_config
        if len({*ids, text.pad_token_id, text.bos_token_id}) < 6:
            raise ValueError(f"control token ids {ids} must differ and be neither pad nor bos")
        ends = text.eos_token_id if isinstance(text.eos_token_id, list) else [text.eos_token_id]
        for number in (*ids, text.pad_token_id, text.bos_token_id, *ends):
            if number is not None and not 0 <= number < text.vocab_size:
                raise ValueError(f"token id {number} is outside of {text.vocab_size=}")
