"""Rows, targets and pairs: every index leads to what it says, whatever was packed together."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from common.data.captions import caption_id
from common.data.document import MixedDocument, Recording
from common.data.embedded.tokenizer import train_tokenizer
from common.data.images import AugmentConfig
from common.errors import UserError
from flare.data import (
    FlareBatch,
    MixtureSource,
    WeightedCorpus,
    collate,
    fair_limit,
    join,
    whole_shares,
)
from flare.encoding import DocumentEncoder, FlareExample
from flare.masking import Form, MaskingConfig
from flare.processing import CONTROL_TOKENS, FlareProcessor

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
    return DocumentEncoder(processor=processor(), image_size=8, max_samples=1000)


def encode(
    document: MixedDocument, *, form: Form = "causal", seed: int = 0, max_tokens: int = 1000
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
    return collate(examples, padding_id=0)


def mixture(**fields: object) -> MixtureSource:
    def told(index: int) -> MixedDocument:
        word = f"shade {index % 200}"
        return MixedDocument(key=word, parts=(picture(index % 200), word), caption=word)

    def heard(index: int) -> MixedDocument:
        word = f"level {index % 90}"
        return MixedDocument(key=word, parts=(recording(index % 90), word), caption=word)

    def read(index: int) -> MixedDocument:
        return MixedDocument(key=f"text {index}", parts=(f"once upon a time {index} " * 4,))

    settings = {
        "corpora": [
            WeightedCorpus(name="told", draw=told, weight=1.5),
            WeightedCorpus(name="heard", draw=heard, weight=1.0),
            WeightedCorpus(name="read", draw=read, weight=0.5),
        ],
        "encoder": encoder(),
        "masking": MaskingConfig(),
        "batch_size": 4,
        "weight": 1.0,
        "max_tokens": 120,
        "documents_per_row": 5,
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
        documents = [MixedDocument(key="", parts=tuple(parts)) for parts, _, _ in drawn]
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
    document = MixedDocument(key="", parts=tuple(parts))
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
    example = encode(MixedDocument(key="", parts=tuple(parts)), form=form, max_tokens=limit)
    assert (example.ids == IMAGE).sum() == IMAGE_QUERIES * len(example.images)
    assert (example.ids == AUDIO).sum() == AUDIO_QUERIES * len(example.clips)
    shades = [part[0, 0, 0] for part in parts if isinstance(part, np.ndarray)]
    assert [int(i[0, 0, 0]) for i in example.images] == shades[: len(example.images)]


@pytest.mark.parametrize("limit", range(12, 32))
def test_a_cut_anywhere_leaves_only_whole_media(limit: int) -> None:
    parts = ("ab", picture(1), recording(2), recording(3), picture(4), picture(5), "cd")
    example = encode(MixedDocument(key="", parts=parts), max_tokens=limit)
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
    )
    document, unused = MixedDocument(key="", parts=("ab",)), np.random.default_rng(0)
    ids = both.tokens(document)
    example = both.encode(document, ids, unused, form="causal", mask_rate=0.3, max_tokens=99)
    assert ids[0] == ids[-1] == END
    assert example.labels.tolist() == [-100, *ids[1:].tolist()]


def test_the_hidden_original_reaches_no_input() -> None:
    """Any other word in its place gives the same inputs and another target."""
    document = MixedDocument(key="", parts=(picture(9), "abcdefghijklmnopqrstuvwxyz", recording(1)))
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
        for name in ("input_ids", "document_ids", "bidirectional", "pixel_values", "waveforms"):
            assert torch.equal(getattr(before, name), getattr(after, name)), name
        masked = after.targets["language/masked"]
        assert torch.equal(masked.positions, before.targets["language/masked"].positions)


def test_rows_of_captions_hold_captions_and_nothing_else() -> None:
    source = mixture()
    batch = source.collate([source.example(position) for position in range(4)])
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
    chosen = [corpus for corpus in mixture().corpora if corpus.name in names]
    source = mixture(corpora=chosen)
    batch = source.collate([source.example(position) for position in range(6)])
    flat, width = batch.input_ids.flatten(), batch.input_ids.shape[1]

    def caption_at(place: int) -> str:
        ids = flat[place - place % width : place + 1].tolist()
        start = len(ids) - ids[::-1].index(BOS)
        assert ids[-1] == EMB
        return processor().tokenizer.decode(ids[start:-1])

    for term, word in (("image_text", "shade"), ("audio_text", "level")):
        pairs = batch.pairs[term]
        media = batch.pixel_values if term == "image_text" else batch.waveforms
        # Every medium of these documents has a caption.
        assert pairs.media.tolist() == list(range(len(media)))
        for medium, place, number in zip(
            pairs.media.tolist(), pairs.text.tolist(), pairs.caption_ids.tolist(), strict=True
        ):
            value = media[medium].flatten()[0]
            level = int(value) if term == "image_text" else round(float(value) * 100)
            assert caption_at(place) == f"{word} {level}"
            assert number == caption_id(f"{word} {level}")
    levels = [round(float(clip[0]) * 100) for clip in batch.waveforms]
    assert batch.audio_lengths.tolist() == [410 + level for level in levels]
    assert all(
        (clip[n:] == 0).all() for clip, n in zip(batch.waveforms, batch.audio_lengths, strict=True)
    )


def test_a_batch_without_media_has_empty_tensors_of_the_right_shape() -> None:
    batch = batch_of([encode(MixedDocument(key="a", parts=("words",)))])
    assert batch.pixel_values.shape == (0, 3, 8, 8)
    assert batch.waveforms.shape == (0, 400)
    assert batch.num_caption_rows == 0
    assert all(len(pairs.media) == 0 for pairs in batch.pairs.values())
    assert batch.to(torch.device("meta")).targets["language/causal"].ids.device.type == "meta"


def test_a_caption_that_lost_its_medium_is_not_contrasted() -> None:
    document = MixedDocument(key="d", parts=("words " * 9, picture(1)), caption="one")
    assert encode(document, max_tokens=20).captions == ()
    assert len(encode(document).captions) == 1
    with pytest.raises(ValueError, match="not exactly one image or clip"):
        encode(replace(document, parts=(picture(1), recording(2))))


def test_padding_is_a_document_of_its_own() -> None:
    examples = [encode(MixedDocument(key="d", parts=(text,))) for text in ("short", "much longer")]
    batch = batch_of(examples)
    padding = batch.input_ids == 0
    assert padding.any()
    assert not set(batch.document_ids[padding].tolist()) & set(
        batch.document_ids[~padding].tolist()
    )


def test_corpora_keep_their_weights_exactly_and_leave_no_document_out() -> None:
    source = mixture()
    drawn = [source.place(number) for number in range(6 * 20)]
    for turn in range(20):
        names = [corpus.name for corpus, _ in drawn[6 * turn : 6 * turn + 6]]
        assert [names.count(name) for name in ("told", "heard", "read")] == [3, 2, 1]
    for name, share in (("told", 3), ("heard", 2), ("read", 1)):
        indices = [index for corpus, index in drawn if corpus.name == name]
        assert indices == list(range(20 * share))
    orders = {tuple(c.name for c, _ in drawn[6 * t : 6 * t + 6]) for t in range(20)}
    assert len(orders) > 5
    assert whole_shares([3.0, 3.0, 0.5, 0.5, 1.0]) == [6, 6, 1, 1, 2]
    assert whole_shares([0.4, 0.2, 0.4]) == [2, 1, 2]
    with pytest.raises(UserError, match="must be positive"):
        whole_shares([1.0, 0.0])


def test_a_row_is_a_function_of_its_position() -> None:
    fields = {"augment_steps": 2, "steps": 10}
    forward = [mixture(**fields).example(position) for position in range(12)]
    source = mixture(**fields)
    for position in (11, 3, 0, 7):
        again, before = source.example(position), forward[position]
        for name in ("ids", "labels", "documents", "bidirectional", "images"):
            assert torch.equal(getattr(again, name), getattr(before, name))
    assert not torch.equal(mixture(**fields, seed=1).example(0).ids, forward[0].ids)


def test_augmentation_ends_after_its_updates() -> None:
    plain, augmented = mixture(), mixture(augment_steps=2)
    assert not torch.equal(plain.example(7).images, augmented.example(7).images)
    assert torch.equal(plain.example(7).labels, augmented.example(7).labels)
    assert torch.equal(plain.example(8).images, augmented.example(8).images)


def test_training_ends_with_causal_documents() -> None:
    source = mixture(steps=20)
    early = torch.cat([source.example(position).bidirectional for position in range(40)])
    late = torch.cat([source.example(position).bidirectional for position in range(72, 80)])
    assert 0.3 < early.float().mean() < 0.7
    assert not late.any()


@pytest.mark.parametrize("objective", ["mntp_hybrid", "mlm_only", "causal", "cm3"])
def test_rows_keep_their_length_and_their_documents(objective: str) -> None:
    source = mixture(masking=MaskingConfig(objective=objective))
    for position in range(12):
        example = source.example(position)
        assert len(example.ids) <= source.max_tokens
        assert example.documents.unique().tolist() == [0, 1, 2, 3, 4]
        assert (example.ids == MASK).any() or objective in ("causal", "mntp_hybrid")


def test_short_documents_leave_their_room_to_the_long_ones() -> None:
    assert fair_limit([10, 40, 90], 100) == 50
    assert fair_limit([90, 10, 40], 100) == 50
    assert fair_limit([5, 5], 100) == 100
    assert fair_limit([80, 80, 80], 100) == 33
    with pytest.raises(UserError, match="no room for 9 images or clips; use max_tokens=108"):
        mixture(max_tokens=100, documents_per_row=9)
