"""Batches that TRL's trainers and the model take: rows of ids padded on one side, labels or a mask
on what the assistant wrote, and the media. TRL's own collators know no sounds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from torch import Tensor

from common.data.conversations.encoded import (
    ChatFormat,
    EncodedChat,
    Side,
    as_prompt,
    encode_answer,
    encode_fitting,
    encode_prompt,
    joined,
    padded_targets,
)
from common.data.conversations.messages import Conversations
from common.data.conversations.pairs import Pairs
from common.errors import UserError
from common.objectives.language import IGNORED


class Row(TypedDict):
    """What TRL's data set holds of a conversation: its number; media never pass through Arrow."""

    number: int


@dataclass(frozen=True, kw_only=True)
class InstructionCollator:
    """Reads the conversations of a batch and encodes them."""

    form: ChatFormat
    conversations: Conversations
    max_tokens: int  # of a row
    padding_side: Side = "right"

    def __call__(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Inputs of the model with `labels`.

        Raises:
            UserError: a conversation is not in the format, or no answer of it fits.
        """
        chats = [
            encode_fitting(self.form, self.conversations[row["number"]], max_tokens=self.max_tokens)
            for row in rows
        ]
        batch = self.form.batch_of(chats, padding_side=self.padding_side)
        is_target = padded_targets(chats, padding_side=self.padding_side)
        return {**batch, "labels": batch["input_ids"].masked_fill(~is_target, IGNORED)}


@dataclass(frozen=True, kw_only=True)
class PreferenceCollator:
    """Reads the pairs of a batch and encodes them, each answer behind the whole prompt: the rows of
    all preferred answers, then those of all others, with the media of both."""

    form: ChatFormat
    pairs: Pairs
    max_tokens: int  # of a row

    def __call__(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Inputs of the model with a `completion_mask` on the answers.

        Raises:
            UserError: a prompt is not in the format, or a row is too long.
        """
        pairs = [self.pairs[row["number"]] for row in rows]
        # What the assistant said in earlier turns is part of the prompt.
        prompts = [as_prompt(encode_prompt(self.form, pair["prompt"])) for pair in pairs]
        told = [pair["chosen"] for pair in pairs] + [pair["rejected"] for pair in pairs]
        chats = [
            self._row(prompt, answer) for prompt, answer in zip(2 * prompts, told, strict=True)
        ]
        is_target = padded_targets(chats, padding_side="right")
        batch = self.form.batch_of(chats, padding_side="right")
        return {**batch, "completion_mask": is_target.long()}

    def _row(self, prompt: EncodedChat, answer: str) -> EncodedChat:
        row = joined([prompt, encode_answer(self.form, answer)])
        if len(row) > self.max_tokens:
            raise UserError(
                f"a pair has {len(row)} tokens but max_tokens={self.max_tokens}; raise it, or "
                "leave the pair out"
            )
        return row
