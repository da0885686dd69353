"""FLARE: images and audio clips become soft tokens inside a decoder-only language model.

Vision transformer and WavLM encode; a projector per modality turns features into tokens, which take
the places of `<image>` and `<audio>` in the text, and into one vector per item to be contrasted
with the vector of a caption. Everything is trained.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import ModelOutput

from common.encoders.vision import load_vision
from common.encoders.wavlm import load_wavlm
from common.errors import UserError
from flare.config import FlareConfig
from flare.decoder import DecoderBlock
from flare.media import Encoded, check_media, place_media
from flare.parts import build_audio_encoder, build_decoder, build_projector, build_vision_encoder
from flare.projector import Projector
from flare.visibility import (
    length_of,
    mask_for_generation,
    mask_of,
    over_all_keys,
    positions_of,
)


@dataclass
class FlareOutput(ModelOutput):
    """Logits over the vocabulary, the advanced cache, and the last hidden states when asked for."""

    __no_type_check__ = True  # transformers and Accelerate build it from one dictionary, too
    loss: Float[Tensor, ""] | None = None
    logits: Float[Tensor, "b s v"] | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class FlareForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """The complete model, with transformers' loading, saving and `generate()`.

    Arguments of `forward` beside those of every causal language model; media are flat over the
    batch, row by row in reading order, and each fills its slots of `<image>` or `<audio>`:

    - `pixel_values` (m c y x): uint8 0..255 or float 0..1, not normalised.
    - `num_images`: how many of them belong to each row; read off the slots when omitted.
    - `input_values` (m t): samples at 16 kHz in -1..1, padded behind; `audio_lengths` (m): how many
      samples are real; `num_audios` as `num_images`.
    - `document_ids` (b s): documents of a packed row; text sees nothing of another document.
    - `bidirectional` (b s): tokens whose document sees both directions; needs `document_ids`.
    """

    config: FlareConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("image", "audio", "text")
    supports_gradient_checkpointing = True
    _input_embed_layer = "embedding"
    _no_split_modules = ["DecoderBlock", "ProjectorBlock", "WavLMEncoderLayer", "Block"]  # noqa: RUF012 - transformers' own class attribute
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012 - as above
    create_masks_for_generate = staticmethod(mask_for_generation)

    def __init__(self, config: FlareConfig) -> None:
        super().__init__(config)
        text = config.text_config
        self.vision_encoder = build_vision_encoder(config.vision_config)
        self.audio_encoder = build_audio_encoder(config)
        self.vision_projector = build_projector(
            config, config.vision_projector, feature_dim=self.vision_encoder.dim
        )
        self.audio_projector = build_projector(
            config, config.audio_projector, feature_dim=self.audio_encoder.dim
        )
        self.embedding = nn.Embedding(text.vocab_size, text.hidden_size)
        self.decoder = build_decoder(text)
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.image_vector = nn.Linear(text.hidden_size, config.contrastive_dim, bias=False)
        self.audio_vector = nn.Linear(text.hidden_size, config.contrastive_dim, bias=False)
        self.text_vector = nn.Linear(text.hidden_size, config.contrastive_dim, bias=False)
        # Logarithms of the factors on cosines; FSDP2 refuses parameters without a dimension.
        self.image_log_scale = nn.Parameter(torch.empty(1))
        self.audio_log_scale = nn.Parameter(torch.empty(1))
        if config.contrastive == "siglip":
            self.image_bias = nn.Parameter(torch.empty(1))
            self.audio_bias = nn.Parameter(torch.empty(1))
        self.post_init()
        # The model reads media, it does not write them, and hides or embeds nothing in its answers.
        self.generation_config.suppress_tokens = [
            config.image_token_id,
            config.audio_token_id,
            config.mask_token_id,
            config.emb_token_id,
        ]

    @property
    def head(self) -> nn.Linear:
        """From hidden states to logits; transformers looks for it under the name `lm_head`."""
        return self.lm_head

    def load_backbones(self, *, vision: Path | None, audio: Path | None) -> None:
        """Trained weights for the encoders: timm's and transformers' files; None: left as is."""
        if vision is not None:
            load_vision(self.vision_encoder, vision)
        if audio is not None:
            load_wavlm(self.audio_encoder, audio)

    def encode_images(self, pixels: Tensor) -> Encoded:
        """Tokens and vectors of images (m c y x), bytes 0..255 or floats 0..1; m may be 0."""
        num_items = len(pixels)
        if num_items == 0:
            pixels = pixels.new_zeros((1, *pixels.shape[1:]))
        features = self.vision_encoder(pixels)
        tokens, summary = self.vision_projector(features)
        return Encoded(tokens=tokens, vectors=self.image_vector(summary)[:num_items])

    def encode_audio(self, waveforms: Float[Tensor, "m t"], lengths: Int[Tensor, " m"]) -> Encoded:
        """Tokens and vectors of clips at 16 kHz, padded behind to a common length; m may be 0."""
        num_items = len(waveforms)
        if num_items == 0:
            samples = max(waveforms.shape[1], self.audio_encoder.shortest_clip)
            waveforms = waveforms.new_zeros((1, samples))
            lengths = lengths.new_full((1,), samples)
        features, valid = self.audio_encoder(waveforms, lengths)
        tokens, summary = self.audio_projector(features, valid)
        return Encoded(tokens=tokens, vectors=self.audio_vector(summary)[:num_items])

    def text_vectors(self, hidden: Float[Tensor, "n d"]) -> Float[Tensor, "n v"]:
        """Vectors of captions from the hidden states at their `<emb>`; not normalised."""
        return self.text_vector(hidden)

    def forward(
        self,
        input_ids: Int[Tensor, "b s"],
        *,
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "b s"] | None = None,
        pixel_values: Tensor | None = None,
        num_images: Int[Tensor, " r"] | None = None,
        input_values: Float[Tensor, "m t"] | None = None,
        audio_lengths: Int[Tensor, " m"] | None = None,
        num_audios: Int[Tensor, " r"] | None = None,
        document_ids: Int[Tensor, "b s"] | None = None,
        bidirectional: Bool[Tensor, "b s"] | None = None,
        past_key_values: Cache | None = None,
        labels: Int[Tensor, "b s"] | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        output_hidden_states: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> FlareOutput:
        """Next-token logits of text among its media; see the class for the arguments."""
        if not torch.compiler.is_compiling():  # compiled code cannot look at numbers
            self._check_media(input_ids, pixel_values, num_images, input_values, num_audios)
        if document_ids is not None:
            _refuse_with_documents(attention_mask, position_ids, past_key_values, use_cache)
        elif bidirectional is not None:
            raise UserError("bidirectional speaks of documents; give document_ids with it")
        elif use_cache or (use_cache is None and not self.training):
            past_key_values = DynamicCache() if past_key_values is None else past_key_values
        past = length_of(past_key_values)
        if position_ids is None:
            position_ids = positions_of(input_ids, attention_mask, document_ids, past=past)
        if attention_mask is not None:
            attention_mask = over_all_keys(attention_mask, past_key_values, input_ids.shape[1])
        hidden = self.decoder(
            self.embed(
                input_ids,
                images=self._image_tokens(pixel_values),
                audio=self._audio_tokens(input_values, audio_lengths),
                image_rows=None if num_images is None else len(num_images),
                audio_rows=None if num_audios is None else len(num_audios),
            ),
            positions=position_ids,
            mask=mask_of(attention_mask, document_ids, bidirectional, past=past),
            cache=past_key_values,
            backend=self.config.attention_backend,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(hidden[:, kept])
        return FlareOutput(
            loss=self._loss(logits, labels, num_items_in_batch),
            logits=logits,
            past_key_values=past_key_values,
            hidden_states=(hidden,) if output_hidden_states else None,
        )

    def prepare_inputs_for_generation(
        self, input_ids: Int[Tensor, "b s"], *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        """With a cache, media come with the first call only."""
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)
        if not kwargs.get("is_first_iteration") and kwargs.get("use_cache", True):
            return {name: value for name, value in inputs.items() if name not in _MEDIA_ARGUMENTS}
        return inputs

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, input_ids: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        """Beams repeat the text; the media of a sample stay one."""
        shared = {name: kwargs.pop(name) for name in _MEDIA_ARGUMENTS if name in kwargs}
        if expand_size > 1 and input_ids is not None:
            past = kwargs.get("past_key_values")
            new = input_ids[:, 0 if past is None else int(past.get_seq_length()) :]
            for kind, media, counts in _MEDIA_OF_KIND:
                if shared.get(media) is not None and shared.get(counts) is None:
                    slots = new == getattr(self.config, f"{kind}_token_id")
                    shared[counts] = slots.sum(-1) // self._tokens_per_item(kind)
        input_ids, kwargs = super()._expand_inputs_for_generation(
            expand_size, input_ids=input_ids, **kwargs
        )
        return input_ids, kwargs | shared

    def _set_gradient_checkpointing(self, enable: bool = True, *args: Any, **kwargs: Any) -> None:
        """timm's blocks have a switch of their own."""
        super()._set_gradient_checkpointing(enable, *args, **kwargs)
        self.vision_encoder.model.set_grad_checkpointing(enable)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """The encoders initialise themselves; see `load_backbones` for trained ones."""
        super()._init_weights(module)
        if isinstance(module, Projector):
            # At the scale of what attention adds to them: smaller ones would soon be all alike.
            init.normal_(module.queries, std=1.0)
        elif isinstance(module, nn.Embedding):
            # The stream starts at scale 1, as the projected media do: else the first blocks would
            # drown the tokens, and a stream of depth 128 would grow fifty-fold.
            init.normal_(module.weight, std=1.0)
        elif module is self:
            self._init_own_weights()

    def _init_own_weights(self) -> None:
        """What no leaf can know: the depth of the decoder, and the temperatures."""
        blocks = [cast(DecoderBlock, block) for block in self.decoder.blocks]
        # Each of the 2L branches adds 1/(2L) to the stream's variance, whatever the depth.
        std = self.config.initializer_range / math.sqrt(2 * len(blocks))
        for block in blocks:
            init.normal_(block.attention.to_out.weight, std=std)
            init.normal_(block.feed_forward.contract.weight, std=std)
        siglip = self.config.contrastive == "siglip"
        for scale in (self.image_log_scale, self.audio_log_scale):
            init.constant_(scale, math.log(10) if siglip else math.log(1 / 0.07))
        if siglip:
            init.constant_(self.image_bias, -10.0)
            init.constant_(self.audio_bias, -10.0)

    def _tokens_per_item(self, kind: str) -> int:
        side = {"image": self.config.vision_projector, "audio": self.config.audio_projector}
        return int(side[kind].num_queries)

    def embed(
        self,
        input_ids: Int[Tensor, "b s"],
        *,
        images: Float[Tensor, "k q d"] | None,
        audio: Float[Tensor, "l p d"] | None,
        image_rows: int | None = None,
        audio_rows: int | None = None,
    ) -> Float[Tensor, "b s d"]:
        """Tokens, and media in their slots."""
        x = self.embedding(input_ids)
        if images is not None:
            slots = input_ids == self.config.image_token_id
            x = place_media(x, slots, images, rows=image_rows)
        if audio is not None:
            slots = input_ids == self.config.audio_token_id
            x = place_media(x, slots, audio, rows=audio_rows)
        return x

    def _image_tokens(self, pixel_values: Tensor | None) -> Float[Tensor, "k q d"] | None:
        if pixel_values is None and self.training:
            size = self.config.vision_config.image_size
            pixel_values = torch.zeros(0, 3, size, size, dtype=torch.uint8, device=self.device)
        return None if pixel_values is None else self.encode_images(pixel_values).tokens

    def _audio_tokens(
        self, input_values: Tensor | None, lengths: Tensor | None
    ) -> Float[Tensor, "k q d"] | None:
        if input_values is None and self.training:
            input_values = torch.zeros(0, 0, device=self.device)
        if input_values is None:
            return None
        if lengths is None:
            lengths = torch.full(
                (len(input_values),), input_values.shape[1], device=input_values.device
            )
        return self.encode_audio(input_values, lengths).tokens

    def _check_media(
        self,
        input_ids: Int[Tensor, "b s"],
        pixel_values: Tensor | None,
        num_images: Int[Tensor, " r"] | None,
        input_values: Tensor | None,
        num_audios: Int[Tensor, " r"] | None,
    ) -> None:
        for kind, media, counts in (
            ("image", pixel_values, num_images),
            ("audio", input_values, num_audios),
        ):
            check_media(
                input_ids == getattr(self.config, f"{kind}_token_id"),
                counts,
                num_items=0 if media is None else len(media),
                tokens_per_item=self._tokens_per_item(kind),
                kind=kind,
            )

    def _loss(
        self,
        logits: Float[Tensor, "b s v"],
        labels: Int[Tensor, "b s"] | None,
        num_items_in_batch: Tensor | int | None,
    ) -> Float[Tensor, ""] | None:
        if labels is None:
            return None
        return self.loss_function(
            logits, labels, logits.shape[-1], num_items_in_batch=num_items_in_batch
        )


_MEDIA_OF_KIND = (
    ("image", "pixel_values", "num_images"),
    ("audio", "input_values", "num_audios"),
)
_MEDIA_ARGUMENTS = ("pixel_values", "num_images", "input_values", "audio_lengths", "num_audios")


def _refuse_with_documents(
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    past_key_values: Cache | None,
    use_cache: bool | None,
) -> None:
    if any(x is not None for x in (attention_mask, position_ids, past_key_values)) or use_cache:
        raise UserError(
            "document_ids says everything about a packed row; leave out attention_mask, "
            "position_ids, past_key_values and use_cache"
        )
