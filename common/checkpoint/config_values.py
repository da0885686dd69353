"""What a model's config.json from elsewhere may say: no implementation that would be fetched, which
is code, and no number that no model means, which would be carried along until it does harm. Only
names that every family of models uses alike are known here; sizes of tensors meet the weights."""

import math
import re
from pathlib import Path

from common.errors import UserError

# Of any part of a model: each one is built before its weights are missed.
MAX_LAYERS = 10_000
MAX_IMAGE_SIDE = 8_192  # pixels
# Ends of the names of fields that choose an implementation.
_KERNELS = ("_implementation", "_implementation_internal")
# transformers' words for what JSON has none for.
_FLOATS = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}
# The one kind of field that published models give an infinity: Mamba's time_step_limit.
_MAY_BE_INFINITE = "_limit"
_LEAST = 1e-30  # of what something is divided by
# Ends of names, and the least and the largest number there.
_BOUNDS: tuple[tuple[str, float, float], ...] = (
    (r"layers?", -MAX_LAYERS, MAX_LAYERS),
    (r"image_size", 1, MAX_IMAGE_SIDE),
    (r"dropout(_rate|_prob|_p)?|drop(_path)?_rate|pdrop|layer_?drop|mask_\w+_(prob|share)", 0, 1),
    (r"(?<![a-z])(eps|epsilon)", 0, 1),
    # 0 in a list of layers stands for those without rotation.
    (r"(?<!layer_rope_)theta|rotary_base|base_freq", _LEAST, 1e30),
    (r"image_mean", 0, 1),
    (r"image_std", _LEAST, 1e3),
    (r"initializer_range", 0, 1e3),
    (r"(?<![a-z])(kernels?|strides?|mask_\w+_length)", 1, 1e6),
)


def refuse_hostile(value: object, file: Path, *, key: str = "") -> None:
    """Looks through everything that a config.json holds; `key` is that of `value`.

    Raises:
        UserError: naming the first key that asks for code, or for a number that cannot be.
    """
    if key.endswith(_KERNELS) and "/" in str(value):
        raise UserError(f"{file} asks for code from elsewhere: {key}={value}; remove that key")
    if isinstance(value, dict):
        for own, inner in value.items():
            # {"__float__": "Infinity"} belongs to the key that holds it.
            if own == "__float__" and isinstance(inner, str):
                refuse_hostile(_FLOATS.get(inner, inner), file, key=key)
            else:
                refuse_hostile(inner, file, key=own)
    elif isinstance(value, list):
        for item in value:
            refuse_hostile(item, file, key=key)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        _refuse_number(value, file, key)


def _refuse_number(value: int | float, file: Path, key: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        if value > 0 and key.endswith(_MAY_BE_INFINITE):
            return
        raise UserError(f"{file} asks for {key}={value}; only finite numbers are possible")
    for ending, least, most in _BOUNDS:
        if re.search(f"(?:{ending})$", key) and not least <= value <= most:
            raise UserError(
                f"{file} asks for {key}={_shown(value)}; {least:g} to {most:g} are possible"
            )


def _shown(value: int | float) -> str:
    """Short, however many digits there are."""
    return f"{value:g}" if abs(value) < 1e300 else "a number of more than 300 digits"
