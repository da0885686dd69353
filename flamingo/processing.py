"""From pictures and words to tensors: the processor of Flamingo.

A document is a sequence of parts, text or picture. Its text is tokenised so that it can never yield
`<image>`, `<|endofchunk|>` or any other control token, whatever a web page or a user wrote; media
tokens are inserted as ids. `processor(text=..., images=...)` reads `<image>` in a prompt that the
developer wrote, as transformers' processors do; chat messages are sanitised by default.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor
from transformers import BatchFeature, CLIPImageProcessor, PreTrainedTokenizerBase, ProcessorMixin

from common.data.conversations.messages import Picture
from common.data.prompt_safety import CAN_SANITIZE, encode_plain, refuse_control_tokens
from common.errors import UserError
from flamingo.media import check_image_counts

IMAGE_TOKEN, END_OF_CHUNK_TOKEN = "<image>", "<|endofchunk|>"

Part = str | Picture


class ChunkEnd(str):
    """A part of a document: the end of a chunk that no picture follows, as of an example without
    one. It is no text, and no text can become it."""


# A user's turn: its pictures and its words; an assistant's turn ends its chunk.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{{ '<image>' if part['type'] == 'image' else part['text'] }}"
    "{% endfor %}{% endif %}"
    "{{ '<|endofchunk|>' if message['role'] == 'assistant' else '' }}"
    "{% endfor %}"
)


class FlamingoProcessor(ProcessorMixin):
    """Image processor, tokenizer and the rules that join them."""

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.image_token, self.end_of_chunk_token = IMAGE_TOKEN, END_OF_CHUNK_TOKEN
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        self.end_of_chunk_token_id = tokenizer.convert_tokens_to_ids(END_OF_CHUNK_TOKEN)
        super().__init__(image_processor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE)

    @classmethod
    def from_tokenizer(
        cls, tokenizer: PreTrainedTokenizerBase, *, vocab_size: int, image_size: int
    ) -> "FlamingoProcessor":
        """A processor for a language model of `vocab_size` rows; adds the new tokens after them.

        Many checkpoints have more rows than their tokenizer has tokens; the gap is filled with
        reserved tokens, so that the new ones get the ids vocab_size and vocab_size + 1.
        """
        if len(tokenizer) > vocab_size:
            raise UserError(
                f"the tokenizer has {len(tokenizer)} tokens but the language model {vocab_size} "
                "rows; give the tokenizer that the language model was trained with"
            )
        reserved = [f"<|reserved_{i}|>" for i in range(len(tokenizer), vocab_size)]
        tokenizer.add_tokens([*reserved, IMAGE_TOKEN, END_OF_CHUNK_TOKEN], special_tokens=True)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.padding_side = "left"
        image_processor = CLIPImageProcessor(
            size={"shortest_edge": image_size},
            crop_size={"height": image_size, "width": image_size},
            do_rescale=False,  # the model takes bytes and normalises on its own device
            do_normalize=False,
        )
        return cls(image_processor, tokenizer)

    def encode_text(self, text: str) -> list[int]:
        """Ids of untrusted text: it cannot spell a control token."""
        return encode_plain(text, self.tokenizer)

    def encode_document(self, parts: Sequence[Part], *, closed: bool) -> list[int]:
        """Ids of a document: a chunk ends before each picture but the first, and at the end.

        `[p, "a", p, "b"]` -> `<s> <image> a <|endofchunk|> <image> b <|endofchunk|>`; with
        `closed=False`, as for a prompt to be continued, the last `<|endofchunk|>` is left out. A
        `ChunkEnd` between parts writes one more where there would be none.
        """
        bos = self.tokenizer.bos_token_id
        ids = [] if bos is None else [bos]
        num_images = 0
        for part in parts:
            if isinstance(part, ChunkEnd):
                ids.append(self.end_of_chunk_token_id)
                continue
            if isinstance(part, str):
                ids += self.encode_text(part)
                continue
            if num_images and ids[-1] != self.end_of_chunk_token_id:
                ids.append(self.end_of_chunk_token_id)
            ids.append(self.image_token_id)
            num_images += 1
        return [*ids, self.end_of_chunk_token_id] if closed else ids

    def encode_pictures(self, pictures: Sequence[Picture]) -> UInt8[Tensor, "m c y x"]:
        """Pictures resized and cropped, as bytes."""
        pixels = self.image_processor(list(pictures), return_tensors="pt", **_layout(pictures))
        return pixels["pixel_values"].to(torch.uint8)

    def prompts(self, documents: Sequence[Sequence[Part]]) -> BatchFeature:
        """Left-padded inputs of `generate` that continue each document."""
        rows = [self.encode_document(parts, closed=False) for parts in documents]
        padded = self.tokenizer.pad({"input_ids": rows}, padding=True, return_tensors="pt")
        pictures = [[part for part in parts if not isinstance(part, str)] for parts in documents]
        return BatchFeature({**padded, **self._grid(pictures)})

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> BatchFeature:
        """Inputs of the model for prompts in which `<image>` marks the place of each picture."""
        pictures = _flat(images)
        if not kwargs.get("sanitize_control_tokens"):
            _check_tags(text, images)
        features = super().__call__(images=pictures or None, text=text, **kwargs)
        if not pictures or "input_ids" not in features:
            return features
        rows = features["input_ids"]
        rows = rows if torch.is_tensor(rows) else [torch.as_tensor(row) for row in rows]
        tags = torch.stack([(row == self.image_token_id).sum() for row in rows])
        check_image_counts(tags.sum()[None], torch.tensor([len(pictures)]), ["of this call"])
        pixels = torch.stack([torch.as_tensor(one) for one in features["pixel_values"]])
        return BatchFeature({**features, **regroup(pixels, tags)})

    def replace_image_token(self, image_inputs: Any, image_idx: int, **kwargs: Any) -> str:
        """One tag stands for a picture; it is not expanded."""
        return self.image_token

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, but what people wrote cannot spell a control token by default."""
        if kwargs.get("tokenize") and "sanitize_control_tokens" not in kwargs:
            if CAN_SANITIZE:
                kwargs["sanitize_control_tokens"] = True
            else:
                refuse_control_tokens(conversation, self.tokenizer.get_added_vocab())
        return super().apply_chat_template(conversation, *args, **kwargs)

    def _grid(self, pictures: Sequence[Sequence[Picture]]) -> dict[str, Tensor]:
        flat = [picture for row in pictures for picture in row]
        if not flat:
            return {}
        counts = torch.tensor([len(row) for row in pictures])
        return regroup(self.encode_pictures(flat), counts)


