"""Flamingo: a frozen language model that looks at images through gated cross-attention.

Importing the package makes its classes known to transformers' Auto classes, so that a saved folder
loads with `AutoModelForImageTextToText.from_pretrained` and works with `pipeline`.
"""

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from flamingo.config import FlamingoConfig, FlamingoVisionConfig
from flamingo.model import FlamingoForConditionalGeneration
from flamingo.processing import FlamingoProcessor

__all__ = [
    "FlamingoConfig",
    "FlamingoForConditionalGeneration",
    "FlamingoProcessor",
    "FlamingoVisionConfig",
]

AutoConfig.register(FlamingoVisionConfig.model_type, FlamingoVisionConfig, exist_ok=True)
AutoConfig.register(FlamingoConfig.model_type, FlamingoConfig, exist_ok=True)
AutoModelForImageTextToText.register(
    FlamingoConfig, FlamingoForConditionalGeneration, exist_ok=True
)
AutoProcessor.register(FlamingoConfig, FlamingoProcessor, exist_ok=True)
