"""transformers' Idefics v1 (`IdeficsForVisionText2Text`) to ours.

Its language model is a Llama, its tower a CLIP ViT whose class token is read beside the patches and
whose last norm is not applied; its gated blocks have SwiGLU, RMSNorm and, in the released 80B,
norms of queries and keys. Its two additional tokens are <fake_token_around_image> and <image>, in
this order; the first stands here where <|endofchunk|> does.
"""

from torch import Tensor
from transformers import IdeficsConfig, LlamaConfig

from common.errors import UserError
from flamingo.config import NUM_NEW_TOKENS, FlamingoConfig, FlamingoVisionConfig
from flamingo.conversion.clip import CLIP_MEAN, CLIP_STD
from flamingo.conversion.open_flamingo_keys import meta_state
from flamingo.conversion.table import (
    Entry,
    State,
    Table,
    Tensors,
    gathered,
    leading,
    norm,
    same,
    to_ours,
    zeros,
)

# Constants that earlier versions of transformers kept in checkpoints; they are computed anew.
_CONSTANTS = (".rotary_emb.inv_freq", ".position_ids")
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
            image_mean=CLIP_MEAN,
            image_std=CLIP_STD,
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
    theirs = {key: value for key, value in state.items() if not key.endswith(_CONSTANTS)}
    return to_ours(table(config), theirs, like=meta_state(config), source="the Idefics checkpoint")


def table(config: FlamingoConfig) -> Table:
    """Every key of a model of this configuration."""
    entries = (
        zeros("resampler.time_embedding", (config.num_frames, config.media_dim)),
        *_vision_table(config),
        *_resampler_table(config),
        _flipped("new_inputs.weight", "model.embed_tokens.additional_embedding.weight"),
        _flipped("new_outputs.weight", "lm_head.additional_fc.weight"),
    )
    for index in range(len(config.cross_attention_layers)):
        entries += _gated_block_table(
            config, f"gated_cross_attention.{index}.", f"model.gated_cross_attn_layers.{index}."
        )
    prefix = "language_model."
    return entries + tuple(
        same(key, key.removeprefix(prefix)) for key in meta_state(config) if key.startswith(prefix)
    )


def _vision_table(config: FlamingoConfig) -> Table:
    ours, theirs = "vision_encoder.model.", "model.vision_model."
    entries = (
        leading(f"{ours}cls_token", f"{theirs}embeddings.class_embedding", dims=2),
        leading(f"{ours}pos_embed", f"{theirs}embeddings.position_embedding.weight"),
        same(f"{ours}patch_embed.proj.weight", f"{theirs}embeddings.patch_embedding.weight"),
        *norm(f"{ours}norm_pre", f"{theirs}pre_layrnorm"),
        *norm(f"{ours}norm", f"{theirs}post_layernorm"),
    )
    for i in range(config.vision_config.model_options["depth"]):
        mine, other = f"{ours}blocks.{i}.", f"{theirs}encoder.layers.{i}."
        projections = [f"{other}self_attn.{name}_proj" for name in "qkv"]
        entries += (
            *norm(f"{mine}norm1", f"{other}layer_norm1"),
            *(
                gathered(f"{mine}attn.qkv.{leaf}", tuple(f"{p}.{leaf}" for p in projections))
                for leaf in ("weight", "bias")
            ),
            *norm(f"{mine}attn.proj", f"{other}self_attn.out_proj"),
            *norm(f"{mine}norm2", f"{other}layer_norm2"),
            *norm(f"{mine}mlp.fc1", f"{other}mlp.fc1"),
            *norm(f"{mine}mlp.fc2", f"{other}mlp.fc2"),
        )
    return entries


def _resampler_table(config: FlamingoConfig) -> Table:
    theirs = "model.perceiver_resampler."
    entries = (
        same("resampler.latents", f"{theirs}latents"),
        *norm("resampler.norm", f"{theirs}layer_norm"),
    )
    for i in range(config.resampler_layers):
        mine, other = f"resampler.layers.{i}.", f"{theirs}blocks.{i}."
        entries += (
            *norm(f"{mine}media_norm", f"{other}0.context_layer_norm"),
            *norm(f"{mine}latents_norm", f"{other}0.latents_layer_norm"),
            *_projections(mine, f"{other}0.", output="output_proj"),
            *norm(f"{mine}feed_forward_norm", f"{other}1.ln"),
            same(f"{mine}feed_forward.expand.weight", f"{other}1.fc.weight"),
            same(f"{mine}feed_forward.contract.weight", f"{other}1.c_proj.weight"),
        )
        if config.resampler_head_norm:
            entries += (
                *norm(f"{mine}to_query.head_norm", f"{other}0.q_layer_norm"),
                *norm(f"{mine}to_key.head_norm", f"{other}0.k_layer_norm"),
            )
    return entries


def _gated_block_table(config: FlamingoConfig, ours: str, theirs: str) -> Table:
    gate = _per_channel if config.gate_per_channel else same
    mine, other = f"{ours}attention.", f"{theirs}cross_attn."
    entries = (
        gate(f"{ours}attention_gate", f"{theirs}alpha_cross_attn"),
        gate(f"{ours}feed_forward_gate", f"{theirs}alpha_dense"),
        same(f"{ours}attention_norm.weight", f"{theirs}input_layernorm.weight"),
        same(f"{ours}feed_forward_norm.weight", f"{theirs}post_attention_layernorm.weight"),
        *_projections(mine, other, output="o_proj"),
        same(f"{ours}feed_forward.gate.weight", f"{theirs}mlp.gate_proj.weight"),
        same(f"{ours}feed_forward.expand.weight", f"{theirs}mlp.up_proj.weight"),
        same(f"{ours}feed_forward.contract.weight", f"{theirs}mlp.down_proj.weight"),
    )
    if config.cross_attention_head_norm:
        entries += (
            same(f"{mine}to_query.head_norm.weight", f"{other}q_layer_norm.weight"),
            same(f"{mine}to_key.head_norm.weight", f"{other}k_layer_norm.weight"),
        )
    return entries


def _projections(ours: str, theirs: str, *, output: str) -> Table:
    return (
        same(f"{ours}to_query.weight", f"{theirs}q_proj.weight"),
        same(f"{ours}to_key.weight", f"{theirs}k_proj.weight"),
        same(f"{ours}to_value.weight", f"{theirs}v_proj.weight"),
        same(f"{ours}to_output.weight", f"{theirs}{output}.weight"),
    )


def _flipped(ours: str, theirs: str) -> Entry:
    """Two rows whose order is the other way round."""

    def flip(tensors: Tensors) -> Tensors:
        return (tensors[0].flip(0),)

    return Entry(ours=(ours,), theirs=(theirs,), how="rows reordered", to_ours=flip, to_theirs=flip)


def _per_channel(ours: str, theirs: str) -> Entry:
    return Entry(
        ours=(ours,),
        theirs=(theirs,),
        how="reshaped",
        to_ours=lambda tensors: (tensors[0].flatten(),),
        to_theirs=lambda tensors: (tensors[0].reshape(1, 1, -1),),
    )


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
