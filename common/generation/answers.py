"""What a tuned model answers in many conversations at once."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from common.data.conversations.encoded import ChatFormat, EncodedChat, encode_prompt
from common.data.conversations.messages import Conversation

BATCH = 64


def answers(
    model: PreTrainedModel,
    form: ChatFormat,
    conversations: Sequence[Conversation],
    *,
    max_new_tokens: int,
) -> list[str]:
    """The assistant's next turn in each conversation, greedily. The model's mode is kept.

    Raises:
        UserError: a conversation is not in the format, or the model does not know a medium.
    """
    prompts = [encode_prompt(form, conversation) for conversation in conversations]
    return continued(model, form, prompts, max_new_tokens=max_new_tokens)


@torch.no_grad()
def continued(
    model: PreTrainedModel,
    form: ChatFormat,
    prompts: Sequence[EncodedChat],
    *,
    max_new_tokens: int,
) -> list[str]:
    """What the model writes behind the openings of answers, greedily. Its mode is kept."""
    was_training = model.training
    model.eval()
    written: list[str] = []
    for start in range(0, len(prompts), BATCH):
        batch = form.batch_of(prompts[start : start + BATCH], padding_side="left")
        ids = model.generate(
            **{name: tensor.to(model.device) for name, tensor in batch.items()},
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=[*form.ends],
            pad_token_id=form.tokenizer.pad_token_id,
        )
        new = ids[:, batch["input_ids"].shape[1] :]
        written += form.tokenizer.batch_decode(new, skip_special_tokens=True)
    model.train(was_training)
    return [text.strip() for text in written]
