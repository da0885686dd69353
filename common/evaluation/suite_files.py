"""An evaluation's folder: the settings that it was begun with (`config.json`), so that answers of
different settings never mix, and its result (`results.json`, media of samples in `samples/`), from
which a report can be drawn again without the model."""

import json
from hashlib import sha256
from pathlib import Path

import PIL.Image

from common.data.audio import read_audio
from common.data.document import SAMPLE_RATE_HZ, Recording
from common.data.images import read_image
from common.data.shards.files import write_atomically
from common.errors import UserError
from common.evaluation.models import Medium
from common.evaluation.scores import Sample, Score, SuiteResult
from common.training.config_json import Json, flatten, from_json, to_json

CONFIG, RESULTS, SAMPLES = "config.json", "results.json", "samples"
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "config.json")
PIECES, PIECE_BYTES = 64, 65_536  # of a file of weights, spread evenly: training changes them all


def begin(folder: Path, settings: Json) -> None:
    """Keep the settings in a new folder, or see that they are those of an evaluation begun there.

    Raises:
        UserError: the folder holds anything else; says which settings differ.
    """
    path = folder / CONFIG
    if not path.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} holds no evaluation, but other files; name another --out")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot make {folder}: {error.strerror}; name another --out"
            ) from error
        data = json.dumps(settings, indent=2).encode()
        write_atomically(path, lambda file: file.write(data + b"\n"))
        return
    known, asked = flatten(_read_json(path)), flatten(settings)
    names = [*known, *(name for name in asked if name not in known)]
    changes = [
        f"{name} was {json.dumps(known.get(name))}, is {json.dumps(asked.get(name))}"
        for name in names
        if known.get(name) != asked.get(name)
    ]
    if changes:
        raise UserError(
            f"{folder} was begun with other settings ({'; '.join(changes)}); name another --out "
            "or remove the folder"
        )


def weights_digest(folder: Path) -> str:
    """Tells a folder's model from any other, without reading all of it: by the names and sizes of
    its files and by pieces of each."""
    digest = sha256()
    for path in sorted({path for pattern in WEIGHTS for path in folder.glob(pattern)}):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        step = max(size // PIECES, PIECE_BYTES)
        with path.open("rb") as file:
            for start in range(0, size, step):
                file.seek(start)
                digest.update(file.read(PIECE_BYTES))
    return digest.hexdigest()


def is_finished(folder: Path) -> bool:
    """Whether its result is there."""
    return (folder / RESULTS).exists()


def result_to_json(result: SuiteResult, folder: Path) -> dict[str, Json]:
    """A result as plain values; the media of its samples are written into the folder."""
    samples = []
    for number, sample in enumerate(result.samples):
        media = [
            _write_medium(medium, folder, name=f"{number:03d}-{place}")
            for place, medium in enumerate(sample.media)
        ]
        words = {"asked": sample.asked, "written": sample.written}
        samples.append(
            words | {"expected": [*sample.expected], "is_hit": sample.is_hit, "media": media}
        )
    return {
        "name": result.name,
        "scores": [to_json(score) for score in result.scores],
        "notes": [*result.notes],
        "samples": samples,
    }


def read_result(folder: Path) -> SuiteResult:
    """What was written there.

    Raises:
        UserError: a file is missing or damaged.
    """
    content = _read_json(folder / RESULTS)
    try:
        return SuiteResult(
            name=content["name"],
            scores=tuple(from_json(Score, score) for score in content["scores"]),
            samples=tuple(
                Sample(
                    media=tuple(_read_medium(folder / name) for name in sample["media"]),
                    asked=sample["asked"],
                    written=sample["written"],
                    expected=tuple(sample["expected"]),
                    is_hit=sample["is_hit"],
                )
                for sample in content["samples"]
            ),
            notes=tuple(content["notes"]),
        )
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{folder / RESULTS} is damaged; remove it and run the same command again"
        ) from error


def _read_json(path: Path) -> Json:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged; remove {path.parent} and run the same command again"
        ) from error


def _write_medium(medium: Medium, folder: Path, *, name: str) -> str:
    """Without loss, since the report is drawn from it."""
    (folder / SAMPLES).mkdir(exist_ok=True)
    if not isinstance(medium, Recording):
        PIL.Image.fromarray(medium).save(folder / SAMPLES / f"{name}.png")
        return f"{SAMPLES}/{name}.png"
    import soundfile  # noqa: PLC0415 -- loads a library; most of the code never needs it

    file = folder / SAMPLES / f"{name}.wav"
    soundfile.write(file, medium.samples, SAMPLE_RATE_HZ, subtype="FLOAT")
    return f"{SAMPLES}/{name}.wav"


def _read_medium(path: Path) -> Medium:
    return read_audio(path) if path.suffix == ".wav" else read_image(path)
