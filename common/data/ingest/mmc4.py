"""Multimodal C4 (Zhu et al., 2023): sentences, and images matched to them by CLIP similarity. An
image goes right before its sentence and a sentence has at most one; sentences keep their order,
and those that no image divides are joined by a space."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common.data.faults import BadSample
from common.data.ingest.documents import find_medium, write_document
from common.data.ingest.lines import Line, bare_name, read_lines
from common.data.ingest.media import MediaFinder
from common.data.ingest.report import IngestReport
from common.data.shards.writer import EncodedMedium, ShardWriter
from common.data.text_decoding import decode_json

MIN_SIMILARITY = 0.24  # of an image to its sentence, by CLIP ViT-L/14


@dataclass(frozen=True, kw_only=True)
class MatchedImage:
    """An image, the sentence that the dataset gave it, and how similar it is to every sentence."""

    names: tuple[str, ...]  # of its file and its address
    sentence: int
    similarities: tuple[float, ...]

    @property
    def similarity(self) -> float:
        """To its own sentence."""
        return self.similarities[self.sentence]


def ingest_mmc4(
    path: Path,
    writer: ShardWriter,
    *,
    find: MediaFinder,
    min_similarity: float = MIN_SIMILARITY,
) -> IngestReport:
    """Write the documents of one `.jsonl` or `.jsonl.zip` file; keys are `FILE-LINE`.

    Images that are not found are left out; those that get no sentence are `unplaced`. A document
    without any image is a fault.

    Raises:
        UserError: the file does not exist.
    """
    report = IngestReport()

    def write(line: Line) -> None:
        name = f"{path} line {line[0]}"
        record = decode_json(line[1], name=name)
        sentences = _sentences(record, name=name)
        found = []
        for image in _images(record, num_sentences=len(sentences), name=name):
            try:
                found.append((image, find_medium(find, *image.names)))
            except BadSample as fault:
                report.leave_out(fault)
        places = place_images([image for image, _ in found], min_similarity=min_similarity)
        report.unplaced += len(found) - len(places)
        media = {place: found[number][1] for place, number in places.items()}
        write_document(writer, f"{bare_name(path)}-{line[0]}", _merged(sentences, media))
        report.written += 1

    return report.take_each(read_lines(path), write)


def place_images(images: list[MatchedImage], *, min_similarity: float) -> dict[int, int]:
    """Which image goes before which sentence; no image is nearer to its sentence than allowed.

    Of the images that are matched to one sentence the most similar stays. The others, the most
    similar first, go to the sentence that is nearest to them among those that are still free.
    """
    order = sorted(range(len(images)), key=lambda number: -images[number].similarity)
    places: dict[int, int] = {}
    moving = []
    for number in order:
        image = images[number]
        if image.sentence not in places and image.similarity >= min_similarity:
            places[image.sentence] = number
        else:
            moving.append(number)
    for number in moving:
        similarities = images[number].similarities
        free = [place for place in range(len(similarities)) if place not in places]
        nearest = max(free, key=lambda place: similarities[place], default=None)
        if nearest is not None and similarities[nearest] >= min_similarity:
            places[nearest] = number
    return places


def _sentences(record: Mapping[str, object], *, name: str) -> list[str]:
    sentences = record.get("text_list")
    if not isinstance(sentences, list) or not all(isinstance(text, str) for text in sentences):
        raise BadSample("json_invalid", f"{name} has no text_list of sentences; correct it")
    return sentences


def _images(record: Mapping[str, object], *, num_sentences: int, name: str) -> list[MatchedImage]:
    infos, matrix = record.get("image_info"), record.get("similarity_matrix")
    if not isinstance(infos, list) or not isinstance(matrix, list) or len(infos) != len(matrix):
        raise BadSample(
            "json_invalid", f"{name} needs a row of similarity_matrix for each image_info"
        )
    return [
        _image(info, row, num_sentences=num_sentences, name=f"{name} image {number}")
        for number, (info, row) in enumerate(zip(infos, matrix, strict=True))
    ]


def _image(info: object, row: object, *, num_sentences: int, name: str) -> MatchedImage:
    fields = info if isinstance(info, dict) else {}
    names = [fields.get("image_name"), fields.get("raw_url")]
    given = tuple(name for name in names if isinstance(name, str))
    sentence = fields.get("matched_text_index")
    if not given or type(sentence) is not int or not 0 <= sentence < num_sentences:
        raise BadSample("json_invalid", f"{name} has no name or no sentence; correct it")
    similarities = row if isinstance(row, list) else []
    are_numbers = all(isinstance(value, int | float) for value in similarities)
    if not are_numbers or len(similarities) != num_sentences:
        raise BadSample("json_invalid", f"{name} needs one similarity for each sentence")
    return MatchedImage(
        names=given, sentence=sentence, similarities=tuple(map(float, similarities))
    )


def _merged(sentences: list[str], media: Mapping[int, EncodedMedium]) -> list[str | EncodedMedium]:
    parts: list[str | EncodedMedium] = []
    for place, sentence in enumerate(sentences):
        if place in media:
            parts.append(media[place])
        if not sentence.strip():
            continue
        if parts and isinstance(parts[-1], str):
            parts[-1] = f"{parts[-1]} {sentence}"
        else:
            parts.append(sentence)
    return parts
