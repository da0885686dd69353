"""Folders of transformers' models, read whole or refused in one line, and written without building
the model in memory. What a conversion has to say of itself is a `Report`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from huggingface_hub.errors import StrictDataclassError
from jinja2 import TemplateError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers import PreTrainedTokenizerBase as Tokenizer

from common.checkpoint.config_values import refuse_hostile
from common.checkpoint.key_table import by_layer
from common.encoders.safetensors_files import check_header, read_safetensors
from common.encoders.weights import DAMAGED, parts_in
from common.errors import UserError
from common.json_files import read_json, read_json_object

# Without the second word transformers asks on the terminal whether to run a folder's own code.
LOCAL = {"local_files_only": True, "trust_remote_code": False}
# What transformers raises for a folder that it cannot read.
_UNREADABLE = (*DAMAGED, ImportError, StrictDataclassError, TemplateError)
# Tensors that earlier versions kept in checkpoints; they are computed anew.
CONSTANTS = (".inv_freq", ".position_ids", ".attention.bias", ".attention.masked_bias")


@dataclass(frozen=True, kw_only=True)
class Report:
    """What became of every key: (theirs, how it was read, ours), and what was added."""

    lines: list[tuple[str, str, str]]
    notes: list[str]


@runtime_checkable
class Loads(Protocol):
    """A class of transformers', or one of its Auto classes."""

    def from_pretrained(self, folder: Path, **options: Any) -> Any:
        """The model, and what was found in its files when asked for it."""


def refuse_full(out: Path) -> None:
    """A conversion writes into a new folder.

    Raises:
        UserError: when something is there.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not an empty folder; convert into a new one")


def model_type(folder: Path) -> str:
    """What kind of model its config.json describes.

    Raises:
        UserError: when there is none, or it describes no model.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"no model in {folder}: config.json is missing there")
    kind = read_json_object(folder / "config.json").get("model_type")
    if not isinstance(kind, str):
        raise UserError(f"{folder / 'config.json'} describes no model; copy it again")
    return kind


def read_config(folder: Path) -> PreTrainedConfig:
    """transformers' configuration of any kind that it knows.

    Raises:
        UserError: when it cannot be read, or asks for code from elsewhere or impossible numbers.
    """
    kind = model_type(folder)
    refuse_hostile(read_json(folder / "config.json"), folder / "config.json")
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, **LOCAL)
    except _UNREADABLE as error:
        raise UserError(
            f"transformers cannot read {folder / 'config.json'}, model type {kind}: {_line(error)}"
        ) from error
    return config


def read_model(
    kind: Loads,
    folder: Path,
    *,
    config: PreTrainedConfig,
    dtype: torch.dtype | Literal["auto"] = "auto",
    spare: tuple[str, ...] = ("",),
) -> PreTrainedModel:
    """The model with all tensors of the folder; `auto` keeps the dtype that they have there.

    Keys that it has no place for are left out where they begin with one of `spare`: all of them,
    unless it says otherwise.

    Raises:
        UserError: when weights are damaged, or naming those that are missing, of another shape, or
            unknown.
    """
    model: PreTrainedModel
    for index in sorted(folder.glob("*.index.json")):
        parts_in(index)
    try:
        for file in sorted(folder.glob("*.safetensors")):
            check_header(file)
        model, found = kind.from_pretrained(
            folder, config=config, dtype=dtype, output_loading_info=True, **LOCAL
        )
    except _UNREADABLE as error:
        raise UserError(f"no whole model in {folder}: {_line(error)}") from error
    unknown = {key for key in found["unexpected_keys"] if not key.startswith(spare)}
    problems = {
        "missing": found["missing_keys"],
        "of another shape": {key for key, *_ in found["mismatched_keys"]},
        "unknown": {key for key in unknown if not key.endswith(CONSTANTS)},
    }
    told = [f"{what}: {', '.join(by_layer(keys))}" for what, keys in problems.items() if keys]
    if told:
        raise UserError(f"no whole {config.model_type} in {folder}; {'; '.join(told)}")
    return model


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The content of a safetensors file or of one that torch wrote; nothing in it is executed.

    Raises:
        UserError: when there is none, or no state dict in it.
    """
    if not file.is_file():
        raise UserError(f"{file} does not exist; give a file of tensors")
    try:
        if file.suffix == ".safetensors":
            return read_safetensors(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except DAMAGED as error:
        raise UserError(f"{file} is no file of plain tensors ({type(error).__name__})") from error
    return unwrap(content)


def unwrap(file: object) -> dict[str, Tensor]:
    """The tensors of a released file or of one that a training wrote.

    Raises:
        UserError: when it holds anything else beside them.
    """
    fields = file if isinstance(file, Mapping) else {}
    nested = fields.get("model_state_dict", fields.get("state_dict", fields))
    state = nested if isinstance(nested, Mapping) else {}
    others = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if others or not state:
        named = ", ".join(str(key) for key in others[:5])
        raise UserError(f"no state dict in the file: {named or 'no tensors'}")
    return dict(state)


def read_tokenizer(folder: Path) -> Tokenizer | None:
    """The folder's tokenizer; None when it has none.

    Raises:
        UserError: when it cannot be read.
    """
    if not (folder / "tokenizer_config.json").is_file():
        return None
    tokenizer: Tokenizer = read_part(AutoTokenizer, folder, what="tokenizer")
    return tokenizer


def read_processor(kind: Loads, folder: Path) -> Any:
    """What turns text, pictures and sounds into a model's inputs.

    Raises:
        UserError: when it is missing or cannot be read.
    """
    return read_part(kind, folder, what="processor")


def read_part(kind: Loads, folder: Path, *, what: str, **options: Any) -> Any:
    """Whatever `kind` makes of a folder; nothing is downloaded, no code is run.

    Raises:
        UserError: when it cannot be read, or asks for code from elsewhere; it is called `what`.
    """
    if (folder / "config.json").is_file():
        refuse_hostile(read_json(folder / "config.json"), folder / "config.json")
    try:
        return kind.from_pretrained(folder, **LOCAL, **options)
    except _UNREADABLE as error:
        raise UserError(f"the {what} in {folder} cannot be read: {_line(error)}") from error


def write_model(
    kind: type[PreTrainedModel], config: PreTrainedConfig, state: Mapping[str, Tensor], out: Path
) -> None:
    """A folder that `kind.from_pretrained` loads; the model is never built in memory."""
    with torch.device("meta"):
        model = kind(config)
    model.save_pretrained(out, state_dict={name: t.contiguous() for name, t in state.items()})


def _line(error: Exception) -> str:
    """The first line of what another library says."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
