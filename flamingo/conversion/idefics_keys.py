"""Which of our tensors hold which of transformers' Idefics v1."""

from common.checkpoint.clip_keys import num_blocks, transformers_clip_table
from common.checkpoint.key_table import Entry, Table, Tensors, norm, same, zeros
from flamingo.config import FlamingoConfig
from flamingo.conversion.open_flamingo_keys import meta_state

VISION = "vision_encoder.model."


def table(config: FlamingoConfig) -> Table:
    """Every key of a model of this configuration."""
    like = meta_state(config)
    entries = (
        zeros("resampler.time_embedding", (config.num_frames, config.media_dim)),
        *transformers_clip_table(
            VISION, "model.vision_model.", num_blocks=num_blocks(like, VISION)
        ),
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
        same(key, key.removeprefix(prefix)) for key in like if key.startswith(prefix)
    )


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
