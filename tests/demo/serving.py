"""Tiny models in folders, and the page that shows them, served by the real script in a process of
its own."""

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, ProcessorMixin

from common.data.embedded.tokenizer import train_tokenizer
from flare.processing import CONTROL_TOKENS, FlareProcessor
from tests.flamingo import tiny as tiny_flamingo
from tests.flare import tiny as tiny_flare

ROOT = Path(__file__).resolve().parents[2]
VOCAB = 300


@dataclass(frozen=True)
class Served:
    """Where the page is, and the file of what its process complained about."""

    address: str
    complaints: Path


def write_models(folder: Path) -> list[Path]:
    """An untrained Flamingo and an untrained FLARE, both of which write letters without an end."""
    flare = FlareProcessor.from_tokenizer(
        train_tokenizer(["x"], vocab_size=263, control_tokens=CONTROL_TOKENS),
        vocab_size=VOCAB,
        image_size=tiny_flare.IMAGE_SIZE,
        image_queries=tiny_flare.IMAGE_QUERIES,
        audio_queries=tiny_flare.AUDIO_QUERIES,
    )
    return [
        _written(tiny_flamingo.model(vocab_size=VOCAB), tiny_flamingo.processor(VOCAB), folder),
        _written(tiny_flare.model(vocab_size=VOCAB), flare, folder),
    ]


@contextmanager
def served(folders: Sequence[Path], log: Path, *, options: Sequence[str] = ()) -> Iterator[Served]:
    """The page of these models, on a port that is free."""
    models = [word for folder in folders for word in ("--model", str(folder))]
    command = [sys.executable, "scripts/demo.py", *models, "--port", "0", *options]
    with log.open("w") as complaints:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=complaints, text=True
        )
    try:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
        assert found is not None, log.read_text()
        yield Served(found.group(), log)
    finally:
        process.terminate()
        process.wait(timeout=20)


def _written(model: PreTrainedModel, processor: ProcessorMixin, folder: Path) -> Path:
    place = folder / model.config.model_type
    letters = set(processor.tokenizer.convert_tokens_to_ids([*"abcdefghijklmnopqrstuvwxyz"]))
    others = set(range(len(processor.tokenizer))) - letters
    model.generation_config.suppress_tokens = sorted(others)
    model.save_pretrained(place)
    processor.save_pretrained(place)
    return place
