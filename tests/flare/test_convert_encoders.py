"""Encoders of the field see and hear the same inside a FLARE."""

from pathlib import Path

import pytest
import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    WavLMConfig,
    WavLMForCTC,
    WavLMModel,
)

from common.checkpoint.clip import clip_config, export_clip, import_clip
from common.checkpoint.clip_keys import UNUSED, open_clip_table
from common.checkpoint.key_table import check, to_theirs
from common.encoders.vision import VisionEncoder
from common.errors import UserError
from flare.conversion.encoders import audio_config, vision_config, wavlm_config
from flare.model import FlareForConditionalGeneration
from tests.flare import tiny

CLIP = CLIPVisionConfig(
    hidden_size=28,
    intermediate_size=52,
    num_hidden_layers=3,
    num_attention_heads=2,
    image_size=32,
    patch_size=8,
    hidden_act="quick_gelu",
)


def clip_folder(folder: Path) -> CLIPModel:
    torch.manual_seed(0)
    text = {"hidden_size": 12, "intermediate_size": 20, "num_attention_heads": 2}
    whole = CLIPModel(CLIPConfig(vision_config=CLIP.to_dict(), text_config=text)).eval()
    with torch.no_grad():
        for parameter in whole.vision_model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    whole.save_pretrained(folder)
    return whole


def test_a_clip_tower_sees_the_same(tmp_path: Path) -> None:
    peer = clip_folder(tmp_path / "clip").vision_model
    report = import_clip(tmp_path / "clip", tmp_path / "encoder", name=None)
    assert len(report.lines) == 7 + 3 * 12
    otherwise = tiny.config().vision_config
    config = tiny.config(vision_config=vision_config(tmp_path / "encoder", otherwise=otherwise))
    model = FlareForConditionalGeneration(config).eval()
    model.load_backbones(vision=tmp_path / "encoder", audio=None)
    encoder = model.vision_encoder
    mean, std = torch.tensor(encoder.mean), torch.tensor(encoder.std)
    pixels = (tiny.images(2) / 255 - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        states = peer(pixels, output_hidden_states=True).hidden_states
        seen = encoder(tiny.images(2))
    torch.testing.assert_close(seen, states[otherwise.layer][:, 1:], atol=1e-5, rtol=0)


def test_open_clips_file_becomes_the_tower_that_its_numbers_describe(tmp_path: Path) -> None:
    name = "vit_xsmall_patch16_clip_224"
    options = {"name": name, "image_size": 48, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    encoder = VisionEncoder(**options, model_options={})
    table = open_clip_table("visual.", "visual.", num_blocks=len(encoder.blocks))
    named = {f"visual.{key}": tensor for key, tensor in encoder.model.state_dict().items()}
    others = {f"visual.{UNUSED}": torch.zeros(2, 3), "logit_scale": torch.zeros(())}
    torch.save(to_theirs(table, named) | others, tmp_path / "open_clip.bin")
    with pytest.raises(UserError, match="give timm's name of it"):
        import_clip(tmp_path / "open_clip.bin", tmp_path / "encoder", name=None)
    import_clip(tmp_path / "open_clip.bin", tmp_path / "encoder", name=name)
    read = VisionEncoder.from_folder(tmp_path / "encoder")
    assert read.image_size == 48
    expected = encoder.model.state_dict()
    assert all(torch.equal(read.model.state_dict()[key], expected[key]) for key in expected)


def test_every_key_of_open_clips_vit_h_has_its_place_in_timms() -> None:
    open_clip = pytest.importorskip("open_clip")
    described = open_clip.get_model_config("ViT-H-14")
    size = described["vision_cfg"]
    heads = size["width"] // size["head_width"]
    with torch.device("meta"):
        peer = open_clip.transformer.VisionTransformer(
            image_size=size["image_size"],
            patch_size=size["patch_size"],
            width=size["width"],
            layers=size["layers"],
            heads=heads,
            mlp_ratio=4.0,
            output_dim=described["embed_dim"],
        ).state_dict()
        encoder = VisionEncoder(
            name="vit_huge_patch14_clip_224", image_size=224, model_options={}, mean=(), std=()
        )
    del peer[UNUSED]
    table = open_clip_table("", "", num_blocks=size["layers"])
    check(peer, to_theirs(table, encoder.model.state_dict()), source="ViT-H-14")
    config = clip_config(encoder)
    assert config is not None
    assert config.num_attention_heads == heads


def test_a_tower_that_is_no_clip_keeps_timms_names(tmp_path: Path) -> None:
    encoder = VisionEncoder(
        name="vit_tiny_patch16_224", image_size=32, model_options={}, mean=(0.5,), std=(0.5,)
    )
    report = export_clip(encoder, tmp_path)
    assert "no CLIP ViT" in report.notes[0]
    assert VisionEncoder.from_folder(tmp_path).dim == encoder.dim


@pytest.mark.parametrize("safe", [True, False])
def test_a_wavlm_with_a_head_hears_the_same(safe: bool, tmp_path: Path) -> None:
    theirs = wavlm_config(tiny.config().audio_config)
    theirs.vocab_size = 7
    torch.manual_seed(0)
    peer = WavLMForCTC(theirs).eval()
    peer.save_pretrained(tmp_path)
    if not safe:  # as microsoft/wavlm-large lies on the hub: older names, torch's own file
        (tmp_path / "model.safetensors").unlink()
        parts = {"parametrizations.weight.original0": "weight_g"}
        parts["parametrizations.weight.original1"] = "weight_v"
        state = peer.state_dict()
        for new, old in parts.items():
            state = {key.replace(new, old): tensor for key, tensor in state.items()}
        torch.save(state, tmp_path / "pytorch_model.bin")
    described = audio_config(tmp_path, otherwise=tiny.config(audio_config={}).audio_config)
    model = FlareForConditionalGeneration(tiny.config(audio_config=described)).eval()
    model.load_backbones(vision=None, audio=tmp_path)
    clips = tiny.clips(2)
    normalised = (clips - clips.mean(1, keepdim=True)) / clips.std(1, keepdim=True, correction=0)
    with torch.no_grad():
        heard, _ = model.audio_encoder(clips, torch.tensor([400, 400]))
        expected = peer.wavlm(normalised).last_hidden_state
    torch.testing.assert_close(heard, expected, atol=1e-5, rtol=0)
    back = WavLMModel(wavlm_config(described)).state_dict()
    assert back.keys() == model.audio_encoder.state_dict().keys()


def test_another_kind_of_folder_is_refused_by_name(tmp_path: Path) -> None:
    WavLMConfig().save_pretrained(tmp_path / "wavlm")
    CLIP.save_pretrained(tmp_path / "clip")
    with pytest.raises(UserError, match="holds a wavlm, not a clip"):
        import_clip(tmp_path / "wavlm", tmp_path / "out", name=None)
    with pytest.raises(UserError, match="describes its tower itself"):
        import_clip(tmp_path / "clip", tmp_path / "out", name="vit_huge_patch14_clip_224")
    with pytest.raises(UserError, match="holds a clip_vision_model, not a wavlm"):
        audio_config(tmp_path / "clip", otherwise=tiny.config().audio_config)
