"""Filters leave out what they say, count it, and copy the rest byte for byte."""

import json
import shutil
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from sklearn.datasets import load_sample_image
from transformers import (
    AutoProcessor,
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
)

from common.data.document import Document, Image
from common.data.images import decode_image
from common.data.quality.contamination import (
    Match,
    images_of_folder,
    images_of_samples,
    load_images,
    save_images,
    without_evaluation_images,
)
from common.data.quality.duplicates import Copies, without_copies
from common.data.quality.prose import Placeholder, ProseQuality, ProseRepetition
from common.data.quality.rules import CaptionName, CaptionWords, ImageShape, Rule, TextLength
from common.data.quality.sample import Sample
from common.data.quality.similarity import (
    load_dual_encoder,
    similarities,
    without_unlike,
)
from common.data.quality.survey import survey, survey_range
from common.data.quality.words import words
from common.data.quality.writing import count_reasons, write_kept
from common.data.shards.build import build_indices
from common.data.shards.corpus import open_shards
from common.data.shards.writer import ShardWriter
from common.errors import UserError

PROSE = """The harbour was quiet when the ferry came in, and nobody waited on the pier except
an old man with two dogs. He had been told that his daughter would arrive by noon, though the
letter did not say from which town or whether she would stay.

After an hour he walked back through the market, bought a loaf of bread and some cheese, then sat
below the lighthouse to eat. Gulls circled over him while clouds gathered in the west."""


def encoded(image: Image, *, form: str = "PNG", quality: int = 90) -> bytes:
    file = BytesIO()
    PIL.Image.fromarray(image).save(file, form, quality=quality)
    return file.getvalue()


def tile(number: int, *, height: int = 105, width: int = 120) -> Image:
    """Pieces of a photograph that do not overlap, none of them plain sky."""
    top, left = 315 - 105 * (number // 5), 120 * (number % 5)
    return load_sample_image("china.jpg")[top : top + height, left : left + width].copy()


class Pairs:
    """Images with captions, in memory; a broken one is `b"broken"`."""

    def __init__(self, *pairs: tuple[bytes, str]) -> None:
        self.pairs, self.reads = pairs, 0

    def __len__(self) -> int:
        return len(self.pairs)

    def members(self, index: int) -> dict[str, bytes]:
        return {"png": self.pairs[index][0], "txt": self.pairs[index][1].encode()}

    def read(self, index: int, *, least_side: int | None = None) -> Document:
        self.reads += 1
        data, caption = self.pairs[index]
        image = decode_image(data, name="pair", least_side=least_side)
        return Document(key=f"shard/{index}", parts=(image, caption), caption=caption)


def text_sample(text: str) -> Sample:
    return Sample(document=Document(key="a", parts=(text,)), members={})


def reason_for(rule: Rule, text: str) -> str | None:
    return rule.reason(text_sample(text))


@pytest.mark.parametrize(
    ("size", "reason"),
    [((200, 600), None), ((199, 300), "image_small"), ((601, 200), "image_elongated")],
)
def test_images_are_judged_by_their_stored_size(size: tuple[int, int], reason: str | None) -> None:
    small = np.zeros((64, 64, 3), dtype=np.uint8)
    document = Document(key="a", parts=(small, "a wall"), caption="a wall")
    members = {"jpg": encoded(np.zeros((*size, 3), dtype=np.uint8), form="JPEG")}
    sample = Sample(document=document, members=members)
    assert ImageShape(min_side=200, max_aspect=3.0).reason(sample) == reason


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        ("a red roof", None),
        ("a roof", "text_short"),
        ("a b c", "text_short"),
        ("屋根の上の猫", None),
        ("word " * 257, "text_too_long"),
        ("w" * 500 + " of " + "w" * 500, "text_too_long"),
    ],
)
def test_text_is_neither_short_nor_long(caption: str, reason: str | None) -> None:
    assert reason_for(TextLength(), caption) == reason


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        ("Img of a cat", None),
        ("version 2.png of the logo", None),
        ("summer in Rome.JPG", "caption_file_name"),
        ("IMG_20190412", "caption_file_name"),
        ("DSC 0042", "caption_file_name"),
        ("8f14e45fceea167a", "caption_file_name"),
        ("https://example.org/a cat", None),
        ("https://example.org/cat?id=3", "caption_url"),
        ("www.example.org", "caption_url"),
    ],
)
def test_a_name_is_no_caption(caption: str, reason: str | None) -> None:
    assert reason_for(CaptionName(), caption) == reason


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        ("two dogs, one big dog", None),
        ("sale sale sale now", "caption_repetition"),
        ("12 x 14 = 168 (cm)", "caption_letters"),
        ("Кошка на крыше", None),
    ],
)
def test_captions_are_made_of_different_words(caption: str, reason: str | None) -> None:
    assert reason_for(CaptionWords(), caption) == reason


