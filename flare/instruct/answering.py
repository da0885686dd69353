"""What a tuned model answers in conversations, and how many instructions it answers with exactly
the right word."""

from collections.abc import Sequence

import torch

from common.data.conversations.embedded import asked
from common.data.conversations.messages import Conversation
from common.data.embedded.instructions import Instruction, exact_matches
from flare.instruct.collator import batch_of
from flare.instruct.encoding import encode_prompt
from flare.model import FlareForConditionalGeneration
from flare.processing import FlareProcessor

BATCH = 64
MOST_ANSWER_TOKENS = 6  # of one word


@torch.no_grad()
def answers(
    model: FlareForConditionalGeneration,
    processor: FlareProcessor,
    conversations: Sequence[Conversation],
    *,
    max_new_tokens: int,
) -> list[str]:
    """The assistant's next turn in each conversation, greedily. The model's mode is kept.

    Raises:
        UserError: a conversation is not in the format.
    """
    was_training = model.training
    model.eval()
    written: list[str] = []
    for start in range(0, len(conversations), BATCH):
        some = conversations[start : start + BATCH]
        prompts = [encode_prompt(processor, conversation) for conversation in some]
        batch = batch_of(processor, prompts, padding_side="left")
        ids = model.generate(
            **{name: tensor.to(model.device) for name, tensor in batch.items()},
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=processor.tokenizer.eos_token_id,
            pad_token_id=processor.tokenizer.pad_token_id,
        )
        new = ids[:, batch["input_ids"].shape[1] :]
        written += processor.tokenizer.batch_decode(new, skip_special_tokens=True)
    model.train(was_training)
    return [text.strip() for text in written]


def instruction_accuracy(
    model: FlareForConditionalGeneration,
    processor: FlareProcessor,
    instructions: Sequence[Instruction],
) -> dict[str, tuple[int, int]]:
    """Right answers and questions, by subject and attribute."""
    conversations = [asked(instruction) for instruction in instructions]
    texts = answers(model, processor, conversations, max_new_tokens=MOST_ANSWER_TOKENS)
    return exact_matches(instructions, texts)
