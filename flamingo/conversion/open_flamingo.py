"""OpenFlamingo's checkpoints (mlfoundations/open_flamingo 2.0), to ours and back.

Its bridge differs from the paper's: 8 heads of 64, GELU, a block before layer i when (i + 1) % n is
0. All of that is configuration here. Checkpoints as released hold the bridge and the embedding
only: `complete` adds the frozen language model and vision tower that they were trained around.
"""

import copy

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from common.checkpoint.clip_keys import UNUSED
from common.checkpoint.key_table import State, check, shape_of, to_ours, to_theirs
from common.checkpoint.pretrained import CONSTANTS
from common.errors import UserError
from flamingo.config import NUM_NEW_TOKENS, FlamingoConfig, FlamingoVisionConfig
from flamingo.conversion.open_flamingo_keys import (
    LANGUAGE,
    VISION,
    LanguageNames,
    NewTokens,
    meta_state,
    table,
)

HEAD_DIM = 64  # fixed in its code, at every width
# Its live model registers layers and blocks a second time under these names.
_TWICE = (f"{LANGUAGE}old_decoder_blocks.", f"{LANGUAGE}gated_cross_attn_layers.")

# GPT-NeoX's output layer before transformers renamed it.
_OLD_HEAD, _NEW_HEAD = f"{LANGUAGE}embed_out.", f"{LANGUAGE}lm_head."


def read_config(
    state: State, *, text_config: PreTrainedConfig, vision_config: FlamingoVisionConfig
) -> FlamingoConfig:
    """Our configuration of a checkpoint; what its shapes do not say is fixed in its code.

    `text_config` is that of the original language model: the checkpoint says how many rows its
    vocabulary has now.

    Raises:
        UserError: when it holds no bridge, or gated blocks at uneven distances.
    """
    state = tidy(state)
    names = LanguageNames.of(text_config)
    gates, embedding = f"{LANGUAGE}{names.layers}", names.theirs(names.embedding)
    places = sorted(
        int(key.removeprefix(gates).split(".")[0])
        for key in state
        if key.startswith(gates) and key.endswith(".attn_gate")
    )
    depth = sum(key.endswith(".norm_media.weight") for key in state)
    if not places or not depth or not {"perceiver.latents", embedding} <= state.keys():
        raise UserError(
            f"no OpenFlamingo bridge around a {text_config.model_type} in the checkpoint: expected "
            f"perceiver.latents, {embedding} and {gates}*.gated_cross_attn_layer.*; give the "
            "language model it was trained with"
        )
    interval = places[0] + 1
    if places != list(range(interval - 1, text_config.num_hidden_layers, interval)):
        raise UserError(
            f"gated blocks before layers {places} of {text_config.num_hidden_layers}: not every "
            f"{interval}th; is this the language model it was trained with?"
        )
    text_config = copy.copy(text_config)
    text_config.vocab_size = len(state[embedding]) - NUM_NEW_TOKENS
    num_latents, media_dim = state["perceiver.latents"].shape
    block = f"{gates}{places[0]}.gated_cross_attn_layer."

    def rows(name: str) -> int:
        return shape_of(state, name, source="the checkpoint")[0]

    return FlamingoConfig(
        vision_config=vision_config,
        text_config=text_config,
        media_dim=media_dim,
        num_latents=num_latents,
        resampler_layers=depth,
        resampler_heads=rows("perceiver.layers.0.0.to_q.weight") // HEAD_DIM,
        resampler_head_dim=HEAD_DIM,
        resampler_feed_forward_dim=rows("perceiver.layers.0.1.1.weight"),
        resampler_activation="gelu",
        cross_attention_interval=interval,
        cross_attention_first=interval - 1,
        cross_attention_heads=rows(f"{block}attn.to_q.weight") // HEAD_DIM,
        cross_attention_head_dim=HEAD_DIM,
        cross_attention_feed_forward_dim=rows(f"{block}ff.1.weight"),
        cross_attention_activation="gelu",
    )


def from_open_flamingo(
    state: State, config: FlamingoConfig, tokens: NewTokens
) -> dict[str, Tensor]:
    """Our state dict from a complete one of theirs: bridge, language model and vision tower.

    Raises:
        UserError: naming each key that is missing, unknown or of another shape.
    """
    like = meta_state(config)
    theirs = tidy(state)
    theirs.pop(f"{VISION}{UNUSED}", None)
    names = LanguageNames.of(config.text_config)
    embedding, head = names.theirs(names.embedding), names.theirs(names.head)
    if config.text_config.tie_word_embeddings and embedding in theirs:
        theirs.setdefault(head, theirs[embedding])
    return to_ours(table(config, tokens), theirs, like=like, source="the checkpoint")


