"""Checkpoints of the field as folders of ours, and back: files in, files out.

The tables and their checks are in `flamingo.conversion`; here files are found and read, and the
result is written so that `from_pretrained` loads it.
"""

import json
import pickle
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    IdeficsConfig,
    IdeficsForVisionText2Text,
    PreTrainedTokenizerBase,
)

from common.errors import UserError
from flamingo.config import FlamingoConfig, FlamingoVisionConfig
from flamingo.conversion import idefics
from flamingo.conversion import open_flamingo as peer
from flamingo.conversion.open_flamingo_keys import VISION, NewTokens, table
from flamingo.conversion.table import report
from flamingo.model import FlamingoForConditionalGeneration
from flamingo.processing import FlamingoProcessor

TOKENS_FILE = "open_flamingo.json"  # ids of a converted model's tokens, for the way back
CHECKPOINT_FILE = "checkpoint.pt"


@dataclass(frozen=True, kw_only=True)
class Report:
    """What became of every key: (theirs, how it was read, ours), and what was added."""

    lines: list[tuple[str, str, str]]
    notes: list[str]


def import_open_flamingo(
    checkpoint: Path,
    out: Path,
    *,
    language_model: Path,
    vision_config: FlamingoVisionConfig,
    vision_weights: Path | None,
    tokens: NewTokens | None,
) -> Report:
    """Writes a folder of ours from OpenFlamingo's `checkpoint.pt` and the parts around it.

    `vision_weights` is open_clip's file of the CLIP tower that `vision_config` describes, needed
    unless the checkpoint holds it. `tokens` follow from the language model's tokenizer if omitted.

    Raises:
        UserError: for a missing file, or naming every key that does not fit.
    """
    _refuse_full(out)
    state = _read(checkpoint)
    _model_type(language_model)
    text_config = AutoConfig.from_pretrained(language_model, local_files_only=True)
    tokenizer = _tokenizer(language_model)
    if tokens is None:
        if tokenizer is None:
            raise UserError(
                f"no tokenizer in {language_model}; give the ids of the new tokens with "
                "--end-of-chunk-id and --image-id"
            )
        tokens = NewTokens(end_of_chunk=len(tokenizer), image=len(tokenizer) + 1)
    frozen = AutoModelForCausalLM.from_pretrained(
        language_model, local_files_only=True, dtype="auto"
    )
    completed, notes = peer.complete(
        state,
        language_model=frozen.state_dict(),
        vision=_vision(vision_weights, state),
        text_config=text_config,
    )
    config = peer.read_config(
        completed,
        text_config=text_config,
        vision_config=vision_config,
    )
    ours = peer.from_open_flamingo(completed, config, tokens)
    _save(ours, config, out)
    (out / TOKENS_FILE).write_text(json.dumps(asdict(tokens)) + "\n")
    if tokenizer is not None:
        FlamingoProcessor.from_tokenizer(
            tokenizer,
            vocab_size=config.text_config.vocab_size,
            image_size=config.vision_config.image_size,
        ).save_pretrained(out)
    return Report(lines=report(table(config, tokens)), notes=notes)


def import_idefics(folder: Path, out: Path) -> Report:
    """Writes a folder of ours from one of transformers' Idefics v1, without a processor.

    Raises:
        UserError: when it is another model, or one that ours cannot be.
    """
    _refuse_full(out)
    if _model_type(folder) != "idefics":
        raise UserError(f"{folder} holds a {_model_type(folder)}, not an idefics")
    config = idefics.idefics_config(IdeficsConfig.from_pretrained(folder, local_files_only=True))
    model = IdeficsForVisionText2Text.from_pretrained(folder, local_files_only=True, dtype="auto")
    _save(idefics.from_idefics(model.state_dict(), config), config, out)
    note = (
        "no processor is written: ids of <image> and <fake_token_around_image> have changed "
        f"places, <image> is {config.image_token_id} now"
    )
    return Report(lines=report(idefics.table(config)), notes=[note])


def export_open_flamingo(model: Path, out: Path, *, tokens: NewTokens | None) -> Report:
    """Writes `checkpoint.pt`, every tensor of OpenFlamingo's live model but `vision_encoder.proj`.

    `tokens` are those that the model was converted with; the rows after the language model's own
    when it never was an OpenFlamingo.

    Raises:
        UserError: when there is no model in the folder, or OpenFlamingo cannot hold it.
    """
    _refuse_full(out)
    if _model_type(model) != FlamingoConfig.model_type:
        raise UserError(f"{model} holds a {_model_type(model)}, not a flamingo of ours")
    loaded = FlamingoForConditionalGeneration.from_pretrained(model, local_files_only=True)
    if tokens is None:
        tokens = _recorded_tokens(model, loaded.config)
    theirs = peer.to_open_flamingo(loaded.state_dict(), loaded.config, tokens)
    out.mkdir(parents=True, exist_ok=True)
    torch.save(
        {name: tensor.contiguous() for name, tensor in theirs.items()}, out / CHECKPOINT_FILE
    )
    return Report(lines=report(table(loaded.config, tokens)), notes=[])


def _refuse_full(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not an empty folder; convert into a new one")


def _model_type(folder: Path) -> str:
    if not (folder / "config.json").is_file():
        raise UserError(f"no model in {folder}: config.json is missing there")
    try:
        return str(json.loads((folder / "config.json").read_text()).get("model_type"))
    except (ValueError, AttributeError):
        raise UserError(f"{folder / 'config.json'} describes no model; copy it again") from None


def _read(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of one that torch wrote; nothing in it is executed."""
    if not file.is_file():
        raise UserError(f"{file} does not exist; give a file of tensors")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        return peer.unwrap(torch.load(file, map_location="cpu", weights_only=True))
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError) as error:
        raise UserError(f"{file} is no file of plain tensors ({type(error).__name__})") from error


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    if not (folder / "tokenizer_config.json").is_file():
        return None
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _vision(file: Path | None, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tower's tensors under open_clip's names; none when the checkpoint brings its own."""
    if file is None:
        if any(key.removeprefix("module.").startswith(VISION) for key in state):
            return {}
        raise UserError(
            "the checkpoint holds no vision tower; give open_clip's file with --vision-weights"
        )
    weights = _read(file)
    start = "visual." if any(key.startswith("visual.") for key in weights) else ""
    return {
        key.removeprefix(start): value for key, value in weights.items() if key.startswith(start)
    }


def _recorded_tokens(model: Path, config: FlamingoConfig) -> NewTokens:
    file = model / TOKENS_FILE
    if file.is_file():
        return NewTokens(**json.loads(file.read_text()))
    first = config.image_token_id
    return NewTokens(end_of_chunk=first, image=first + 1)


def _save(state: dict[str, Tensor], config: FlamingoConfig, out: Path) -> None:
    """Without ever building the model in memory."""
    with torch.device("meta"):
        model = FlamingoForConditionalGeneration(config)
    model.save_pretrained(out, state_dict={name: t.contiguous() for name, t in state.items()})
