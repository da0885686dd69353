"""FLARE's corpora: disjoint splits, neighbours in families, and captions that fit their media."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from common.data.document import Document, Recording
from common.data.embedded import speech
from common.data.embedded.scenes import ATTRIBUTES
from common.data.embedded.sounds import SOUND_ATTRIBUTES
from common.errors import UserError
from flare.corpora import CorpusSplit, Kind, SourceConfig, embedded_tokenizer, open_feed

GENERATED: tuple[Kind, ...] = ("scenes", "sounds", "digits", "mixed", "prose")


def corpus(
    kind: Kind, *, split: CorpusSplit = "train", path: Path | None = None, family_size: int = 1
) -> Callable[[int], Document]:
    feed = open_feed(
        [SourceConfig(kind=kind, weight=1.0, path=path)],
        split=split,
        seed=3,
        family_size=family_size,
        tokenizer=embedded_tokenizer(),
    )
    return lambda number: feed.read(number).document


def texts(document: Document) -> list[str]:
    return [part for part in document.parts if isinstance(part, str)]


def same(first: Document, second: Document) -> bool:
    def plain(part: object) -> object:
        samples = part.samples if isinstance(part, Recording) else part
        return samples.tobytes() if isinstance(samples, np.ndarray) else samples

    parts = [[plain(part) for part in document.parts] for document in (first, second)]
    return parts[0] == parts[1] and (first.key, first.caption) == (second.key, second.caption)


@pytest.mark.parametrize("kind", GENERATED)
def test_a_generated_document_is_a_function_of_its_index(kind: Kind) -> None:
    first, second = corpus(kind, family_size=4), corpus(kind, family_size=4)
    backwards = [first(index) for index in reversed(range(7))][::-1]
    assert all(same(second(index), document) for index, document in enumerate(backwards))
    assert len({document.key for document in backwards}) == 7


@pytest.mark.parametrize("kind", ["scenes", "sounds", "digits"])
def test_a_captioned_document_tells_its_caption_after_its_only_medium(kind: Kind) -> None:
    for index in range(5):
        document = corpus(kind)(index)
        medium, text = document.parts
        assert isinstance(medium, Recording) == (kind == "sounds")
        assert document.caption
        assert text.endswith(document.caption)


@pytest.mark.parametrize(("kind", "attributes"), [("scenes", 5), ("sounds", 5)])
def test_members_of_a_family_differ_in_at_most_one_attribute(kind: Kind, attributes: int) -> None:
    draw = corpus(kind, family_size=4)
    families = [[draw(4 * family + i).caption.split() for i in range(4)] for family in range(12)]
    for head, *others in families:
        for other in others:
            # A changed number may change the noun to its plural with it.
            changed = sum(a != b for a, b in zip(head, other, strict=False))
            assert len(head) != len(other) or changed <= 2
    captions = {" ".join(caption) for family in families for caption in family}
    assert len(captions) > 30


@pytest.mark.parametrize("kind", ["scenes", "sounds"])
def test_held_out_captions_are_never_trained_on(kind: Kind) -> None:
    train = {corpus(kind, family_size=2)(index).caption for index in range(150)}
    splits: tuple[CorpusSplit, ...] = ("validation", "unseen_pairs")
    held_out = [{corpus(kind, split=s)(index).caption for index in range(40)} for s in splits]
    assert not train & (held_out[0] | held_out[1])
    assert not held_out[0] & held_out[1]


def test_held_out_prose_is_never_trained_on() -> None:
    train, held_out = corpus("prose"), corpus("prose", split="validation")
    seen = {train(index).parts[0] for index in range(400)}
    assert not seen & {held_out(index).parts[0] for index in range(60)}


def test_mixed_documents_take_turns() -> None:
    kinds = [corpus("mixed")(index) for index in range(6)]
    assert [len(document.parts) for document in kinds] == [5, 2, 2, 5, 2, 2]
    assert all(document.caption is None for document in kinds)


def test_the_users_pairs_keep_media_and_captions_together(tmp_path: Path) -> None:
    for number in range(8):
        name = tmp_path / f"{number}"
        Image.new("RGB", (40, 32), (number, 0, 0)).save(name.with_suffix(".png"))
        samples = np.full(1600, number / 20, dtype=np.float32)
        soundfile.write(name.with_suffix(".wav"), samples, 16_000, subtype="FLOAT")
        name.with_suffix(".txt").write_text(f"number {number}")
    images, clips = corpus("image_pairs", path=tmp_path), corpus("audio_pairs", path=tmp_path)
    seen = set()
    for index in range(7):
        image, clip = images(index), clips(index)
        seen.add(image.caption)
        assert image.parts[1] == image.caption == f"number {image.parts[0][0, 0, 0]}"
        level = round(float(clip.parts[0].samples[0]) * 20)
        assert clip.parts[1] == clip.caption == f"number {level}"
    assert len(seen) == 7
    assert corpus("image_pairs", path=tmp_path, split="validation")(0).caption not in seen


def test_the_users_text_becomes_documents_without_captions(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("one\n\ntwo <mask>\n\nthree")
    document = corpus("text", path=path)(0)
    assert document.parts[0] in ("one", "two <mask>")
    assert document.caption is None


def test_a_corpus_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="audio_pairs needs a path: a folder of recordings"):
        corpus("audio_pairs")
    monkeypatch.setattr(speech, "is_available", lambda: False)
    with pytest.raises(UserError, match="speech needs the program espeak-ng"):
        corpus("speech")


def test_the_tokenizer_has_its_control_tokens_in_front_and_whole_words() -> None:
    tokenizer = embedded_tokenizer()
    control = ["<pad>", "<s>", "</s>", "<image>", "<audio>", "<mask>", "<emb>"]
    assert tokenizer.convert_tokens_to_ids(control) == list(range(7))
    assert len(tokenizer) == 1024
    assert embedded_tokenizer().get_vocab() == tokenizer.get_vocab()
    values = [*ATTRIBUTES.values(), *SOUND_ATTRIBUTES.values()]
    words = {word for group in values for word in group}
    split = {word for word in words if len(tokenizer.encode(f" {word}")) > 1}
    assert split == set()
