"""How many instructions a tuned model answers with exactly the right word."""

from collections.abc import Sequence

from transformers import PreTrainedModel

from common.data.conversations.embedded import asked
from common.data.conversations.encoded import ChatFormat
from common.data.embedded.instructions import Instruction, exact_matches
from common.generation.answers import answers

MOST_ANSWER_TOKENS = 6  # of one word


def instruction_accuracy(
    model: PreTrainedModel, form: ChatFormat, instructions: Sequence[Instruction]
) -> dict[str, tuple[int, int]]:
    """Right answers and questions, by subject and attribute.

    Raises:
        UserError: the model does not know a medium of them.
    """
    conversations = [asked(instruction) for instruction in instructions]
    texts = answers(model, form, conversations, max_new_tokens=MOST_ANSWER_TOKENS)
    return exact_matches(instructions, texts)
