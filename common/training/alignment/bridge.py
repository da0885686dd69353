"""What TRL's trainers ask of a model and of a data set beyond transformers' contract, and what they
are told alike in every round. TRL knows no sounds: the data set that it sees holds numbers only,
and the collator reads the conversations themselves."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from common.data.conversations.encoded import ChatFormat
from common.errors import UserError

if TYPE_CHECKING:
    import datasets
    from peft import LoraConfig

Log = list[dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class RoundConfig:
    """How long and how fast one round of tuning goes."""

    steps: int
    learning_rate: float
    batch_size: int = 32
    warmup_fraction: float = 0.1
    max_grad_norm: float = 1.0
    max_tokens: int = 512  # of a conversation
    lora_rank: int | None = None  # None: all weights that are not frozen
    frozen: tuple[str, ...] = ()  # parts beside those that the model keeps frozen itself
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise UserError(f"steps={self.steps} and batch_size={self.batch_size} start at 1")
        if self.lora_rank is not None and self.lora_rank < 1:
            raise UserError(f"lora_rank={self.lora_rank}: use at least 1, or none for all weights")


@contextmanager
def scored_by_trl(*models: PreTrainedModel) -> Iterator[None]:
    """Lends the models what TRL's fused head calls for hidden states and for the head; on leaving,
    they are as before, TRL's own change of `forward` included."""
    for model in models:
        model.model = LastHiddenState(model)
        extra = getattr(model, "new_outputs", None)
        if isinstance(extra, nn.Linear):
            model.get_output_embeddings = Lent(ExtendedHead(model.get_output_embeddings(), extra))
    try:
        yield
    finally:
        for model in models:
            for lent in ("model", "get_output_embeddings", "forward"):
                model.__dict__.pop(lent, None)


@contextmanager
def trainable(model: PreTrainedModel, *, frozen: tuple[str, ...]) -> Iterator[None]:
    """These parts get no gradients, beside those that have none anyway; on leaving, all is as
    before.

    Raises:
        UserError: one is no part of the model.
    """
    known = dict(model.named_children())
    for part in frozen:
        if part not in known:
            raise UserError(f"{part} is no part of the model; it has {', '.join(known)}")
    # By name: merging adapters makes new parameters.
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for part in frozen:
        known[part].requires_grad_(False)
    try:
        yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(before.get(name, False))


@dataclass(frozen=True, eq=False)
class LastHiddenState:
    """The model up to its head, under the name that transformers gives to backbones."""

    whole: PreTrainedModel

    def __call__(self, input_ids: Int[Tensor, "b s"], **inputs: Any) -> BaseModelOutput:
        """Hidden states of all tokens; logits of the last alone are computed, and thrown away."""
        forward = type(self.whole).forward  # not TRL's, which called this
        done = forward(self.whole, input_ids, **inputs, output_hidden_states=True, logits_to_keep=1)
        assert done.hidden_states is not None
        return BaseModelOutput(last_hidden_state=done.hidden_states[-1])


@dataclass(frozen=True, eq=False)
class ExtendedHead:
    """A head with the rows of new tokens behind its own, as TRL reads heads: by their weights."""

    own: nn.Linear
    new: nn.Linear

    @property
    def weight(self) -> Float[Tensor, "v d"]:
        """Rows of all tokens."""
        return torch.cat([self.own.weight, self.new.weight.to(self.own.weight)])

    @property
    def bias(self) -> Float[Tensor, " v"] | None:
        """The new tokens have none."""
        if self.own.bias is None:
            return None
        return torch.nn.functional.pad(self.own.bias, (0, self.new.out_features))


@dataclass(frozen=True, eq=False)
class Lent:
    """Gives what it holds."""

    head: ExtendedHead

    def __call__(self) -> ExtendedHead:
        return self.head


def merged(model: nn.Module) -> PreTrainedModel:
    """The model itself, with the adapters that PEFT put around it added to its weights."""
    merge = getattr(model, "merge_and_unload", None)
    whole = model if merge is None else merge()
    assert isinstance(whole, PreTrainedModel)
    return whole


def numbers(num: int) -> "datasets.Dataset":
    """A data set of numbers. The empty column `images` tells TRL to leave the rows as they are.

    Raises:
        UserError: there is none, or TRL is not installed.
    """
    require_trl()
    import datasets  # noqa: PLC0415 -- optional

    if num < 1:
        raise UserError("there is nothing to tune on; give at least one conversation")
    return datasets.Dataset.from_dict({"number": list(range(num)), "images": [None] * num})


def require_trl() -> None:
    """Look for the optional packages.

    Raises:
        UserError: TRL or PEFT is not installed.
    """
    try:
        import peft  # noqa: F401, PLC0415 -- optional
        import trl  # noqa: F401, PLC0415 -- optional
    except ImportError as error:
        raise UserError(
            "alignment needs trl and peft; pip install 'flare-flamingo[align]'"
        ) from error


def arguments(config: RoundConfig, folder: Path) -> dict[str, Any]:
    """What TRL's configurations of all rounds share."""
    return {
        "output_dir": str(folder),
        "max_steps": config.steps,
        "per_device_train_batch_size": config.batch_size,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": config.warmup_fraction,
        "max_grad_norm": config.max_grad_norm,
        "seed": config.seed,
        "remove_unused_columns": False,  # the collator's numbers are no argument of the model
        "max_length": None,  # the collator cuts, never inside a medium
        "gradient_checkpointing": False,
        "bf16": config.precision == "bf16",
        "dataloader_pin_memory": torch.cuda.is_available(),
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_steps": max(config.steps // 10, 1),
    }


def lora(config: RoundConfig, form: ChatFormat, model: nn.Module) -> "LoraConfig | None":
    """Adapters where the format says, or none."""
    if config.lora_rank is None:
        return None
    from peft import LoraConfig  # noqa: PLC0415 -- optional

    return LoraConfig(
        r=config.lora_rank,
        lora_alpha=2 * config.lora_rank,
        target_modules=form.lora_targets(model),
    )
