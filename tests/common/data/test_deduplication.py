"""Copies are found: nothing that should be is missed, and nothing else is taken for one."""

import io
from itertools import pairwise

import numpy as np
import PIL.Image
import pytest
from jaxtyping import UInt64
from sklearn.datasets import load_sample_image

from common.data.document import Document, Image
from common.data.images import decode_image
from common.data.quality.clusters import Clusters, later_copies
from common.data.quality.duplicates import Copies, without_common_captions, without_copies
from common.data.quality.hamming import near_clusters, near_pairs
from common.data.quality.hashing import HASHED_SIDE, digest, perceptual_hash
from common.data.quality.minhash import signature, text_clusters
from common.data.quality.survey import Survey, survey_range
from common.errors import UserError

WORDS = [f"{first}{second}" for first in "bcdfghjklm" for second in ("a", "en", "ir", "os", "ut")]


def encoded(image: Image, *, form: str = "PNG", quality: int = 90) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, form, quality=quality)
    return file.getvalue()


def crops(count: int) -> list[Image]:
    """Pieces of two photographs, of which none shows what another does."""
    photos = [load_sample_image("china.jpg"), load_sample_image("flower.jpg")]
    places = [(top, left) for top in range(315, -1, -105) for left in range(0, 600, 120)]
    pieces = [photo[y : y + 105, x : x + 120].copy() for y, x in places for photo in photos]
    return pieces[:count]


def sentence(seed: int, length: int) -> list[str]:
    return np.random.default_rng(seed).choice(WORDS, length).tolist()


