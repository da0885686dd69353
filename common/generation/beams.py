"""Beam search in the words of transformers' `generate`."""


def beam_options(num_beams: int | None, length_penalty: float | None) -> dict[str, int | float]:
    """What `generate` is told: nothing of lengths without beams; None leaves its own default."""
    options: dict[str, int | float] = {"num_beams": num_beams or 1}
    if options["num_beams"] > 1 and length_penalty is not None:
        options["length_penalty"] = length_penalty
    return options
