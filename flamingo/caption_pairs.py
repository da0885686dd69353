"""Image-caption pairs for the contrastive stage: generated scenes and digits, or the user's own.

Generated scenes come in families of neighbours, see `common.data.embedded.families`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from common.data.augmentation import AugmentConfig, augment
from common.data.captions import caption_id
from common.data.document import Document, Image, Recording
from common.data.embedded.captions import full_caption
from common.data.embedded.digits import digit_caption, digits_in, draw_digit
from common.data.embedded.families import member_at, scene_of
from common.data.embedded.scenes import Split, render, scenes_in
from common.data.feed import Feed, Supply
from common.data.images import resize_and_centre_crop
from common.data.randomness import generator_at
from common.errors import UserError


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """One image and the text that describes it."""

    key: str
    image: Image
    text: str


Group = Sequence[Pair]  # pairs with distinct captions


@dataclass(frozen=True, kw_only=True)
class PairExample:
    """One image and its caption; `caption_id` is equal for equal captions."""

    key: str
    pixels: UInt8[Tensor, "c y x"]
    ids: Int[Tensor, " s"]
    caption_id: int
    supply: Supply = field(default_factory=Supply)


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """Images and captions, padded on the right; `valid` is False at padding."""

    keys: list[str]
    pixels: UInt8[Tensor, "b c y x"]
    input_ids: Int[Tensor, "b s"]
    valid: Bool[Tensor, "b s"]
    caption_ids: Int[Tensor, " b"]


@dataclass(frozen=True, kw_only=True)
class PairSource:
    """Pairs with random access; everything is a function of the position."""

    feed: Feed
    tokenizer: PreTrainedTokenizerBase
    image_size: int
    max_tokens: int
    batch_size: int
    weight: float
    augment_steps: int  # updates during which images are augmented
    augmentation: AugmentConfig
    seed: int

    def example(self, position: int) -> PairExample:
        """The pair at a position."""
        is_augmented, size = position // self.batch_size < self.augment_steps, self.image_size
        least_side = self.augmentation.least_side(size) if is_augmented else size
        drawn = self.feed.read(position, least_side=least_side)
        pair = pair_of(drawn.document)
        if is_augmented:
            generator = generator_at(seed=self.seed, index=position, stream="pairs/augment")
            pair = replace(pair, image=augment(pair.image, generator, config=self.augmentation))
        example = self.encode(pair)
        is_cut = len(example.ids) == self.max_tokens
        return replace(example, supply=drawn.supply(is_cut=is_cut))

    def encode(self, pair: Pair) -> PairExample:
        """A pair as tensors, its image fitted to the encoder's size."""
        image = resize_and_centre_crop(pair.image, size=self.image_size)
        encoded = self.tokenizer(pair.text, add_special_tokens=False, split_special_tokens=True)
        return PairExample(
            key=pair.key,
            pixels=torch.from_numpy(image).permute(2, 0, 1),
            ids=torch.tensor(encoded["input_ids"][: self.max_tokens]),
            caption_id=caption_id(pair.text),
        )

    def collate(self, examples: Sequence[PairExample]) -> PairBatch:
        """Captions padded to the longest."""
        ones = [torch.ones_like(example.ids, dtype=torch.bool) for example in examples]
        return PairBatch(
            keys=[example.key for example in examples],
            pixels=torch.stack([example.pixels for example in examples]),
            input_ids=pad_sequence([example.ids for example in examples], batch_first=True),
            valid=pad_sequence(ones, batch_first=True),
            caption_ids=torch.tensor([example.caption_id for example in examples]),
        )


def generated_pairs(
    *, seed: int, family_size: int, digit_share: float
) -> Callable[[int], Document]:
    """Training pairs: families of neighbouring scenes, some families being digits."""

    def draw(index: int) -> Document:
        member = member_at(seed=seed, index=index, family_size=family_size, stream="pairs")
        key = f"pair/train/{seed}/{index}"
        if member.family.random() < digit_share:
            image, word = draw_digit(member.own, split="train")
            text = digit_caption(word)
            return Document(key=key, parts=(image, text), caption=text)
        scene = scene_of(member)
        image, text = render(scene, member.own), full_caption(scene)
        return Document(key=key, parts=(image, text), caption=text)

    return draw


def generated_groups(*, seed: int, captions: int, groups: int) -> dict[str, list[Group]]:
    """Held-out scenes, colour-shape pairs never seen together, and held-out digits, apart."""
    splits: tuple[Split, ...] = ("unseen_scenes", "unseen_pairs")
    tables: dict[str, list[Group]] = {
        split: [_scene_group(split, index, seed=seed, captions=captions) for index in range(groups)]
        for split in splits
    }
    return {**tables, "digits": _digit_groups()}


def pair_of(document: Document) -> Pair:
    """A captioned image as a pair.

    Raises:
        UserError: the document is something else.
    """
    images = [part for part in document.parts if not isinstance(part, str | Recording)]
    if document.caption is None or len(images) != 1:
        raise UserError(
            f"{document.key} is no captioned image; the contrastive stage takes image-text pairs"
        )
    return Pair(key=document.key, image=images[0], text=document.caption)


def held_out_groups(feed: Feed, *, captions: int, groups: int) -> dict[str, list[Group]]:
    """The user's held-out pairs in groups of distinct captions; few pairs make one small group."""
    chosen: list[dict[str, Pair]] = [{}]
    for number in range(min(feed.orders[0].num_samples, captions * groups)):
        pair = pair_of(feed.read(number).document)
        if len(chosen[-1]) == captions:
            chosen.append({})
        chosen[-1].setdefault(pair.text, pair)
    return {"pairs": [list(group.values()) for group in chosen]}


def _scene_group(split: Split, index: int, *, seed: int, captions: int) -> Group:
    generator = generator_at(seed=seed, index=index, stream=f"pairs/{split}")
    scenes = scenes_in(split)
    return [
        Pair(
            key=f"pair/{split}/{seed}/{index}/{place}",
            image=render(scenes[place], generator),
            text=full_caption(scenes[place]),
        )
        for place in generator.permutation(len(scenes))[:captions].tolist()
    ]


def _digit_groups() -> list[Group]:
    """Every held-out digit, in groups of one of each kind: telling among ten captions."""
    kinds: dict[str, list[Pair]] = {}
    for digit in digits_in("held_out"):
        text = digit_caption(digit.word)
        pair = Pair(key=f"digit/{digit.index}", image=digit.image, text=text)
        kinds.setdefault(text, []).append(pair)
    return [list(group) for group in zip(*kinds.values(), strict=False)]
