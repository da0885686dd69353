"""From pictures, sounds and words to tensors: the processor of FLARE.

A document is a sequence of parts: text, picture or recording. Its text is tokenised so that it can
never yield a control token, whatever a web page or a user wrote; an image stands as `image_queries`
times the id of `<image>`, a recording as `audio_queries` times that of `<audio>`.
`processor(text=..., images=..., audio=...)` reads one `<image>` or `<audio>` per medium in a prompt
that the developer wrote, as transformers' processors do; chat messages are sanitised by default.
"""

from collections.abc import Container, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int, UInt8
from torch import Tensor
from transformers import (
    BatchFeature,
    CLIPImageProcessor,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    Wav2Vec2FeatureExtractor,
)

from common.data.conversations.messages import Part, Picture
from common.data.document import SAMPLE_RATE_HZ, Recording
from common.data.prompt_safety import CAN_SANITIZE, encode_plain, refuse_control_tokens
from common.errors import UserError

IMAGE_TOKEN, AUDIO_TOKEN, MASK_TOKEN, EMB_TOKEN = "<image>", "<audio>", "<mask>", "<emb>"
CONTROL_TOKENS = (IMAGE_TOKEN, AUDIO_TOKEN, MASK_TOKEN, EMB_TOKEN)
BASIC_TOKENS = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
MIN_SAMPLES = 400  # of a clip: the reach of the audio encoder's first frame


# Every turn lies between <s> and </s>, which no message can spell: text cannot forge a role.
CHAT_TEMPLATE = (
    "{% macro words(content) %}"
    "{% if content is string %}{{ content }}"
    "{% else %}{% for part in content %}"
    "{% if part['type'] == 'image' %}<image>"
    "{% elif part['type'] == 'audio' %}<audio>"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% endmacro %}"
    "{% for message in messages %}{{ bos_token }}"
    "{% if message['role'] == 'assistant' %}Assistant:"
    "{% generation %} {{ words(message['content']) }}{{ eos_token }}{% endgeneration %}"
    "{% elif message['role'] in ('system', 'user') %}"
    "{{ message['role'] | capitalize }}: {{ words(message['content']) }}{{ eos_token }}"
    "{% else %}{{ raise_exception('roles are system, user and assistant') }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ bos_token }}Assistant:{% endif %}"
)


