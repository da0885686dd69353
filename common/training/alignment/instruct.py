"""A round of instruction tuning: TRL's SFTTrainer with our collator, on conversations with media,
over all weights that are not frozen or over adapters that are merged at the end."""

from pathlib import Path

from transformers import PreTrainedModel

from common.data.conversations.encoded import ChatFormat
from common.data.conversations.messages import Conversations
from common.training.alignment.bridge import (
    Log,
    RoundConfig,
    arguments,
    lora,
    merged,
    numbers,
    scored_by_trl,
    trainable,
)
from common.training.alignment.collators import InstructionCollator


def instruct(
    model: PreTrainedModel,
    form: ChatFormat,
    conversations: Conversations,
    config: RoundConfig,
    *,
    folder: Path,
) -> tuple[PreTrainedModel, Log]:
    """The tuned model (the given one, changed) and what TRL logged.

    Raises:
        UserError: TRL is not installed, there is no conversation, or one is not in the format.
    """
    data = numbers(len(conversations))
    import trl  # noqa: PLC0415 -- optional

    collator = InstructionCollator(
        form=form, conversations=conversations, max_tokens=config.max_tokens
    )
    with trainable(model, frozen=config.frozen), scored_by_trl(model):
        trainer = trl.SFTTrainer(
            model,
            trl.SFTConfig(**arguments(config, folder)),
            data_collator=collator,
            train_dataset=data,
            processing_class=form.processor,
            peft_config=lora(config, form, model),
        )
        trainer.train()
        tuned = merged(trainer.model)
    return tuned, trainer.state.log_history
