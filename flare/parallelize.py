"""How a FLARE is divided over ranks: the units that are gathered one after the other.

Activations are recomputed by the model itself (`FlareTaskConfig.recompute`), block by block, as the
blocks are gathered. What stays with the root is small or read without a forward pass of its own:
the head's matrix, which the loss multiplies chunk by chunk, and the temperatures.
"""

from common.parallel.sharding import Sharding
from flare.model import FlareForConditionalGeneration


def parallelize(model: FlareForConditionalGeneration, sharding: Sharding) -> None:
    """Names the units; a unit that holds others owns what they leave: norms, queries, positions."""
    sharding.units(model.vision_encoder.model.blocks)
    sharding.unit(model.vision_encoder)
    sharding.units(model.vision_projector.blocks)
    sharding.unit(model.vision_projector)

    sharding.units(model.audio_encoder.encoder.layers)
    sharding.unit(model.audio_encoder)
    sharding.units(model.audio_projector.blocks)
    sharding.unit(model.audio_projector)

    sharding.unit(model.embedding)
    sharding.units(model.decoder.blocks)
    sharding.unit(model.decoder)