class Samples:
    """Members of samples in memory: an image, a caption or neither."""

    def __init__(self, *samples: dict[str, bytes]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def members(self, index: int) -> dict[str, bytes]:
        return self.samples[index]

    def read(self, index: int, *, least_side: int | None = None) -> Document:
        key, members = f"shard/{index}", self.samples[index]
        text = members.get("txt", members.get("question", b"")).decode()
        if "png" not in members:
            return Document(key=key, parts=(text,))
        image = decode_image(members["png"], name=key, least_side=least_side)
        return Document(key=key, parts=(image, text), caption=text if "txt" in members else None)


def surveyed(*samples: dict[str, bytes]) -> Survey:
    survey = survey_range(Samples(*samples), range(len(samples)), rules=())
    assert not survey.reasons.any()
    return survey


def bits_apart(one: Image, other: Image) -> int:
    left, right = perceptual_hash(one), perceptual_hash(other)
    assert left is not None
    assert right is not None
    return (left ^ right).bit_count()


def halved(image: Image) -> Image:
    size = (image.shape[1] // 2, image.shape[0] // 2)
    return np.array(PIL.Image.fromarray(image).resize(size, PIL.Image.Resampling.BICUBIC))


@pytest.mark.parametrize("name", ["china.jpg", "flower.jpg"])
def test_the_hash_outlives_recompression_scaling_and_brightness(name: str) -> None:
    photo: Image = load_sample_image(name)
    again = decode_image(encoded(photo, form="JPEG", quality=70), name="again")
    small = decode_image(encoded(photo, form="JPEG"), name="small", least_side=HASHED_SIDE)
    brighter = (photo * 0.9 + 20).astype(np.uint8)
    assert small.shape != photo.shape
    assert max(bits_apart(photo, x) for x in (again, small, halved(photo), brighter)) <= 4


def test_of_many_crops_nearly_all_keep_their_hash_and_none_has_anothers() -> None:
    pieces = crops(40)
    own = [(perceptual_hash(x), perceptual_hash(halved(x))) for x in pieces]
    hashed = [(one, half) for one, half in own if one is not None and half is not None]
    kept = [(one ^ half).bit_count() <= 4 for one, half in hashed]
    assert len(hashed) >= 35  # the others are plain sky
    assert sum(kept) >= len(kept) - 1
    others = [(a[0] ^ b[0]).bit_count() for n, a in enumerate(hashed) for b in hashed[:n]]
    assert min(others) > 4


def test_pictures_without_content_have_no_hash() -> None:
    noise = np.random.default_rng(0).integers(230, 236, (90, 70, 3), dtype=np.uint8)
    assert perceptual_hash(noise) is None
    assert perceptual_hash(np.full((60, 80, 3), 255, dtype=np.uint8)) is None


def test_digests_tell_where_one_content_ends() -> None:
    assert digest([b"ab", b"c"]) != digest([b"a", b"bc"])
    assert digest([b"ab", b"c"]) == digest([b"ab", b"c"])


def planted(count: int, *, seed: int) -> UInt64[np.ndarray, " n"]:
    """Random hashes of which a third differ from earlier ones in 1 to 7 bits."""
    generator = np.random.default_rng(seed)
    hashes = generator.integers(0, 2**64, count, dtype=np.uint64)
    for place in range(count - count // 3, count):
        bits = generator.choice(64, int(generator.integers(1, 8)), replace=False)
        flips = sum(1 << int(bit) for bit in bits)
        hashes[place] = hashes[generator.integers(0, place)] ^ np.uint64(flips)
    return hashes


@pytest.mark.parametrize("distance", [0, 1, 4, 6])
def test_the_band_search_misses_no_pair_of_the_brute_force(distance: int) -> None:
    hashes = planted(2000, seed=distance)
    differing = np.bitwise_count(hashes[:, None] ^ hashes)
    expected = np.argwhere(differing <= distance)
    assert near_pairs(hashes, hashes, distance=distance) == [tuple(x) for x in expected.tolist()]
    slow = Clusters(len(hashes))
    slow.join(expected[:, 0], expected[:, 1])
    roots = slow.roots(np.arange(len(hashes)))
    fast = near_clusters(hashes, distance=distance)
    assert (later_copies(fast) == later_copies(roots)).all()
    assert (fast[:, None] == fast).sum() == (roots[:, None] == roots).sum()
    assert distance == 0 or later_copies(fast).sum() > 80 * distance


def test_a_chain_of_near_hashes_is_one_cluster() -> None:
    hashes = np.array([0, 2**40, 0b111, 0b111111, 2**40 + 2**41], dtype=np.uint64)
    assert near_clusters(hashes, distance=3).tolist() == [0] * 5
    apart = near_clusters(hashes, distance=2)
    assert (apart[0], apart[1]) == (apart[1], apart[4])
    assert len(set(apart.tolist())) == 3


def test_an_absurd_distance_is_a_users_mistake() -> None:
    with pytest.raises(UserError, match=r"distance=40 bits is out of range; use 0 to 16"):
        near_clusters(np.zeros(3, dtype=np.uint64), distance=40)


@pytest.mark.parametrize("changed", [5, 20, 60])
def test_equal_places_of_signatures_estimate_the_jaccard_similarity(changed: int) -> None:
    one = sentence(1, 400)
    other = one[:-changed] + sentence(2, changed)
    grams = [set(zip(*(text[n:] for n in range(5)), strict=False)) for text in (one, other)]
    jaccard = len(grams[0] & grams[1]) / len(grams[0] | grams[1])
    equal = (signature(" ".join(one)) == signature("\n".join(other).upper())).mean()
    assert abs(equal - jaccard) < 3 * (jaccard * (1 - jaccard) / 128) ** 0.5


def test_near_texts_join_and_other_texts_stay_apart() -> None:
    originals = [sentence(seed, 300 + seed) for seed in range(40)]
    texts = originals + [[*text[:-6], "end"] for text in originals]
    texts += [text[150:] + sentence(90, 99) for text in originals]
    signatures = np.stack([signature(" ".join(text)) for text in texts])
    clusters = text_clusters(signatures, jaccard=0.8)
    assert (clusters[40:80] == clusters[:40]).all()
    assert len(set(clusters.tolist())) == 80


def test_texts_shorter_than_a_gram_are_compared_whole() -> None:
    short = [signature(text) for text in ("a cat", "a  Cat", "a dog", "")]
    assert (short[0] == short[1]).all()
    assert (short[0] != short[2]).mean() > 0.9
    assert not (short[3] == short[0]).any()


def test_a_captioned_image_is_a_copy_by_its_bytes_and_by_its_looks() -> None:
    one, other = crops(2)
    survey = surveyed(
        {"png": encoded(one), "txt": b"a roof"},
        {"png": encoded(one), "txt": b"the same roof"},
        {"png": encoded(other), "txt": b"a roof"},
        {"png": encoded(one, form="JPEG"), "txt": b"A  Roof"},
    )
    reasons = without_copies(survey, survey.reasons, copies=Copies())
    assert reasons.tolist() == ["", "duplicate", "", "near_duplicate_image"]
    exact = Copies(distance=None)
    reasons = without_copies(survey, survey.reasons, copies=exact)
    assert reasons.tolist() == ["", "duplicate", "", ""]
    coco = Copies(per_caption=True)
    reasons = without_copies(survey, survey.reasons, copies=coco)
    assert reasons.tolist() == ["", "", "", "near_duplicate_image"]


def test_what_is_rejected_already_never_stands_for_its_copies() -> None:
    picture = encoded(crops(1)[0])
    survey = surveyed({"png": picture, "txt": b"one"}, {"png": picture, "txt": b"two"})
    reasons = np.array(["image_small", ""], dtype=object)
    assert without_copies(survey, reasons, copies=Copies()).tolist() == ["image_small", ""]


def test_questions_on_one_image_are_no_copies_unless_all_is_equal() -> None:
    one, other = map(encoded, crops(2))
    survey = surveyed(
        {"png": one, "question": b"what is this?"},
        {"png": one, "question": b"what colour?"},
        {"png": other, "question": b"what is this?"},
        {"png": one, "question": b"What is this?"},
    )
    reasons = without_copies(survey, survey.reasons, copies=Copies())
    assert reasons.tolist() == ["", "", "", "duplicate"]


def test_texts_are_copies_by_words_and_by_most_of_their_words() -> None:
    text = sentence(3, 200)
    texts = [text, [*text, "."], sentence(4, 200), [word.upper() for word in text]]
    survey = surveyed(*({"txt": " ".join(words).encode()} for words in texts))
    reasons = without_copies(survey, survey.reasons, copies=Copies())
    assert reasons.tolist() == ["", "near_duplicate_text", "", "duplicate"]


def test_a_caption_of_too_many_images_is_common() -> None:
    captions = [b"untitled", b"a roof", b"Untitled ", b"a flower", b"untitled", b"a flower"]
    pictures = [encoded(piece) for piece in crops(6)]
    survey = surveyed(
        *({"png": png, "txt": text} for png, text in zip(pictures, captions, strict=True))
    )
    reasons = without_common_captions(survey, survey.reasons, max_count=2)
    assert [bool(reason) for reason in reasons] == [True, False, True, False, True, False]


def test_clusters_grow_in_any_order_to_the_same_end() -> None:
    generator = np.random.default_rng(7)
    path = generator.permutation(501)
    links = np.array(list(pairwise(path.tolist())))[generator.permutation(500)]
    clusters = Clusters(502)
    for half in np.array_split(links, 3):
        clusters.join(half[:, 0], half[:, 1])
    assert clusters.roots(np.arange(502)).tolist() == [0] * 501 + [501]
