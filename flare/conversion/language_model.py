"""Llama, Qwen2 and Qwen3 to the decoder of a FLARE, and a FLARE's decoder to Qwen3.

A FLARE's decoder is a Qwen3: grouped queries, QK-norm, rotary embedding in halves, SwiGLU, RMSNorm,
no biases. So Qwen3 goes over exactly, in both directions. A Llama or a Qwen2 does not: they do not
normalise queries and keys, whose lengths therefore decide how sharply each token looks, and Qwen2
adds a bias to them. Their nearest Qwen3 keeps the directions and gives every query and every key of
a layer the length that is expected of it; the biases have no place and are left out.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import LlamaConfig, PreTrainedConfig, Qwen2Config, Qwen3Config

from common.checkpoint.key_table import Table, same
from common.errors import UserError
from flare.config import FlareTextConfig
from flare.parts import build_decoder

SOURCES = (LlamaConfig, Qwen2Config, Qwen3Config)
TABLES = ("embedding.weight", "lm_head.weight")  # of tokens, in ours
_BLOCK = {
    "attention_norm": "input_layernorm",
    "attention.to_q": "self_attn.q_proj",
    "attention.to_k": "self_attn.k_proj",
    "attention.to_v": "self_attn.v_proj",
    "attention.to_out": "self_attn.o_proj",
    "attention.q_norm": "self_attn.q_norm",
    "attention.k_norm": "self_attn.k_norm",
    "feed_forward_norm": "post_attention_layernorm",
    "feed_forward.gate": "mlp.gate_proj",
    "feed_forward.expand": "mlp.up_proj",
    "feed_forward.contract": "mlp.down_proj",
}


def decoder_table(num_layers: int) -> Table:
    """Every key of the decoder and its tables of tokens, and the Qwen3 key with the same numbers.

    transformers keeps a Qwen3 that ties its tables as one tensor under both names.
    """
    entries: Table = (
        same("embedding.weight", "model.embed_tokens.weight"),
        same("decoder.norm.weight", "model.norm.weight"),
        same("lm_head.weight", "lm_head.weight"),
    )
    for i in range(num_layers):
        ours, theirs = f"decoder.blocks.{i}.", f"model.layers.{i}."
        entries += tuple(
            same(f"{ours}{mine}.weight", f"{theirs}{other}.weight")
            for mine, other in _BLOCK.items()
        )
    return entries


def inexact(source: PreTrainedConfig) -> list[str]:
    """What of a language model a FLARE's decoder can only come near to.

    Raises:
        UserError: when the decoder cannot even come near.
    """
    if not isinstance(source, SOURCES):
        kinds = ", ".join(kind.model_type for kind in SOURCES)
        raise UserError(f"a FLARE's decoder starts from one of {kinds}, not a {source.model_type}")
    if source.hidden_act != "silu" or getattr(source, "mlp_bias", False):
        raise UserError(
            "a FLARE's decoder has SwiGLU without biases; this language model has "
            f"hidden_act={source.hidden_act}, mlp_bias={getattr(source, 'mlp_bias', False)}"
        )
    rotary = source.rope_parameters
    windows = {*(getattr(source, "layer_types", None) or ())} - {"full_attention"}
    found = {
        "it does not normalise queries and keys": not isinstance(source, Qwen3Config),
        "its attention has biases": isinstance(source, Qwen2Config)
        or getattr(source, "attention_bias", False),
        f"its rotary embedding is scaled ({rotary['rope_type']})": rotary["rope_type"] != "default",
        f"it has layers of {', '.join(sorted(windows))}": bool(windows),
    }
    return [difference for difference, holds in found.items() if holds]


def text_config(source: PreTrainedConfig, *, vocab_size: int, num_layers: int) -> FlareTextConfig:
    """The decoder of the same shape; ids of tokens are the tokenizer's affair."""
    return FlareTextConfig(
        vocab_size=vocab_size,
        hidden_size=source.hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=source.num_attention_heads,
        num_key_value_heads=source.num_key_value_heads,
        head_dim=head_dim(source),
        intermediate_size=source.intermediate_size,
        rms_norm_eps=source.rms_norm_eps,
        rotary_base=float(source.rope_parameters["rope_theta"]),
    )


def decoder_shapes(text: FlareTextConfig) -> dict[str, Tensor]:
    """Our names and shapes of the decoder and its tables, without memory."""
    with torch.device("meta"):
        decoder = build_decoder(text)
        rows = torch.empty(text.vocab_size, text.hidden_size)
    state = {f"decoder.{name}": tensor for name, tensor in decoder.state_dict().items()}
    return state | dict.fromkeys(TABLES, rows)


def qwen3_config(text: FlareTextConfig) -> Qwen3Config:
    """The Qwen3 that is this decoder."""
    return Qwen3Config(
        vocab_size=text.vocab_size,
        hidden_size=text.hidden_size,
        num_hidden_layers=text.num_hidden_layers,
        num_attention_heads=text.num_attention_heads,
        num_key_value_heads=text.num_key_value_heads,
        head_dim=text.head_dim,
        intermediate_size=text.intermediate_size,
        rms_norm_eps=text.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": text.rotary_base},
        pad_token_id=text.pad_token_id,
        bos_token_id=text.bos_token_id,
        eos_token_id=text.eos_token_id,
    )


def head_dim(source: PreTrainedConfig) -> int:
    """Qwen2 does not say it."""
    given = getattr(source, "head_dim", None)
    return int(given or source.hidden_size // source.num_attention_heads)


def as_qwen3(state: Mapping[str, Tensor], source: PreTrainedConfig) -> dict[str, Tensor]:
    """The tensors of the nearest Qwen3; a Qwen3's own without biases."""
    nearest = {name: tensor for name, tensor in state.items() if not name.endswith(".bias")}
    if isinstance(source, Qwen3Config):
        return nearest
    for i in range(source.num_hidden_layers):
        layer = f"model.layers.{i}."
        gains = state[f"{layer}input_layernorm.weight"].float()
        for part in "qk":
            weight = state[f"{layer}self_attn.{part}_proj.weight"].float()
            # Of normalised tokens a channel's variance is the squared length of its row.
            length = (weight * gains).square().sum(1).mean().sqrt()
            nearest[f"{layer}self_attn.{part}_norm.weight"] = length.repeat(head_dim(source))
    return nearest


def with_new_tokens(ours: Mapping[str, Tensor], new: range) -> dict[str, Tensor]:
    """Rows of new tokens are the mean of those before them; rows behind them stay."""
    extended = dict(ours)
    for name in TABLES:
        rows = ours[name]
        mean = rows[: new.start].float().mean(0, keepdim=True).to(rows.dtype)
        means = mean.expand(len(new), -1)
        extended[name] = torch.cat([rows[: new.start], means, rows[new.stop :]])
    return extended
