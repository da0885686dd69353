"""From shards to rows: every text stands beside the image with which it was written."""

import re
from pathlib import Path

import numpy as np
import torch

from common.data.augmentation import AugmentConfig
from common.data.document import Document
from common.data.embedded.shards import write_documents
from common.data.shards.build import build_indices
from flamingo.corpora import open_feed
from flamingo.data import DocumentEncoder, DocumentSource
from tests.feeds import packed_examples
from tests.flamingo import tiny

PROCESSOR = tiny.processor()


def numbered(index: int) -> Document:
    """One to three images of different sizes; each text tells the shade of the image before it."""
    generator = np.random.default_rng(index)
    parts: list[object] = []
    for shade in generator.integers(1, 255, int(generator.integers(1, 4))).tolist():
        side = int(generator.integers(32, 90))
        parts += [np.full((side, side + 5, 3), shade, np.uint8), f"({shade})"]
    return Document(key=f"document {index}", parts=tuple(parts))


def test_every_text_meets_the_image_with_which_it_was_written(tmp_path: Path) -> None:
    write_documents(tmp_path, map(numbered, range(60)), samples_per_shard=13)
    build_indices(tmp_path, tokenizer=PROCESSOR.tokenizer)
    source = DocumentSource(
        feed=open_feed(
            "interleaved", path=tmp_path, split="train", seed=5, tokenizer=PROCESSOR.tokenizer
        ),
        encoder=DocumentEncoder(processor=PROCESSOR, image_size=32, max_tokens=90, max_images=9),
        batch_size=4,
        weight=1.0,
        next_image_probability=0.0,
        augment_steps=0,
        augmentation=AugmentConfig(),
        seed=5,
    )
    batch = source.collate(packed_examples(source, 16))
    met = 0
    for ids, items, images in zip(
        batch.input_ids, batch.media_item, batch.pixel_values, strict=True
    ):
        for item in range(1, int(items.max()) + 1):
            text = PROCESSOR.tokenizer.decode(ids[items == item])
            (shade,) = re.findall(r"\((\d+)\)", text)
            assert torch.equal(images[item - 1], torch.full((3, 32, 32), int(shade)).byte())
            met += 1
    assert met == int(batch.num_images.sum()) > 60
    assert int(batch.document_ids.max()) > 2
