"""Hidden states of packed rows whose media are encoded already."""

from jaxtyping import Bool, Float, Int
from torch import Tensor

from flare.decoder import hybrid_mask, positions_in_documents
from flare.model import FlareForConditionalGeneration


def decode(
    model: FlareForConditionalGeneration,
    input_ids: Int[Tensor, "b s"],
    *,
    images: Float[Tensor, "k q d"] | None,
    audio: Float[Tensor, "l p d"] | None,
    document_ids: Int[Tensor, "b s"],
    bidirectional: Bool[Tensor, "b s"],
) -> Float[Tensor, "b s d"]:
    """After the final norm."""
    return model.decoder(
        model.embed(input_ids, images=images, audio=audio),
        positions=positions_in_documents(document_ids),
        mask=hybrid_mask(document_ids, bidirectional),
        backend=model.config.attention_backend,
    )
