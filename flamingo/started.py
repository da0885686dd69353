"""A trained Flamingo that another run goes on from."""

from pathlib import Path

import torch

from common.checkpoint.pretrained import read_config, read_model
from common.errors import UserError
from flamingo.config import FlamingoConfig
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
