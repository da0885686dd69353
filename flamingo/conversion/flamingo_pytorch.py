"""Blocks of lucidrains' flamingo-pytorch 0.1 as ours, one by one: it has no checkpoints of a whole.

Its resampler adds an embedding of the image's place in the sequence (`media_pos_emb`), fails at
more images than it has rows, and so gives one picture other latents in another place. Ours never
does: the embedding is left out.
"""

from common.attention.attend import Backend
from common.checkpoint.key_table import State, Table, shape_of, to_ours, zeros
from common.layers.feed_forward import FeedForward
from flamingo.bridge import ACTIVATIONS
from flamingo.conversion.open_flamingo_keys import (
    gated_block_table,
    resampler_table,
)
from flamingo.gated_cross_attention import GatedCrossAttentionBlock
from flamingo.resampler import PerceiverResampler

_PLACES = "media_pos_emb"


def resampler_from_flamingo_pytorch(
    state: State, *, head_dim: int, num_frames: int, backend: Backend = "auto"
) -> PerceiverResampler:
    """Our resampler with the weights of its `PerceiverResampler`, time embedding 0.

    Raises:
        UserError: naming each key that is missing, unknown or of another shape.
    """
    source = "the resampler"
    depth = sum(key.endswith(".0.to_q.weight") for key in state)
    num_latents, dim = shape_of(state, "latents", source=source)
    resampler = PerceiverResampler(
        input_dim=dim,
        dim=dim,
        num_latents=num_latents,
        num_layers=depth,
        num_heads=shape_of(state, "layers.0.0.to_q.weight", source=source)[0] // head_dim,
        head_dim=head_dim,
        feed_forward_dim=shape_of(state, "layers.0.1.1.weight", source=source)[0],
        num_frames=num_frames,
        backend=backend,
        activation=ACTIVATIONS["gelu"],
    )
    entries: Table = (
        *resampler_table("", "", num_layers=depth),
        zeros("time_embedding", (num_frames, dim)),
    )
    theirs = {key: value for key, value in state.items() if key != _PLACES}
    like = resampler.state_dict()
    resampler.load_state_dict(to_ours(entries, theirs, like=like, source=source))
    return resampler


def gated_block_from_flamingo_pytorch(
    state: State, *, layer: int, head_dim: int
) -> GatedCrossAttentionBlock:
    """Our gated block with the weights of its `GatedCrossAttentionBlock`.

    Raises:
        UserError: naming each key that is missing, unknown or of another shape.
    """
    source = "the gated block"
    inner_dim, dim = shape_of(state, "attn.to_q.weight", source=source)
    _, media_dim = shape_of(state, "attn.to_kv.weight", source=source)
    hidden_dim, _ = shape_of(state, "ff.1.weight", source=source)
    block = GatedCrossAttentionBlock(
        layer=layer,
        dim=dim,
        media_dim=media_dim,
        num_heads=inner_dim // head_dim,
        head_dim=head_dim,
        feed_forward=FeedForward(dim=dim, hidden_dim=hidden_dim, activation=ACTIVATIONS["gelu"]),
    )
    like = block.state_dict()
    block.load_state_dict(to_ours(gated_block_table("", ""), state, like=like, source=source))
    return block
