"""Generated scenes as COCO's photographs with captions in both official forms, as the questions of
VQAv2 and OK-VQA with ten answers each, and as a folder of classes like ImageNet's."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import PIL.Image

from common.data.document import Image
from common.data.embedded.captions import (
    PLURALS,
    POSITION_PHRASES,
    caption,
    full_caption,
    questions,
)
from common.data.embedded.scenes import (
    ATTRIBUTES,
    SHAPES,
    Attribute,
    Scene,
    Split,
    render,
    scenes_in,
)
from common.data.randomness import generator_at

Year: TypeAlias = Literal["train2014", "val2014"]
SPLITS: Mapping[Year, Split] = {"train2014": "train", "val2014": "unseen_scenes"}
NUM_CAPTIONS = 5
NUM_ANSWERS = 10
MOST_DISSENTING = 3  # of them; the others suffice for full accuracy
# What VQAv2 calls the kinds of question and of answer; a kind of question is how it begins.
QUESTION_TYPES: Mapping[Attribute, str] = {
    "colour": "what color is the",
    "shape": "what",
    "count": "how many",
    "position": "where is the",
    "size": "what",
}
# OK-VQA numbers its kinds: a question of "one" is about vehicles, of "other" about anything.
OK_VQA_TYPES: Mapping[Attribute, str] = {"shape": "one", "position": "two"}
DIGITS = {"one": "1", "two": "2", "three": "3"}
SYNONYMS = {"circle": "disc", "ring": "hoop", "bar": "rod", "cross": "plus sign"}
# Captions of training name everything; of these colours no pair with a shape is held out.
TEMPLATES = tuple(
    f"one {size} {colour} {{}} {phrase}"
    for size in ATTRIBUTES["size"]
    for colour in ("orange", "cyan")
    for phrase in POSITION_PHRASES.values()
)


@dataclass(frozen=True, kw_only=True)
class Photo:
    """A scene as one of COCO's photographs."""

    image_id: int
    year: Year
    scene: Scene

    @property
    def name(self) -> str:
        """`COCO_val2014_000000000042.jpg`"""
        return f"COCO_{self.year}_{self.image_id:012d}.jpg"


def write_photos(folder: Path, *, num: int, seed: int) -> list[Photo]:
    """Photographs of both years, with captions as by COCO and as by Karpathy."""
    photos = []
    captions: dict[int, list[str]] = {}
    for year, split in SPLITS.items():
        for index, scene in enumerate(_scenes(num, split=split, seed=seed)):
            generator = generator_at(seed=seed, index=index, stream=f"benchmarks/photo/{year}")
            # As COCO's: numbers with gaps, and none in both years.
            image_id = 17 * index + 9 + (8 if year == "val2014" else 0)
            photo = Photo(image_id=image_id, year=year, scene=scene)
            _write_image(render(scene, generator), folder / year / photo.name)
            said = [caption(scene, generator) for _ in range(NUM_CAPTIONS - 1)]
            captions[photo.image_id] = [full_caption(scene), *said]
            photos.append(photo)
    for year in SPLITS:
        own = [photo for photo in photos if photo.year == year]
        _write_json(_coco_captions(own, captions), folder / f"annotations/captions_{year}.json")
    _write_json(_karpathy(photos, captions), folder / "dataset_coco.json")
    return photos


def write_questions(folder: Path, photos: Sequence[Photo], *, seed: int) -> None:
    """VQAv2 asks of each photograph for its colour, its number and one thing to be affirmed or
    denied; OK-VQA for its shape and its place, with stemmed answers."""
    for year in SPLITS:
        own = [photo for photo in photos if photo.year == year]
        v2, ok = [], []
        for index, photo in enumerate(own):
            generator = generator_at(seed=seed, index=index, stream=f"benchmarks/asked/{year}")
            v2 += _vqav2(photo, generator)
            ok += _ok_vqa(photo, generator)
        _write_pair(v2, folder / "vqav2", prefix="v2_", year=year)
        _write_pair(ok, folder / "ok_vqa", prefix="", year=year)


