"""Checkpoints of the field as a FLARE, and the parts of a FLARE as checkpoints of the field.

The tables and their checks are in `flare.conversion`; here files are found and read, and the result
is written so that `from_pretrained` loads it.
"""

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    Qwen3ForCausalLM,
    WavLMModel,
)

from common.checkpoint.clip import export_clip
from common.checkpoint.key_table import report, to_ours, to_theirs
from common.checkpoint.pretrained import (
    Report,
    model_type,
    read_config,
    read_model,
    read_tokenizer,
    refuse_full,
    write_model,
)
from common.errors import UserError
from flare.config import FlareConfig
from flare.conversion import language_model as lm
from flare.conversion.depth import Deepening, Layer, deepened, deepened_layers
from flare.conversion.encoders import audio_config, vision_config, wavlm_config
from flare.model import FlareForConditionalGeneration
from flare.processing import BASIC_TOKENS, CONTROL_TOKENS, FlareProcessor

LANGUAGE_FOLDER, VISION_FOLDER, AUDIO_FOLDER = "language_model", "vision_encoder", "audio_encoder"


@dataclass(frozen=True, kw_only=True)
class Around:
    """What a FLARE is beside its language model."""

    parts: FlareConfig  # projectors, and encoders that no folder describes
    vision: Path | None = None  # trained weights, see `load_backbones`; None: random
    audio: Path | None = None
    num_layers: int | None = None  # of the decoder; None: the language model's
    deepen: Deepening = "identity"
    seed: int = 0  # of what is random


def import_language_model(
    folder: Path, out: Path, *, around: Around, approximate: bool = False
) -> Report:
    """Writes a FLARE whose decoder is a Llama, Qwen2 or Qwen3; projectors are random.

    Raises:
        UserError: when the decoder could only come near to it and `approximate` is False, when
            files are missing, or naming every key that does not fit.
    """
    refuse_full(out)
    source = read_config(folder)
    differences = lm.inexact(source)
    if differences and not approximate:
        raise UserError(
            f"no FLARE answers exactly as this {source.model_type}: {'; '.join(differences)}. "
            "--approximate starts from what can be kept, to be trained further"
        )
    num_layers = source.num_hidden_layers
    wanted = num_layers if around.num_layers is None else around.num_layers
    layers = deepened_layers(num_layers, to=wanted, how=around.deepen)
    around = _described(around)
    processor, new = _processor(folder, source, around.parts)
    config = _config(source, processor, around, num_layers=len(layers))
    trained = lm.with_new_tokens(deepened(_trained(folder, source), layers), new)
    _built(config, trained, around).save_pretrained(out)
    processor.save_pretrained(out)
    return Report(
        lines=report(lm.decoder_table(source.num_hidden_layers)),
        notes=[*_notes(around, new, layers), *(f"not kept: {which}" for which in differences)],
    )


def export_flare(model: Path, out: Path) -> Report:
    """Writes the decoder as a Qwen3 and the encoders, each into a folder of its own.

    The vision tower becomes transformers' `CLIPVisionModel` where it is a CLIP ViT, else timm's
    weights; the audio tower transformers' `WavLMModel`. Projectors and contrastive heads have no
    counterpart and are left out.

    Raises:
        UserError: when there is no whole FLARE in the folder.
    """
    refuse_full(out)
    if model_type(model) != FlareConfig.model_type:
        raise UserError(f"{model} holds a {model_type(model)}, not a flare")
    loaded = read_model(FlareForConditionalGeneration, model, config=read_config(model), spare=())
    assert isinstance(loaded, FlareForConditionalGeneration)
    _export_decoder(loaded, out / LANGUAGE_FOLDER, tokenizer=read_tokenizer(model))
    vision = export_clip(loaded.vision_encoder, out / VISION_FOLDER)
    heard = loaded.audio_encoder.state_dict()
    write_model(WavLMModel, wavlm_config(loaded.config.audio_config), heard, out / AUDIO_FOLDER)
    decoder = report(lm.decoder_table(len(loaded.decoder.blocks)))
    return Report(
        lines=[*decoder, *vision.lines, *((name, "same", name) for name in heard)],
        notes=[
            *vision.notes,
            "projectors and contrastive heads have no counterpart and are left out",
            "control tokens stay in the vocabulary; generation_config.json suppresses them",
        ],
    )


def _described(around: Around) -> Around:
    """With the encoders' configurations that stand beside their weights."""
    parts = copy.copy(around.parts)
    parts.vision_config = vision_config(around.vision, otherwise=parts.vision_config)
    parts.audio_config = audio_config(around.audio, otherwise=parts.audio_config)
    return replace(around, parts=parts)