def test_words_of_scripts_without_spaces_are_their_characters() -> None:
    assert words("a cat, 猫だ") == ["a", "cat,", "猫", "だ"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PROSE, None),
        ("屋根の上に白い猫がいて、雨の音を聞きながら眠っている。" * 3, None),
        ("a roof", "prose_length"),
        ("a b c d e f " * 10, "prose_word_length"),
        (PROSE + " #" * 12, "prose_symbols"),
        ("\n".join(f"- {line}" for line in PROSE.splitlines()), "prose_bullets"),
        ("\n".join(f"{line}..." for line in PROSE.splitlines()), "prose_ellipses"),
        (" ".join(f"{word} 1234" for word in PROSE.split()), "prose_letters"),
    ],
)
def test_gophers_rules_for_single_documents(text: str, reason: str | None) -> None:
    assert reason_for(ProseQuality(), text) == reason


LINES = PROSE.splitlines()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PROSE, None),
        ("\n".join(["Menu", "Help"] * 3 + LINES), "prose_lines"),
        (PROSE + "\n" + LINES[0] + "\n" + LINES[1], "prose_lines"),
        (PROSE + "\n\nShare" * 2, None),
        (PROSE + "\n\nShare" * 3, "prose_paragraphs"),
        (PROSE.replace(",", " click right here now").replace("\n", " "), "prose_frequent"),
        (PROSE.replace("\n", " ") + " " + " ".join(LINES[:2]), "prose_repetition"),
    ],
)
def test_gophers_rules_against_repetition(text: str, reason: str | None) -> None:
    assert reason_for(ProseRepetition(), text) == reason


def test_repeated_grams_count_each_word_once() -> None:
    # Of "b c d e f g" twice the second has two 5-grams that overlap: 6 of 18 characters repeat.
    text = "x1 b c d e f g x2 x3 b c d e f g"
    almost = ProseRepetition(most_frequent=(), repeated=(6 / 18,))
    assert reason_for(almost, text) is None
    assert reason_for(ProseRepetition(most_frequent=(), repeated=(0.33,)), text) is not None


def test_placeholders_are_no_prose() -> None:
    assert reason_for(Placeholder(), "function() { }") == "prose_placeholder"
    assert reason_for(Placeholder(), "Lorem Ipsum dolor") == "prose_placeholder"
    assert reason_for(Placeholder(), PROSE) is None


def test_a_stopped_survey_goes_on_and_refuses_other_rules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.data.quality.survey.BLOCK", 3)
    pictures = [encoded(tile(number)) for number in range(7)]
    pictures[4] = pictures[4][:-900]
    source = Pairs(*((png, f"caption {n}") for n, png in enumerate(pictures)))
    steps: list[tuple[int, int]] = []

    def stop(done: int, count: int) -> None:
        steps.append((done, count))
        if done == 1:
            raise KeyboardInterrupt

    rules = [TextLength(min_words=2)]
    with pytest.raises(KeyboardInterrupt):
        survey(source, tmp_path, source_digest="x", num_workers=1, rules=rules, progress=stop)
    found = survey(source, tmp_path, source_digest="x", num_workers=1, rules=rules, progress=stop)
    assert source.reads == 7
    assert steps == [(1, 3), (2, 3), (3, 3)]
    straight = survey_range(source, range(7), rules=rules)
    assert found.reasons.tolist() == ["", "", "", "", "image_corrupt", "", ""]
    assert found.image_samples.tolist() == [0, 1, 2, 3, 5, 6]
    assert all((getattr(found, name) == value).all() for name, value in vars(straight).items())
    with pytest.raises(UserError, match="holds blocks of other data or settings"):
        survey(source, tmp_path, source_digest="x", num_workers=1, rules=[TextLength()])
    block = sorted(tmp_path.glob("*.npz"))[1]
    block.write_bytes(block.read_bytes()[:-9])
    with pytest.raises(UserError, match=rf"{block.name} is damaged"):
        survey(source, tmp_path, source_digest="x", num_workers=1, rules=rules)


