"""English for sounds: full and partial captions, and questions with one-word answers. Captions
leave attributes out at random, so that each word has to be bound to what it alone names."""

from dataclasses import dataclass

import numpy as np

from common.data.embedded.captions import FULL_CAPTION_SHARE
from common.data.embedded.sounds import SOUND_ATTRIBUTES, Sound, SoundAttribute

SOUND_PLURALS = {
    "tone": "tones",
    "buzz": "buzzes",
    "hiss": "hisses",
    "warble": "warbles",
    "chirp": "chirps",
    "rattle": "rattles",
    "sound": "sounds",
}
SOUND_QUESTIONS: dict[SoundAttribute, tuple[str, ...]] = {
    "kind": ("What kind of sound is heard?", "Which sound do you hear?"),
    "pitch": ("What pitch is heard?", "Which pitch do you hear?"),
    "count": ("How many sounds are there?", "How many sounds do you hear?"),
    "pace": ("Is it slow or fast?", "What pace do you hear?"),
    "shape": ("Is it fading or swelling?", "How does the loudness change?"),
}


@dataclass(frozen=True, kw_only=True)
class SoundQuestionAnswer:
    """One question about a recording and its one-word answer."""

    attribute: SoundAttribute
    question: str
    answer: str


def full_sound_caption(sound: Sound) -> str:
    """The caption that names everything: `two slow fading low buzzes`."""
    return _phrase(sound, named=frozenset(SOUND_ATTRIBUTES))


def partial_sound_caption(sound: Sound, generator: np.random.Generator) -> str:
    """A phrase, true of the sound, that names all or at least one of its attributes."""
    if generator.random() < FULL_CAPTION_SHARE:
        return full_sound_caption(sound)
    subset = int(generator.integers(1, 2 ** len(SOUND_ATTRIBUTES)))
    named = frozenset(name for bit, name in enumerate(SOUND_ATTRIBUTES) if subset >> bit & 1)
    return _phrase(sound, named=named)


def sound_questions(sound: Sound) -> tuple[SoundQuestionAnswer, ...]:
    """Every question about the sound with its answer, grouped by attribute in a fixed order."""
    return tuple(
        SoundQuestionAnswer(attribute=attribute, question=question, answer=sound.value(attribute))
        for attribute, wordings in SOUND_QUESTIONS.items()
        for question in wordings
    )


def _phrase(sound: Sound, *, named: frozenset[SoundAttribute]) -> str:
    """A noun phrase with exactly the named attributes, in the order of English."""
    if not named & {"count", "kind"}:
        described = ["something"]
        described += [sound.value(name) for name in ("pace", "shape", "pitch") if name in named]
        return " ".join(described)
    before: tuple[SoundAttribute, ...] = ("count", "pace", "shape", "pitch")
    described = [sound.value(name) for name in before if name in named]
    noun = sound.kind if "kind" in named else "sound"
    described.append(noun if sound.count == "one" else SOUND_PLURALS[noun])
    if "count" not in named and sound.count == "one":
        described.insert(0, "a")
    return " ".join(described)
