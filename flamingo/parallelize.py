"""How a Flamingo and the models of its earlier stages are divided over ranks.

A unit is gathered when it runs and freed behind it: of the frozen language model no rank ever holds
more than a layer or two, and nothing of it is reduced. The rows of the new tokens stay with the
root, for they are read from inside other modules.
"""

from transformers import PreTrainedModel

from common.encoders.text import TextEncoder
from common.encoders.vision import VisionEncoder
from common.parallel.sharding import Sharding
from flamingo.language_model import decoder_layers
from flamingo.model import FlamingoForConditionalGeneration


def parallelize(model: FlamingoForConditionalGeneration, sharding: Sharding) -> None:
    """Names the units of the main stage, in the order in which they run."""
    _vision_encoder(model.vision_encoder, sharding)
    sharding.units(model.resampler.layers)
    sharding.unit(model.resampler, cast_inputs=True)  # its norms meet the features first
    sharding.units(model.gated_cross_attention)
    _language_model(model.language_model, sharding)


def parallelize_towers(*, vision: VisionEncoder, text: TextEncoder, sharding: Sharding) -> None:
    """Names the units of the contrastive stage."""
    _vision_encoder(vision, sharding)
    sharding.units(text.blocks)
    sharding.unit(text)


def parallelize_language_model(model: PreTrainedModel, sharding: Sharding) -> None:
    """Names the units of the language model's own stage."""
    _language_model(model, sharding)


def _vision_encoder(encoder: VisionEncoder, sharding: Sharding) -> None:
    sharding.units(encoder.blocks)
    sharding.unit(encoder)


def _language_model(model: PreTrainedModel, sharding: Sharding) -> None:
    """Layers, both tables of tokens, and the rest of it (the last norm, learned positions)."""
    sharding.units(decoder_layers(model))
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if embedding.weight is head.weight:
        sharding.unit(embedding, head)
    else:
        sharding.units([embedding, head])
    sharding.unit(model)
