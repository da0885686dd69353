"""Flamingo's conversations: `<s>User: words<|endofchunk|>Assistant: words<|endofchunk|>`, with an
`<image>` where each picture stands. A role is what follows `<s>` or `<|endofchunk|>`, which no
words can spell. See `common/data/conversations/encoded.py` for the rules. Documents of examples,
which have no roles, are the processor's affair."""

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
from common.errors import UserError
from flamingo.language_model import decoder_layers
from flamingo.model import FlamingoForConditionalGeneration
from flamingo.processing import FlamingoProcessor, regroup

# For a model that was tuned on conversations; one that was not has the template without roles.
ROLES_TEMPLATE = (
    "{{ bos_token if bos_token else '' }}"
    "{% for message in messages %}"
    "{% if message['role'] not in ('system', 'user', 'assistant') %}"
    "{{ raise_exception('roles are system, user and assistant') }}{% endif %}"
    "{{ message['role'] | capitalize }}: "
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}"
    "{% else %}{{ raise_exception('parts are text and image') }}{% endif %}"
    "{% endfor %}{% endif %}<|endofchunk|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


@dataclass(frozen=True)
class FlamingoFormat:
    """`ChatFormat` of Flamingo."""

    processor: FlamingoProcessor

    @classmethod
    def with_roles(cls, processor: FlamingoProcessor) -> "FlamingoFormat":
        """For a model that is to be tuned on conversations: what is saved has their template."""
        processor.chat_template = ROLES_TEMPLATE
        return cls(processor)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The processor's."""
        return self.processor.tokenizer

    @property
    def ends(self) -> list[int]:
        """`<|endofchunk|>`, and the end that the language model knew before."""
        end, eos = self.processor.end_of_chunk_token_id, self.tokenizer.eos_token_id
        return [end] if eos is None else [end, eos]

    def begin(self) -> EncodedChat:
        """`<s>`, if the language model has one."""
        bos = self.tokenizer.bos_token_id
        return given([] if bos is None else [bos])

    def turn(self, turn: Turn) -> EncodedChat:
        """A whole turn.

        Raises:
            UserError: it has a recording.
        """
        return encode_turn(
            turn,
            begin=[],
            end=self.processor.end_of_chunk_token_id,
            words=self.processor.encode_text,
            slots=self._slot,
        )

    def opening(self) -> EncodedChat:
        """`Assistant:`"""
        return given(self.processor.encode_text(opening_of("assistant")))

    def batch_of(self, chats: Sequence[EncodedChat], *, padding_side: Side) -> dict[str, Tensor]:
        """Inputs of the model, without labels; pictures as a grid of rows."""
        batch = padded(chats, pad=self.tokenizer.pad_token_id, padding_side=padding_side)
        pictures = [picture for chat in chats for picture in chat.images]
        if pictures:
            counts = torch.tensor([len(chat.images) for chat in chats])
            batch |= regroup(self.processor.encode_pictures(pictures), counts)
        return batch

    def lora_targets(self, model: nn.Module) -> list[str]:
        """Plain linear layers of the gated blocks and of the language model's layers."""
        assert isinstance(model, FlamingoForConditionalGeneration)
        layers = [*model.gated_blocks, *decoder_layers(model.language_model)]
        inside = {id(module) for layer in layers for module in layer.modules()}
        return [
            name
            for name, module in model.named_modules()
            if id(module) in inside and type(module) is nn.Linear
        ]

    def _slot(self, part: Part) -> list[int]:
        if isinstance(part, Recording):
            raise UserError(
                "the conversation has a recording, but Flamingo reads text and pictures only; "
                "leave it out, or use FLARE"
            )
        return [self.processor.image_token_id]
