"""A round of instruction tuning: TRL's SFTTrainer with our collator, on conversations with pictures
and sounds, over all weights or over adapters that are merged at the end."""

from pathlib import Path

from torch import nn

from common.data.conversations.messages import Conversations
from flare.instruct.collator import InstructionCollator
from flare.instruct.trl import RoundConfig, arguments, freeze, lora, numbers, scored_by_trl
from flare.model import FlareForConditionalGeneration
from flare.processing import FlareProcessor

Log = list[dict[str, float]]


def instruct(
    model: FlareForConditionalGeneration,
    processor: FlareProcessor,
    conversations: Conversations,
    config: RoundConfig,
    *,
    folder: Path,
) -> tuple[FlareForConditionalGeneration, Log]:
    """The tuned model (the given one, changed) and what TRL logged.

    Raises:
        UserError: TRL is not installed, there is no conversation, or one is not in the format.
    """
    data = numbers(len(conversations))
    import trl  # noqa: PLC0415 -- optional

    collator = InstructionCollator(
        processor=processor, conversations=conversations, max_tokens=config.max_tokens
    )
    freeze(model, config.frozen)
    with scored_by_trl(model):
        trainer = trl.SFTTrainer(
            model,
            trl.SFTConfig(**arguments(config, folder)),
            data_collator=collator,
            train_dataset=data,
            processing_class=processor,
            peft_config=lora(config),
        )
        trainer.train()
        tuned = merged(trainer.model)
    return tuned.requires_grad_(True), trainer.state.log_history


def merged(model: nn.Module) -> FlareForConditionalGeneration:
    """The model itself, with the adapters that PEFT put around it added to its weights."""
    merge = getattr(model, "merge_and_unload", None)
    whole = model if merge is None else merge()
    assert isinstance(whole, FlareForConditionalGeneration)
    return whole
