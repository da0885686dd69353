"""A conversation with a model that remembers it: caches of text and media grow turn by turn, so
each token is read and each picture encoded once. The model is called as transformers calls it; its
format writes the turns down."""

from collections.abc import Callable, Generator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from common.data.conversations.encoded import ChatFormat, EncodedChat, given, joined
from common.data.conversations.messages import Part, question, turns_of
from common.errors import UserError
from common.generation.chat import never

CACHES = ("past_key_values", "media_cache")
HALF_A_CHARACTER = "\N{REPLACEMENT CHARACTER}"


class CachedChat:
    """`Chat` of any model whose output holds its caches."""

    def __init__(
        self, model: PreTrainedModel, form: ChatFormat, *, max_tokens: int | None = None
    ) -> None:
        """A new conversation, of at most so many tokens; None: without a bound."""
        self.model, self.form, self.max_tokens = model, form, max_tokens
        self._writing: Generator[str] | None = None
        self.restart()

    def say(
        self,
        parts: Sequence[Part],
        *,
        max_new_tokens: int,
        temperature: float | None = None,
        stop: Callable[[], bool] = never,
    ) -> Generator[str]:
        """See `Chat`."""
        self._end_writing()
        turn = joined(
            [self._unread, *map(self.form.turn, turns_of(question(*parts))), self.form.opening()]
        )
        self._refuse_beyond(self._num_read + len(turn) + max_new_tokens)
        self._writing = self._answer(turn, max_new_tokens, temperature, stop)
        return self._writing

    def restart(self) -> None:
        """See `Chat`."""
        self._end_writing()
        self._caches: dict[str, object] = {}
        self._num_read = 0
        # Said or written, but not read by the model yet: what every call begins with.
        self._unread = self.form.begin()

    def _end_writing(self) -> None:
        if self._writing is not None:
            self._writing.close()
        self._writing = None

    def _refuse_beyond(self, num_tokens: int) -> None:
        if self.max_tokens is not None and num_tokens > self.max_tokens:
            raise UserError(
                f"the conversation and its next answer may have {num_tokens} tokens, but the model "
                f"reads {self.max_tokens}; say less, ask for a shorter answer, or restart"
            )

    def _answer(
        self,
        turn: EncodedChat,
        max_new_tokens: int,
        temperature: float | None,
        stop: Callable[[], bool],
    ) -> Generator[str]:
        was_training = self.model.training
        self.model.eval()
        written: list[int] = []
        told, unread = "", turn
        try:
            for _ in range(max_new_tokens):
                if stop():
                    break
                token = self._choose(self._read(unread), temperature)
                if token in self.form.ends:
                    unread = given([])
                    break
                written.append(token)
                unread = given([token])
                text = self._text(written)
                if text != told and not text.endswith(HALF_A_CHARACTER):
                    told = text
                    yield told
            if self._text(written) != told:
                yield self._text(written)
        finally:
            # However it ended, the turn is one: its end is read before the next.
            self._unread = joined([unread, given(self.form.ends[:1])])
            self.model.train(was_training)

    @torch.no_grad()
    def _read(self, chat: EncodedChat) -> Float[Tensor, " v"]:
        """Logits of what comes next."""
        inputs = self.form.batch_of([chat], padding_side="right")
        del inputs["attention_mask"]  # everything is attended to
        output = self.model(
            **{name: tensor.to(self.model.device) for name, tensor in inputs.items()},
            **self._caches,
            use_cache=True,
            logits_to_keep=1,
        )
        self._caches = {name: output[name] for name in CACHES if name in output}
        self._num_read += len(chat)
        logits: Tensor = output.logits[0, -1].float()
        return logits

    def _choose(self, logits: Float[Tensor, " v"], temperature: float | None) -> int:
        suppressed = self.model.generation_config.suppress_tokens or []
        logits[suppressed] = -torch.inf
        if temperature is None:
            return int(logits.argmax())
        return int(torch.multinomial(torch.softmax(logits / temperature, dim=-1), 1))

    def _text(self, written: Sequence[int]) -> str:
        text: str = self.form.tokenizer.decode(written, skip_special_tokens=True)
        return text.strip()
