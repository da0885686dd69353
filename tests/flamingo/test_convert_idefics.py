"""Our model with an Idefics' weights answers as transformers' Idefics did (fixtures)."""

import json
from pathlib import Path

import pytest
import torch
from transformers import IdeficsConfig

from common.errors import UserError
from flamingo import FlamingoForConditionalGeneration
from flamingo.conversion.idefics import from_idefics, idefics_config, table
from flamingo.conversion.table import to_theirs
from scripts.fixtures import flamingo_peers as peers

FIXTURES = Path(__file__).parents[1] / "fixtures" / "flamingo"


@pytest.mark.parametrize("name", ["idefics", "idefics_qk_norms"])
def test_logits_equal_the_peers_and_every_tensor_goes_back(name: str) -> None:
    fixture = json.loads((FIXTURES / f"{name}.json").read_text())
    state = peers.random_weights(fixture["shapes"])
    config = idefics_config(IdeficsConfig(**fixture["config"]))
    model = FlamingoForConditionalGeneration(config).eval()
    ours = from_idefics(state, config)
    model.load_state_dict(ours)
    order = torch.tensor([*range(37), 38, 37])  # <image> stands first here
    mask = torch.tensor(fixture["attention_mask"])
    with torch.no_grad():
        logits = model(
            order[torch.tensor(fixture["input_ids"])],
            attention_mask=mask,
            pixel_values=peers.random_pixels(2, 2, 3, peers.IMAGE_SIZE, peers.IMAGE_SIZE),
            num_images=torch.tensor(fixture["num_images"]),
        ).logits
    real = mask.bool()
    theirs = torch.tensor(fixture["logits"])[..., order]
    torch.testing.assert_close(logits[real], theirs[real], atol=1e-5, rtol=0)

    back = to_theirs(table(config), ours)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)


def test_an_idefics_that_ours_cannot_be_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"only with use_resampler, additional_vocab_size=2"):
        idefics_config(IdeficsConfig())
