"""What a FLARE tells an evaluation equals what its plain forward pass and its task say."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.data.conversations.messages import Part
from common.data.document import Document, Recording
from common.errors import UserError
from common.evaluation.models import (
    ImageEmbedder,
    Prompt,
    Reader,
    SoundEmbedder,
    TextEmbedder,
    Turn,
    Writer,
)
from flare.corpora import SourceConfig
from flare.evaluated import EvaluatedFlare, load
from flare.generation import complete
from flare.recipes import flare_tiny
from flare.task import FlareTask
from tests.flare import tiny


@pytest.fixture(scope="module")
def task() -> FlareTask:
    kinds = ("scenes", "sounds")
    sources = tuple(SourceConfig(kind=kind, weight=1.0) for kind in kinds)
    return FlareTask(replace(flare_tiny().task, sources=sources), steps=10)


@pytest.fixture(scope="module")
def flare(task: FlareTask) -> EvaluatedFlare:
    torch.manual_seed(0)
    return EvaluatedFlare(task.build_model(), task.processor)


IMAGES = [picture.permute(1, 2, 0).numpy() for picture in tiny.images(3)]
SOUND = Recording(samples=tiny.clips(1, samples=3000)[0].numpy())
RED = Turn(media=(IMAGES[0],), text="Output:", answer="red")
PROMPTS: list[Prompt] = [
    (RED, Turn(media=(IMAGES[1], SOUND), text="Output:")),
    (Turn(media=(IMAGES[2],), text="Question: what? Short answer:"),),
    (Turn(media=(), text="Output:", answer="a bell"), Turn(media=(), text="Output:")),
]
DOCUMENTS: list[list[Part]] = [
    [IMAGES[0], "Output: red", IMAGES[1], SOUND, "Output:"],
    [IMAGES[2], "Question: what? Short answer:"],
    ["Output: a bell", "\n", "Output:"],
]
ANSWERS = [["red", "two low beeps", "a"], ["yes"], ["no", "a long answer of many words"]]


def log_probabilities(flare: EvaluatedFlare, ids: list[int], parts: list[Part]) -> torch.Tensor:
    """Of every token but the first after those before it, by one pass without caches."""
    media = flare.processor.prompts([parts])
    del media["input_ids"], media["attention_mask"]
    with torch.no_grad():
        logits = flare.model(torch.tensor([ids]), use_cache=False, **media).logits[0, :-1]
    return logits.log_softmax(-1).gather(1, torch.tensor(ids)[1:, None])[:, 0]


def test_likelihoods_of_answers_are_those_of_whole_texts(flare: EvaluatedFlare) -> None:
    found = flare.log_likelihoods(PROMPTS, ANSWERS)
    assert [len(own) for own in found] == [3, 1, 2]
    for parts, answers, values in zip(DOCUMENTS, ANSWERS, found, strict=True):
        for answer, value in zip(answers, values, strict=True):
            new = flare.processor.encode_text(f" {answer}")
            ids = [*flare.processor.encode_document(parts, closed=False), *new]
            expected = log_probabilities(flare, ids, parts)[-len(new) :].double().sum()
            assert value == pytest.approx(float(expected), abs=1e-5, rel=0)


def test_an_answer_is_written_after_the_whole_prompt_and_ends_with_its_line(
    flare: EvaluatedFlare,
) -> None:
    texts = complete(flare.model, flare.processor, DOCUMENTS, max_new_tokens=8)
    written = flare.write(PROMPTS, max_new_tokens=8, num_beams=1)
    assert written == [text.split("\n")[0].strip() for text in texts]


def test_losses_are_those_of_causal_documents(flare: EvaluatedFlare) -> None:
    parts = [(IMAGES[0], "a red bar", SOUND, "and a bell"), ("words alone",)]
    documents = [Document(key=str(i), parts=own) for i, own in enumerate(parts)]
    captioned = replace(documents[1], parts=(IMAGES[1], "two"), caption="two")
    found = flare.losses([*documents, captioned])
    for own, (loss, count) in zip([*parts, captioned.parts], found, strict=True):
        ids = flare.processor.encode_document(own)
        control = {flare.processor.image_token_id, flare.processor.audio_token_id}
        counted = [i for i in range(1, len(ids)) if ids[i] not in control]
        each = log_probabilities(flare, ids, list(own))
        assert count == len(counted)
        assert loss == pytest.approx(-float(each[[i - 1 for i in counted]].sum()), rel=1e-5)


@pytest.mark.parametrize(("place", "medium"), [(0, "image"), (1, "audio")])
def test_vectors_are_those_that_training_contrasts(
    flare: EvaluatedFlare, task: FlareTask, place: int, medium: str
) -> None:
    pairs = task.held_out.pairs[2 * place]
    assert pairs.medium == medium
    documents = [pairs.feed.read(number).document for number in range(5)]
    media = [next(p for p in d.parts if not isinstance(p, str)) for d in documents]
    captions = [str(document.caption) for document in documents]
    with torch.no_grad():
        expected = task.held_out.vectors(flare.model, medium, documents)
    embed = flare.image_vectors if medium == "image" else flare.sound_vectors
    for found, trained in (
        (embed(media), expected.media),
        (flare.text_vectors(captions), expected.text),
    ):
        unit = trained / trained.norm(dim=1, keepdim=True)
        torch.testing.assert_close(found, unit, atol=1e-5, rtol=1e-4)
        assert (found @ found.T).fill_diagonal_(0).max() < 0.99999
    assert len({len(caption) for caption in captions}) > 1
    torch.testing.assert_close(embed(media[3:4]), embed(media)[3:4], atol=1e-5, rtol=1e-4)
    alone = flare.text_vectors(captions[3:4])
    torch.testing.assert_close(alone, flare.text_vectors(captions)[3:4], atol=1e-5, rtol=1e-4)


def test_a_saved_folder_loads_and_what_is_none_is_told_in_one_line(
    flare: EvaluatedFlare, task: FlareTask, tmp_path: Path
) -> None:
    task.export(flare.model, tmp_path / "model")
    loaded = load(tmp_path / "model", device="cpu", dtype=torch.float32)
    for protocol in (Writer, Reader, ImageEmbedder, SoundEmbedder, TextEmbedder):
        assert isinstance(loaded, protocol)
    assert loaded.log_likelihoods(PROMPTS, ANSWERS) == flare.log_likelihoods(PROMPTS, ANSWERS)
    (tmp_path / "model" / "model.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match="no whole model in"):
        load(tmp_path / "model", device="cpu", dtype=torch.float32)
    (tmp_path / "model" / "config.json").write_text('{"model_type": "flamingo"}')
    with pytest.raises(UserError, match="holds a model of type flamingo, no FLARE"):
        load(tmp_path / "model", device="cpu", dtype=torch.float32)


def test_no_answer_to_choose_from_is_told_in_one_line(flare: EvaluatedFlare) -> None:
    with pytest.raises(UserError, match="'Output:' has no answer to choose from"):
        flare.log_likelihoods(PROMPTS[:1], [[]])
