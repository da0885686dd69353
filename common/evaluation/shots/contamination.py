"""Which evaluated media lie among the demonstrations or in training data: as the same file, told by
its digest, or, of images, as a near duplicate, told by a perceptual hash. Sounds that were encoded
anew are not recognised."""

from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TypedDict

import numpy as np
from jaxtyping import UInt8

from common.data.faults import BadSample
from common.data.images import decode_image
from common.data.quality.hamming import MAX_DISTANCE, near_pairs
from common.errors import UserError
from common.evaluation.shots.exemplars import Exemplar, MediumKind
from common.evaluation.shots.perceptual_hash import is_alike, perceptual_hash, thumbnail
from common.evaluation.shots.protocol import FewShot
from common.evaluation.shots.stored_media import StoredMedium, media_in
from common.evaluation.work import Workplace, answered

LEAST_SIDE = 64  # to which a large JPEG may be decoded: what is looked at is smaller still
NAMED = 5  # media in a remark


@dataclass(frozen=True, kw_only=True)
class ContaminationConfig:
    """Where evaluated media must not lie."""

    # Look for evaluated media among the demonstrations and in the training folders.
    check_contamination: bool = True
    # Folders of training data: image or sound files at any depth, and tar shards.
    training_folders: tuple[Path, ...] = ()
    # Near duplicates differ in at most so many of the 64 bits of their perceptual hashes.
    max_hash_distance: int = 6

    def __post_init__(self) -> None:
        if not 0 <= self.max_hash_distance <= MAX_DISTANCE:
            raise UserError(f"{self.max_hash_distance=}: choose 0 to {MAX_DISTANCE} bits")
        if self.training_folders and not self.check_contamination:
            raise UserError("training folders are looked at by the check that was switched off")


@dataclass(frozen=True, kw_only=True)
class Contamination:
    """The places of queries whose medium was seen, and what a reader should know of it."""

    places: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()


def find_contamination(asking: FewShot, *, config: ContaminationConfig) -> Contamination:
    """Look for every query's medium in the pool of demonstrations and in the training folders.

    Raises:
        UserError: a training folder does not exist or holds no medium.
    """
    kind, work = asking.kind, asking.work
    # Not only the demonstrations that a query is shown, but all that could have been.
    sources = [("the demonstrations", _media_of(asking.pool))] if asking.pool else []
    sources += [(str(folder), media_in(folder, kind=kind)) for folder in config.training_folders]
    if not config.check_contamination or not sources:
        return Contamination(notes=("Evaluated media were not looked for in training data.",))
    asked = _media_of(asking.queries)
    prints = _prints(asked, kind=kind, work=work, name="evaluated")
    seen, notes = set[str](), []
    for number, (source, media) in enumerate(sources):
        known = _prints(media, kind=kind, work=work, name=f"source-{number}")
        same = _same(prints, known)
        near = _near(prints, known, max_distance=config.max_hash_distance) - same
        names = [asked[place].name for place in sorted(same | near)]
        notes.append(_note(names, num_same=len(same), num=len(asked), kind=kind, source=source))
        notes += _undecodable(known, kind=kind, source=source)
        seen.update(names)
    places = (place for place, query in enumerate(asking.queries) if str(query.medium) in seen)
    return Contamination(places=frozenset(places), notes=tuple(notes))


class _Print(TypedDict):
    """What is kept of a medium; no hash of a sound, nor of an image that cannot be decoded."""

    digest: str
    hash: int | None
    thumbnail: str


def _media_of(exemplars: Sequence[Exemplar]) -> list[StoredMedium]:
    paths = dict.fromkeys(exemplar.medium for exemplar in exemplars)
    return [StoredMedium(path=path, name=str(path)) for path in paths]


def _prints(
    media: Sequence[StoredMedium], *, kind: MediumKind, work: Workplace, name: str
) -> list[_Print]:
    return answered(
        media,
        keys=[medium.name for medium in media],
        answer=lambda batch: [_print_of(medium, kind=kind) for medium in batch],
        work=work,
        name=f"contamination/{name}",
    )


def _print_of(medium: StoredMedium, *, kind: MediumKind) -> _Print:
    data = medium.read()
    found = _Print(digest=blake2b(data, digest_size=16).hexdigest(), hash=None, thumbnail="")
    if kind == "sound":
        return found
    try:
        image = decode_image(data, name=medium.name, least_side=LEAST_SIDE)
    except BadSample:
        return found
    small = b64encode(thumbnail(image).tobytes()).decode()
    return _Print(digest=found["digest"], hash=perceptual_hash(image), thumbnail=small)


def _same(asked: Sequence[_Print], known: Sequence[_Print]) -> set[int]:
    digests = {fingerprint["digest"] for fingerprint in known}
    return {place for place, own in enumerate(asked) if own["digest"] in digests}


def _near(asked: Sequence[_Print], known: Sequence[_Print], *, max_distance: int) -> set[int]:
    own = [(place, found) for place, found in enumerate(asked) if found["hash"] is not None]
    others = [found for found in known if found["hash"] is not None]
    hashes = np.array([found["hash"] for _, found in own], dtype=np.uint64)
    known_hashes = np.array([found["hash"] for found in others], dtype=np.uint64)
    near = set()
    for number, other in near_pairs(hashes, known_hashes, distance=max_distance):
        place, found = own[number]
        if place not in near and is_alike(_thumbnail(found), _thumbnail(others[other])):
            near.add(place)
    return near


def _thumbnail(fingerprint: _Print) -> UInt8[np.ndarray, " n"]:
    return np.frombuffer(b64decode(fingerprint["thumbnail"]), dtype=np.uint8)


def _note(names: Sequence[str], *, num_same: int, num: int, kind: MediumKind, source: str) -> str:
    looked = "the same file or a near duplicate" if kind == "image" else "the same file"
    if not names:
        return f"None of {num} evaluated {kind}s lies in {source} ({looked})."
    near = f", {len(names) - num_same} as near duplicates" if kind == "image" else ""
    listed = ", ".join(Path(name).name for name in names[:NAMED])
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return (
        f"{len(names)} of {num} evaluated {kind}s lie in {source}: {num_same} as the same file"
        f"{near} ({listed}{more})."
    )


def _undecodable(known: Sequence[_Print], *, kind: MediumKind, source: str) -> list[str]:
    num = sum(fingerprint["hash"] is None for fingerprint in known)
    if kind == "sound" or num == 0:
        return []
    return [f"{num} of {len(known)} images in {source} cannot be decoded: only bytes compared."]
