"""Checkpoints of the field as folders of ours, and back: files in, files out.

The tables and their checks are in `flamingo.conversion`; here files are found and read, and the
result is written so that `from_pretrained` loads it.
"""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, IdeficsConfig, IdeficsForVisionText2Text

from common.checkpoint.clip import open_clip_tower
from common.checkpoint.key_table import report
from common.checkpoint.pretrained import (
    Report,
    model_type,
    read_config,
    read_model,
    read_tensors,
    read_tokenizer,
    refuse_full,
    write_model,
)
from common.errors import UserError
from common.json_files import read_json_object
from flamingo.config import FlamingoConfig, FlamingoVisionConfig
from flamingo.conversion import idefics, idefics_keys
from flamingo.conversion import open_flamingo as peer
from flamingo.conversion.open_flamingo_keys import VISION, NewTokens, table
from flamingo.model import FlamingoForConditionalGeneration
from flamingo.processing import FlamingoProcessor

TOKENS_FILE = "open_flamingo.json"  # ids of a converted model's tokens, for the way back
CHECKPOINT_FILE = "checkpoint.pt"


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
    refuse_full(out)
    state = read_tensors(checkpoint)
    text_config = read_config(language_model)
    tokenizer = read_tokenizer(language_model)
    if tokens is None:
        if tokenizer is None:
            raise UserError(
                f"no tokenizer in {language_model}; give the ids of the new tokens with "
                "--end-of-chunk-id and --image-id"
            )
        tokens = NewTokens(end_of_chunk=len(tokenizer), image=len(tokenizer) + 1)
    frozen = read_model(AutoModelForCausalLM, language_model, config=text_config, spare=())
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
    write_model(FlamingoForConditionalGeneration, config, ours, out)
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
    refuse_full(out)
    theirs = read_config(folder)
    if not isinstance(theirs, IdeficsConfig):
        raise UserError(f"{folder} holds a {model_type(folder)}, not an idefics")
    config = idefics.idefics_config(theirs)
    model = read_model(IdeficsForVisionText2Text, folder, config=theirs, spare=())
    ours = idefics.from_idefics(model.state_dict(), config)
    write_model(FlamingoForConditionalGeneration, config, ours, out)
    note = (
        "no processor is written: ids of <image> and <fake_token_around_image> have changed "
        f"places, <image> is {config.image_token_id} now"
    )
    return Report(lines=report(idefics_keys.table(config)), notes=[note])


def export_open_flamingo(model: Path, out: Path, *, tokens: NewTokens | None) -> Report:
    """Writes `checkpoint.pt`, every tensor of OpenFlamingo's live model but `vision_encoder.proj`.

    `tokens` are those that the model was converted with; the rows after the language model's own
    when it never was an OpenFlamingo.

    Raises:
        UserError: when there is no model in the folder, or OpenFlamingo cannot hold it.
    """
    refuse_full(out)
    loaded = _ours(model)
    if tokens is None:
        tokens = _recorded_tokens(model, loaded.config)
    theirs = peer.to_open_flamingo(loaded.state_dict(), loaded.config, tokens)
    out.mkdir(parents=True, exist_ok=True)
    torch.save(
        {name: tensor.contiguous() for name, tensor in theirs.items()}, out / CHECKPOINT_FILE
    )
    return Report(lines=report(table(loaded.config, tokens)), notes=[])


def export_idefics(model: Path, out: Path) -> Report:
    """Writes a folder of transformers' Idefics v1, without a processor.

    Raises:
        UserError: when there is no model in the folder, or an Idefics cannot be it.
    """
    refuse_full(out)
    loaded = _ours(model)
    config, theirs = idefics.to_idefics(loaded.state_dict(), loaded.config)
    write_model(IdeficsForVisionText2Text, config, theirs, out)
    image = config.vocab_size + 1
    note = (
        "no processor is written: <|endofchunk|> has become <fake_token_around_image> with id "
        f"{image - 1}, <image> is {image} now"
    )
    return Report(lines=report(idefics_keys.table(loaded.config)), notes=[note])


def _ours(folder: Path) -> FlamingoForConditionalGeneration:
    if model_type(folder) != FlamingoConfig.model_type:
        raise UserError(f"{folder} holds a {model_type(folder)}, not a flamingo of ours")
    model = read_model(
        FlamingoForConditionalGeneration, folder, config=read_config(folder), spare=()
    )
    assert isinstance(model, FlamingoForConditionalGeneration)
    return model


def _vision(file: Path | None, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tower's tensors under open_clip's names; none when the checkpoint brings its own."""
    if file is None:
        if any(key.removeprefix("module.").startswith(VISION) for key in state):
            return {}
        raise UserError(
            "the checkpoint holds no vision tower; give open_clip's file with --vision-weights"
        )
    return open_clip_tower(read_tensors(file))


def _recorded_tokens(model: Path, config: FlamingoConfig) -> NewTokens:
    file = model / TOKENS_FILE
    if file.is_file():
        return _tokens_in(file)
    first = config.image_token_id
    return NewTokens(end_of_chunk=first, image=first + 1)


def _tokens_in(file: Path) -> NewTokens:
    ids = read_json_object(file)
    end_of_chunk, image = ids.get("end_of_chunk"), ids.get("image")
    if not isinstance(end_of_chunk, int) or not isinstance(image, int):
        raise UserError(f"{file} lacks the ids end_of_chunk and image; copy it again")
    return NewTokens(end_of_chunk=end_of_chunk, image=image)
