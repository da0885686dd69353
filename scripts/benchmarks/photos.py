"""Photos of scikit-learn as JPEGs of the size that web data have and shards of these."""

import io
import json
from pathlib import Path

import numpy as np
import PIL.Image
from transformers import PreTrainedTokenizerBase

from common.data.embedded.prose import paragraphs
from common.data.shards.build import build_indices
from common.data.shards.corpus import ShardCorpus, open_shards
from common.data.shards.writer import ShardWriter

NAMES = ("china.jpg", "flower.jpg")  # 640 x 427 pixels
WIDTH, HEIGHT = 640, 512
SCALES = (1.0, 1.2, 1.5)  # of the photo before it is cut
CROPS_PER_SCALE = 8
QUALITY = 90
SAMPLES, SAMPLES_PER_SHARD = 1000, 250
CAPTION_WORDS = 12


def encoded_photos() -> list[bytes]:
    """48 crops of two photos, 512 pixels on the short side."""
    from sklearn.datasets import load_sample_image  # noqa: PLC0415 -- loads for seconds

    generator = np.random.default_rng(0)
    photos = []
    for name in NAMES:
        photo = PIL.Image.fromarray(load_sample_image(name))
        for scale in SCALES:
            # Noise as of a camera, since a photo that was scaled up is smoother than one taken.
            factor = scale * HEIGHT / photo.height
            size = (round(photo.width * factor), round(photo.height * factor))
            large = np.asarray(photo.resize(size, PIL.Image.Resampling.BICUBIC), np.int16)
            for _ in range(CROPS_PER_SCALE):
                photos.append(_crop(large, generator))
    return photos


def photo_corpus(
    root: Path, photos: list[bytes], tokenizer: PreTrainedTokenizerBase
) -> ShardCorpus:
    """Four shards of 250 photos as img2dataset writes them, with twelve words for a caption."""
    prose = " ".join(paragraphs("train")).split()
    with ShardWriter(root, samples_per_shard=SAMPLES_PER_SHARD) as writer:
        for number in range(SAMPLES):
            start = number * CAPTION_WORDS % (len(prose) - CAPTION_WORDS)
            caption = " ".join(prose[start : start + CAPTION_WORDS])
            photo = photos[number % len(photos)]
            # img2dataset writes all that it knows beside image and caption.
            facts = {"caption": caption, "width": WIDTH, "height": HEIGHT, "status": "success"}
            members = {"jpg": photo, "txt": caption.encode(), "json": json.dumps(facts).encode()}
            writer.write(f"{number:06d}", members)
    build_indices(root, tokenizer=tokenizer)
    return open_shards(root, tokenizer=tokenizer)


def _crop(photo: np.ndarray, generator: np.random.Generator) -> bytes:
    top = int(generator.integers(photo.shape[0] - HEIGHT + 1))
    left = int(generator.integers(photo.shape[1] - WIDTH + 1))
    cut = photo[top : top + HEIGHT, left : left + WIDTH]
    noisy = (cut + generator.normal(0, 3, cut.shape)).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(noisy).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
