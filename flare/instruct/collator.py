"""Conversations to batches that TRL's trainers and the model take: rows of ids padded on one side,
labels on what the assistant wrote, and the media of all rows one after the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from common.data.conversations.messages import Conversations
from common.objectives.language import IGNORED
from flare.instruct.encoding import EncodedChat, encode_fitting
from flare.processing import FlareProcessor

Side = Literal["left", "right"]


class Row(TypedDict):
    """What TRL's data set holds of a conversation: its number; media never pass through Arrow."""

    number: int


@dataclass(frozen=True, kw_only=True)
class InstructionCollator:
    """Reads the conversations of a batch and encodes them; see `encoding.py` for the masks."""

    processor: FlareProcessor
    conversations: Conversations
    max_tokens: int  # of a row
    padding_side: Side = "right"

    def __call__(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Inputs of the model with `labels`.

        Raises:
            UserError: a conversation is not in the format, or no answer of it fits.
        """
        chats = [
            encode_fitting(
                self.processor, self.conversations[row["number"]], max_tokens=self.max_tokens
            )
            for row in rows
        ]
        batch = batch_of(self.processor, chats, padding_side=self.padding_side)
        is_target = padded_targets(chats, padding_side=self.padding_side)
        return {**batch, "labels": batch["input_ids"].masked_fill(~is_target, IGNORED)}


def batch_of(
    processor: FlareProcessor, chats: Sequence[EncodedChat], *, padding_side: Side
) -> dict[str, Tensor]:
    """Inputs of the model, without labels."""
    pad = processor.tokenizer.pad_token_id
    ids = [torch.tensor(chat.ids) for chat in chats]
    batch: dict[str, Tensor] = {
        "input_ids": pad_sequence(ids, True, pad, padding_side),
        "attention_mask": pad_sequence([torch.ones_like(i) for i in ids], True, 0, padding_side),
    }
    pictures = [picture for chat in chats for picture in chat.images]
    if pictures:
        batch["pixel_values"] = processor(images=pictures)["pixel_values"]
        batch["num_images"] = torch.tensor([len(chat.images) for chat in chats])
    recordings = [recording for chat in chats for recording in chat.audios]
    if recordings:
        batch |= processor(audio=recordings)  # waveforms and their lengths
        batch["num_audios"] = torch.tensor([len(chat.audios) for chat in chats])
    return batch


def padded_targets(chats: Sequence[EncodedChat], *, padding_side: Side) -> Bool[Tensor, "b s"]:
    """Which ids of a batch the assistant wrote."""
    targets = [torch.tensor(chat.is_target) for chat in chats]
    return pad_sequence(targets, True, False, padding_side)
