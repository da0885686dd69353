"""Text that people wrote never becomes a control token: plain encoding, and the check of chat
messages for versions of transformers, or options, that would read control tokens out of them."""

import inspect
from collections.abc import Collection

from transformers import PreTrainedTokenizerBase, ProcessorMixin

from common.errors import UserError

# Newer transformers encode control tokens in chat text as plain text when asked.
CAN_SANITIZE = (
    "sanitize_control_tokens" in inspect.signature(ProcessorMixin.apply_chat_template).parameters
)
MEDIA_KEYS = frozenset({"image", "audio"})  # of a part of a message: no text in them


def encode_plain(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of untrusted text: it cannot spell a control token.

    Raises:
        UserError: the text has half of a surrogate pair, which is no character and has no ids.
    """
    try:
        return _ids_of(text, tokenizer)
    except (TypeError, UnicodeEncodeError):  # which of them is the tokenizer's choice
        _refuse_half_characters(text)
        raise


def _ids_of(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    # What the call above comes to, without its threads and the objects that it makes around the
    # ids of a text: loaders encode one text at a time.
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    return backend.encode(text, add_special_tokens=False).ids


def _refuse_half_characters(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        place = error.start
        raise UserError(f"the text has half a character at {place}; write it anew") from None


def refuse_control_tokens(conversation: object, tokens: Collection[str]) -> None:
    """Look for the tokens in every string of a conversation.

    Raises:
        UserError: one of the tokens is there; names it.
    """
    if isinstance(conversation, dict):
        texts = [value for key, value in conversation.items() if key not in MEDIA_KEYS]
        refuse_control_tokens(texts, tokens)
    elif isinstance(conversation, str):
        found = next((token for token in tokens if token in conversation), None)
        if found is not None:
            raise UserError(
                f"the chat text contains the control token {found}; remove it, or use "
                "apply_chat_template(sanitize_control_tokens=True) of a transformers that has it, "
                "without return_assistant_tokens_mask"
            )
    elif isinstance(conversation, list | tuple):
        for part in conversation:
            refuse_control_tokens(part, tokens)
