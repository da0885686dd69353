"""Configuration of a Flamingo: vision encoder, language model and the bridge between them.

The defaults of the bridge are the paper's (arXiv 2204.14198, sections 2 and A.1). The language
model is described by any Hugging Face causal LM configuration and keeps its own class and keys.
"""

import copy
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

NUM_NEW_TOKENS = 2  # <image> and <|endofchunk|>, in this order, right after the LM's own vocabulary

# timm's statistics for its NFNets; a CLIP ViT wants those of its own pre-training images.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@strict
class FlamingoVisionConfig(PreTrainedConfig):
    """A timm model by name: `dm_nfnet_f6` as in the paper, or any CLIP ViT."""

    __no_type_check__ = True  # transformers checks the fields itself, see `strict`
    model_type = "flamingo_vision"
    base_config_key = "vision_config"

    name: str = "dm_nfnet_f6"
    image_size: int = 224
    model_options: dict[str, Any] | None = None  # handed to `timm.create_model`
    layer: int | None = None  # block that is read, -1 the last, without norm; None: after the norm
    tokens: Literal["patches", "all"] = "patches"  # all: the class token too
    # Per channel, of pixels in 0..1; a list when read from JSON.
    image_mean: Any = IMAGENET_MEAN
    image_std: Any = IMAGENET_STD

    def __post_init__(self, **kwargs: Any) -> None:
        self.image_mean, self.image_std = tuple(self.image_mean), tuple(self.image_std)
        super().__post_init__(**kwargs)


@strict
class FlamingoConfig(PreTrainedConfig):
    """The whole model. `text_config` is any Hugging Face causal LM's configuration."""

    __no_type_check__ = True  # as above
    model_type = "flamingo"
    sub_configs = {"vision_config": FlamingoVisionConfig, "text_config": AutoConfig}  # noqa: RUF012 - transformers' own class attribute

    # Configurations, or their fields; `__post_init__` makes configurations of both.
    vision_config: Any = None
    text_config: Any = None

    media_dim: int = 1536  # width of the resampler and of the keys' and values' input
    num_latents: int = 64
    resampler_layers: int = 6
    resampler_heads: int = 16
    resampler_head_dim: int = 96
    resampler_feed_forward_dim: int = 6144
    resampler_activation: Literal["squared_relu", "gelu", "relu"] = "squared_relu"
    resampler_head_norm: bool = False  # LayerNorm of queries and keys over the head width
    num_frames: int = 8  # frames of a video in training; time embeddings are interpolated for more

    # A gated block before LM block i when i >= first and (i - first) % interval == 0.
    cross_attention_interval: int = 1
    cross_attention_first: int = 0
    cross_attention_head_dim: int = 128
    cross_attention_heads: int | None = None  # None: as many as the LM's width holds
    cross_attention_feed_forward_dim: int = 4096
    cross_attention_activation: Literal["squared_relu", "gelu", "swiglu"] = "squared_relu"
    cross_attention_rms_eps: float | None = None  # RMSNorm with this epsilon; None: LayerNorm
    cross_attention_head_norm: bool = False  # RMSNorm of queries and keys over the head width
    gate_per_channel: bool = False
    media_attention: Literal["own", "previous"] = "own"
    attention_backend: Literal["auto", "reference", "sdpa", "flex"] = "auto"

    initializer_range: float = 0.02
    tie_word_embeddings: bool = False  # the language model ties its own

    def __post_init__(self, **kwargs: Any) -> None:
        self.vision_config = _as_config(self.vision_config, FlamingoVisionConfig.model_type)
        self.text_config = _as_config(self.text_config, "llama")
        super().__post_init__(**kwargs)
        width, head = self.text_config.hidden_size, self.cross_attention_head_dim
        if self.cross_attention_heads is None and width % head:
            raise ValueError(
                f"cross_attention_head_dim={head} does not divide the LM's width {width}"
            )
        if self.cross_attention_interval < 1:
            raise ValueError(f"{self.cross_attention_interval=} must be at least 1")
        if not self.cross_attention_layers:
            raise ValueError(f"{self.cross_attention_first=} is behind the LM's last layer")
        _refuse_foreign_tokens(self.text_config)

    def get_text_config(self, *args: Any, **kwargs: Any) -> PreTrainedConfig:
        """What generation reads: the language model's configuration with the new tokens' rows."""
        config = copy.copy(self.text_config)
        config.vocab_size += NUM_NEW_TOKENS
        return config

    @property
    def image_token_id(self) -> int:
        """Id of `<image>`: the first one after the language model's vocabulary."""
        return int(self.text_config.vocab_size)

    @property
    def end_of_chunk_token_id(self) -> int:
        """Id of `<|endofchunk|>`, which ends the text of an image."""
        return self.image_token_id + 1

    @property
    def cross_attention_layers(self) -> range:
        """Layers with a gated block before them: 0, 7 ... 77, twelve, for 80 at every 7th."""
        num_layers = int(self.text_config.num_hidden_layers)
        return range(self.cross_attention_first, num_layers, self.cross_attention_interval)


def _refuse_foreign_tokens(text: PreTrainedConfig) -> None:
    """-1 is how the first Llamas say that there is no such token."""
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        ids = getattr(text, name, None)
        for number in ids if isinstance(ids, list) else [ids]:
            if number is not None and not -1 <= number < text.vocab_size + NUM_NEW_TOKENS:
                raise ValueError(f"{name}={ids} is outside of {text.vocab_size=}")


def _as_config(
    config: dict[str, Any] | PreTrainedConfig | None, default_type: str
) -> PreTrainedConfig:
    if isinstance(config, PreTrainedConfig):
        return config
    fields = dict(config or {})
    model_type = fields.pop("model_type", default_type)
    if model_type == FlamingoVisionConfig.model_type:
        return FlamingoVisionConfig(**fields)
    return AutoConfig.for_model(model_type, **fields)