def _processor(
    folder: Path, source: PreTrainedConfig, parts: FlareConfig
) -> tuple[FlareProcessor, range]:
    """The language model's tokenizer with our control tokens, and the ids of those it lacked."""
    tokenizer = read_tokenizer(folder)
    if tokenizer is None:
        raise UserError(f"no tokenizer in {folder}; copy it there, control tokens are added to it")
    first = min(len(tokenizer), source.vocab_size)
    processor = FlareProcessor.from_tokenizer(
        tokenizer,
        vocab_size=len(tokenizer) + len(BASIC_TOKENS) + len(CONTROL_TOKENS),
        image_size=parts.vision_config.image_size,
        image_queries=parts.vision_projector.num_queries,
        audio_queries=parts.audio_projector.num_queries,
    )
    if tokenizer.pad_token_id == tokenizer.bos_token_id:
        raise UserError(
            f"the tokenizer in {folder} pads with the token that begins a text; give it a pad "
            "token of its own"
        )
    return processor, range(first, len(tokenizer))


def _config(
    source: PreTrainedConfig, processor: FlareProcessor, around: Around, *, num_layers: int
) -> FlareConfig:
    parts, tokenizer = around.parts, processor.tokenizer
    text = lm.text_config(
        source, vocab_size=max(source.vocab_size, len(tokenizer)), num_layers=num_layers
    )
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(text, name, getattr(tokenizer, name))
    return FlareConfig(
        text_config=text,
        vision_config=parts.vision_config,
        audio_config=parts.audio_config,
        vision_projector=parts.vision_projector,
        audio_projector=parts.audio_projector,
        contrastive_dim=parts.contrastive_dim,
        contrastive=parts.contrastive,
        image_token_id=processor.image_token_id,
        audio_token_id=processor.audio_token_id,
        mask_token_id=processor.mask_token_id,
        emb_token_id=processor.emb_token_id,
        # Of the projectors: a linear map keeps the scale of what it is given.
        initializer_range=source.hidden_size**-0.5,
    )


def _trained(folder: Path, source: PreTrainedConfig) -> dict[str, Tensor]:
    """The language model's tensors under our names, in float32 as training keeps them."""
    state = read_model(AutoModelForCausalLM, folder, config=source, spare=()).state_dict()
    nearest = {name: tensor.float() for name, tensor in lm.as_qwen3(state, source).items()}
    num_layers = source.num_hidden_layers
    text = lm.text_config(source, vocab_size=source.vocab_size, num_layers=num_layers)
    return to_ours(
        lm.decoder_table(num_layers),
        nearest,
        like=lm.decoder_shapes(text),
        source=str(folder),
    )


def _built(
    config: FlareConfig, trained: dict[str, Tensor], around: Around
) -> FlareForConditionalGeneration:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(around.seed)
        model = FlareForConditionalGeneration(config)
    model.load_backbones(vision=around.vision, audio=around.audio)
    model.load_state_dict(model.state_dict() | trained)
    # Soft tokens start as loud as the words among which they stand.
    loudness = trained["embedding.weight"].square().mean().sqrt()
    with torch.no_grad():
        for projector in (model.vision_projector, model.audio_projector):
            projector.out.weight.mul_(loudness)
    return model


def _export_decoder(
    model: FlareForConditionalGeneration, out: Path, *, tokenizer: PreTrainedTokenizerBase | None
) -> None:
    config, text = model.config, model.config.text_config
    table = lm.decoder_table(text.num_hidden_layers)
    write_model(Qwen3ForCausalLM, lm.qwen3_config(text), to_theirs(table, model.state_dict()), out)
    # As ours, it reads media and hides nothing in its answers.
    control = [getattr(config, f"{name}_token_id") for name in ("image", "audio", "mask", "emb")]
    GenerationConfig(
        pad_token_id=text.pad_token_id,
        bos_token_id=text.bos_token_id,
        eos_token_id=text.eos_token_id,
        suppress_tokens=control,
    ).save_pretrained(out)
    if tokenizer is not None:
        tokenizer.save_pretrained(out)


def _notes(around: Around, new: range, layers: list[Layer]) -> list[str]:
    notes = [f"{len(layers)} layers: {_copies(layers)}"]
    if new:
        notes.append(f"rows {new.start} to {new.stop - 1}, of new tokens, are means of the others")
    for part, weights in (("vision", around.vision), ("audio", around.audio)):
        notes.append(f"{part} encoder: {weights or 'random weights'}")
    return [*notes, "projectors and contrastive heads: random weights"]


def _copies(layers: list[Layer]) -> str:
    """`0 1 1. 2`, where a dot marks a layer that adds nothing yet."""
    return " ".join(f"{layer}{'.' if silent else ''}" for layer, silent in layers)