class FlareProcessor(ProcessorMixin):
    """Image processor, audio feature extractor, tokenizer and the rules that join them."""

    def __init__(  # noqa: PLR0917 -- transformers finds arguments by their positions
        self,
        image_processor: Any,
        feature_extractor: Any,
        tokenizer: Any,
        image_queries: int,
        audio_queries: int,
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.image_queries, self.audio_queries = image_queries, audio_queries
        self.image_token, self.audio_token = IMAGE_TOKEN, AUDIO_TOKEN
        ids = tokenizer.convert_tokens_to_ids(list(CONTROL_TOKENS))
        self.image_token_id, self.audio_token_id, self.mask_token_id, self.emb_token_id = ids
        super().__init__(
            image_processor,
            feature_extractor,
            tokenizer,
            chat_template=chat_template or CHAT_TEMPLATE,
        )

    @classmethod
    def from_tokenizer(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        *,
        vocab_size: int,
        image_size: int,
        image_queries: int,
        audio_queries: int,
    ) -> "FlareProcessor":
        """A processor for a model of `vocab_size` rows; control tokens that are missing are added.

        A tokenizer that has them keeps their ids.
        """
        missing = {
            name: token for name, token in BASIC_TOKENS.items() if getattr(tokenizer, name) is None
        }
        tokenizer.add_special_tokens(missing)
        known = tokenizer.get_vocab()
        tokenizer.add_tokens([t for t in CONTROL_TOKENS if t not in known], special_tokens=True)
        if len(tokenizer) > vocab_size:
            raise UserError(
                f"the tokenizer has {len(tokenizer)} tokens, control tokens included, but the "
                f"model {vocab_size} rows; use a smaller tokenizer or a larger vocabulary"
            )
        tokenizer.padding_side = "left"
        image_processor = CLIPImageProcessor(
            size={"shortest_edge": image_size},
            crop_size={"height": image_size, "width": image_size},
            do_rescale=False,  # the model takes bytes and normalises on its own device
            do_normalize=False,
        )
        feature_extractor = Wav2Vec2FeatureExtractor(
            sampling_rate=SAMPLE_RATE_HZ,
            do_normalize=False,  # the model does, over what is no padding
            return_attention_mask=True,
        )
        return cls(image_processor, feature_extractor, tokenizer, image_queries, audio_queries)

    @classmethod
    def from_args_and_dict(
        cls, args: Sequence[Any], processor_dict: dict[str, Any], **kwargs: Any
    ) -> Any:
        """As in transformers, which finds no numbers of queries where `__init__` is wrapped."""
        queries = [processor_dict[name] for name in ("image_queries", "audio_queries")]
        return super().from_args_and_dict([*args, *queries], processor_dict, **kwargs)

    def encode_text(self, text: str) -> list[int]:
        """Ids of untrusted text: it cannot spell a control token."""
        return encode_plain(text, self.tokenizer)

    def encode_document(self, parts: Sequence[Part], *, closed: bool = True) -> list[int]:
        """`[picture, "a", recording]` -> `<s> <image> ... <image> a <audio> ... <audio> </s>`.

        With `closed=False`, as for a prompt to be continued, `</s>` is left out.
        """
        ids = [self.tokenizer.bos_token_id]
        for part in parts:
            if isinstance(part, str):
                ids += self.encode_text(part)
            elif isinstance(part, Recording):
                ids += [self.audio_token_id] * self.audio_queries
            else:
                ids += [self.image_token_id] * self.image_queries
        return [*ids, self.tokenizer.eos_token_id] if closed else ids

    def encode_caption(self, text: str) -> list[int]:
        """`<s> text <emb>`: what a picture or a recording is contrasted with."""
        return [self.tokenizer.bos_token_id, *self.encode_text(text), self.emb_token_id]

    def prompts(self, documents: Sequence[Sequence[Part]]) -> BatchFeature:
        """Left-padded inputs of `generate` that continue each document."""
        rows = [self.encode_document(parts, closed=False) for parts in documents]
        padded = self.tokenizer.pad({"input_ids": rows}, padding=True, return_tensors="pt")
        media = [part for parts in documents for part in parts if not isinstance(part, str)]
        pictures = [part for part in media if not isinstance(part, Recording)]
        clips = [part.samples for part in media if isinstance(part, Recording)]
        features: dict[str, Tensor] = {**padded}
        if pictures:
            features["pixel_values"] = self._pixels(pictures)
        if clips:
            features |= self._process_audio(clips)[0]
        return BatchFeature(features | self._counts(padded["input_ids"], features))

    def __call__(
        self, images: Any = None, text: Any = None, audio: Any = None, **kwargs: Any
    ) -> BatchFeature:
        """Inputs of the model for prompts in which markers stand in the places of media."""
        if not kwargs.get("sanitize_control_tokens"):
            _check_markers(text, images, IMAGE_TOKEN)
            _check_markers(text, audio, AUDIO_TOKEN)
        pictures, clips = _flat(images), [_samples(clip) for clip in _flat(audio)]
        features = super().__call__(
            images=pictures or None, text=text, audio=clips or None, **kwargs
        )
        if "input_ids" not in features:
            return features
        return BatchFeature({**features, **self._counts(features["input_ids"], features)})

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, but what people wrote cannot spell a control token by default."""
        if kwargs.get("tokenize") and "sanitize_control_tokens" not in kwargs:
            if CAN_SANITIZE and not kwargs.get("return_assistant_tokens_mask"):
                kwargs["sanitize_control_tokens"] = True
            else:
                refuse_control_tokens(conversation, self.tokenizer.get_added_vocab())
        return super().apply_chat_template(conversation, *args, **kwargs)

    @property
    def control_ids(self) -> list[int]:
        """Ids of all control tokens, in ascending order."""
        added = self.tokenizer.added_tokens_decoder.items()
        return sorted(
            {i for i, token in added if token.special} | {*self.tokenizer.all_special_ids}
        )

    @property
    def plain_ids(self) -> range:
        """The longest run of ids without a control token: what to draw random text from."""
        bounds = [-1, *self.control_ids, len(self.tokenizer)]
        return max((range(a + 1, b) for a, b in pairwise(bounds)), key=len)

    def _process_images(self, images: Any, **kwargs: Any) -> tuple[dict[str, Tensor], list[str]]:
        """Pictures as bytes; one marker becomes as many as the projector has queries."""
        pixels = self._pixels(images, **kwargs)
        return {"pixel_values": pixels}, [IMAGE_TOKEN * self.image_queries] * len(pixels)

    def _process_audio(self, audio: Any, **kwargs: Any) -> tuple[dict[str, Tensor], list[str]]:
        """Clips padded to the longest, under names that the text's own mask does not share."""
        rate = kwargs.get("sampling_rate") or SAMPLE_RATE_HZ
        clips = [_long_enough(np.asarray(clip, dtype=np.float32)) for clip in audio]
        features = self.feature_extractor(
            clips, sampling_rate=rate, padding=True, return_tensors="pt"
        )
        inputs = {
            "input_values": features["input_values"],
            "audio_lengths": features["attention_mask"].sum(1),
        }
        return inputs, [AUDIO_TOKEN * self.audio_queries] * len(clips)

    def _pixels(self, pictures: Sequence[Picture], **kwargs: Any) -> UInt8[Tensor, "m c y x"]:
        """Pictures resized and cropped, one by one since they differ in size and in layout."""
        pixels = [
            self.image_processor(picture, **{**_layout(picture), **kwargs, "return_tensors": "pt"})
            for picture in pictures
        ]
        return torch.cat([one["pixel_values"] for one in pixels]).to(torch.uint8)

    def _counts(self, rows: Any, features: Container[str]) -> dict[str, Int[Tensor, " r"]]:
        """Media per row, for the kinds that there are."""
        rows = [torch.as_tensor(row) for row in rows]
        images = torch.stack([(row == self.image_token_id).sum() for row in rows])
        clips = torch.stack([(row == self.audio_token_id).sum() for row in rows])
        counts = {}
        if "pixel_values" in features:
            counts["num_images"] = images // self.image_queries
        if "input_values" in features:
            counts["num_audios"] = clips // self.audio_queries
        return counts


def _check_markers(text: Any, media: Any, marker: str) -> None:
    """As many markers as media: per prompt where media come in one list per prompt, else in all.

    Raises:
        UserError: the numbers differ.
    """
    prompts = [text] if isinstance(text, str) else list(text or [])
    if not prompts:
        return
    nested = isinstance(media, list | tuple) and all(isinstance(row, list | tuple) for row in media)
    if nested and len(media) == len(prompts):
        expected = [(f"prompt {i}", prompt.count(marker)) for i, prompt in enumerate(prompts)]
        given = [len(_flat(row)) for row in media]
    else:
        expected = [("this call", sum(prompt.count(marker) for prompt in prompts))]
        given = [len(_flat(media))]
    for (where, markers), number in zip(expected, given, strict=True):
        if markers != number:
            raise UserError(f"{where} has {markers} {marker} but {number} to put there")


def _flat(media: Any) -> list[Any]:
    """Media of nested lists, in order; a list of numbers is one clip."""
    if media is None:
        return []
    if isinstance(media, list | tuple) and not _is_samples(media):
        return [medium for part in media for medium in _flat(part)]
    return [media]


def _is_samples(media: Sequence[Any]) -> bool:
    return len(media) > 0 and isinstance(media[0], float | int)


def _samples(clip: Any) -> Any:
    return clip.samples if isinstance(clip, Recording) else clip


def _long_enough(samples: Float32[np.ndarray, " t"]) -> Float32[np.ndarray, " z"]:
    """Silence follows what is shorter than one frame of the encoder."""
    return np.pad(samples, (0, max(0, MIN_SAMPLES - len(samples))))


def _layout(picture: Picture) -> dict[str, str]:
    """Arrays are (y, x, c); said aloud, since a tiny picture's layout cannot be guessed."""
    return {"input_data_format": "channels_last"} if isinstance(picture, np.ndarray) else {}
