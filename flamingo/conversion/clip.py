"""The vision tower around which an OpenFlamingo was trained."""

from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from flamingo.config import FlamingoVisionConfig


def clip_vision_config(name: str, *, image_size: int, layer: int | None) -> FlamingoVisionConfig:
    """timm's model of that name, fed with pixels as CLIP's towers were."""
    return FlamingoVisionConfig(
        name=name,
        image_size=image_size,
        layer=layer,
        image_mean=OPENAI_CLIP_MEAN,
        image_std=OPENAI_CLIP_STD,
    )
