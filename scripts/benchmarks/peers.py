"""Pieces of other libraries that do what a piece of ours does, with our piece's weights.

`make peers` installs open_flamingo and flamingo_pytorch; None stands for a piece of a library that
is not there. transformers always is.
"""

import copy
from importlib import import_module
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, IdeficsConfig
from transformers.models.idefics.modeling_idefics import IdeficsAttention
from transformers.models.idefics.perceiver import IdeficsPerceiverResampler

from flamingo.config import NUM_NEW_TOKENS
from flamingo.gated_cross_attention import MediaAttention
from flamingo.model import FlamingoForConditionalGeneration
from flamingo.resampler import PerceiverResampler

NOT_INSTALLED = "not installed: make peers"
# Both have the same classes; the second one's know one width and no frames.
MODULES = {
    "open_flamingo": "open_flamingo.src.helpers",
    "flamingo_pytorch": "flamingo_pytorch.flamingo_pytorch",
}


def is_installed(library: str) -> bool:
    """Whether `make peers` was run."""
    return find_spec(library) is not None


def masked_cross_attention(
    library: str, norm: nn.LayerNorm, ours: MediaAttention, *, only_own: bool = True
) -> nn.Module | None:
    """`MaskedCrossAttention` of a library: norm, projections and attention through a mask."""
    if not is_installed(library):
        return None
    num_heads, width = ours.num_heads, ours.to_query.in_features
    theirs: nn.Module = import_module(MODULES[library]).MaskedCrossAttention(
        dim=width,
        dim_head=width // num_heads,
        heads=num_heads,
        only_attend_immediate_media=only_own,
        **({"dim_visual": ours.to_key.in_features} if library == "open_flamingo" else {}),
    )
    keys_and_values = torch.cat([ours.to_key.weight, ours.to_value.weight])
    weights = {f"norm.{name}": value for name, value in norm.state_dict().items()} | {
        "to_q.weight": ours.to_query.weight,
        "to_kv.weight": keys_and_values,
        "to_out.weight": ours.to_output.weight,
    }
    return _with(theirs, weights, norm)


def bare_attention(
    library: str, *, num_heads: int, head_dim: int, only_own: bool = True
) -> nn.Module | None:
    """Their attention alone: queries, and keys joined with values, come projected."""
    if not is_installed(library):
        return None
    width = num_heads * head_dim
    theirs: Any = import_module(MODULES[library]).MaskedCrossAttention(
        dim=width,
        dim_head=head_dim,
        heads=num_heads,
        only_attend_immediate_media=only_own,
        **({"dim_visual": 2 * width} if library == "open_flamingo" else {}),
    )
    theirs.norm = theirs.to_q = theirs.to_kv = theirs.to_out = nn.Identity()
    return theirs


def idefics_attention(ours: MediaAttention) -> nn.Module:
    """transformers' attention of text to all images through a dense mask and a fused kernel."""
    width = ours.to_query.in_features
    config = IdeficsConfig(
        hidden_size=width,
        num_attention_heads=ours.num_heads,
        vision_config={"embed_dim": ours.to_key.in_features},
        attn_implementation="sdpa",
    )
    theirs = IdeficsAttention(
        width, ours.num_heads, is_cross_attention=True, config=config, layer_idx=0
    )
    weights = {
        "q_proj.weight": ours.to_query.weight,
        "k_proj.weight": ours.to_key.weight,
        "v_proj.weight": ours.to_value.weight,
        "o_proj.weight": ours.to_output.weight,
    }
    return _with(theirs, weights, ours)


def resampler(library: str, ours: PerceiverResampler, *, num_images: int) -> nn.Module | None:
    """`PerceiverResampler` of a library; flamingo_pytorch's marks an image's place: with zeros."""
    if library == "transformers":
        return _idefics_resampler(ours)
    if not is_installed(library):
        return None
    latents, dim = ours.latents.shape
    heads, head_dim = _heads(ours)
    of_images = {"num_media_embeds": num_images} if library == "flamingo_pytorch" else {}
    theirs = import_module(MODULES[library]).PerceiverResampler(
        dim=dim,
        depth=len(ours.layers),
        heads=heads,
        dim_head=head_dim,
        num_latents=latents,
        **of_images,
    )
    weights = _ends(ours, norm="norm")
    if of_images:
        weights["media_pos_emb"] = torch.zeros(num_images, 1, dim)
    for number, layer in enumerate(ours.layers):
        state, prefix = layer.state_dict(), f"layers.{number}"
        keys_and_values = torch.cat([state["to_key.weight"], state["to_value.weight"]])
        weights |= {
            **_moved(state, "media_norm", f"{prefix}.0.norm_media"),
            **_moved(state, "latents_norm", f"{prefix}.0.norm_latents"),
            **_moved(state, "to_query", f"{prefix}.0.to_q"),
            f"{prefix}.0.to_kv.weight": keys_and_values,
            **_moved(state, "to_output", f"{prefix}.0.to_out"),
            **_moved(state, "feed_forward_norm", f"{prefix}.1.0"),
            **_moved(state, "feed_forward.expand", f"{prefix}.1.1"),
            **_moved(state, "feed_forward.contract", f"{prefix}.1.3"),
        }
    return _with(theirs, weights, ours)


