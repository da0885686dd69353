"""The vision encoder: any timm model becomes a sequence of tokens, offline and on any device."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from common.encoders.vision import VisionEncoder
from common.errors import UserError

STATISTICS = {"mean": (0.5, 0.4, 0.3), "std": (0.3, 0.2, 0.1)}
NFNET = {
    "name": "dm_nfnet_f0",
    "image_size": 32,
    "model_options": {
        "depths": [1, 2],
        "channels": [16, 24],
        "stem_chs": 16,
        "group_size": 4,
        "num_features": 40,
    },
}
VIT = {
    "name": "vit_tiny_patch16_224",
    "image_size": 32,
    "model_options": {"patch_size": 8, "depth": 2, "embed_dim": 40, "num_heads": 2},
}


def build(description: dict, **changes: object) -> VisionEncoder:
    torch.manual_seed(0)
    return VisionEncoder(**{**description, **STATISTICS, **changes}).eval()


def random_bytes(*, size: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)


@pytest.mark.parametrize("description", [NFNET, VIT], ids=["nfnet", "vit"])
def test_every_family_yields_the_announced_tokens_without_prefix_tokens(description):
    encoder = build(description)
    tokens = encoder(random_bytes())
    assert tokens.shape == (2, encoder.num_tokens, encoder.dim) == (2, 16, 40)


@pytest.mark.parametrize("description", [NFNET, VIT], ids=["nfnet", "vit"])
def test_bytes_and_floats_give_the_same_tokens(description):
    encoder = build(description)
    pixels = random_bytes()
    torch.testing.assert_close(encoder(pixels), encoder(pixels / 255), atol=1e-5, rtol=1e-4)


def test_pixels_are_normalised_by_the_channel_statistics():
    pixels = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(STATISTICS[key])[:, None, None] for key in ("mean", "std"))
    expected = build(NFNET, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))((pixels - mean) / std)
    torch.testing.assert_close(build(NFNET)(pixels), expected, atol=1e-5, rtol=1e-4)


def test_feature_maps_are_read_row_by_row():
    encoder = build(NFNET)
    pixels = random_bytes(size=32)
    changed = pixels.clone()
    changed[:, :, :4, 28:] = 255 - changed[:, :, :4, 28:]  # the top right corner
    difference = (encoder(changed) - encoder(pixels)).abs().amax(dim=(0, 2))
    assert difference.argmax() == 3  # last token of the first of four rows


@pytest.mark.parametrize(
    ("name", "image_size", "shape", "parameters"),
    [
        ("dm_nfnet_f6", 320, (2, 100, 3072), 435_286_116),
        ("vit_huge_patch14_clip_224", 224, (2, 256, 1280), 630_766_080),
    ],
)
def test_full_size_encoders_build_and_run_on_the_meta_device(name, image_size, shape, parameters):
    with torch.device("meta"):
        encoder = build({"name": name, "image_size": image_size, "model_options": {}})
        tokens = encoder(torch.zeros(2, 3, image_size, image_size))
    assert tokens.shape == shape == (2, encoder.num_tokens, encoder.dim)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == parameters
    assert all(parameter.ndim > 0 for parameter in encoder.parameters())


def test_a_saved_encoder_comes_back_from_its_folder(tmp_path: Path):
    encoder, pixels = build(NFNET), random_bytes()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)  # the residual gains start at zero
    encoder.save(tmp_path)
    again = VisionEncoder.from_folder(tmp_path).eval()
    assert torch.equal(again(pixels), encoder(pixels))


def test_full_timm_checkpoints_load_without_their_classifier(tmp_path: Path):
    torch.manual_seed(1)
    original = timm.create_model(NFNET["name"], num_classes=5, **NFNET["model_options"]).eval()
    save_file(original.state_dict(), tmp_path / "timm.safetensors")  # gains of shape ()
    encoder = build(NFNET, weights=tmp_path / "timm.safetensors", **OPEN_STATISTICS)
    pixels = torch.rand(2, 3, 32, 32)
    expected = original.forward_features(pixels).flatten(2).transpose(1, 2)
    torch.testing.assert_close(encoder(pixels), expected)


OPEN_STATISTICS = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def test_weights_that_do_not_fit_name_the_wrong_keys(tmp_path: Path):
    state = build(NFNET).model.state_dict()
    state["stranger"] = state.pop("stem.conv1.bias")
    state["final_conv.bias"] = torch.zeros(7)
    save_file(state, tmp_path / "wrong.safetensors")
    with pytest.raises(UserError) as error:
        build(NFNET, weights=tmp_path / "wrong.safetensors")
    for part in ("missing: stem.conv1.bias", "unexpected: stranger", "final_conv.bias (7,)"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "dm_nfnet_f66"}, "near names: dm_nfnet_f6"),
        ({"model_options": {"widths": 3}}, "widths"),
        ({"image_size": 36}, "multiple of 8"),
        ({"weights": Path("nowhere.safetensors")}, "nowhere.safetensors do not exist"),
    ],
)
def test_mistakes_are_told_in_one_line(changes: dict, message: str):
    with pytest.raises(UserError, match=message) as error:
        build(NFNET, **changes)
    assert "\n" not in str(error.value)
