"""Preference alignment: TRL's DPOTrainer with our collator of pairs,

    loss = -log sigmoid(beta ((log p_c - log r_c) - (log p_r - log r_r))) - w mean log p_c,

p the model and r the model as it came, c the preferred answer and r the other. The second term, the
mean over tokens, keeps the preferred answers likely in themselves."""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from common.data.conversations.encoded import ChatFormat
from common.data.conversations.pairs import Pairs
from common.errors import UserError
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
from common.training.alignment.collators import PreferenceCollator


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig:
    """One round of preferences; a batch of the round counts pairs."""

    round: RoundConfig
    beta: float = 0.1  # how dearly the model pays for leaving what it was
    sft_weight: float = 0.2

    def __post_init__(self) -> None:
        if self.beta <= 0 or self.sft_weight < 0:
            raise UserError(f"beta={self.beta} is above 0, sft_weight={self.sft_weight} at least 0")


def align(
    model: PreTrainedModel,
    form: ChatFormat,
    pairs: Pairs,
    config: PreferenceConfig,
    *,
    folder: Path,
) -> tuple[PreTrainedModel, Log]:
    """The aligned model (the given one, changed) and what TRL logged.

    Raises:
        UserError: TRL is not installed, there is no pair, or one is too long or not in the format.
    """
    data = numbers(len(pairs))
    import trl  # noqa: PLC0415 -- optional

    # Adapters that are switched off are the reference; without them it is a copy.
    reference = None if config.round.lora_rank else deepcopy(model).requires_grad_(False).eval()
    collator = PreferenceCollator(form=form, pairs=pairs, max_tokens=config.round.max_tokens)
    losses = trl.DPOConfig(
        **arguments(config.round, folder),
        beta=config.beta,
        loss_type=["sigmoid", "sft"],
        loss_weights=[1.0, config.sft_weight],
    )
    scored = [model] if reference is None else [model, reference]
    with trainable(model, frozen=config.round.frozen), scored_by_trl(*scored):
        trainer = trl.DPOTrainer(
            model,
            reference,
            losses,
            data_collator=collator,
            train_dataset=data,
            processing_class=form.processor,
            peft_config=lora(config.round, form, model),
        )
        trainer.train()
        aligned = merged(trainer.model)
    return aligned, trainer.state.log_history