def write_classes(folder: Path, *, num: int, seed: int) -> None:
    """A class for every shape; the name's first synonym is the word of the captions."""
    synsets = {shape: f"n{number:08d}" for number, shape in enumerate(SHAPES, 1)}
    kinds: Mapping[Literal["train", "val"], Split] = {"train": "train", "val": "unseen_scenes"}
    for kind, split in kinds.items():
        for index in range(max(num, len(SHAPES))):
            shape = SHAPES[index % len(SHAPES)]
            generator = generator_at(seed=seed, index=index, stream=f"benchmarks/class/{kind}")
            alone = [s for s in scenes_in(split) if s.shape == shape and s.count == "one"]
            scene = alone[int(generator.integers(len(alone)))]
            name = f"ILSVRC2012_{kind}_{index + 1:08d}.JPEG"
            _write_image(render(scene, generator), folder / kind / synsets[shape] / name)
    names = {s: f"{s}, {SYNONYMS[s]}" if s in SYNONYMS else s for s in SHAPES}
    lines = [f"{synset} {names[shape]}\n" for shape, synset in synsets.items()]
    (folder / "LOC_synset_mapping.txt").write_text("".join(lines), encoding="utf-8")
    (folder / "templates.txt").write_text("\n".join(TEMPLATES) + "\n", encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """A question as both files of a pair tell it."""

    photo: Photo
    number: int  # among those about the photograph
    question: str
    question_type: str
    answer_type: str
    answers: tuple[Mapping[str, str], ...]

    @property
    def numbers(self) -> dict[str, int]:
        image_id = self.photo.image_id
        return {"image_id": image_id, "question_id": 1000 * image_id + self.number}


def _scenes(num: int, *, split: Split, seed: int) -> list[Scene]:
    """Different ones as long as there are."""
    scenes = scenes_in(split)
    generator = generator_at(seed=seed, index=0, stream=f"benchmarks/scenes/{split}")
    order = generator.permutation(len(scenes))
    return [scenes[order[index % len(scenes)]] for index in range(num)]


def _coco_captions(photos: Sequence[Photo], captions: Mapping[int, list[str]]) -> object:
    images = [
        {"id": photo.image_id, "file_name": photo.name, "width": 32, "height": 32}
        for photo in photos
    ]
    said = [(photo.image_id, text) for photo in photos for text in captions[photo.image_id]]
    annotations = [
        {"id": number, "image_id": image_id, "caption": text}
        for number, (image_id, text) in enumerate(said)
    ]
    return {"info": {"year": 2014}, "images": images, "annotations": annotations}


def _karpathy(photos: Sequence[Photo], captions: Mapping[int, list[str]]) -> object:
    """Three of four photographs of the later year are to be tested on, the fourth is `val`."""
    images = []
    for number, photo in enumerate(photos):
        sentids = range(NUM_CAPTIONS * number, NUM_CAPTIONS * (number + 1))
        sentences = [
            {"raw": text, "tokens": text.split(), "imgid": number, "sentid": sentid}
            for sentid, text in zip(sentids, captions[photo.image_id], strict=True)
        ]
        later = "val" if number % 4 == 3 else "test"
        images.append(
            {
                "filepath": photo.year,
                "filename": photo.name,
                "cocoid": photo.image_id,
                "imgid": number,
                "split": "train" if photo.year == "train2014" else later,
                "sentids": list(sentids),
                "sentences": sentences,
            }
        )
    return {"dataset": "coco", "images": images}


def _vqav2(photo: Photo, generator: np.random.Generator) -> list[_Asked]:
    asked: list[_Asked] = []
    for attribute in ("colour", "count"):
        question, answer = _question(photo.scene, attribute, generator)
        spellings = {answer: (answer, DIGITS[answer])} if attribute == "count" else {}
        said = _ten(answer, ATTRIBUTES[attribute], generator)
        # Some write digits: official scores take "2" and "two" for one answer.
        answers = [str(generator.choice(spellings.get(word, (word,)))) for word in said]
        asked.append(
            _Asked(
                photo=photo,
                number=len(asked),
                question=question,
                question_type=QUESTION_TYPES[attribute],
                answer_type="number" if attribute == "count" else "other",
                answers=tuple({"answer": answer} for answer in answers),
            )
        )
    return [*asked, _affirmed_or_denied(photo, generator, number=len(asked))]


def _affirmed_or_denied(photo: Photo, generator: np.random.Generator, *, number: int) -> _Asked:
    colours = ATTRIBUTES["colour"]
    is_true = generator.random() < 0.5
    others = [colour for colour in colours if colour != photo.scene.colour]
    colour = photo.scene.colour if is_true else str(generator.choice(others))
    said = _ten("yes" if is_true else "no", ("yes", "no"), generator)
    return _Asked(
        photo=photo,
        number=number,
        question=f"Is there anything {colour}?",
        question_type="is there",
        answer_type="yes/no",
        answers=tuple({"answer": answer} for answer in said),
    )


def _ok_vqa(photo: Photo, generator: np.random.Generator) -> list[_Asked]:
    asked = []
    for number, (attribute, kind) in enumerate(OK_VQA_TYPES.items()):
        question, answer = _question(photo.scene, attribute, generator)
        stems = _ten(answer, ATTRIBUTES[attribute], generator)
        asked.append(
            _Asked(
                photo=photo,
                number=number + 5,
                question=question,
                question_type=kind,
                answer_type="other",
                answers=tuple(
                    # Where there are several, some write the plural; a stem has none.
                    {"raw_answer": str(generator.choice(_written(stem, photo.scene)))}
                    | {"answer": stem}
                    for stem in stems
                ),
            )
        )
    return asked


def _question(
    scene: Scene, attribute: Attribute, generator: np.random.Generator
) -> tuple[str, str]:
    asked = [item for item in questions(scene) if item.attribute == attribute]
    chosen = asked[int(generator.integers(len(asked)))]
    return chosen.question, chosen.answer


def _ten(answer: str, possible: Sequence[str], generator: np.random.Generator) -> list[str]:
    """Most people say what is true, a few something else."""
    others = [word for word in possible if word != answer]
    dissenting = int(generator.integers(MOST_DISSENTING + 1))
    said = [str(word) for word in generator.choice(others, dissenting)]
    said += [answer] * (NUM_ANSWERS - dissenting)
    return [said[place] for place in generator.permutation(NUM_ANSWERS)]


def _written(stem: str, scene: Scene) -> tuple[str, ...]:
    return (stem,) if scene.count == "one" or stem not in PLURALS else (stem, PLURALS[stem])


def _write_pair(asked: Sequence[_Asked], folder: Path, *, prefix: str, year: Year) -> None:
    asks = [item.numbers | {"question": item.question} for item in asked]
    told = [
        item.numbers
        | {
            "question_type": item.question_type,
            "answer_type": item.answer_type,
            "answers": [
                {"answer_id": number, "answer_confidence": "yes", **answer}
                for number, answer in enumerate(item.answers, 1)
            ],
        }
        for item in asked
    ]
    common = {"data_subtype": year, "data_type": "mscoco", "task_type": "Open-Ended"}
    questions_name = f"{prefix}OpenEnded_mscoco_{year}_questions.json"
    _write_json(common | {"questions": asks}, folder / questions_name)
    annotations_name = f"{prefix}mscoco_{year}_annotations.json"
    _write_json(common | {"annotations": told}, folder / annotations_name)


def _write_image(image: Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Colours in full resolution: these pictures are small.
    PIL.Image.fromarray(image).save(path, "JPEG", quality=95, subsampling=0)


def _write_json(content: object, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
