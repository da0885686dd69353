"""The data room, in processor time on one thread, files in the page cache. JPEGs of 640 x 512 to
224 pixels; samples of an image and a caption in random order against streamed tars; what a FLARE
batch costs beyond the decoding of its images; packing, its state and a large index."""

import io
import tarfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import PIL.Image
import torch

from common.data.augmentation import AugmentConfig
from common.data.feed import Feed
from common.data.images import decode_image, resize_and_centre_crop
from common.data.mixture import Mixture
from common.data.packing import PackState
from common.data.sampler import Order
from common.data.shards.corpus import ShardCorpus
from common.training.loader import Share, Update, read_updates
from flare.corpora import embedded_tokenizer
from flare.data import FlareBatch, MixtureSource
from flare.encoding import DocumentEncoder
from flare.masking import MaskingConfig
from flare.processing import FlareProcessor
from scripts.benchmarks import million, plans
from scripts.benchmarks.photos import encoded_photos, photo_corpus
from scripts.benchmarks.timing import Row, alternating, ratio

SIZE = 224  # pixels of the model's input
QUERIES = 64  # tokens of an image
ROWS, TOKENS = 4, 2048  # of an update
REPEATS = 9
LARGEST_DIFFERENCE = 2.5  # grey levels, on average over a photo


def figures() -> list[Row]:
    """A row for every figure: ours, the plain way, their ratio and what it should be."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        tokenizer = embedded_tokenizer()
        rows = million.figures(Path(folder, "million"), tokenizer)
        photos = encoded_photos()
        corpus = photo_corpus(Path(folder, "photos"), photos, tokenizer)
        rows += [_decoding(photos), _reading(corpus, Path(folder, "photos")), _loading(corpus)]
    return rows + plans.figures()


def _decoding(photos: list[bytes]) -> Row:
    for photo in photos:
        difference = np.abs(_ours(photo).astype(np.int16) - _plain(photo)).mean()
        assert difference < LARGEST_DIFFERENCE, difference
    ways = [lambda: [_ours(p) for p in photos], lambda: [_plain(p) for p in photos]]
    ours, plain = alternating(ways, repeats=REPEATS, clock=time.process_time)
    return {
        "figure": "decode and resize, photos/s (plain: PIL, whole, bicubic)",
        "ours": round(len(photos) / ours),
        "plain": round(len(photos) / plain),
        "ratio": ratio(plain, ours),
        "wanted": ">= 1.5",
    }


def _ours(photo: bytes) -> np.ndarray:
    return resize_and_centre_crop(decode_image(photo, name="", least_side=SIZE), size=SIZE)


def _plain(photo: bytes) -> np.ndarray:
    with PIL.Image.open(io.BytesIO(photo)) as image:
        rgb = image.convert("RGB")
    side = min(rgb.size)
    left, top = (rgb.width - side) / 2, (rgb.height - side) / 2
    box = (left, top, left + side, top + side)
    return np.array(rgb.resize((SIZE, SIZE), PIL.Image.Resampling.BICUBIC, box=box))


def _reading(corpus: ShardCorpus, root: Path) -> Row:
    order = np.random.default_rng(0).permutation(len(corpus)).tolist()
    shards = sorted(root.glob("*.tar"))

    # What was read is let go of, as after decoding.
    def indexed(order: Iterable[int] = order) -> Iterator[bytes]:
        for index in order:
            yield from corpus.members(index).values()

    def streamed() -> Iterator[bytes]:
        for shard in shards:
            yield from _members(shard)

    for ours, theirs in zip(indexed(range(len(corpus))), streamed(), strict=True):
        assert ours == theirs
    ways = [lambda: deque(indexed(), maxlen=0), lambda: deque(streamed(), maxlen=0)]
    ours_s, plain_s = alternating(ways, repeats=REPEATS, clock=time.process_time)
    return {
        "figure": "samples read/s, any order, CRC checked (plain: tarfile r|)",
        "ours": round(len(corpus) / ours_s),
        "plain": round(len(corpus) / plain_s),
        "ratio": ratio(plain_s, ours_s),
        "wanted": ">= 2",
    }


def _members(shard: Path) -> Iterator[bytes]:
    with tarfile.open(shard, "r|") as archive:
        for header in archive:
            file = archive.extractfile(header)
            assert file is not None
            yield file.read()


def _loading(corpus: ShardCorpus) -> Row:
    """Whole updates through the loader, by turns with the decoding of their images alone."""
    source = _source(corpus)
    share = Share(rank=0, num_ranks=1, num_micro_batches=1)
    updates = read_updates(
        {"photos": source}, first=0, last=REPEATS + 1, share=share, num_workers=0
    )
    with closing(updates):
        rounds = [
            _update(updates, [corpus.members(sample)["jpg"] for sample in samples])
            for samples in _samples(source)
        ]
    # The first update opens files.
    ours, plain = (median(column) for column in zip(*rounds[1:], strict=True))
    return {
        "figure": "FLARE batch, ms/photo (plain: decode and resize alone)",
        "ours": round(1e3 * ours, 3),
        "plain": round(1e3 * plain, 3),
        "ratio": ratio(ours, plain),
        "wanted": "<= 1.1",
    }


def _update(updates: Iterator[Update[FlareBatch]], photos: list[bytes]) -> tuple[float, float]:
    """Seconds per photo of the whole update, and of its photos alone."""
    start = time.process_time()
    batch = next(updates).parts[0].batch
    middle = time.process_time()
    alone = [_ours(photo) for photo in photos]
    end = time.process_time()
    assert torch.equal(batch.pixel_values, torch.from_numpy(np.stack(alone)).permute(0, 3, 1, 2))
    return (middle - start) / len(photos), (end - middle) / len(photos)


def _samples(source: MixtureSource) -> Iterator[list[int]]:
    """What every update will read, in its order."""
    state, (order,) = PackState(), source.feed.orders
    for update in range(REPEATS + 1):
        rows, state = source.pack(update, state)
        yield [order(number).sample for row in rows for number in row.numbers]


def _source(corpus: ShardCorpus) -> MixtureSource:
    tokenizer = embedded_tokenizer()
    processor = FlareProcessor.from_tokenizer(
        tokenizer,
        vocab_size=len(tokenizer),
        image_size=SIZE,
        image_queries=QUERIES,
        audio_queries=QUERIES,
    )
    feed = Feed(
        corpora=[corpus],
        orders=[Order(corpus.shard_sizes, seed=0)],
        mixture=Mixture([1.0], seed=0),
        seed=0,
    )
    return MixtureSource(
        feed=feed,
        encoder=DocumentEncoder(
            processor=processor, image_size=SIZE, max_samples=16_000, clip_groups=1
        ),
        masking=MaskingConfig(),
        batch_size=ROWS,
        weight=1.0,
        max_tokens=TOKENS,
        steps=REPEATS + 1,
        augment_steps=0,
        augmentation=AugmentConfig(),
        seed=0,
    )
