"""Rows for training: labels, packing, images in the order of their tags, augmentation."""

import json
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from common.data.augmentation import AugmentConfig
from common.data.corpus import Split
from common.data.document import Document
from common.data.transfer import on_device
from common.errors import UserError
from flamingo.corpora import as_prompt, generated, open_feed
from flamingo.data import IGNORED, DocumentEncoder, DocumentSource, collate, join
from tests.feeds import feed_of, packed_examples, packed_rows
from tests.flamingo import tiny

PROCESSOR = tiny.processor()
IMAGE, END = PROCESSOR.image_token_id, PROCESSOR.end_of_chunk_token_id


def picture(shade: int) -> np.ndarray:
    return np.full((32, 32, 3), shade, dtype=np.uint8)


def encoder(*, max_tokens: int = 200, max_images: int = 20) -> DocumentEncoder:
    return DocumentEncoder(
        processor=PROCESSOR, image_size=32, max_tokens=max_tokens, max_images=max_images
    )


def source(draw: Callable[[int], Document], **fields: object) -> DocumentSource:
    settings = {
        "feed": feed_of({"all": (draw, 1.0)}, tokenizer=PROCESSOR.tokenizer),
        "encoder": encoder(),
        "batch_size": 2,
        "weight": 1.0,
        "next_image_probability": 0.0,
        "augment_steps": 0,
        "augmentation": AugmentConfig(),
        "seed": 0,
    }
    return DocumentSource(**(settings | fields))


def words(ids: torch.Tensor) -> str:
    return PROCESSOR.tokenizer.decode(ids[ids >= 0])


def test_labels_are_the_text_bound_to_an_image() -> None:
    document = Document(key="d", parts=("before", picture(1), "one", picture(2), "two"))
    example = encoder().encode(document, bind_next=False)
    assert words(example.labels) == "one<|endofchunk|>two<|endofchunk|>"
    bound = encoder().encode(document, bind_next=True)
    assert words(bound.labels) == "beforeone<|endofchunk|>"


def test_cut_rows_keep_tags_and_images_together() -> None:
    parts = [part for shade in range(6) for part in (picture(shade), "abc")]
    document = Document(key="d", parts=tuple(parts))
    few = encoder(max_images=4).encode(document, bind_next=False)
    short = encoder(max_tokens=8).encode(document, bind_next=False)
    for example, images in ((few, 4), (short, 2)):
        assert int((example.ids == IMAGE).sum()) == len(example.images) == images
    assert len(short.ids) == 8


@pytest.mark.proves("H2", "images of packed rows", 60)
@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.one_of(st.integers(0, 255), st.sampled_from(["a", "xyz"])), max_size=14),
        min_size=1,
        max_size=4,
    )
)
def test_every_tag_of_a_packed_row_meets_its_own_image(packed: list[list[int | str]]) -> None:
    documents = [
        Document(key=str(i), parts=tuple(picture(p) if isinstance(p, int) else p for p in parts))
        for i, parts in enumerate(packed)
    ]
    row = join([encoder().encode(document, bind_next=False) for document in documents])
    shades = [part for parts in packed for part in parts if isinstance(part, int)]
    tags = row.ids == IMAGE
    assert row.items[tags].tolist() == list(range(1, len(shades) + 1))
    assert [int(image[0, 0, 0]) for image in row.images] == shades
    for index in range(len(documents)):
        items = row.items[row.documents == index]
        first = len([p for parts in packed[:index] for p in parts if isinstance(p, int)])
        last = first + len([p for p in packed[index] if isinstance(p, int)])
        assert ((items == 0) | ((items > first) & (items <= last))).all()
    assert (row.labels[(row.items == 0) | tags] == IGNORED).all()


