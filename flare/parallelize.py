"""How a FLARE is divided over ranks: the units that are gathered one after the other.

What stays with the root is small or read without a forward pass of its own: the head's matrix,
which the loss multiplies chunk by chunk, the last norm and the temperatures.
A pipeline cuts the decoder's blocks only: encoders, projectors and tables work for all ranks alike.
"""

from collections.abc import Callable

from common.parallel.sharding import Sharding
from flare.model import FlareForConditionalGeneration


def parallelize(
    model: FlareForConditionalGeneration, sharding: Sharding, *, costs: Callable[[], list[float]]
) -> None:
    """Names the units; a unit that holds others owns what they leave: norms, queries, positions.

    costs: of the decoder's blocks on a row, the last one's with the head's.
    """
    sharding.units(model.vision_encoder.blocks)
    sharding.unit(model.vision_encoder)
    sharding.units(model.vision_projector.blocks)
    sharding.unit(model.vision_projector)

    sharding.units(model.audio_encoder.encoder.layers)
    sharding.unit(model.audio_encoder)
    sharding.units(model.audio_projector.blocks)
    sharding.unit(model.audio_projector)

    sharding.unit(model.embedding)
    sharding.chain(model.decoder.blocks, costs=costs)
    if sharding.pipeline is not None:
        model.generation_config.use_cache = False  # a rank would know its own layers' only
