"""FLARE's conversations: `<s>User: words</s>`, `<s>Assistant: words</s>`, a medium as often its
marker as the projector has queries. See `common/data/conversations/encoded.py` for the rules."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from common.data.conversations.encoded import (
    EncodedChat,
    Side,
    encode_turn,
    given,
    opening_of,
    padded,
)
from common.data.conversations.messages import Part, Turn
from common.data.document import Recording
from flare.processing import FlareProcessor

# The language model's projections and feed-forwards.
LORA_TARGETS = r"decoder\.blocks\.\d+\.(attention\.to_\w+|feed_forward\.\w+)"


@dataclass(frozen=True)
class FlareFormat:
    """`ChatFormat` of FLARE."""

    processor: FlareProcessor

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The processor's."""
        return self.processor.tokenizer

    @property
    def ends(self) -> list[int]:
        """`</s>`"""
        return [self.tokenizer.eos_token_id]

    def begin(self) -> EncodedChat:
        """Nothing: each turn has its own `<s>`."""
        return given([])

    def turn(self, turn: Turn) -> EncodedChat:
        """A whole turn."""
        return encode_turn(
            turn,
            begin=[self.tokenizer.bos_token_id],
            end=self.tokenizer.eos_token_id,
            words=self.processor.encode_text,
            slots=self._slots,
        )

    def opening(self) -> EncodedChat:
        """`<s>Assistant:`"""
        role = self.processor.encode_text(opening_of("assistant"))
        return given([self.tokenizer.bos_token_id, *role])

    def batch_of(self, chats: Sequence[EncodedChat], *, padding_side: Side) -> dict[str, Tensor]:
        """Inputs of the model, without labels; media of all rows one after the other."""
        processor = self.processor
        batch = padded(chats, pad=self.tokenizer.pad_token_id, padding_side=padding_side)
        pictures = [picture for chat in chats for picture in chat.images]
        if pictures:
            batch["pixel_values"] = processor(images=pictures)["pixel_values"]
            batch["num_images"] = torch.tensor([len(chat.images) for chat in chats])
        recordings = [recording for chat in chats for recording in chat.audios]
        if recordings:
            batch |= processor(audio=recordings)  # waveforms and their lengths
            batch["num_audios"] = torch.tensor([len(chat.audios) for chat in chats])
        return batch

    def lora_targets(self, model: nn.Module) -> str:
        """The decoder's linear layers."""
        return LORA_TARGETS

    def _slots(self, part: Part) -> list[int]:
        processor = self.processor
        if isinstance(part, Recording):
            return [processor.audio_token_id] * processor.audio_queries
        return [processor.image_token_id] * processor.image_queries
