"""What a run starts from: folders of a trained Flamingo, or of its two backbones."""

from pathlib import Path
from typing import Any

import torch

from common.checkpoint.pretrained import read_config, read_model, read_part
from common.encoders.vision import read_description
from common.errors import UserError
from flamingo.config import FlamingoConfig, FlamingoVisionConfig
from flamingo.model import FlamingoForConditionalGeneration


def started_config(folder: Path) -> FlamingoConfig:
    """Of the model in a folder.

    Raises:
        UserError: it cannot be read, or is no Flamingo.
    """
    config = read_config(folder)
    if not isinstance(config, FlamingoConfig):
        raise UserError(f"{folder} holds a {config.model_type}; give a folder of a Flamingo")
    return config


def started_model(
    folder: Path, config: FlamingoConfig, *, frozen_dtype: torch.dtype
) -> FlamingoForConditionalGeneration:
    """All weights of a folder, the backbones frozen in their dtype.

    Raises:
        UserError: weights are missing or damaged.
    """
    kind = FlamingoForConditionalGeneration
    model = read_model(kind, folder, config=config, dtype=torch.float32, spare=())
    assert isinstance(model, kind)
    for part in (model.language_model, model.vision_encoder):
        part.to(frozen_dtype).requires_grad_(False)  # reading a folder unfreezes them
    return model.train()


def is_without_memory() -> bool:
    """A model is built for its shapes only."""
    return torch.get_default_device().type == "meta"


def load_local(auto_class: Any, folder: Path, **options: Any) -> Any:
    """A part of a language model from a local folder; nothing is downloaded, no code is run."""
    if not (folder / "config.json").is_file():
        raise UserError(
            f"no language model in {folder}: config.json is missing there; train the language "
            "stage first or give the folder of another causal language model"
        )
    return read_part(auto_class, folder, what="language model", **options)


def vision_config_of(folder: Path) -> FlamingoVisionConfig:
    """What `VisionEncoder.save` wrote beside the weights, as a configuration."""
    description = read_description(folder)
    return FlamingoVisionConfig(
        name=description["name"],
        image_size=description["image_size"],
        model_options=description["model_options"],
        image_mean=description["mean"],
        image_std=description["std"],
    )
