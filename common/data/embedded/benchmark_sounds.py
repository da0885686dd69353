"""Generated sounds as the clips of ESC-50 and AudioSet, which have classes, and of AudioCaps and
Clotho, which have captions."""

import csv
import string
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from common.data.document import SAMPLE_RATE_HZ, Recording
from common.data.embedded.sound_captions import full_sound_caption, partial_sound_caption
from common.data.embedded.sounds import (
    KINDS,
    PITCHES_HZ,
    SHAPES,
    Sound,
    SoundSplit,
    render_sound,
    sounds_in,
)
from common.data.randomness import generator_at

NUM_CAPTIONS = 5
LAST_FOLD = 5  # of ESC-50: the one with combinations that training never has
ID_LENGTH = 11  # of a clip of AudioSet
START_S = 30
AUDIO_SET_NOTES = (
    "# Segments of generated clips",
    "# YTID, start_seconds, end_seconds, positive_labels",
)


def write_esc50(folder: Path, *, num: int, seed: int) -> None:
    """Folds 1 to 4 hold combinations that training has, fold 5 as many that it never has."""
    rows = []
    for split in ("train", "unseen_sounds"):
        for index, sound, generator in _sounds("esc50", split, num=num, seed=seed):
            fold = LAST_FOLD if split == "unseen_sounds" else index % (LAST_FOLD - 1) + 1
            target = KINDS.index(sound.kind)
            source = 100_000 + index
            name = f"{fold}-{source}-A-{target}.wav"
            _write_sound(render_sound(sound, generator), folder / "audio" / name)
            rows.append((name, fold, target, sound.kind, False, source, "A"))
    columns = ("filename", "fold", "target", "category", "esc10", "src_file", "take")
    _write_table(folder / "meta" / "esc50.csv", columns, rows)


def write_audio_set(folder: Path, *, num: int, seed: int) -> None:
    """Each clip has three labels: its kind, its pitch and how its loudness changes."""
    words = (*KINDS, *PITCHES_HZ, *SHAPES)
    names = [word if word in KINDS else f"{word} sound" for word in words]
    labels = {word: f"/m/0{number:04d}" for number, word in enumerate(words)}
    rows = [(number, labels[word], names[number]) for number, word in enumerate(words)]
    _write_table(folder / "class_labels_indices.csv", ("index", "mid", "display_name"), rows)
    parts: Mapping[Literal["train", "eval"], tuple[str, SoundSplit]] = {
        "train": ("balanced_train", "train"),
        "eval": ("eval", "unseen_sounds"),
    }
    for part, (table, split) in parts.items():
        lines = list(AUDIO_SET_NOTES)
        for _, sound, generator in _sounds("audio_set", split, num=num, seed=seed):
            clip = _clip_id(generator)
            _write_sound(render_sound(sound, generator), folder / part / f"{clip}.wav")
            own = ",".join(labels[word] for word in (sound.kind, sound.pitch, sound.shape))
            lines.append(f'{clip}, {START_S:.3f}, {START_S + 10:.3f}, "{own}"')
        text = "\n".join(lines) + "\n"
        (folder / f"{table}_segments.csv").write_text(text, encoding="utf-8")


def write_audio_caps(folder: Path, *, num: int, seed: int) -> None:
    """One caption of a clip for training, five for testing."""
    parts: Mapping[Literal["train", "test"], SoundSplit] = {
        "train": "train",
        "test": "unseen_sounds",
    }
    for part, split in parts.items():
        rows: list[tuple[object, ...]] = []
        for _, sound, generator in _sounds("audio_caps", split, num=num, seed=seed):
            clip = _clip_id(generator)
            _write_sound(render_sound(sound, generator), folder / part / f"{clip}_{START_S}.wav")
            said = _captions(sound, generator)[: 1 if part == "train" else NUM_CAPTIONS]
            rows += [(len(rows) + place, clip, START_S, text) for place, text in enumerate(said)]
        columns = ("audiocap_id", "youtube_id", "start_time", "caption")
        _write_table(folder / f"{part}.csv", columns, rows)


def write_clotho(folder: Path, *, num: int, seed: int) -> None:
    """Five captions a clip in both parts."""
    parts: Mapping[Literal["development", "evaluation"], SoundSplit] = {
        "development": "train",
        "evaluation": "unseen_sounds",
    }
    columns = ("file_name", *(f"caption_{number}" for number in range(1, NUM_CAPTIONS + 1)))
    for part, split in parts.items():
        rows = []
        for index, sound, generator in _sounds("clotho", split, num=num, seed=seed):
            name = f"{sound.kind} {index:05d}.wav"
            _write_sound(render_sound(sound, generator), folder / part / name)
            rows.append((name, *_captions(sound, generator)))
        _write_table(folder / f"clotho_captions_{part}.csv", columns, rows)


def _sounds(
    data_set: str, split: SoundSplit, *, num: int, seed: int
) -> Iterator[tuple[int, Sound, np.random.Generator]]:
    """Different sounds as long as there are, each with a generator of its own."""
    sounds = sounds_in(split)
    stream = f"benchmarks/{data_set}/{split}"
    order = generator_at(seed=seed, index=num, stream=stream).permutation(len(sounds))
    for index in range(num):
        generator = generator_at(seed=seed, index=index, stream=stream)
        yield index, sounds[order[index % len(sounds)]], generator


def _captions(sound: Sound, generator: np.random.Generator) -> list[str]:
    drawn = [partial_sound_caption(sound, generator) for _ in range(NUM_CAPTIONS - 1)]
    return [full_sound_caption(sound), *drawn]


def _clip_id(generator: np.random.Generator) -> str:
    return "".join(generator.choice(list(string.ascii_letters + string.digits), ID_LENGTH))


def _write_sound(recording: Recording, path: Path) -> None:
    import soundfile  # noqa: PLC0415 -- loads a library; most of the code never needs it

    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, recording.samples, SAMPLE_RATE_HZ, subtype="PCM_16")


def _write_table(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])