def test_padding_is_a_document_of_its_own() -> None:
    rows = [
        encoder().encode(Document(key=key, parts=parts), bind_next=False)
        for key, parts in (("a", (picture(1), "long text")), ("b", (picture(2),)))
    ]
    batch = collate(rows, padding_id=0)
    padding = batch.input_ids[1] == 0
    assert padding.any()
    assert set(batch.document_ids[1][padding].tolist()) == {1}
    assert (batch.media_item[1][padding] == 0).all()
    assert (batch.labels[1][padding] == IGNORED).all()
    assert batch.num_images.tolist() == [1, 1]
    assert on_device(batch, torch.device("cpu")).keys == ["a", "b"]


def scenes(*, split: Split = "train") -> Callable[[int], Document]:
    return partial(generated, "scenes", split, 0)


def test_augmentation_ends_after_its_steps_and_repeats_exactly() -> None:
    plain, augmented, again = (
        packed_examples(source(scenes(), augment_steps=steps), 7) for steps in (0, 3, 3)
    )
    assert not torch.equal(augmented[5].images, plain[5].images)
    assert torch.equal(augmented[5].images, again[5].images)
    assert torch.equal(augmented[6].images, plain[6].images)


def test_next_image_binding_is_drawn_per_document() -> None:
    one_each = encoder(max_tokens=200)
    half, plain, bound = (
        packed_examples(source(scenes(), encoder=one_each, next_image_probability=share), 60)
        for share in (0.5, 0.0, 1.0)
    )
    single = [place for place, row in enumerate(half) if row.documents.max() == 0]
    same = [torch.equal(half[i].items, plain[i].items) for i in single]
    other = [torch.equal(half[i].items, bound[i].items) for i in single]
    assert len(single) > 10
    assert 0.25 < sum(same) / len(single) < 0.75
    assert sum(same) + sum(other) == len(single)


def test_rows_are_packed_as_planned() -> None:
    packing = source(scenes(), encoder=encoder(max_tokens=700, max_images=7))
    for row in islice(packed_rows(packing), 12):
        example = packing.example(row)
        sizes = [packing._size(number) for number in row.numbers]
        planned = [sum(size.tokens for size in sizes), sum(size.images for size in sizes)]
        was_cut = any(example.supply.cut.values())
        assert [len(example.ids), len(example.images)] == planned or was_cut
        assert len(example.ids) <= planned[0] <= 700
        assert len(example.images) <= planned[1] <= 7
        assert example.documents.unique().tolist() == list(range(len(sizes)))


def test_training_never_draws_a_held_out_scene() -> None:
    assert all("/train/" in scenes()(i).key for i in range(8))
    assert all("/unseen_scenes/" in scenes(split="validation")(i).key for i in range(8))


def test_the_users_pages_keep_their_order_and_hold_some_out(tmp_path: Path) -> None:
    lines = []
    for number in range(30):
        Image.new("RGB", (40, 32), (number, 0, 0)).save(tmp_path / f"{number}.png")
        name = f"{number}.png"
        lines.append(json.dumps({"texts": [None, f"page {number}"], "images": [name, None]}))
    pages = tmp_path / "pages.jsonl"
    pages.write_text("\n".join(lines))
    train, validation = (
        open_feed("interleaved", path=pages, split=s, seed=0, tokenizer=PROCESSOR.tokenizer)
        for s in ("train", "validation")
    )
    seen = {train.read(i).document.parts[1] for i in range(29)}
    assert len(seen) == 29
    assert validation.read(0).document.parts[1] not in seen
    document = train.read(0).document
    assert f"page {document.parts[0][0, 0, 0]}" == document.parts[1]


def test_a_source_without_its_path_says_what_it_needs() -> None:
    with pytest.raises(UserError, match="kind image_pairs needs a path: a folder of images"):
        open_feed("image_pairs", path=None, split="train", seed=0, tokenizer=PROCESSOR.tokenizer)


def test_a_prompt_ends_where_the_answer_begins() -> None:
    image = picture(3)
    prompt, answer = as_prompt(Document(key="d", parts=(image, "Question: x? Short answer: red")))
    assert prompt[1] == "Question: x? Short answer:"
    assert answer == " red"
