"""Pairs in packed rows: which tokens are answers, what their loss is, what it is measured by."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import PIL.Image
import pytest
import torch
from torch import Tensor

from common.data.conversations.messages import answered, question
from common.data.conversations.pair_files import open_pairs
from common.data.conversations.pairs import Pair
from common.errors import UserError
from common.training.alignment.collators import PreferenceCollator, Row
from common.training.processes import Processes
from flare import passes
from flare.data import FlareBatch
from flare.instruct.encoding import FlareFormat
from flare.model import FlareForConditionalGeneration
from flare.safety.task_reference import FILE, references_of
from tests.feeds import packed_examples
from tests.flare.instruct import chats
from tests.flare.instruct.chats import BLUE, HUM, RED
from tests.flare.instruct.rows import corpus_of, encoder_of, source_of

PROCESSOR = chats.processor()
PAIRS = [
    Pair(prompt=question(RED, "what?"), chosen="a red ring", rejected="is"),
    Pair(
        prompt={**question("and ", HUM, "?"), "images": []}, chosen="no", rejected="a ring is red"
    ),
    Pair(prompt=question("hi"), chosen="red", rejected="what"),
]
TALK = answered(question(BLUE, "what is it?"), "a ring")
LATER = Pair(
    prompt={
        **TALK,
        "messages": [*TALK["messages"], *question("sure?")["messages"]],
    },
    chosen="yes",
    rejected="no no",
)
KEYS = {f"said/{number}": (-3.0 - number, -4.5) for number in range(4)}
BETA = 0.3


def packed() -> FlareBatch:
    source = source_of(PROCESSOR, [*PAIRS, LATER], rows=2, max_tokens=190, references=KEYS)
    return source.collate(packed_examples(source, 2))


def losses(model: FlareForConditionalGeneration, batch: FlareBatch) -> dict[str, Tensor]:
    x = passes.start(model, batch).hidden
    x = passes.advance(model, model.decoder.blocks, x, batch)
    return dict(passes.finish(model, batch, x, z_loss=0.0, beta=BETA).losses)


def numbers_in(batch: FlareBatch) -> list[int]:
    return [int(key.split("/")[1]) for row in batch.keys for key in row.split("+")]


def naive(model: FlareForConditionalGeneration, numbers: list[int]) -> tuple[Tensor, Tensor]:
    """TRL's formulas, pair by pair over full logits: the sum of the preference losses, and the
    preferred answers' summed negative log-probabilities."""
    collate = PreferenceCollator(form=FlareFormat(PROCESSOR), pairs=[*PAIRS, LATER], max_tokens=190)
    preference, preferred = torch.zeros(()), torch.zeros(())
    for number in numbers:
        rows: list[Row] = [{"number": number}]
        batch = collate(rows)
        mask = batch.pop("completion_mask")[:, 1:]
        logits = model(**batch).logits[:, :-1].log_softmax(-1)
        each = logits.gather(2, batch["input_ids"][:, 1:, None])[..., 0]
        chosen, rejected = (each * mask).sum(1)
        first, second = KEYS[f"said/{number}"]
        margin = (chosen - first) - (rejected - second)
        preference = preference - torch.nn.functional.logsigmoid(BETA * margin)
        preferred = preferred - chosen
    return preference, preferred


