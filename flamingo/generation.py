"""Text that continues interleaved prompts: documents in, strings out."""

from collections.abc import Sequence

import torch

from flamingo.model import FlamingoForConditionalGeneration
from flamingo.processing import FlamingoProcessor, Part


@torch.no_grad()
def complete(
    model: FlamingoForConditionalGeneration,
    processor: FlamingoProcessor,
    documents: Sequence[Sequence[Part]],
    *,
    max_new_tokens: int,
    num_beams: int = 1,
    temperature: float | None = None,
) -> list[str]:
    """What the model writes after each prompt, up to the end of the chunk.

    Greedy or beam search; sampling when a temperature is given. The model's training mode is kept.
    """
    was_training = model.training
    model.eval()
    inputs = processor.prompts(documents).to(model.device)
    sampling = {"do_sample": temperature is not None, "temperature": temperature}
    stop = [processor.end_of_chunk_token_id]
    if processor.tokenizer.eos_token_id is not None:
        stop.append(processor.tokenizer.eos_token_id)
    ids = model.generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        num_beams=num_beams,
        eos_token_id=stop,
        pad_token_id=processor.tokenizer.pad_token_id,
        **sampling,
    )
    model.train(was_training)
    new = ids[:, inputs["input_ids"].shape[1] :]
    texts = processor.tokenizer.batch_decode(new, skip_special_tokens=True)
    return [text.strip() for text in texts]