def test_evaluation_images_are_found_and_named(tmp_path: Path) -> None:
    folder = tmp_path / "evaluation"
    (folder / "deep").mkdir(parents=True)
    (folder / "first.jpg").write_bytes(encoded(tile(3), form="JPEG", quality=70))
    (folder / "deep" / "second.png").write_bytes(encoded(tile(6)))
    (folder / "plain.png").write_bytes(encoded(np.full((40, 50, 3), 200, dtype=np.uint8)))
    (folder / "notes.txt").write_text("no image")
    built = images_of_folder(folder)
    save_images(built, tmp_path / "table.npy")
    images = load_images(tmp_path / "table.npy")
    assert (images.names, images.unhashed) == (("deep/second.png", "first.jpg"), ("plain.png",))
    half = PIL.Image.fromarray(tile(6)).resize((60, 52), PIL.Image.Resampling.BICUBIC)
    source = Pairs((encoded(tile(0)), "a"), (encoded(tile(3)), "b"), (encoded(np.array(half)), "c"))
    found = survey_range(source, range(3), rules=())
    reasons, matches = without_evaluation_images(found, found.reasons, images=images, distance=4)
    assert reasons.tolist() == ["", "evaluation_image", "evaluation_image"]
    assert [(x.key, x.item) for x in matches] == [
        ("shard/1", "first.jpg"),
        ("shard/2", "deep/second.png"),
    ]
    assert images_of_samples(source).names == ("shard/0", "shard/1", "shard/2")
    assert Match(key="a", item="b", distance=1) < Match(key="b", item="a", distance=0)