def test_packed_pairs_have_the_loss_and_the_gradients_of_trls_formula() -> None:
    model, batch = chats.model(PROCESSOR), packed()
    assert len(numbers_in(batch)) > len(batch)
    found = losses(model, batch)
    expected = naive(model, numbers_in(batch))
    terms = found["preference"], found["language/causal"]
    weights = [p for p in model.parameters() if p.requires_grad]
    for term, wanted in zip(terms, expected, strict=True):
        torch.testing.assert_close(term, wanted, rtol=1e-6, atol=1e-5)
        own = torch.autograd.grad(term, weights, retain_graph=True, allow_unused=True)
        true = torch.autograd.grad(wanted, weights, retain_graph=True, allow_unused=True)
        for one, other in zip(own, true, strict=True):
            if other is not None:
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_both_answers_of_a_pair_lie_in_one_row_each_behind_the_whole_prompt() -> None:
    batch = packed()
    assert batch.answers is not None
    places = batch.answers.positions
    assert torch.equal(batch.input_ids.flatten()[places + 1], batch.answers.ids)
    rows, documents = places // 190, batch.document_ids.flatten()[places]
    for pair, number in enumerate(numbers_in(batch)):
        first, second = (batch.answers.numbers == 2 * pair + side for side in (0, 1))
        assert rows[first | second].unique().numel() == 1
        assert documents[second].unique() == documents[first].unique() + 1
        told = [*PAIRS, LATER][number]
        for chosen, side in ((first, "chosen"), (second, "rejected")):
            text = PROCESSOR.tokenizer.decode(batch.answers.ids[chosen])
            assert text == f" {told[side]}</s>"
    assert batch.captions().answers is None


def test_a_pair_too_long_for_a_row_is_left_out_whole_and_counted() -> None:
    source = source_of(PROCESSOR, PAIRS[:1], rows=1, max_tokens=40, references=KEYS)
    (example,) = packed_examples(source, 1)
    assert not example.answers
    assert not example.images
    assert sum(example.supply.cut.values()) >= 1


def test_references_are_scored_once_and_make_the_first_margin_zero(tmp_path: Path) -> None:
    model = chats.model(PROCESSOR)

    def score(build: Callable[[], FlareForConditionalGeneration]) -> dict[str, list[float]]:
        return references_of(
            [corpus_of(PROCESSOR, [*PAIRS, LATER])],
            tmp_path,
            build=build,
            encoder=encoder_of(PROCESSOR),
            max_tokens=190,
            processes=Processes(),
        )

    found = score(lambda: model)
    assert found.keys() == KEYS.keys()
    source = source_of(PROCESSOR, [*PAIRS, LATER], rows=2, max_tokens=190, references=found)
    batch = source.collate(packed_examples(source, 2))
    expected = len(numbers_in(batch)) * torch.tensor(2.0).log()
    torch.testing.assert_close(losses(model, batch)["preference"], expected)
    assert score(lambda: pytest.fail("built once more")) == found
    kept = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps(kept | {"digest": "others"}))
    again = score(lambda: model)
    assert again == found


def test_references_are_scored_in_half_precision_too(tmp_path: Path) -> None:
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        folder = tmp_path / str(dtype)
        folder.mkdir()
        scored = references_of(
            [corpus_of(PROCESSOR, [*PAIRS, LATER])],
            folder,
            build=partial(chats.model(PROCESSOR).to, dtype),
            encoder=encoder_of(PROCESSOR),
            max_tokens=190,
            processes=Processes(),
        )
        found.append(scored)
    for key, wanted in found[0].items():
        assert found[1][key] == pytest.approx(wanted, rel=0.02)
        assert found[1][key] != wanted


def test_pairs_come_by_path_or_are_refused_in_one_line(tmp_path: Path) -> None:
    PIL.Image.fromarray(RED).save(tmp_path / "red.png")
    content = [{"type": "image"}, {"type": "text", "text": "what?"}]
    prompt = {"messages": [{"role": "user", "content": content}], "images": ["red.png"]}
    line = {"prompt": prompt, "chosen": "red", "rejected": "blue", "category": "colours"}
    wrong = [{**line, "prompt": "what?"}, {**line, "chosen": 3}]
    wrong.append({**line, "prompt": {**prompt, "images": ["../red.png"]}})
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in [line, *wrong]))
    pairs = open_pairs(path, media=tmp_path)
    assert pairs[0]["prompt"]["images"][0].shape == RED.shape
    assert (pairs[0]["chosen"], pairs[0]["rejected"]) == ("red", "blue")
    for number, told in ((1, "prompt is no conversation"), (2, "chosen is 3"), (3, "leads out")):
        with pytest.raises(UserError, match=rf"record {number} of pairs\.jsonl: .*{told}"):
            pairs[number]
