"""Our blocks with flamingo-pytorch's weights answer as its own did (fixtures)."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import UserError
from flamingo.conversion.flamingo_pytorch import (
    gated_block_from_flamingo_pytorch,
    resampler_from_flamingo_pytorch,
)
from flamingo.media import Media
from scripts.fixtures import flamingo_peers as peers

FILE = Path(__file__).parents[1] / "fixtures" / "flamingo" / "flamingo_pytorch.json"
FIXTURE: dict[str, Any] = json.loads(FILE.read_text())
INPUTS = peers.random_weights(
    {"features": (2, 3, 7, 20), "text": (2, 6, 20), "media": (2, 2, 5, 20)}
)


def test_the_resampler_equals_the_peers_but_for_its_embedding_of_places() -> None:
    state = peers.random_weights(FIXTURE["resampler"])
    ours = resampler_from_flamingo_pytorch(state, head_dim=6, num_frames=4)
    placed = INPUTS["features"] + state["media_pos_emb"][:3]
    latents = torch.tensor(FIXTURE["latents"])
    torch.testing.assert_close(ours(placed[:, :, None]), latents, atol=1e-5, rtol=0)
    # One picture in two places: the peer's latents differ, ours never do.
    same = INPUTS["features"][:, :1].expand(-1, 2, -1, -1)
    alone = ours(same[:, :, None])
    assert torch.equal(alone[:, 0], alone[:, 1])


def test_the_gated_block_equals_the_peers() -> None:
    state = peers.random_weights(FIXTURE["block"])
    ours = gated_block_from_flamingo_pytorch(state, layer=0, head_dim=6)
    media = Media(
        latents=INPUTS["media"],
        num_new=None,
        item=torch.tensor([[0, 0, 1, 1, 2, 2], [1, 1, 1, 1, 1, 2]]),
        first=torch.ones(2, 6, dtype=torch.long),
        attention="own",
        backend="auto",
        cache=None,
    )
    text = torch.tensor(FIXTURE["text"])
    torch.testing.assert_close(ours(INPUTS["text"], media), text, atol=1e-5, rtol=0)


def test_a_key_from_which_sizes_follow_is_missed_by_name() -> None:
    resampler = peers.random_weights(FIXTURE["resampler"])
    del resampler["layers.0.1.1.weight"]
    with pytest.raises(UserError, match=r"the resampler does not fit; missing: layers\.0\.1\.1"):
        resampler_from_flamingo_pytorch(resampler, head_dim=6, num_frames=4)
    block = peers.random_weights(FIXTURE["block"])
    del block["attn.to_kv.weight"]
    with pytest.raises(UserError, match=r"the gated block does not fit; missing: attn\.to_kv"):
        gated_block_from_flamingo_pytorch(block, layer=0, head_dim=6)
