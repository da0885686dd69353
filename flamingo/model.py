"""Flamingo: vision encoder, Perceiver Resampler, and a frozen language model with gated blocks.

Paper: arXiv 2204.14198, section 2. The vision encoder and the language model stay frozen; trained
are the resampler, the gated cross-attention blocks and the rows of the two new tokens.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_outputs import ModelOutput

from common.attention.cache import MediaCache
from common.encoders.vision import VisionEncoder
from common.errors import UserError
from common.objectives.language import IGNORED
from flamingo import language_model as lm
from flamingo.bridge import build_gated_block, build_resampler
from flamingo.config import NUM_NEW_TOKENS, FlamingoConfig, FlamingoVisionConfig
from flamingo.gated_cross_attention import GatedCrossAttentionBlock
from flamingo.media import Media, check_image_counts, first_item, previous_item
from flamingo.resampler import PerceiverResampler


@dataclass
class FlamingoOutput(ModelOutput):
    """Logits over the LM's vocabulary and the new tokens, and both caches of the call."""

    loss: Float[Tensor, ""] | None = None
    logits: Float[Tensor, "b s v"] | None = None
    past_key_values: Cache | None = None
    media_cache: MediaCache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class FlamingoForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """The complete model, with transformers' loading, saving and `generate()`.

    Arguments of `forward` beside those of every causal language model:

    - `pixel_values`: new images (b m c y x) or videos (b m f c y x), one per `<image>` tag and in
      the tags' order; uint8 0..255 or float 0..1, not normalised.
    - `num_images`: how many of the `m` are real, per row; all when omitted. Without `pixel_values`:
      how many images of this text `media_cache` holds already.
    - `media_mask` (b m f n): which visual features exist, where frames or patches differ in number.
    - `media_item` (b s): item of each token, see `flamingo.media`; its giver vouches for it. When
      omitted it is derived from the tags, which are checked against the images.
    - `document_ids` (b s): documents of a packed row; text sees nothing of another document.
    - `media_cache`: media of a generation, advanced in place as `past_key_values` is.
    - `skip_logits`: the loss of `labels` is all that is wanted; there is no cache.
    """

    config: FlamingoConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    # A quantiser must leave their weights: hidden states take the type of these.
    _keep_in_fp32_modules = ["new_outputs"]  # noqa: RUF012 - transformers' own class attribute
    _no_split_modules = ["GatedCrossAttentionBlock", "ResamplerLayer"]  # noqa: RUF012 - as above
    _skip_keys_device_placement = ["past_key_values", "media_cache"]  # noqa: RUF012 - as above

    def __init__(self, config: FlamingoConfig) -> None:
        super().__init__(config)
        text = config.text_config
        self.vision_encoder = build_vision_encoder(config.vision_config)
        self.resampler = build_resampler(config, input_dim=self.vision_encoder.dim)
        self.gated_cross_attention = nn.ModuleList(
            build_gated_block(config, layer) for layer in config.cross_attention_layers
        )
        language_model = lm.build_language_model(text)
        embedding = language_model.get_input_embeddings()
        head = language_model.get_output_embeddings()
        self.new_inputs = nn.Embedding(NUM_NEW_TOKENS, embedding.embedding_dim)
        self.new_outputs = nn.Linear(head.in_features, NUM_NEW_TOKENS, bias=False)
        self._adopt(language_model)
        self.post_init()
        self.generation_config.use_cache = True  # some families (MPT) default to no cache
        # An answer ends with its chunk, in transformers' pipelines, too.
        ends = text.eos_token_id if isinstance(text.eos_token_id, list) else [text.eos_token_id]
        known = [end for end in ends if end is not None]
        self.generation_config.eos_token_id = [*known, config.end_of_chunk_token_id]
        # The model reads images, it does not write them.
        self.generation_config.suppress_tokens = [config.image_token_id]

    def _adopt(self, language_model: PreTrainedModel) -> None:
        """Takes in a language model, frozen, and lets its layers meet the gated blocks."""
        self.language_model = language_model
        lm.condition(language_model, {block.layer: block for block in self.gated_blocks})
        lm.extend_vocabulary(language_model, self)
        self.language_model.requires_grad_(False)
        self.vision_encoder.requires_grad_(False)

    @property
    def gated_blocks(self) -> list[GatedCrossAttentionBlock]:
        """The gated blocks in the order of the language model's layers."""
        return [cast(GatedCrossAttentionBlock, block) for block in self.gated_cross_attention]

    @classmethod
    def from_backbones(
        cls,
        config: FlamingoConfig,
        *,
        language_model: PreTrainedModel,
        vision_encoder: VisionEncoder,
    ) -> "FlamingoForConditionalGeneration":
        """A model around two trained parts, which it takes over as they are; gates closed.

        Nothing of the parts is copied or cast, so a 70B model is never in memory twice.
        """
        with torch.device("meta"):
            model = cls(config)
        model.vision_encoder = vision_encoder
        bridge = (model.resampler, model.gated_cross_attention)
        for part in (*bridge, model.new_inputs, model.new_outputs):
            part.to_empty(device=torch.get_default_device()).apply(model._init_weights)
        model._adopt(language_model)
        return model

    def forward(
        self,
        input_ids: Int[Tensor, "b s"],
        *,
        attention_mask: Tensor | dict[str, Tensor] | None = None,
        position_ids: Int[Tensor, "b s"] | None = None,
        pixel_values: Tensor | None = None,
        num_images: Int[Tensor, " r"] | None = None,
        media_mask: Bool[Tensor, "r m f n"] | None = None,
        media_item: Int[Tensor, "b s"] | None = None,
        document_ids: Int[Tensor, "b s"] | None = None,
        past_key_values: Cache | None = None,
        media_cache: MediaCache | None = None,
        labels: Int[Tensor, "b s"] | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | int | None = None,
        skip_logits: bool = False,
        **kwargs: Any,
    ) -> FlamingoOutput:
        """Next-token logits of text that looks at its images; see the class for the arguments."""
        places = self._places(attention_mask, position_ids, document_ids, use_cache)
        if use_cache is None:
            use_cache = document_ids is None and not self.training
        use_cache = use_cache and not skip_logits
        if use_cache and media_cache is None:
            media_cache = MediaCache()
        is_image = input_ids == self.config.image_token_id
        documents = torch.zeros_like(input_ids) if document_ids is None else document_ids
        if media_item is None:
            self._check_images(is_image, pixel_values, num_images)
            media_item = _after_cached_items(previous_item(is_image, documents), media_cache)
        media = self._media(
            self.encode_images(pixel_values, media_mask),
            num_new=num_images,
            item=media_item,
            first=first_item(is_image, documents),
            cache=media_cache,
        )
        outputs = self._run(
            media,
            labels if skip_logits else None,
            inputs_embeds=lm.embed(self.language_model, self.new_inputs, input_ids),
            past_key_values=past_key_values,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **places,
            **kwargs,
        )
        if media_cache is not None:
            media_cache.advance(is_image.sum(-1))
        return FlamingoOutput(
            loss=self._loss(outputs, labels, num_items_in_batch),
            logits=outputs.logits,
            past_key_values=outputs.past_key_values,
            media_cache=media_cache,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def encode_images(
        self, pixel_values: Tensor | None, media_mask: Bool[Tensor, "b m f n"] | None = None
    ) -> Float[Tensor, "b m q w"] | None:
        """Latents of images (b m c y x) or videos (b m f c y x)."""
        if pixel_values is None:
            return None
        if pixel_values.ndim == 5:
            pixel_values = rearrange(pixel_values, "b m c y x -> b m 1 c y x")
        if pixel_values.ndim != 6:
            raise UserError(
                f"pixel_values has shape {tuple(pixel_values.shape)}; "
                "give (batch, images, channels, height, width), with frames after images for video"
            )
        batch, items, frames = pixel_values.shape[:3]
        features = self.vision_encoder(pixel_values.flatten(0, 2))
        features = rearrange(features, "(b m f) n w -> b m f n w", b=batch, m=items, f=frames)
        return self.resampler(features.to(self.resampler.latents.dtype), media_mask)

    def train(self, mode: bool = True) -> "FlamingoForConditionalGeneration":
        """A frozen vision encoder stays in evaluation mode, without dropped paths."""
        super().train(mode)
        if not any(p.requires_grad for p in self.vision_encoder.parameters()):
            self.vision_encoder.eval()
        return self

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def prepare_inputs_for_generation(
        self,
        input_ids: Int[Tensor, "b s"],
        next_sequence_length: int | None = None,
        is_first_iteration: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Numbers the items over the whole text; checks new images against their tags once."""
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(
            input_ids, next_sequence_length, is_first_iteration=is_first_iteration, **kwargs
        )
        new = inputs["input_ids"].shape[1]
        is_image = input_ids == self.config.image_token_id
        item = previous_item(is_image, torch.zeros_like(input_ids))[:, -new:]
        # Compiled code is made for one layout of memory.
        inputs["media_item"] = item.clone(memory_format=torch.contiguous_format)
        if is_first_iteration:
            self._check_images(
                is_image[:, -new:], kwargs.get("pixel_values"), kwargs.get("num_images")
            )
        if inputs.get("pixel_values") is None:
            inputs.pop("num_images", None)
            inputs.pop("media_mask", None)
        return inputs

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        """Beams repeat the text; the images of a sample stay one."""
        shared = {
            name: kwargs.pop(name)
            for name in ("pixel_values", "num_images", "media_mask")
            if name in kwargs
        }
        input_ids, kwargs = super()._expand_inputs_for_generation(expand_size, **kwargs)
        return input_ids, kwargs | shared

    def _update_model_kwargs_for_generation(
        self, outputs: FlamingoOutput, model_kwargs: dict[str, Any], **kwargs: Any
    ) -> dict[str, Any]:
        model_kwargs = super()._update_model_kwargs_for_generation(outputs, model_kwargs, **kwargs)
        return model_kwargs | {"media_cache": outputs.media_cache}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialises the bridge; the backbones initialise themselves."""
        super()._init_weights(module)
        if isinstance(module, PerceiverResampler):
            init.normal_(module.latents, std=self.config.initializer_range)
            init.normal_(module.time_embedding, std=self.config.initializer_range)
        if isinstance(module, GatedCrossAttentionBlock):
            init.zeros_(module.attention_gate)
            init.zeros_(module.feed_forward_gate)

    def _media(self, latents: Float[Tensor, "b m q w"] | None, **fields: Any) -> Media:
        return Media(
            latents=latents,
            attention=self.config.media_attention,
            backend=self.config.attention_backend,
            **fields,
        )

    def _check_images(
        self,
        is_image: Bool[Tensor, "b s"],
        pixel_values: Tensor | None,
        num_images: Int[Tensor, " r"] | None,
    ) -> None:
        tags = is_image.sum(-1)
        if num_images is None:
            rows, items = (len(tags), 0) if pixel_values is None else pixel_values.shape[:2]
            num_images = tags.new_full((rows,), items)
        check_image_counts(tags, num_images.repeat_interleave(len(tags) // len(num_images)))

    def _places(
        self,
        attention_mask: Tensor | dict[str, Tensor] | None,
        position_ids: Int[Tensor, "b s"] | None,
        document_ids: Int[Tensor, "b s"] | None,
        use_cache: bool | None,
    ) -> dict[str, Any]:
        if document_ids is None:
            return {"attention_mask": attention_mask, "position_ids": position_ids}
        if attention_mask is not None or position_ids is not None or use_cache:
            raise UserError(
                "document_ids says everything about a packed row; leave out attention_mask, "
                "position_ids and use_cache"
            )
        return lm.packing_arguments(self.language_model, document_ids)

    def _run(self, media: Media, wanted: Int[Tensor, "b s"] | None, **inputs: Any) -> Any:
        """The language model, for its logits or for the summed loss of wanted labels alone."""
        if wanted is None:
            return lm.run(self.language_model, media, **inputs)
        return lm.run_for_loss(
            self.language_model, media, wanted, new_outputs=self.new_outputs, **inputs
        )

    def _loss(
        self,
        outputs: ModelOutput,
        labels: Int[Tensor, "b s"] | None,
        num_items_in_batch: Tensor | int | None,
    ) -> Float[Tensor, ""] | None:
        if labels is None:
            return None
        if outputs.loss is None:
            return self.loss_function(
                outputs.logits,
                labels,
                outputs.logits.shape[-1],
                num_items_in_batch=num_items_in_batch,
            )
        if num_items_in_batch is None:
            num_items_in_batch = (labels[:, 1:] != IGNORED).sum()
        return outputs.loss / num_items_in_batch


def _after_cached_items(item: Int[Tensor, "b s"], cache: MediaCache | None) -> Int[Tensor, "b s"]:
    """Text that goes on a cached conversation counts on from its items."""
    if cache is None or cache.items_so_far is None:
        return item
    return item + cache.items_so_far[:, None]


def build_vision_encoder(vision: FlamingoVisionConfig) -> VisionEncoder:
    """The encoder that a configuration describes, with timm's random weights."""
    encoder = VisionEncoder(
        name=vision.name,
        image_size=vision.image_size,
        model_options=vision.model_options or {},
        mean=vision.image_mean,
        std=vision.image_std,
        layer=vision.layer,
        class_token=vision.tokens == "all",
    )
    for module in encoder.modules():
        module.__dict__["_is_hf_initialized"] = (
            True  # timm has initialised it; transformers must not again
        )
    return encoder
