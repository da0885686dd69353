"""CLIP vision towers of open_clip and transformers as a folder of our vision encoder, and back.

The folder is what `VisionEncoder.save` writes and every recipe reads as its trained encoder; a file
with timm's own names needs no conversion.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPVisionConfig, CLIPVisionModel
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from common.checkpoint.clip_keys import (
    UNUSED,
    num_blocks,
    open_clip_table,
    transformers_clip_table,
)
from common.checkpoint.key_table import Table, report, shape_of, to_ours, to_theirs
from common.checkpoint.pretrained import (
    Report,
    model_type,
    read_config,
    read_model,
    read_tensors,
    refuse_full,
    write_model,
)
from common.encoders.vision import VisionEncoder
from common.errors import UserError
from common.json_files import read_json_object

PIXELS_FILE = "preprocessor_config.json"
# timm's model per activation; its numbers are overridden by those of the tower.
_MODELS = {
    "gelu": "vit_huge_patch14_clip_224",
    "quick_gelu": "vit_huge_patch14_clip_quickgelu_224",
}
_ACTIVATIONS = {"GELU": "gelu", "QuickGELU": "quick_gelu"}
# Parts of a CLIP that is more than its vision tower.
_BESIDE = ("text_model.", "text_projection.", "visual_projection.", "logit_scale")
_NORM_EPS = 1e-5  # of timm's CLIP ViTs


def import_clip(source: Path, out: Path, *, name: str | None) -> Report:
    """Writes a folder of our vision encoder from transformers' CLIP folder or open_clip's file.

    A folder describes its tower itself; that of a file has timm's `name`.

    Raises:
        UserError: when it is no CLIP ViT, or naming every key that does not fit.
    """
    refuse_full(out)
    if source.is_dir() and name is None:
        encoder, table, theirs = _from_transformers(source)
    elif source.is_dir():
        raise UserError(f"{source} describes its tower itself; leave out the name {name}")
    else:
        encoder, table, theirs = _from_open_clip(source, name=name)
    ours = to_ours(table, theirs, like=encoder.model.state_dict(), source=str(source))
    encoder.model.load_state_dict(ours, assign=True)
    encoder.save(out)
    return Report(lines=report(table), notes=[])


def export_clip(encoder: VisionEncoder, out: Path) -> Report:
    """Writes transformers' `CLIPVisionModel` where it can hold the encoder, else ours as it is."""
    config = clip_config(encoder)
    if config is None:
        encoder.save(out)
        return Report(
            lines=[], notes=[f"{encoder.name} is no CLIP ViT: vision.safetensors has timm's names"]
        )
    state = encoder.model.state_dict()
    table = transformers_clip_table("", "", num_blocks=num_blocks(state, ""))
    write_model(CLIPVisionModel, config, to_theirs(table, state), out)
    pixels = {"image_mean": encoder.mean, "image_std": encoder.std}
    (out / PIXELS_FILE).write_text(json.dumps(pixels) + "\n")
    return Report(lines=report(table), notes=[])


def clip_config(encoder: VisionEncoder) -> CLIPVisionConfig | None:
    """What transformers would call the encoder's model; None when it is no CLIP ViT."""
    vit: Any = encoder.model
    state = vit.state_dict()
    blocks = num_blocks(state, "")
    if state.keys() != {
        name for entry in transformers_clip_table("", "", num_blocks=blocks) for name in entry.ours
    }:
        return None
    block = vit.blocks[0]
    activation = _ACTIVATIONS.get(type(block.mlp.act).__name__)
    if activation is None:
        return None
    return CLIPVisionConfig(
        hidden_size=vit.embed_dim,
        intermediate_size=block.mlp.fc1.out_features,
        num_hidden_layers=blocks,
        num_attention_heads=block.attn.num_heads,
        image_size=encoder.image_size,
        patch_size=vit.patch_embed.patch_size[0],
        hidden_act=activation,
        layer_norm_eps=block.norm1.eps,
    )


def _from_transformers(folder: Path) -> tuple[VisionEncoder, Table, dict[str, Tensor]]:
    config = read_config(folder)
    if isinstance(config, CLIPConfig):
        config = config.vision_config
    if not isinstance(config, CLIPVisionConfig):
        raise UserError(f"{folder} holds a {model_type(folder)}, not a clip")
    if config.hidden_act not in _MODELS or config.layer_norm_eps != _NORM_EPS:
        raise UserError(
            f"{folder} is a CLIP ViT of {config.hidden_act} and norms of {config.layer_norm_eps}; "
            f"covered are {' and '.join(_MODELS)} with {_NORM_EPS}"
        )
    mean, std = _pixels(folder)
    encoder = _encoder(
        _MODELS[config.hidden_act],
        image_size=config.image_size,
        mean=mean,
        std=std,
        options={
            "patch_size": config.patch_size,
            "embed_dim": config.hidden_size,
            "depth": config.num_hidden_layers,
            "num_heads": config.num_attention_heads,
            "mlp_ratio": config.intermediate_size / config.hidden_size,
        },
    )
    model = read_model(CLIPVisionModel, folder, config=config, spare=_BESIDE)
    table = transformers_clip_table("", "", num_blocks=config.num_hidden_layers)
    return encoder, table, model.state_dict()


def _from_open_clip(
    file: Path, *, name: str | None
) -> tuple[VisionEncoder, Table, dict[str, Tensor]]:
    theirs = open_clip_tower(read_tensors(file))
    theirs.pop(UNUSED, None)
    if name is None:
        raise UserError(f"{file} does not say which tower it holds; give timm's name of it")
    positions = shape_of(theirs, "positional_embedding", source=str(file))[0] - 1
    patch_size = shape_of(theirs, "conv1.weight", source=str(file))[-1]
    encoder = _encoder(
        name,
        image_size=math.isqrt(positions) * patch_size,
        mean=OPENAI_CLIP_MEAN,
        std=OPENAI_CLIP_STD,
        options={},
    )
    blocks = num_blocks(encoder.model.state_dict(), "")
    return encoder, open_clip_table("", "", num_blocks=blocks), theirs


def open_clip_tower(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The vision tower of a file that may hold the text tower, too."""
    start = "visual." if any(key.startswith("visual.") for key in state) else ""
    return {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}


def _encoder(
    name: str, *, image_size: int, mean: list[float], std: list[float], options: dict[str, object]
) -> VisionEncoder:
    with torch.device("meta"):
        return VisionEncoder(
            name=name, image_size=image_size, model_options=options, mean=mean, std=std
        )


def _pixels(folder: Path) -> tuple[list[float], list[float]]:
    """Statistics of the pixels that the tower was trained with."""
    file = folder / PIXELS_FILE
    if not file.is_file():
        return OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
    described = read_json_object(file)
    return _of_colours(described, "image_mean", file), _of_colours(described, "image_std", file)


def _of_colours(described: Mapping[str, object], name: str, file: Path) -> list[float]:
    values = described.get(name)
    if not isinstance(values, list) or [type(value) for value in values] != [float] * 3:
        raise UserError(f"{file} lacks the {name} of three colours; copy it again")
    return values
