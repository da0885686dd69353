"""A pass through FLARE in three parts: before the decoder's blocks, through them, and behind them.

Training without a pipeline makes one after the other. With one, the first and the last part are
made by the ranks that read the rows and by the last stage, and the blocks lie on several ranks.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from common.objectives.language import linear_next_token_loss
from common.objectives.preferences import answer_log_probs, preference_loss
from common.training.task import Finish, Start
from flare.data import PREFERENCE, FlareBatch
from flare.decoder import hybrid_mask, positions_in_documents
from flare.encoding import AUDIO_TEXT, IMAGE_TEXT
from flare.media import Clips, Encoded
from flare.model import FlareForConditionalGeneration
from flare.safety.task_answers import Answers


def start(model: FlareForConditionalGeneration, batch: FlareBatch) -> Start:
    """Embedded rows with their media in place, and the vectors of media that are contrasted."""
    images = model.encode_images(batch.pixel_values)
    audio = encode_clips(model, batch.clips)
    vectors = {IMAGE_TEXT: images.vectors, AUDIO_TEXT: audio.vectors}
    return Start(
        hidden=model.embed(batch.input_ids, images=images.tokens, audio=audio.tokens),
        media={term: vectors[term][index.media] for term, index in batch.pairs.items()},
        ids={term: index.caption_ids for term, index in batch.pairs.items()},
    )


def encode_clips(model: FlareForConditionalGeneration, clips: Clips) -> Encoded:
    """Tokens and vectors of recordings in reading order, a call of the encoder for each group."""
    groups = [
        model.encode_audio(waveforms, lengths)
        for waveforms, lengths in zip(clips.waveforms, clips.lengths, strict=True)
    ]
    heard = [group.tokens[: len(group.vectors)] for group in groups]
    dummies = [group.tokens[len(group.vectors) :] for group in groups]
    return Encoded(
        tokens=torch.cat([torch.cat(heard)[clips.order], *dummies]),
        vectors=torch.cat([group.vectors for group in groups])[clips.order],
    )


def advance(
    model: FlareForConditionalGeneration,
    blocks: Iterable[nn.Module],
    x: Float[Tensor, "b s d"],
    batch: FlareBatch,
) -> Float[Tensor, "b s d"]:
    """Through some of the decoder's blocks."""
    return model.decoder.advance(
        blocks,
        x,
        positions=positions_in_documents(batch.document_ids),
        mask=hybrid_mask(batch.document_ids, batch.bidirectional),
        backend=model.config.attention_backend,
    )


def finish(
    model: FlareForConditionalGeneration,
    batch: FlareBatch,
    x: Float[Tensor, "b s d"],
    *,
    z_loss: float,
    beta: float | None = None,
) -> Finish:
    """Sums of the language losses and, given its `beta`, of the pairs'; the vectors of captions."""
    hidden = model.decoder.norm(x).flatten(0, 1)
    losses = {
        term: linear_next_token_loss(
            hidden[target.positions], model.head.weight, target.ids, z_loss=z_loss
        )
        for term, target in batch.targets.items()
    }
    if beta is not None and batch.answers is not None:
        log_probs = answers_of(model, hidden, batch.answers)
        losses[PREFERENCE] = preference_loss(log_probs, batch.answers.reference, beta=beta)
    return Finish(
        losses=losses,
        texts={term: model.text_vectors(hidden[index.text]) for term, index in batch.pairs.items()},
    )


def answers_of(
    model: FlareForConditionalGeneration, hidden: Float[Tensor, "n d"], answers: Answers
) -> Float[Tensor, " a"]:
    """Log-probabilities of answers, from the normed hidden states of all positions."""
    return answer_log_probs(
        hidden[answers.positions],
        model.head.weight,
        answers.ids,
        answers=answers.numbers,
        num_answers=len(answers.reference),
    )
