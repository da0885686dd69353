"""Our blocks with flamingo-pytorch's weights answer as its own did (fixtures)."""

import json
from pathlib import Path
from typing import Any

import torch

from flamingo.conversion.flamingo_pytorch import (
    gated_block_from_flamingo_pytorch,
    place_embedding,
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
    placed = INPUTS["features"] + place_embedding(state)[:3]
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