def test_a_damaged_hash_table_is_a_users_mistake(tmp_path: Path) -> None:
    np.save(tmp_path / "table.npy", np.zeros(3, dtype=np.uint64))
    with pytest.raises(UserError, match=r"table\.npy and its \.json are no hash table"):
        load_images(tmp_path / "table.npy")
    (tmp_path / "table.json").write_text(json.dumps({"names": ["a"], "unhashed": []}))
    with pytest.raises(UserError, match=r"does not fit its \.json"):
        load_images(tmp_path / "table.npy")


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP with random weights, whose words are spelt."""
    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(code) + end for code in range(97, 123) for end in ("", "</w>")]
    vocabulary = {x: n for n, x in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    size, last = {"hidden_size": 24, "num_hidden_layers": 2}, len(vocabulary) - 1
    text = {"vocab_size": last + 1, "bos_token_id": last - 1, "eos_token_id": last}
    text |= {"num_attention_heads": 3, "max_position_embeddings": 11, "intermediate_size": 37}
    vision = {"num_attention_heads": 2, "image_size": 30, "patch_size": 15}
    torch.manual_seed(1)
    config = CLIPConfig(text_config=size | text, vision_config=size | vision, projection_dim=16)
    CLIPModel(config).save_pretrained(folder)
    processor = CLIPImageProcessor(
        size={"shortest_edge": 30}, crop_size={"height": 30, "width": 30}
    )
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[])
    CLIPProcessor(image_processor=processor, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def test_a_local_dual_encoder_scores_as_its_own_forward_pass(clip_folder: Path) -> None:
    images = [tile(number, width=90 + number) for number in range(3)]
    texts = ["a cat", "a long caption that is cut off", "x"]
    scores = load_dual_encoder(clip_folder, device="cpu")(images, texts)
    model = CLIPModel.from_pretrained(clip_folder).eval()
    processor = AutoProcessor.from_pretrained(clip_folder)
    for image, text, score in zip(images, texts, scores, strict=True):
        inputs = processor(
            images=[image], text=[text], truncation=True, max_length=11, return_tensors="pt"
        )
        with torch.no_grad():
            expected = model(**inputs).logits_per_image.item() / model.logit_scale.exp().item()
        assert score == pytest.approx(expected, abs=1e-5)
    assert len(set(scores.round(4).tolist())) == 3


def test_a_folder_without_a_dual_encoder_is_a_users_mistake(
    tmp_path: Path, clip_folder: Path
) -> None:
    with pytest.raises(UserError, match="holds no model with its processor"):
        load_dual_encoder(tmp_path, device="cpu")
    shutil.copytree(clip_folder, tmp_path, dirs_exist_ok=True)
    config = BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=9
    )
    BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="holds BertModel, no dual encoder; use one like CLIP"):
        load_dual_encoder(tmp_path, device="cpu")


def test_pairs_below_the_threshold_go_and_scores_are_asked_for_once(tmp_path: Path) -> None:
    captions = ["0.5", "0.1", "0.9", "0.2", "0.7"]
    source = Pairs(*((encoded(tile(n)), caption) for n, caption in enumerate(captions)))
    asked: list[list[str]] = []

    def score(images: list[Image], texts: list[str]) -> np.ndarray:
        assert len(images) == len(texts)
        asked.append(list(texts))
        return np.array([float(text) for text in texts], dtype=np.float32)

    reasons = np.array(["", "", "image_small", "", ""], dtype=object)
    for _ in range(2):
        found = similarities(source, reasons, tmp_path, score=score, claim="tiny", batch_size=3)
    assert asked == [["0.5", "0.1", "0.2"], ["0.7"]]
    left = without_unlike(reasons, found, threshold=0.3)
    assert left.tolist() == ["", "caption_unlike", "image_small", "caption_unlike", ""]
    similarities(
        source, np.full(5, "", dtype=object), tmp_path, score=score, claim="tiny", batch_size=2
    )
    assert asked[2:] == [["0.9"]]
    (block,) = tmp_path.glob("*.npy")
    np.save(block, np.zeros(1, dtype=np.float32))
    with pytest.raises(UserError, match=rf"{block.name} is damaged"):
        similarities(source, reasons, tmp_path, score=score, claim="tiny", batch_size=3)


def test_shards_are_filtered_from_end_to_end(tmp_path: Path) -> None:
    samples = {
        "a0": {"png": encoded(tile(0)), "txt": b"a courtyard with a fence"},
        "a1": {"jpg": encoded(tile(0), form="JPEG"), "txt": b"the same again, compressed"},
        "a2": {"png": encoded(tile(2)), "txt": b"DSC_0001.jpg"},
        "a3": {"png": encoded(tile(3))[:-700], "txt": b"a picture that is damaged"},
        "a4": {"png": encoded(tile(4)), "txt": b"people in front of a temple", "json": b"{}"},
    }
    with ShardWriter(tmp_path / "all", samples_per_shard=2) as writer:
        for key, members in samples.items():
            writer.write(key, members)
    build_indices(tmp_path / "all")
    corpus = open_shards(tmp_path / "all")
    found = survey(
        corpus,
        tmp_path / "survey",
        source_digest=corpus.digest,
        rules=[CaptionName()],
        num_workers=2,
    )
    reasons = without_copies(found, found.reasons, copies=Copies())
    assert count_reasons(reasons) == {
        "near_duplicate_image": 1,
        "caption_file_name": 1,
        "image_corrupt": 1,
    }
    with ShardWriter(tmp_path / "kept") as writer:
        assert write_kept(corpus, found, reasons, write=writer.write) == 2
    with tarfile.open(tmp_path / "kept" / "00000.tar") as tar:
        contents = {name: tar.extractfile(name) for name in tar.getnames()}
        written = {name: file.read() for name, file in contents.items() if file}
    assert written == {
        f"{shard}/{key}.{extension}": data
        for shard, key in (("00000", "a0"), ("00002", "a4"))
        for extension, data in samples[key].items()
    }
    rest: list[str] = []
    write_kept(corpus, found, reasons, write=lambda key, _: rest.append(key), skip=1)
    assert rest == ["00002/a4"]
