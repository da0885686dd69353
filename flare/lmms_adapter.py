"""FLARE under lmms-eval: `python -m lmms_eval --model flare --model_args pretrained=FOLDER`.
lmms-eval finds `manifest` as an entry point, and what it names here: `Chat`, and `Simple`, which
--force_simple chooses."""

from typing import Any

from common.evaluation.lmms import adapters
from flare.evaluated import load

__getattr__ = adapters(__name__, load)


def manifest() -> Any:
    """What lmms-eval registers."""
    from lmms_eval.models.registry_v2 import ModelManifest  # noqa: PLC0415 -- as in `adapters`

    return ModelManifest(
        model_id="flare",
        chat_class_path=f"{__name__}.Chat",
        simple_class_path=f"{__name__}.Simple",
    )
