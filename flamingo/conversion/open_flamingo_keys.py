"""Which of our tensors hold which of OpenFlamingo's (mlfoundations/open_flamingo 2.0).

It appends its two tokens to the tokenizer's, often with a padding token after them; ours stand
last, so the rows of the embedding and of the output layer change places.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from common.checkpoint.clip_keys import num_blocks, open_clip_table
from common.checkpoint.key_table import Entry, State, Table, Tensors, norm, same, stacked, zeros
from common.errors import UserError
from flamingo import language_model as lm
from flamingo.config import NUM_NEW_TOKENS, FlamingoConfig
from flamingo.model import FlamingoForConditionalGeneration

VISION, LANGUAGE = "vision_encoder.", "lang_encoder."


@dataclass(frozen=True, kw_only=True)
class NewTokens:
    """Ids of the two tokens in OpenFlamingo's numbering."""

    end_of_chunk: int
    image: int

    def order(self, num_rows: int) -> list[int]:
        """Their row of each row of ours: all others in turn, then <image>, <|endofchunk|>."""
        new = [self.image, self.end_of_chunk]
        if not all(0 <= token < num_rows for token in new) or new[0] == new[1]:
            raise UserError(
                f"<image> has id {self.image} and <|endofchunk|> {self.end_of_chunk}, but the "
                f"embedding has rows 0 to {num_rows - 1}; give the ids of the tokenizer it was "
                "trained with"
            )
        return [row for row in range(num_rows) if row not in new] + new


@dataclass(frozen=True, kw_only=True)
class LanguageNames:
    """What a family of language models calls its parts."""

    layers: str
    embedding: str
    head: str

    @classmethod
    def of(cls, text_config: PreTrainedConfig) -> "LanguageNames":
        """Names of the model that this configuration builds."""
        with torch.device("meta"):
            model = lm.build_language_model(text_config)
        names = {module: name for name, module in model.named_modules()}
        return cls(
            layers=f"{names[lm.decoder_layers(model)]}.",
            embedding=f"{names[model.get_input_embeddings()]}.weight",
            head=f"{names[model.get_output_embeddings()]}.weight",
        )

    def theirs(self, name: str) -> str:
        """OpenFlamingo's name of one of the language model's tensors."""
        if name.startswith(self.layers):
            layer, rest = name.removeprefix(self.layers).split(".", 1)
            name = f"{self.layers}{layer}.decoder_layer.{rest}"
        return f"{LANGUAGE}{name}"


def table(config: FlamingoConfig, tokens: NewTokens) -> Table:
    """Every key of a model of this configuration."""
    like = meta_state(config)
    names = LanguageNames.of(config.text_config)
    entries = (
        *open_clip_table(
            "vision_encoder.model.",
            VISION,
            num_blocks=num_blocks(like, "vision_encoder.model."),
        ),
        *resampler_table("resampler.", "perceiver.", num_layers=config.resampler_layers),
        zeros("resampler.time_embedding", (config.num_frames, config.media_dim)),
    )
    for index, layer in enumerate(config.cross_attention_layers):
        entries += gated_block_table(
            f"gated_cross_attention.{index}.",
            f"{LANGUAGE}{names.layers}{layer}.gated_cross_attn_layer.",
        )
    return entries + _language_model_table(names, like, tokens)


def resampler_table(ours: str, theirs: str, *, num_layers: int) -> Table:
    """Keys of its Perceiver Resampler, which flamingo-pytorch shares."""
    entries = (
        same(f"{ours}latents", f"{theirs}latents"),
        *norm(f"{ours}norm", f"{theirs}norm"),
    )
    for i in range(num_layers):
        mine, other = f"{ours}layers.{i}.", f"{theirs}layers.{i}."
        entries += (
            *norm(f"{mine}media_norm", f"{other}0.norm_media"),
            *norm(f"{mine}latents_norm", f"{other}0.norm_latents"),
            *_attention_table(mine, f"{other}0."),
            *_feed_forward_table(mine, f"{other}1."),
        )
    return entries


def gated_block_table(ours: str, theirs: str) -> Table:
    """Keys of its gated block, which flamingo-pytorch shares."""
    return (
        same(f"{ours}attention_gate", f"{theirs}attn_gate"),
        same(f"{ours}feed_forward_gate", f"{theirs}ff_gate"),
        *norm(f"{ours}attention_norm", f"{theirs}attn.norm"),
        *_attention_table(f"{ours}attention.", f"{theirs}attn."),
        *_feed_forward_table(ours, f"{theirs}ff."),
    )


def _attention_table(ours: str, theirs: str) -> Table:
    return (
        same(f"{ours}to_query.weight", f"{theirs}to_q.weight"),
        stacked((f"{ours}to_key.weight", f"{ours}to_value.weight"), f"{theirs}to_kv.weight"),
        same(f"{ours}to_output.weight", f"{theirs}to_out.weight"),
    )


def _feed_forward_table(ours: str, theirs: str) -> Table:
    return (
        *norm(f"{ours}feed_forward_norm", f"{theirs}0"),
        same(f"{ours}feed_forward.expand.weight", f"{theirs}1.weight"),
        same(f"{ours}feed_forward.contract.weight", f"{theirs}3.weight"),
    )


def _language_model_table(names: LanguageNames, like: State, tokens: NewTokens) -> Table:
    new = {names.embedding: "new_inputs.weight", names.head: "new_outputs.weight"}
    entries: Table = ()
    for key in like:
        if not key.startswith("language_model."):
            continue
        name = key.removeprefix("language_model.")
        theirs = names.theirs(name)
        if name in new:
            entries += (_vocabulary_rows((key, new[name]), theirs, tokens),)
        else:
            entries += (same(key, theirs),)
    return entries


def _vocabulary_rows(ours: tuple[str, str], theirs: str, tokens: NewTokens) -> Entry:
    def split(tensors: Tensors) -> Tensors:
        (rows,) = tensors
        ordered = rows[tokens.order(len(rows))]
        return ordered[:-NUM_NEW_TOKENS], ordered[-NUM_NEW_TOKENS:]

    def join(tensors: Tensors) -> Tensors:
        rows = torch.cat(tensors)
        place = torch.tensor(tokens.order(len(rows))).argsort()
        return (rows[place.to(rows.device)],)

    return Entry(ours=ours, theirs=(theirs,), how="rows reordered", to_ours=split, to_theirs=join)


def meta_state(config: FlamingoConfig) -> dict[str, Tensor]:
    """Names and shapes of our tensors, without memory."""
    with torch.device("meta"):
        return FlamingoForConditionalGeneration(config).state_dict()
