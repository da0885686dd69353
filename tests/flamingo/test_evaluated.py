"""What a Flamingo tells an evaluation equals what its plain forward pass says."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from common.data.document import Document, Recording
from common.errors import UserError
from common.evaluation.models import ImageEmbedder, Prompt, Reader, Turn, Writer
from flamingo.evaluated import EvaluatedFlamingo, load
from flamingo.generation import complete
from flamingo.processing import ChunkEnd, Part
from tests.flamingo import tiny

PICTURES = [picture.permute(1, 2, 0).numpy() for picture in tiny.images(1, 5, seed=3)[0]]
RED, BLUE = (
    Turn(media=(PICTURES[place],), text="Output:", answer=answer)
    for place, answer in enumerate(("red", "two blue bars"))
)
WORDS_ONLY = Turn(media=(), text="Output:", answer="a green ring")
# Queries of different lengths, with one image, two and none.
QUERIES = (
    Turn(media=(PICTURES[2],), text="Output:"),
    Turn(media=(PICTURES[3], PICTURES[4]), text="Question: which colour? Short answer:"),
    Turn(media=(), text="Output:"),
)
PROMPTS: list[Prompt] = [(RED, BLUE, QUERIES[0]), (RED, QUERIES[1]), (WORDS_ONLY, QUERIES[2])]
DOCUMENTS: list[list[Part]] = [
    [PICTURES[0], "Output: red", PICTURES[1], "Output: two blue bars", PICTURES[2], "Output:"],
    [PICTURES[0], "Output: red", PICTURES[3], PICTURES[4], "Question: which colour? Short answer:"],
]
ANSWERS = [["red", "blue bars", "a"], ["yes"], ["no", "a long answer of many words"]]


def evaluated(family: str = "llama") -> EvaluatedFlamingo:
    """It writes letters only."""
    processor, model = tiny.processor(), tiny.model(family, vocab_size=300)
    readable = {i for i in range(300) if processor.tokenizer.decode([i]).strip().isalnum()}
    model.generation_config.suppress_tokens = [i for i in range(302) if i not in readable]
    return EvaluatedFlamingo(model, processor)


def log_probabilities(of: EvaluatedFlamingo, ids: list[int], parts: list[Part]) -> torch.Tensor:
    """Of every token but the first after those before it, by one pass without caches."""
    pictures = [part for part in parts if not isinstance(part, str)]
    pixels = of.processor.encode_pictures(pictures)[None] if pictures else None
    logits = of.model(torch.tensor([ids]), pixel_values=pixels, use_cache=False).logits[0, :-1]
    return logits.log_softmax(-1).gather(1, torch.tensor(ids)[1:, None])[:, 0]


@pytest.mark.parametrize("family", ["llama", "opt", "mpt"])
def test_likelihoods_of_answers_are_those_of_whole_texts(family: str) -> None:
    flamingo = evaluated(family)
    encode, end = flamingo.processor.encode_text, flamingo.processor.end_of_chunk_token_id
    beginnings = [flamingo.processor.encode_document(d, closed=False) for d in DOCUMENTS]
    beginnings.append([1, *encode("Output: a green ring"), end, *encode("Output:")])
    found = flamingo.log_likelihoods(PROMPTS, ANSWERS)
    assert [len(own) for own in found] == [3, 1, 2]
    for ids, parts, answers, values in zip(
        beginnings, [*DOCUMENTS, []], ANSWERS, found, strict=True
    ):
        for answer, value in zip(answers, values, strict=True):
            new = encode(f" {answer}")
            expected = log_probabilities(flamingo, [*ids, *new], parts)[-len(new) :].double().sum()
            assert value == pytest.approx(float(expected), abs=1e-5, rel=0)


def test_common_examples_with_and_without_images_change_no_answer() -> None:
    flamingo = evaluated("opt")
    options = {"max_new_tokens": 5, "num_beams": 3}
    for examples in ((RED, BLUE), (WORDS_ONLY, WORDS_ONLY), ()):
        prompts = [(*examples, query) for query in QUERIES]
        together = flamingo.write(prompts, **options)
        assert together == [flamingo.write([prompt], **options)[0] for prompt in prompts]
        assert len(set(together)) == 3
    written = complete(flamingo.model, flamingo.processor, DOCUMENTS, **options)
    assert flamingo.write(PROMPTS[:2], **options) == written


def test_losses_count_what_is_bound_to_an_image_and_all_text_where_there_is_none() -> None:
    flamingo = evaluated()
    parts = [
        ("before", PICTURES[0], "a red bar", PICTURES[1], "two"),
        (PICTURES[2], "a longer text than that"),
        ("no image",),
    ]
    found = flamingo.losses([Document(key=str(i), parts=own) for i, own in enumerate(parts)])
    image = flamingo.processor.image_token_id
    for own, (loss, count) in zip(parts, found, strict=True):
        ids = flamingo.processor.encode_document(own, closed=True)
        first = ids.index(image) if image in ids else 0
        counted = [i for i in range(first + 1, len(ids)) if ids[i] != image]
        counted = counted if first or ids[1] == image else counted[:-1]  # but no end of a chunk
        each = log_probabilities(flamingo, ids, list(own))
        assert count == len(counted)
        assert loss == pytest.approx(-float(each[[i - 1 for i in counted]].sum()), abs=1e-4)


def test_an_image_is_the_mean_of_its_features_alone_as_in_a_batch() -> None:
    flamingo = evaluated()
    features = flamingo.model.vision_encoder(tiny.images(1, 5, seed=3)[0]).mean(1)
    vectors = flamingo.image_vectors(PICTURES)
    torch.testing.assert_close(vectors, features / features.norm(dim=1, keepdim=True))
    torch.testing.assert_close(vectors[3:4], flamingo.image_vectors(PICTURES[3:4]))


def test_a_saved_folder_loads_and_what_is_none_is_told_in_one_line(tmp_path: Path) -> None:
    flamingo = evaluated()
    flamingo.model.save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match=r"the processor in .* cannot be read"):
        load(tmp_path / "model", device="cpu", dtype=torch.float32)
    flamingo.processor.save_pretrained(tmp_path / "model")
    loaded = load(tmp_path / "model", device="cpu", dtype=torch.float32)
    for protocol in (Writer, Reader, ImageEmbedder):
        assert isinstance(loaded, protocol)
    assert loaded.log_likelihoods(PROMPTS, ANSWERS) == flamingo.log_likelihoods(PROMPTS, ANSWERS)
    half = load(tmp_path / "model", device="cpu", dtype=torch.bfloat16)
    assert half.image_vectors(PICTURES).dtype == torch.float32
    with pytest.raises(UserError, match=r"no model in .*nowhere"):
        load(tmp_path / "nowhere", device="cpu", dtype=torch.float32)
    (tmp_path / "other").mkdir()
    config = AutoConfig.for_model("llama").to_dict()
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="other holds a model of type llama, no Flamingo"):
        load(tmp_path / "other", device="cpu", dtype=torch.float32)


def test_mistakes_are_told_in_one_line() -> None:
    flamingo = evaluated()
    prompt = (RED, QUERIES[0])
    with pytest.raises(UserError, match="'Output:' has no answer to choose from"):
        flamingo.log_likelihoods([prompt], [[]])
    with pytest.raises(UserError, match="after 'Output:' is empty"):
        flamingo.log_likelihoods([prompt], [["red", " "]])
    sound = Turn(media=(Recording(samples=torch.zeros(9).numpy()),), text="Output:")
    with pytest.raises(UserError, match="has a recording, but only text and images"):
        flamingo.write([(RED, sound)], max_new_tokens=1, num_beams=1)


def test_an_example_ends_its_chunk_once_whether_an_image_follows_or_not() -> None:
    processor = tiny.processor()
    parts = [PICTURES[0], "a", ChunkEnd(), "b", ChunkEnd(), PICTURES[1], "c"]
    image, end = processor.image_token_id, processor.end_of_chunk_token_id
    words = {word: processor.encode_text(word) for word in "abc"}
    expected = [1, image, *words["a"], end, *words["b"], end, image, *words["c"]]
    assert processor.encode_document(parts, closed=False) == expected
    plain = [PICTURES[0], "a", PICTURES[1], "c"]
    ended = [PICTURES[0], "a", ChunkEnd(), PICTURES[1], "c", ChunkEnd()]
    closed = processor.encode_document(plain, closed=True)
    assert processor.encode_document(ended, closed=False) == closed
