"""Text that continues mixed prompts: documents in, strings out."""

from collections.abc import Sequence

import torch

from flare.model import FlareForConditionalGeneration
from flare.processing import FlareProcessor, Part


@torch.no_grad()
def complete(
    model: FlareForConditionalGeneration,
    processor: FlareProcessor,
    documents: Sequence[Sequence[Part]],
    *,
    max_new_tokens: int,
    num_beams: int = 1,
    temperature: float | None = None,
    static: bool = False,
) -> list[str]:
    """What the model writes after each prompt, up to the end of the document.

    Greedy or beam search; sampling when a temperature is given. `static` allots the whole text
    cache beforehand, for which transformers compiles decoding on a GPU. The model's training mode
    is kept.
    """
    was_training = model.training
    model.eval()
    inputs = processor.prompts(documents).to(model.device)
    ids = model.generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        num_beams=num_beams,
        eos_token_id=processor.tokenizer.eos_token_id,
        pad_token_id=processor.tokenizer.pad_token_id,
        do_sample=temperature is not None,
        temperature=temperature,
        cache_implementation="static" if static else None,
    )
    model.train(was_training)
    new = ids[:, inputs["input_ids"].shape[1] :]
    texts = processor.tokenizer.batch_decode(new, skip_special_tokens=True)
    return [text.strip() for text in texts]