def to_open_flamingo(state: State, config: FlamingoConfig, tokens: NewTokens) -> dict[str, Tensor]:
    """Their state dict, under the names of the live model, without what that registers twice.

    Raises:
        UserError: when our model is more than theirs can be.
    """
    check(state, meta_state(config), source="the model")
    _refuse_unlike(state, config)
    return to_theirs(table(config, tokens), state)


def complete(
    state: State,
    *,
    language_model: State,
    vision: State,
    text_config: PreTrainedConfig,
) -> tuple[dict[str, Tensor], list[str]]:
    """A released checkpoint with the frozen parts that it leaves out, and a note on each of them.

    `language_model` has transformers' names, `vision` open_clip's; what the checkpoint itself holds
    is taken from there. `text_config` is that of the original language model.
    """
    state = tidy(state)
    names = LanguageNames.of(text_config)
    embedding, head = names.theirs(names.embedding), names.theirs(names.head)
    notes = []
    frozen = {names.theirs(name): tensor for name, tensor in language_model.items()}
    if text_config.tie_word_embeddings:
        state.setdefault(head, state[embedding])
    elif head not in state:
        state[head] = _resized(frozen[head], len(state[embedding]))
        notes.append(f"{head}: new tokens' rows, never saved by the peer, are means of all rows")
    frozen |= {f"{VISION}{name}": tensor for name, tensor in vision.items()}
    for prefix in (VISION, LANGUAGE):
        added = sum(name.startswith(prefix) for name in frozen.keys() - state.keys())
        if added:
            notes.append(f"{prefix}*: {added} tensors of the frozen model")
    return frozen | state, notes


def tidy(state: State) -> dict[str, Tensor]:
    """Without repetitions and constants, in today's names, every tensor under its one name.

    Raises:
        UserError: when two names of one tensor hold different numbers.
    """
    plain = {
        key.removeprefix("module.").replace(_OLD_HEAD, _NEW_HEAD): value
        for key, value in state.items()
    }
    plain = {key: value for key, value in plain.items() if not key.endswith(CONSTANTS)}
    tidied = {key: value for key, value in plain.items() if not key.startswith(_TWICE)}
    for key in plain.keys() - tidied.keys():
        ending = _once(key)
        matches = [name for name in tidied if name.endswith(ending)]
        if not matches or not torch.equal(tidied[matches[0]], plain[key]):
            raise UserError(f"{key} is no repetition of a key that ends in {ending}")
    return tidied


def _once(key: str) -> str:
    """End of the name that a repeated key stands for."""
    decoder, gated = _TWICE
    kind, part = (
        (decoder, "decoder_layer") if key.startswith(decoder) else (gated, "gated_cross_attn_layer")
    )
    layer, rest = key.removeprefix(kind).split(".", 1)
    return f".{layer}.{part}.{rest}"


def _resized(head: Tensor, num_rows: int) -> Tensor:
    """As `resize_token_embeddings` does, with the mean of all rows where it draws at random."""
    missing = max(0, num_rows - len(head))
    return torch.cat([head[:num_rows], head.mean(0, keepdim=True).expand(missing, -1)])


def _refuse_unlike(state: State, config: FlamingoConfig) -> None:
    """Names what an OpenFlamingo cannot be."""
    interval = config.cross_attention_interval
    wanted = {
        "resampler_activation": "gelu",
        "cross_attention_activation": "gelu",
        "resampler_head_dim": HEAD_DIM,
        "cross_attention_head_dim": HEAD_DIM,
        "cross_attention_first": interval - 1,
        "media_attention": "own",
    }
    unlike = [
        f"{name}={getattr(config, name)} instead of {value}"
        for name, value in wanted.items()
        if getattr(config, name) != value
    ]
    if "resampler.input.weight" in state:
        unlike.append("a resampler of another width than its input")
    if state["resampler.time_embedding"].any():
        unlike.append("a time embedding that is not 0")
    if config.text_config.tie_word_embeddings and not torch.equal(
        state["new_inputs.weight"], state["new_outputs.weight"]
    ):
        unlike.append("new_outputs that differ from new_inputs around a tied embedding")
    if unlike:
        raise UserError(f"OpenFlamingo cannot hold this model: it has {', '.join(unlike)}")