def distinct_pictures(pictures: Sequence[Picture]) -> tuple[list[Picture], list[int]]:
    """Each picture once, and which of them each was. `[a, b, a]` -> `[a, b]`, `[0, 1, 0]`

    Equal are one object twice, and two of the same pixels unless these stand for a palette.
    """
    place_of_object: dict[int, int] = {}
    place_of_content: dict[object, int] = {}
    distinct: list[Picture] = []
    for picture in pictures:
        if id(picture) in place_of_object:
            continue
        place = place_of_content.setdefault(_content(picture), len(distinct))
        place_of_object[id(picture)] = place
        if place == len(distinct):
            distinct.append(picture)
    return distinct, [place_of_object[id(picture)] for picture in pictures]


def _content(picture: Picture) -> object:
    if isinstance(picture, Image.Image) and picture.mode not in ("L", "RGB"):
        return id(picture)
    pixels = np.asarray(picture)
    return pixels.shape, pixels.dtype, blake2b(pixels.tobytes(), digest_size=16).digest()


def regroup(pixels: Tensor, counts: Int[Tensor, " b"]) -> dict[str, Tensor]:
    """One flat list of pictures as a grid of rows, zeros where a row has fewer."""
    grid = pixels.new_zeros(len(counts), max(int(counts.max()), 1), *pixels.shape[1:])
    for row, pictures in zip(grid, pixels.split(counts.tolist()), strict=True):
        row[: len(pictures)] = pictures
    return {"pixel_values": grid, "num_images": counts}


def _check_tags(text: Any, images: Any) -> None:
    """Counts per prompt where images come in one list per prompt, in total otherwise."""
    prompts = [text] if isinstance(text, str) else list(text or [])
    tags = torch.tensor([prompt.count(IMAGE_TOKEN) for prompt in prompts])
    nested = isinstance(images, Sequence) and all(isinstance(row, Sequence) for row in images)
    if nested and len(images) == len(prompts) and prompts:
        names = [f"prompt {place}" for place in range(len(prompts))]
        check_image_counts(tags, torch.tensor([len(_flat(row)) for row in images]), names)
    elif prompts:
        check_image_counts(tags.sum()[None], torch.tensor([len(_flat(images))]), ["of this call"])


def _flat(images: Any) -> list[Picture]:
    if images is None:
        return []
    if isinstance(images, Sequence) and not isinstance(images, str):
        return [picture for part in images for picture in _flat(part)]
    return [images]


def _layout(pictures: Sequence[Picture]) -> dict[str, str]:
    """Arrays are (y, x, c); said aloud, since a tiny picture's layout cannot be guessed."""
    is_array = isinstance(pictures[0], np.ndarray)
    return {"input_data_format": "channels_last"} if is_array else {}
