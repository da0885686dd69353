"""The vision encoder: any timm model becomes a sequence of tokens, offline and on any device."""

import copy
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from common.encoders.vision import VisionEncoder, load_vision
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


@pytest.mark.parametrize(("layer", "cut"), [(-2, 1), (0, 2), (2, 0)])
def test_an_earlier_layer_is_that_blocks_output_without_norm_and_class_token(layer: int, cut: int):
    encoder = build(DEEP_VIT, layer=layer)
    shorter = copy.deepcopy(encoder.model)
    shorter.blocks = shorter.blocks[: 3 - cut]
    shorter.norm = torch.nn.Identity()
    pixels = random_bytes()
    expected = shorter.forward_features(encoder._normalise(pixels))[:, 1:]
    assert expected.shape == (2, encoder.num_tokens, encoder.dim)
    assert torch.equal(encoder(pixels), expected)


DEEP_VIT = {**VIT, "model_options": {**VIT["model_options"], "depth": 3}}


def test_exactly_what_an_earlier_layer_reads_is_trained():
    encoder = build(DEEP_VIT, layer=-2)
    encoder(random_bytes()).sum().backward()
    for name, parameter in encoder.model.named_parameters():
        is_later = name.startswith(("blocks.2.", "norm."))
        assert parameter.requires_grad == (not is_later), name
        assert (parameter.grad is None) == is_later, name


def test_the_layer_is_saved_with_the_encoder(tmp_path: Path):
    encoder, pixels = build(DEEP_VIT, layer=-2), random_bytes()
    encoder.save(tmp_path)
    again = VisionEncoder.from_folder(tmp_path).eval()
    assert again.layer == -2
    assert torch.equal(again(pixels), encoder(pixels))


def test_dropped_patches_leave_fewer_tokens_while_training_only():
    options = {**DEEP_VIT["model_options"], "patch_drop_rate": 0.5}
    encoder = build({**DEEP_VIT, "model_options": options}, layer=-2)
    assert encoder(random_bytes()).shape == (2, 16, 40)
    assert encoder.train()(random_bytes()).shape == (2, 8, 40)


def test_weights_are_loaded_later_from_a_file_or_a_saved_folder(tmp_path: Path):
    trained, pixels = build(VIT), random_bytes()
    for parameter in trained.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    trained.save(tmp_path)
    for source in (tmp_path, tmp_path / "vision.safetensors"):
        encoder = build(VIT)
        assert not torch.equal(encoder(pixels), trained(pixels))
        load_vision(encoder, source)
        assert torch.equal(encoder(pixels), trained(pixels))


@pytest.mark.parametrize(
    ("description", "layer", "message"),
    [(DEEP_VIT, 3, "none of vit_tiny.* 3 blocks"), (NFNET, -2, "no plain transformer")],
)
def test_a_layer_that_the_model_lacks_is_refused(description: dict, layer: int, message: str):
    with pytest.raises(UserError, match=message):
        build(description, layer=layer)


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
