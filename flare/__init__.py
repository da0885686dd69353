"""FLARE: a decoder-only language model in which images and audio clips become soft tokens.

Importing the package makes its classes known to transformers' Auto classes, so that a saved folder
loads with `AutoModelForMultimodalLM.from_pretrained` and works with `pipeline`. Model and processor
are imported when they are used.
"""

from typing import TYPE_CHECKING

import transformers
from transformers import AutoConfig, AutoModelForImageTextToText, AutoModelForMultimodalLM

from common.deferred import Deferred, attributes, when_imported
from flare.config import (
    FlareAudioConfig,
    FlareConfig,
    FlareProjectorConfig,
    FlareTextConfig,
    FlareVisionConfig,
)

if TYPE_CHECKING:
    from flare.model import FlareForConditionalGeneration
    from flare.processing import FlareProcessor

__all__ = [
    "FlareAudioConfig",
    "FlareConfig",
    "FlareForConditionalGeneration",
    "FlareProcessor",
    "FlareProjectorConfig",
    "FlareTextConfig",
    "FlareVisionConfig",
]

_MODEL = Deferred("FlareForConditionalGeneration", home="flare.model", config_class=FlareConfig)
_PROCESSOR = Deferred("FlareProcessor", home="flare.processing")
__getattr__ = attributes(__name__, _MODEL, _PROCESSOR)


def _register_processor() -> None:
    transformers.AutoProcessor.register(FlareConfig, _PROCESSOR, exist_ok=True)


for _config in (
    FlareTextConfig,
    FlareVisionConfig,
    FlareAudioConfig,
    FlareProjectorConfig,
    FlareConfig,
):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
AutoModelForMultimodalLM.register(FlareConfig, _MODEL, exist_ok=True)
AutoModelForImageTextToText.register(FlareConfig, _MODEL, exist_ok=True)
when_imported("transformers.models.auto.processing_auto", _register_processor)