def flamingo(ours: FlamingoForConditionalGeneration) -> nn.Module:
    """open_flamingo's own model around a copy of our language model, and our vision encoder.

    Sizes are ours; places of the gated blocks, activations and what is trained are its own. Gates
    are closed, so that it computes what ours does with closed gates.
    """
    helpers = import_module(MODULES["open_flamingo"])
    model_class = import_module("open_flamingo.src.flamingo").Flamingo
    mixin = import_module("open_flamingo.src.flamingo_lm").FlamingoLMMixin
    extend_instance = import_module("open_flamingo.src.utils").extend_instance
    config = ours.config
    language_model = _with_new_tokens(ours)
    extend_instance(language_model, mixin)
    language_model.set_decoder_layers_attr_name("model.layers")
    theirs = model_class(
        SimpleNamespace(visual=_Visual(ours.vision_encoder)),
        language_model,
        config.end_of_chunk_token_id,
        config.image_token_id,
        vis_dim=config.media_dim,
        cross_attn_every_n_layers=config.cross_attention_interval,
    )
    theirs.perceiver = helpers.PerceiverResampler(
        dim=config.media_dim,
        depth=config.resampler_layers,
        dim_head=config.resampler_head_dim,
        heads=config.resampler_heads,
        num_latents=config.num_latents,
    )
    blocks = language_model.gated_cross_attn_layers
    head_dim = config.cross_attention_head_dim
    for place, block in enumerate(blocks):
        if block is not None:
            blocks[place] = helpers.GatedCrossAttentionBlock(
                dim=theirs.lang_dim,
                dim_visual=config.media_dim,
                dim_head=head_dim,
                heads=theirs.lang_dim // head_dim,
            )
    language_model.init_flamingo_layers(gradient_checkpointing=False)
    theirs.requires_grad_(False)
    for part in (theirs.perceiver, blocks, language_model.get_input_embeddings()):
        part.requires_grad_(True)
    return theirs.to(ours.device).train()


class _Visual(nn.Module):
    """A vision encoder as open_clip's: what is pooled, and the tokens."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: torch.Tensor) -> tuple[None, torch.Tensor]:
        return None, self.encoder(pixels)


def _with_new_tokens(ours: FlamingoForConditionalGeneration) -> Any:
    """A copy of the language model whose embedding and head have the new tokens' rows, too."""
    config = copy.deepcopy(ours.config.text_config)
    config.vocab_size += NUM_NEW_TOKENS
    model = AutoModelForCausalLM.from_config(config)
    state = ours.language_model.state_dict()
    for module, new in (("model.embed_tokens", ours.new_inputs), ("lm_head", ours.new_outputs)):
        name = f"{module}.weight"
        state[name] = torch.cat([state[name], new.weight.detach()])
    model.load_state_dict(state)
    return model


def _idefics_resampler(ours: PerceiverResampler) -> nn.Module:
    latents, dim = ours.latents.shape
    config = IdeficsConfig(vision_config={"embed_dim": dim})
    heads, head_dim = _heads(ours)
    theirs = IdeficsPerceiverResampler(config, dim, len(ours.layers), heads, head_dim, latents)
    weights = _ends(ours, norm="layer_norm")
    for number, layer in enumerate(ours.layers):
        state, prefix = layer.state_dict(), f"blocks.{number}"
        weights |= {
            **_moved(state, "media_norm", f"{prefix}.0.context_layer_norm"),
            **_moved(state, "latents_norm", f"{prefix}.0.latents_layer_norm"),
            **_moved(state, "to_query", f"{prefix}.0.q_proj"),
            **_moved(state, "to_key", f"{prefix}.0.k_proj"),
            **_moved(state, "to_value", f"{prefix}.0.v_proj"),
            **_moved(state, "to_output", f"{prefix}.0.output_proj"),
            **_moved(state, "feed_forward_norm", f"{prefix}.1.ln"),
            **_moved(state, "feed_forward.expand", f"{prefix}.1.fc"),
            **_moved(state, "feed_forward.contract", f"{prefix}.1.c_proj"),
        }
    return _with(theirs, weights, ours)


def _heads(ours: PerceiverResampler) -> tuple[int, int]:
    """Their number and width."""
    layer: Any = ours.layers[0]
    return layer.num_heads, layer.to_query.out_features // layer.num_heads


def _ends(ours: PerceiverResampler, *, norm: str) -> dict[str, torch.Tensor]:
    return {"latents": ours.latents.data, **_moved(ours.state_dict(), "norm", norm)}


def _moved(state: dict[str, torch.Tensor], ours: str, theirs: str) -> dict[str, torch.Tensor]:
    """Weight and bias of one module under their name for it."""
    prefix = f"{ours}."
    return {
        f"{theirs}.{name.removeprefix(prefix)}": value
        for name, value in state.items()
        if name.startswith(prefix)
    }


def _with(theirs: nn.Module, weights: dict[str, torch.Tensor], ours: nn.Module) -> nn.Module:
    """Every weight is given, or loading refuses."""
    theirs.load_state_dict(weights)
    return theirs.to(next(ours.parameters()).device)
