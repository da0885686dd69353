"""transformers' Idefics v1 (`IdeficsForVisionText2Text`) to ours, and back.

Its language model is a Llama, its tower a CLIP ViT whose class token is read beside the patches and
whose last norm is not applied; its gated blocks have SwiGLU, RMSNorm and, in the released 80B,
norms of queries and keys. Its two additional tokens are <fake_token_around_image> and <image>, in
this order; the first stands here where <|endofchunk|> does.
"""

import torch
from torch import Tensor
from transformers import IdeficsConfig, LlamaConfig
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from common.checkpoint.clip import clip_config
from common.checkpoint.key_table import State, check, to_ours, to_theirs
from common.checkpoint.pretrained import CONSTANTS
from common.errors import UserError
from flamingo.config import NUM_NEW_TOKENS, FlamingoConfig, FlamingoVisionConfig
from flamingo.conversion.idefics_keys import table
from flamingo.conversion.open_flamingo_keys import meta_state
from flamingo.model import build_vision_encoder

_TEXT_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_parameters",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "tie_word_embeddings",
)
_VISION_FIELDS = (
    "image_size",
    "patch_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "layer_norm_eps",
)
# Of ours, what an Idefics fixes or derives from its other numbers.
_BRIDGE_FIELDS = (
    "media_dim",
    "resampler_feed_forward_dim",
    "resampler_activation",
    "cross_attention_first",
    "cross_attention_head_dim",
    "cross_attention_feed_forward_dim",
    "cross_attention_activation",
    "cross_attention_rms_eps",
    "media_attention",
)
_LLAMA_FIELDS = ("num_key_value_heads", "head_dim", "attention_bias", "mlp_bias")


def idefics_config(peer: IdeficsConfig) -> FlamingoConfig:
    """Our configuration of the same model.

    Raises:
        UserError: for a model without a resampler or with other than two additional tokens.
    """
    _refuse_uncovered(peer)
    resampler, vision = peer.perceiver_config, peer.vision_config
    return FlamingoConfig(
        vision_config=FlamingoVisionConfig(
            name="vit_huge_patch14_clip_224",
            image_size=vision.image_size,
            model_options={
                "patch_size": vision.patch_size,
                "embed_dim": vision.embed_dim,
                "depth": vision.num_hidden_layers,
                "num_heads": vision.num_attention_heads,
                "mlp_ratio": vision.intermediate_size / vision.embed_dim,
            },
            image_mean=OPENAI_CLIP_MEAN,
            image_std=OPENAI_CLIP_STD,
            layer=-1,
            tokens="all",
        ),
        text_config=LlamaConfig(**{name: getattr(peer, name) for name in _TEXT_FIELDS}),
        media_dim=vision.embed_dim,
        num_latents=resampler.resampler_n_latents,
        resampler_layers=resampler.resampler_depth,
        resampler_heads=resampler.resampler_n_heads,
        resampler_head_dim=resampler.resampler_head_dim,
        resampler_feed_forward_dim=4 * vision.embed_dim,
        resampler_activation="relu",
        resampler_head_norm=resampler.qk_layer_norms_perceiver,
        cross_attention_interval=peer.cross_layer_interval,
        cross_attention_head_dim=peer.hidden_size // peer.num_attention_heads,
        cross_attention_feed_forward_dim=peer.intermediate_size,
        cross_attention_activation="swiglu",
        cross_attention_rms_eps=peer.rms_norm_eps,
        cross_attention_head_norm=peer.qk_layer_norms,
        gate_per_channel=peer.alpha_type == "vector",
    )


def from_idefics(state: State, config: FlamingoConfig) -> dict[str, Tensor]:
    """Our state dict.

    Raises:
        UserError: naming each key that is missing, unknown or of another shape.
    """
    theirs = {key: value for key, value in state.items() if not key.endswith(CONSTANTS)}
    return to_ours(table(config), theirs, like=meta_state(config), source="the Idefics checkpoint")


