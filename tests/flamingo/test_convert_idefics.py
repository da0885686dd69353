"""Ours and transformers' Idefics with the same weights answer alike, in both directions."""

import json
from pathlib import Path

import pytest
import torch
from transformers import IdeficsConfig, IdeficsForVisionText2Text

from common.checkpoint.key_table import to_theirs
from common.errors import UserError
from flamingo import FlamingoForConditionalGeneration
from flamingo.conversion.idefics import from_idefics, idefics_config, to_idefics
from flamingo.conversion.idefics_keys import table
from flamingo.convert import export_idefics
from scripts.fixtures import flamingo_peers as peers
from tests.flamingo import tiny

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


def test_an_exported_model_loads_as_an_idefics_that_writes_the_same(tmp_path: Path) -> None:
    fixture = json.loads((FIXTURES / "idefics_qk_norms.json").read_text())
    state = peers.random_weights(fixture["shapes"])
    config = idefics_config(IdeficsConfig(**fixture["config"]))
    model = FlamingoForConditionalGeneration(config).eval()
    model.load_state_dict(from_idefics(state, config))
    model.save_pretrained(tmp_path / "ours")
    report = export_idefics(tmp_path / "ours", tmp_path / "theirs")
    assert "<image> is 38 now" in report.notes[0]
    peer = IdeficsForVisionText2Text.from_pretrained(tmp_path / "theirs").eval()
    assert all(torch.equal(tensor, state[name]) for name, tensor in peer.state_dict().items())

    end, image, pad = 37, 38, 0  # in theirs; the first row has two images, the second one
    ids = torch.tensor([[1, 5, image, 8, end, image, 9], [pad] * 2 + [1, image, 6, 7, 2]])
    mask = (ids != pad).long()
    pixels = peers.random_pixels(2, 2, 3, peers.IMAGE_SIZE, peers.IMAGE_SIZE)
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (peers.MEAN, peers.STD))
    seen = (ids == image).cumsum(-1)
    greedy = {"max_new_tokens": 9, "do_sample": False, "eos_token_id": None, "pad_token_id": pad}
    said = peer.generate(
        ids,
        attention_mask=mask,
        pixel_values=(pixels / 255 - mean) / std,
        image_attention_mask=seen[..., None] == torch.arange(1, 3),
        suppress_tokens=[image],  # ours never writes it
        **greedy,
    )
    order = torch.tensor([*range(37), 38, 37])
    ours = model.generate(
        order[ids],
        attention_mask=mask,
        pixel_values=pixels,
        num_images=torch.tensor([2, 1]),
        **greedy,
    )
    assert order[ours].tolist() == said.tolist()
    assert len(set(said[:, 7:].flatten().tolist())) > 4  # more than one token over and over


def test_what_an_idefics_cannot_hold_is_refused_by_name() -> None:
    fixture = json.loads((FIXTURES / "idefics.json").read_text())
    config = idefics_config(IdeficsConfig(**fixture["config"]))
    state = from_idefics(peers.random_weights(fixture["shapes"]), config)
    state["resampler.time_embedding"] = torch.ones(config.num_frames, peers.VISION_WIDTH)
    config.cross_attention_activation = "gelu"
    config.vision_config.layer = None
    config.text_config.num_key_value_heads = 1
    with pytest.raises(UserError) as mistake:
        to_idefics(state, config)
    for unlike in (
        "cross_attention_activation=gelu instead of swiglu",
        "num_key_value_heads=1 instead of 3",
        "vision layer=None instead of -1",
        "a time embedding that is not 0",
    ):
        assert unlike in str(mistake.value)
    with pytest.raises(UserError, match="an Idefics is a Llama around a CLIP ViT"):
        to_idefics(state, tiny.config())


def test_an_idefics_that_ours_cannot_be_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"only with use_resampler, additional_vocab_size=2"):
        idefics_config(IdeficsConfig())
