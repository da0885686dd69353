"""FLARE: a decoder-only language model in which images and audio clips become soft tokens.

Importing the package makes its classes known to transformers' Auto classes, so that a saved folder
loads with `AutoModelForMultimodalLM.from_pretrained` and works with `pipeline`.
"""

from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
)

from flare.config import (
    FlareAudioConfig,
    FlareConfig,
    FlareProjectorConfig,
    FlareTextConfig,
    FlareVisionConfig,
)
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

for _config in (
    FlareTextConfig,
    FlareVisionConfig,
    FlareAudioConfig,
    FlareProjectorConfig,
    FlareConfig,
):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
AutoModelForMultimodalLM.register(FlareConfig, FlareForConditionalGeneration, exist_ok=True)
AutoModelForImageTextToText.register(FlareConfig, FlareForConditionalGeneration, exist_ok=True)
AutoProcessor.register(FlareConfig, FlareProcessor, exist_ok=True)