def to_idefics(state: State, config: FlamingoConfig) -> tuple[IdeficsConfig, dict[str, Tensor]]:
    """Its configuration and state dict.

    Raises:
        UserError: naming what of ours an Idefics cannot be.
    """
    peer = _peer_config(config)
    again = idefics_config(peer)
    unlike = _unlike(config, again)
    if "resampler.input.weight" in state:
        unlike.append("a resampler of another width than its input")
    if state["resampler.time_embedding"].any():
        unlike.append("a time embedding that is not 0")
    if peer.tie_word_embeddings and not torch.equal(
        state["new_inputs.weight"], state["new_outputs.weight"]
    ):
        unlike.append("new_outputs that differ from new_inputs around a tied embedding")
    if unlike:
        raise UserError(f"an Idefics cannot hold this model: it has {', '.join(unlike)}")
    again.num_frames = config.num_frames
    check(state, meta_state(again), source="as an Idefics, the model")
    return peer, to_theirs(table(again), state)


def _peer_config(config: FlamingoConfig) -> IdeficsConfig:
    """The Idefics that is nearest to ours."""
    with torch.device("meta"):
        vision = clip_config(build_vision_encoder(config.vision_config))
    text = config.text_config
    if text.model_type != "llama" or vision is None:
        raise UserError(
            "an Idefics is a Llama around a CLIP ViT, but this model is a "
            f"{text.model_type} around {config.vision_config.name}"
        )
    tower = {name: getattr(vision, name) for name in _VISION_FIELDS}
    return IdeficsConfig(
        **{name: getattr(text, name) for name in _TEXT_FIELDS},
        additional_vocab_size=NUM_NEW_TOKENS,
        cross_layer_interval=config.cross_attention_interval,
        qk_layer_norms=config.cross_attention_head_norm,
        alpha_type="vector" if config.gate_per_channel else "float",
        use_resampler=True,
        vision_config=tower | {"embed_dim": vision.hidden_size},
        perceiver_config={
            "use_resampler": True,
            "resampler_n_latents": config.num_latents,
            "resampler_depth": config.resampler_layers,
            "resampler_n_heads": config.resampler_heads,
            "resampler_head_dim": config.resampler_head_dim,
            "qk_layer_norms_perceiver": config.resampler_head_norm,
        },
    )


def _unlike(config: FlamingoConfig, again: FlamingoConfig) -> list[str]:
    """Fields that are not what they are after the way to an Idefics and back."""
    text, same_text = config.text_config, again.text_config
    pairs = [
        *((name, getattr(config, name), getattr(again, name)) for name in _BRIDGE_FIELDS),
        *((name, getattr(text, name), getattr(same_text, name)) for name in _LLAMA_FIELDS),
        ("vision layer", config.vision_config.layer, again.vision_config.layer),
        ("vision tokens", config.vision_config.tokens, again.vision_config.tokens),
    ]
    if config.cross_attention_heads not in (None, text.num_attention_heads):
        pairs.append(
            ("cross_attention_heads", config.cross_attention_heads, text.num_attention_heads)
        )
    return [f"{name}={mine} instead of {theirs}" for name, mine, theirs in pairs if mine != theirs]


def _refuse_uncovered(peer: IdeficsConfig) -> None:
    """Names what no Flamingo of ours can be."""
    wanted = {
        "use_resampler": peer.use_resampler,
        f"additional_vocab_size={NUM_NEW_TOKENS}": peer.additional_vocab_size == NUM_NEW_TOKENS,
        "hidden_act=silu": peer.hidden_act == "silu",
        "vision_config.hidden_act=gelu": peer.vision_config.hidden_act == "gelu",
        "vision_config.layer_norm_eps=1e-05": peer.vision_config.layer_norm_eps == 1e-5,
        "a cross_layer_interval that divides the layers, without which it fails itself": (
            peer.num_hidden_layers % peer.cross_layer_interval == 0
        ),
    }
    lacking = [name for name, fulfilled in wanted.items() if not fulfilled]
    if lacking:
        raise UserError(f"an Idefics is converted only with {', '.join(lacking)}")
