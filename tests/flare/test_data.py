"""Rows, targets and pairs: every index leads to what it says, whatever was packed together."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from common.data.augmentation import AugmentConfig
from common.data.captions import caption_id
from common.data.document import Document, Extent, Recording
from common.data.embedded.tokenizer import train_tokenizer
from common.data.faults import BadSample
from common.data.transfer import on_device
from common.errors import UserError
from flare.data import (
    FlareBatch,
    MixtureSource,
    collate,
    join,
)
from flare.encoding import DocumentEncoder, FlareExample
from flare.masking import Form, MaskingConfig
from flare.processing import CONTROL_TOKENS, FlareProcessor
from tests.feeds import feed_of, packed_examples, packed_rows
from tests.flare.recordings import heard

BOS, END, IMAGE, AUDIO, MASK, EMB = 1, 2, 3, 4, 5, 6
IMAGE_QUERIES, AUDIO_QUERIES = 3, 4
FORMS: tuple[Form, ...] = ("masked", "causal", "cm3")


@cache
def processor() -> FlareProcessor:
    """The bytes as tokens."""
    tokenizer = train_tokenizer(["x"], vocab_size=263, control_tokens=CONTROL_TOKENS)
    return FlareProcessor.from_tokenizer(
        tokenizer,
        vocab_size=263,
        image_size=8,
        image_queries=IMAGE_QUERIES,
        audio_queries=AUDIO_QUERIES,
    )


def picture(shade: int) -> np.ndarray:
    return np.full((8, 8, 3), shade, dtype=np.uint8)


def recording(level: int) -> Recording:
    return Recording(samples=np.full(410 + level, level / 100, dtype=np.float32))


def encoder() -> DocumentEncoder:
    return DocumentEncoder(processor=processor(), image_size=8, max_samples=1000, clip_groups=3)


def encode(
    document: Document, *, form: Form = "causal", seed: int = 0, max_tokens: int = 1000
) -> FlareExample:
    return encoder().encode(
        document,
        encoder().tokens(document),
        np.random.default_rng(seed),
        form=form,
        mask_rate=0.3,
        max_tokens=max_tokens,
    )


def batch_of(examples: Sequence[FlareExample]) -> FlareBatch:
    return collate(examples, encoder=encoder())


def mixture(*, names: Sequence[str] = ("told", "heard", "read"), **fields: object) -> MixtureSource:
    def told(index: int) -> Document:
        word = f"shade {index % 200}"
        return Document(key=word, parts=(picture(index % 200), word), caption=word)

    def heard(index: int) -> Document:
        word = f"level {index % 90}"
        return Document(key=word, parts=(recording(index % 90), word), caption=word)

    def read(index: int) -> Document:
        return Document(key=f"text {index}", parts=(f"once upon a time {index} " * 4,))

    corpora = {"told": (told, 1.5), "heard": (heard, 1.0), "read": (read, 0.5)}
    settings = {
        "feed": feed_of({name: corpora[name] for name in names}, tokenizer=processor().tokenizer),
        "encoder": encoder(),
        "masking": MaskingConfig(),
        "batch_size": 4,
        "weight": 1.0,
        "max_tokens": 120,
        "steps": 10,
        "augment_steps": 0,
        "augmentation": AugmentConfig(),
        "seed": 0,
    }
    return MixtureSource(**(settings | fields))


TEXTS = st.text(st.characters(codec="utf-8"), max_size=6)
PARTS = st.lists(
    st.one_of(
        TEXTS,
        st.integers(0, 255).map(picture),
        st.integers(0, 90).map(recording),
        st.sampled_from(["<mask>", "<image>", "</s><emb>"]),
    ),
    max_size=5,
)
DRAWN = st.tuples(PARTS, st.sampled_from(FORMS), st.integers(12, 60))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(DRAWN, min_size=1, max_size=3), min_size=1, max_size=3), st.integers(0, 99)
)
def test_targets_are_those_of_a_naive_count(rows: list[list[tuple]], seed: int) -> None:
    packed = []
    for drawn in rows:
        documents = [Document(key="", parts=tuple(parts)) for parts, _, _ in drawn]
        examples = [
            encode(document, form=form, seed=seed, max_tokens=limit)
            for document, (_, form, limit) in zip(documents, drawn, strict=True)
        ]
        packed.append((examples, documents, drawn))
    batch = batch_of([join(examples) for examples, _, _ in packed])
    width = batch.input_ids.shape[1]
    expected: dict[str, dict[int, int]] = {"language/masked": {}, "language/causal": {}}
    for row, (examples, documents, drawn) in enumerate(packed):
        place = row * width
        for example, document, (_, form, _) in zip(examples, documents, drawn, strict=True):
            original = encoder().tokens(document).tolist()
            told = naive_targets(example.ids.tolist(), original, form, example.labels)
            name = "language/masked" if form == "masked" else "language/causal"
            expected[name] |= {place + i - 1: token for i, token in told.items()}
            place += len(example.ids)
    for name, targets in batch.targets.items():
        found = dict(zip(targets.positions.tolist(), targets.ids.tolist(), strict=True))
        assert found == expected[name]
        assert len(found) == len(targets.ids)


def naive_targets(
    ids: list[int], original: list[int], form: Form, labels: Tensor
) -> dict[int, int]:
    """Place in the document -> id; of a masked document the places are taken from its labels."""
    places = range(1, len(ids))
    if form != "masked":
        return {i: ids[i] for i in places if ids[i] > EMB or ids[i] == END}
    chosen = [i for i in places if labels[i] >= 0]
    assert all(original[i] > EMB for i in chosen)
    changed = [i for i in range(len(ids)) if ids[i] != original[i]]
    assert set(changed) <= set(chosen)
    return {i: original[i] for i in chosen}


@settings(max_examples=100, deadline=None)
@given(PARTS, st.sampled_from(FORMS), st.integers(12, 40), st.integers(0, 99))
def test_control_tokens_are_never_hidden_and_only_an_end_is_predicted(
    parts: list, form: Form, limit: int, seed: int
) -> None:
    document = Document(key="", parts=tuple(parts))
    example = encode(document, form=form, seed=seed, max_tokens=limit)
    targets = example.labels[example.labels >= 0].tolist()
    assert all(token > EMB or (token == END and form != "masked") for token in targets)
    assert example.labels[0] < 0
    controls = [i for i in example.ids.tolist() if i <= EMB and i != MASK]
    original = [i for i in encoder().tokens(document).tolist() if i <= EMB]
    assert controls == original[: len(controls)]
    assert len(example.ids) <= limit
    assert bool(example.bidirectional.all()) == (form == "masked")


@settings(max_examples=100, deadline=None)
@given(PARTS, st.integers(12, 40), st.sampled_from(FORMS))
def test_a_cut_document_keeps_media_and_their_slots_together(
    parts: list, limit: int, form: Form
) -> None:
    example = encode(Document(key="", parts=tuple(parts)), form=form, max_tokens=limit)
    assert (example.ids == IMAGE).sum() == IMAGE_QUERIES * len(example.images)
    assert (example.ids == AUDIO).sum() == AUDIO_QUERIES * len(example.clips)
    shades = [part[0, 0, 0] for part in parts if isinstance(part, np.ndarray)]
    assert [int(i[0, 0, 0]) for i in example.images] == shades[: len(example.images)]


@pytest.mark.parametrize("limit", range(12, 32))
def test_a_cut_anywhere_leaves_only_whole_media(limit: int) -> None:
    parts = ("ab", picture(1), recording(2), recording(3), picture(4), picture(5), "cd")
    example = encode(Document(key="", parts=parts), max_tokens=limit)
    lengths = [0, 1, 2, 3, 6, 10, 14, 17, 20, 21, 22, 23]  # after the words' bytes and each medium
    assert len(example.ids) == max(length for length in lengths if length <= limit)
    assert (example.ids == IMAGE).sum() == IMAGE_QUERIES * len(example.images)
    assert (example.ids == AUDIO).sum() == AUDIO_QUERIES * len(example.clips)


def test_where_one_token_begins_and_ends_documents_the_first_is_no_target() -> None:
    tokenizer = train_tokenizer(["x"], vocab_size=263, control_tokens=CONTROL_TOKENS)
    tokenizer.bos_token = tokenizer.eos_token
    both = DocumentEncoder(
        processor=FlareProcessor.from_tokenizer(
            tokenizer, vocab_size=263, image_size=8, image_queries=3, audio_queries=4
        ),
        image_size=8,
        max_samples=1000,
        clip_groups=1,
    )
    document, unused = Document(key="", parts=("ab",)), np.random.default_rng(0)
    ids = both.tokens(document)
    example = both.encode(document, ids, unused, form="causal", mask_rate=0.3, max_tokens=99)
    assert ids[0] == ids[-1] == END
    assert example.labels.tolist() == [-100, *ids[1:].tolist()]


def test_the_hidden_original_reaches_no_input() -> None:
    """Any other word in its place gives the same inputs and another target."""
    document = Document(key="", parts=(picture(9), "abcdefghijklmnopqrstuvwxyz", recording(1)))
    first = encode(document, form="masked")
    hidden = ((first.labels >= 0) & (first.ids == MASK)).nonzero()[:, 0]
    assert len(hidden) > 3
    for place in hidden.tolist():
        ids = encoder().tokens(document)
        ids[place] = 7 + (ids[place] - 6) % 200
        other = encoder().encode(
            document, ids, np.random.default_rng(0), form="masked", mask_rate=0.3, max_tokens=1000
        )
        assert (other.labels != first.labels).nonzero()[:, 0].tolist() == [place]
        before, after = batch_of([first]), batch_of([other])
        for name in ("input_ids", "document_ids", "bidirectional", "pixel_values"):
            assert torch.equal(getattr(before, name), getattr(after, name)), name
        assert torch.equal(before.clips.waveforms[0], after.clips.waveforms[0])
        masked = after.targets["language/masked"]
        assert torch.equal(masked.positions, before.targets["language/masked"].positions)


def test_rows_of_captions_hold_captions_and_nothing_else() -> None:
    source = mixture()
    batch = source.collate(packed_examples(source, 4))
    assert batch.num_caption_rows > 0
    rows = batch.input_ids[-batch.num_caption_rows :].tolist()
    found = [
        [
            document
            for i in set(ids)
            for document in [[t for t, d in zip(row, ids, strict=True) if d == i]]
        ]
        for row, ids in zip(
            rows, batch.document_ids[-batch.num_caption_rows :].tolist(), strict=True
        )
    ]
    captions = [document for row in found for document in row if set(document) != {0}]
    assert all(caption[0] == BOS and caption[-1] == EMB for caption in captions)
    assert all(min(caption[1:-1]) > EMB for caption in captions)
    assert len(captions) == sum(len(pairs.text) for pairs in batch.pairs.values())
    first = (len(batch.input_ids) - batch.num_caption_rows) * batch.input_ids.shape[1]
    assert not batch.bidirectional[-batch.num_caption_rows :].any()
    assert all((targets.positions < first).all() for targets in batch.targets.values())
    assert (batch.input_ids[: -batch.num_caption_rows] == EMB).sum() == 0


@pytest.mark.parametrize("names", [("told", "heard", "read"), ("told",), ("heard",), ("read",)])
def test_pairs_lead_to_the_right_medium_and_the_right_caption(names: tuple[str, ...]) -> None:
    source = mixture(names=names)
    batch = source.collate(packed_examples(source, 6))
    flat, width = batch.input_ids.flatten(), batch.input_ids.shape[1]

    def caption_at(place: int) -> str:
        ids = flat[place - place % width : place + 1].tolist()
        start = len(ids) - ids[::-1].index(BOS)
        assert ids[-1] == EMB
        return processor().tokenizer.decode(ids[start:-1])

    for term, word in (("image_text", "shade"), ("audio_text", "level")):
        pairs = batch.pairs[term]
        media = batch.pixel_values if term == "image_text" else heard(batch.clips)
        # Every medium of these documents has a caption.
        assert pairs.media.tolist() == list(range(len(media)))
        for medium, place, number in zip(
            pairs.media.tolist(), pairs.text.tolist(), pairs.caption_ids.tolist(), strict=True
        ):
            value = media[medium].flatten()[0]
            level = int(value) if term == "image_text" else round(float(value) * 100)
            assert caption_at(place) == f"{word} {level}"
            assert number == caption_id(f"{word} {level}")
    clips = heard(batch.clips)
    levels = [round(float(clip[0]) * 100) for clip in clips]
    assert [len(clip) for clip in clips] == [410 + level for level in levels]


def test_a_batch_without_media_has_empty_tensors_of_the_right_shape() -> None:
    batch = batch_of([encode(Document(key="a", parts=("words",)))])
    assert batch.pixel_values.shape == (0, 3, 8, 8)
    assert [group.shape for group in batch.clips.waveforms] == [(0, 400)] * 3
    assert batch.num_caption_rows == 0
    assert all(len(pairs.media) == 0 for pairs in batch.pairs.values())
    assert (
        on_device(batch, torch.device("meta")).targets["language/causal"].ids.device.type == "meta"
    )


def test_a_caption_that_lost_its_medium_is_not_contrasted() -> None:
    document = Document(key="d", parts=("words " * 9, picture(1)), caption="one")
    assert encode(document, max_tokens=20).captions == ()
    assert len(encode(document).captions) == 1
    with pytest.raises(ValueError, match="not exactly one image or clip"):
        encode(replace(document, parts=(picture(1), recording(2))))


def test_padding_is_a_document_of_its_own() -> None:
    examples = [encode(Document(key="d", parts=(text,))) for text in ("short", "much longer")]
    batch = batch_of(examples)
    padding = batch.input_ids == 0
    assert padding.any()
    assert not set(batch.document_ids[padding].tolist()) & set(
        batch.document_ids[~padding].tolist()
    )


def test_a_row_is_a_function_of_its_documents() -> None:
    fields = {"augment_steps": 2, "steps": 10}
    rows = list(islice(packed_rows(mixture(**fields)), 12))
    forward = [mixture(**fields).example(row) for row in rows]
    source = mixture(**fields)
    for position in (11, 3, 0, 7):
        again, before = source.example(rows[position]), forward[position]
        for name in ("ids", "labels", "documents", "bidirectional"):
            assert torch.equal(getattr(again, name), getattr(before, name))
        assert all(map(torch.equal, again.images, before.images))
    assert not torch.equal(mixture(**fields, seed=1).example(rows[0]).ids, forward[0].ids)


def test_augmentation_ends_after_its_updates() -> None:
    plain, augmented = (
        packed_examples(source, 9) for source in (mixture(), mixture(augment_steps=2))
    )
    pairs = [p for i in range(8) for p in zip(plain[i].images, augmented[i].images, strict=True)]
    seen = [pair for pair in pairs if pair[0].min() > 9]
    # Of so plain an image a weak jitter may leave every pixel as it was.
    assert sum(torch.equal(*pair) for pair in seen) < len(seen) / 3
    assert torch.equal(plain[7].labels, augmented[7].labels)
    assert all(map(torch.equal, plain[8].images, augmented[8].images))
    assert len(seen) > 2


def test_training_ends_with_causal_documents() -> None:
    examples = packed_examples(mixture(steps=20), 80)
    early = torch.cat([example.bidirectional for example in examples[:40]])
    late = torch.cat([example.bidirectional for example in examples[72:]])
    assert 0.3 < early.float().mean() < 0.7
    assert not late.any()


@pytest.mark.parametrize("objective", ["mntp_hybrid", "mlm_only", "causal", "cm3"])
def test_rows_are_packed_as_planned(objective: str) -> None:
    source = mixture(masking=MaskingConfig(objective=objective))
    rows = list(islice(packed_rows(source), 12))
    for row in rows:
        example = source.example(row)
        planned = sum(source._size(number).tokens for number in row.numbers)
        assert len(example.ids) <= planned
        assert 0.8 * source.max_tokens < planned <= source.max_tokens
        assert len(example.ids) == planned or objective == "cm3"
        assert example.documents.unique().tolist() == list(range(len(row.numbers)))
        assert (example.ids == MASK).any() or objective in ("causal", "mntp_hybrid")
        assert sum(example.supply.documents.values()) == len(row.numbers)
    batch = source.collate([source.example(row) for row in rows])
    assert batch.input_ids.shape[1] == source.max_tokens


def test_what_stands_in_for_a_bad_sample_fits_and_is_told() -> None:
    def broken(index: int) -> Document:
        if index % 3 == 0:
            raise BadSample("image_corrupt", f"image {index} is broken")
        text = f"text of {'many ' * (index % 5)} words"
        return Document(key=str(index), parts=(picture(index % 200), text))

    feed = feed_of({"all": (broken, 1.0)}, tokenizer=processor().tokenizer)
    # Extents are known beforehand, as of samples that break later.
    feed.corpora[0].extent = lambda _: Extent(tokens=30, num_texts=1, num_images=1, num_clips=0)
    source = replace(mixture(), feed=feed)
    rows = list(islice(packed_rows(source), 9))
    examples = [source.example(row) for row in rows]
    assert all(len(example.ids) <= source.max_tokens for example in examples)
    faults = [fault for example in examples for fault in example.supply.faults]
    assert len(faults) >= sum(number % 3 == 0 for row in rows for number in row.numbers)
    assert {fault.cause for fault in faults} == {"image_corrupt"}


def test_a_row_too_short_for_any_medium_is_refused() -> None:
    least = encoder().least_tokens
    with pytest.raises(UserError, match=f"use max_tokens={least} or more"):
        mixture(max_tokens=least - 1)
