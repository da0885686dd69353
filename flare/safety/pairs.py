"""Batches of pairs that TRL's DPOTrainer takes: the rows of all preferred answers, then those of
all others, with the media of both. TRL's own collator of pairs knows pictures only."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from common.data.conversations.pairs import Pairs
from common.errors import UserError
from flare.instruct.collator import Row, batch_of, padded_targets
from flare.instruct.encoding import EncodedChat, encode_answer, encode_prompt, joined
from flare.processing import FlareProcessor


@dataclass(frozen=True, kw_only=True)
class PreferenceCollator:
    """Reads the pairs of a batch and encodes them, each answer behind the whole prompt."""

    processor: FlareProcessor
    pairs: Pairs
    max_tokens: int  # of a row

    def __call__(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Inputs of the model with a `completion_mask` on the answers.

        Raises:
            UserError: a prompt is not in the format, or a row is too long.
        """
        pairs = [self.pairs[row["number"]] for row in rows]
        prompts = [encode_prompt(self.processor, pair["prompt"]) for pair in pairs]
        told = [pair["chosen"] for pair in pairs] + [pair["rejected"] for pair in pairs]
        chats = [
            self._row(prompt, answer) for prompt, answer in zip(2 * prompts, told, strict=True)
        ]
        is_target = padded_targets(chats, padding_side="right")
        batch = batch_of(self.processor, chats, padding_side="right")
        return {**batch, "completion_mask": is_target.long()}

    def _row(self, prompt: EncodedChat, answer: str) -> EncodedChat:
        # What the assistant said in earlier turns is part of the prompt.
        asked_for = EncodedChat(
            ids=prompt.ids,
            is_target=[False] * len(prompt),
            images=prompt.images,
            audios=prompt.audios,
        )
        row = joined([asked_for, encode_answer(self.processor, answer)])
        if len(row) > self.max_tokens:
            raise UserError(
                f"a pair has {len(row)} tokens but max_tokens={self.max_tokens}; raise it, or "
                "leave the pair out"
            )
        return row
