"""How probable given answers are after prompts: a prompt is read once for all its answers, which go
on from what a model keeps of it (paper of Flamingo, section 3.3: close-ended tasks)."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from common.data.prompts import completed
from common.errors import UserError

# In one call of the model: each has a copy of its prompt's caches.
ANSWERS_AT_ONCE = 16
# Logits behind each token of some answers (n s), given the prompt (of b) that each one follows (n).
LogitsAfter: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def log_probabilities(
    first: Float[Tensor, "b v"],
    answers: Sequence[Sequence[Sequence[int]]],
    *,
    logits_after: LogitsAfter,
) -> list[list[float]]:
    """Summed log-probabilities of the tokens of each prompt's answers, in nats.

    Args:
        first: logits behind the prompts.
        answers: ids of each answer, per prompt.
    """
    before = first.float().log_softmax(-1)
    pairs = [(row, ids) for row, own in enumerate(answers) for ids in own]
    sums: list[float] = []
    for start in range(0, len(pairs), ANSWERS_AT_ONCE):
        part = pairs[start : start + ANSWERS_AT_ONCE]
        rows = torch.tensor([row for row, _ in part], device=first.device)
        ids, is_real = _padded([ids for _, ids in part], device=first.device)
        found = before[rows].gather(1, ids[:, :1])
        if ids.shape[1] > 1:
            # What the last token is followed by is not asked for.
            later = logits_after(rows, ids[:, :-1]).float().log_softmax(-1)
            found = torch.cat([found, later.gather(2, ids[:, 1:, None])[..., 0]], dim=1)
        sums += found.masked_fill(~is_real, 0.0).double().sum(1).tolist()
    ends = iter(sums)
    return [[next(ends) for _ in own] for own in answers]


def answer_ids(
    text: str, answers: Sequence[str], *, encode: Callable[[str], list[int]]
) -> list[list[int]]:
    """Ids by which training would have completed a prompt's last text with each of the answers.

    Raises:
        UserError: there is no answer, one is empty, or the text ends inside of a token.
    """
    if not answers:
        raise UserError(f"prompt {text!r} has no answer to choose from; name at least one")
    prompt, found = encode(text), []
    for answer in answers:
        if not answer.strip():
            raise UserError(f"an answer to choose from after {text!r} is empty; remove it")
        whole = encode(completed(text, answer))
        if whole[: len(prompt)] != prompt:
            raise UserError(
                f"the answer {answer!r} changes the tokens of the prompt {text!r} before it; "
                "end the prompt without a space"
            )
        found.append(whole[len(prompt) :])
    return found


def _padded(answers: Sequence[Sequence[int]], *, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids with zeros behind, which nothing before them sees, and which of them are real."""
    width = max(map(len, answers))
    ids = [[*own, *[0] * (width - len(own))] for own in answers]
    lengths = torch.tensor([len(own) for own in answers], device=device)
    return torch.tensor(ids, device=device), torch.arange(width, device=device) < lengths[:, None]
