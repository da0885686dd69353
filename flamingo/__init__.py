"""Flamingo: a frozen language model that looks at images through gated cross-attention.

Importing the package makes its classes known to transformers' Auto classes, so that a saved folder
loads with `AutoModelForImageTextToText.from_pretrained` and works with `pipeline`. Model and
processor are imported when they are used.
"""

from typing import TYPE_CHECKING

import transformers
from transformers import AutoConfig, AutoModelForImageTextToText

from common.deferred import Deferred, attributes, when_imported
from flamingo.config import FlamingoConfig, FlamingoVisionConfig

if TYPE_CHECKING:
    from flamingo.model import FlamingoForConditionalGeneration
    from flamingo.processing import FlamingoProcessor

__all__ = [
    "FlamingoConfig",
    "FlamingoForConditionalGeneration",
    "FlamingoProcessor",
    "FlamingoVisionConfig",
]

_MODEL = Deferred(
    "FlamingoForConditionalGeneration", home="flamingo.model", config_class=FlamingoConfig
)
_PROCESSOR = Deferred("FlamingoProcessor", home="flamingo.processing")
__getattr__ = attributes(__name__, _MODEL, _PROCESSOR)


def _register_processor() -> None:
    transformers.AutoProcessor.register(FlamingoConfig, _PROCESSOR, exist_ok=True)


AutoConfig.register(FlamingoVisionConfig.model_type, FlamingoVisionConfig, exist_ok=True)
AutoConfig.register(FlamingoConfig.model_type, FlamingoConfig, exist_ok=True)
AutoModelForImageTextToText.register(FlamingoConfig, _MODEL, exist_ok=True)
when_imported("transformers.models.auto.processing_auto", _register_processor)
