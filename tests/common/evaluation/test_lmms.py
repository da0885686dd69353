"""lmms-eval's requests through `common.evaluation.lmms`: against its real base classes where it is
installed, else against a stand-in of them."""

import sys
import tomllib
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.data.document import Recording
from common.errors import UserError
from common.evaluation import lmms
from common.evaluation.models import Prompt, Turn

RED, BLUE = Image.new("RGB", (5, 3), "red"), Image.new("RGB", (4, 6), "blue")
DOCUMENTS = [{"image": RED}, {"image": BLUE}, {"image": RED}]
TASKS = {"scenes": {"test": DOCUMENTS}}


class Echo:
    """Writes what it was asked, and finds long answers unlikely."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int, int]] = []

    def write(self, prompts: Sequence[Prompt], *, max_new_tokens: int, num_beams: int) -> list[str]:
        self.calls.append((len(prompts), max_new_tokens, num_beams))
        return [self._seen(prompt) for prompt in prompts]

    def log_likelihoods(
        self, prompts: Sequence[Prompt], answers: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        self.calls.append((len(prompts), 0, 0))
        return [[-float(len(answer)) for answer in own] for own in answers]

    def _seen(self, prompt: Prompt) -> str:
        """The colours and the words of all turns."""
        named = {"[255, 0, 0]": "red", "[0, 0, 255]": "blue"}
        colours = [named[str(m[0, 0].tolist())] for turn in prompt for m in turn.media]
        return " ".join([*colours, *(turn.text for turn in prompt)])


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """An adapter around `Echo`, the tasks set as lmms-eval sets them."""
    try:
        import lmms_eval.api.model  # noqa: F401, PLC0415 -- is it there?
    except ImportError:
        for name, content in stand_in().items():
            monkeypatch.setitem(sys.modules, name, content)

    def made(*, simple: bool, **arguments: Any) -> Any:
        echo = Echo()
        adapter = lmms.adapter(lambda folder, **how: echo, simple=simple)
        model = adapter.create_from_arg_string("pretrained=somewhere", arguments)
        model.task_dict = TASKS
        return model

    return made


def stand_in() -> dict[str, ModuleType]:
    """lmms-eval 0.7's base class, as far as it makes and describes a model, and its result."""

    class Base:
        is_simple = True

        def __init__(self) -> None:
            self._rank, self._world_size, self.task_dict = 0, 1, {}

        @classmethod
        def create_from_arg_string(cls, given: str, more: dict[str, Any]) -> Any:
            named = dict(part.split("=") for part in given.split(","))
            return cls(**named, **{k: v for k, v in more.items() if v is not None})

    names = ("lmms_eval", "lmms_eval.api", "lmms_eval.api.model", "lmms_eval.api.instance")
    modules = {name: ModuleType(name) for name in names}
    modules["lmms_eval.api.instance"].__dict__["GenerationResult"] = SimpleNamespace
    modules["lmms_eval.api.model"].__dict__["lmms"] = Base
    return modules


def messages(document: dict[str, Any], **of_round: Any) -> list[dict[str, Any]]:
    words = {"type": "text", "text": "What?"}
    return [{"role": "user", "content": [{"type": "image", "url": document["image"]}, words]}]


def chat_request(number: int, messages_of: Any = messages, **options: Any) -> Any:
    return SimpleNamespace(args=("unused", messages_of, options, number, "scenes", "test"))


def test_every_request_gets_its_own_answer_and_equal_options_share_batches(build: Any) -> None:
    model = build(simple=False, batch_size="2")
    requests = [chat_request(0, max_new_tokens=5), chat_request(1, num_beams=3), chat_request(2)]
    requests += [chat_request(1, until=["at"])]
    written = model.generate_until(requests)
    assert written == ["red What?", "blue What?", "red What?", "blue Wh"]
    assert model.writer.calls == [(1, 5, 1), (1, 64, 3), (1, 64, 1), (1, 64, 1)]
    assert model.generate_until([chat_request(n) for n in (0, 1, 2)])[1] == "blue What?"
    assert model.writer.calls[4:] == [(2, 64, 1), (1, 64, 1)]


def test_a_conversation_becomes_examples_and_a_query_in_its_order() -> None:
    red, blue = ({"type": "image", "url": image} for image in (RED, BLUE))
    said = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [red, {"type": "text", "text": "one"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "answer"}]},
        {"role": "user", "content": [{"type": "text", "text": "two"}, blue, red]},
    ]
    turns = [(len(t.media), t.text, t.answer) for t in lmms.prompt_of(said)]
    assert turns == [
        (0, "Be brief.", None),
        (1, "one", "answer"),
        (0, "two", None),
        (2, "", None),
    ]
    with pytest.raises(UserError, match="the last message is not the user's"):
        lmms.prompt_of(said[:3])
    with pytest.raises(UserError, match="follows no user's"):
        lmms.prompt_of(said[2:])


def test_turns_go_on_until_the_task_ends_them(build: Any) -> None:
    def of_round(document: Any, *, round_idx: int = 0, **before: Any) -> Any:
        if round_idx == 0:
            return messages(document)
        text = f"round {round_idx} after {before['previous_output'][-1]!r}"
        asked = [{"role": "user", "content": text}]
        return asked, round_idx == 2, before["previous_output"], None

    model = build(simple=False, batch_size=1)
    answers = model.generate_until_multi_round([chat_request(1, of_round)])
    assert answers == [["blue What?", "round 1 after 'blue What?'"]]
    # A task without rounds of its own answers with plain messages again.
    assert model.generate_until_multi_round([chat_request(0)]) == [["red What?"]]


def test_choices_of_one_prompt_are_weighed_behind_one_reading_of_it(build: Any) -> None:
    def choice(context: str, continuation: str, number: int) -> Any:
        where = (lambda document: [document["image"]], number, "scenes", "test")
        return SimpleNamespace(args=(context, continuation, *where))

    model = build(simple=True, batch_size=2)
    asked = [choice("What?", " red", 0), choice("What?", " green", 0), choice("What?", " red", 1)]
    alone = SimpleNamespace(args=("", "yes"))  # a choice by itself, for mutual information
    weighed = [result.text for result in model.loglikelihood([*asked, alone])]
    assert weighed == [(3.0, True), (5.0, False), (3.0, False), (3.0, False)]  # the least is best
    assert model.writer.calls == [(2, 5, 1), (2, 0, 0), (1, 3, 1), (1, 0, 0)]
    named = choice("What?", lambda document: "red", 0)  # a log-probability, where nothing competes
    assert model.loglikelihood([named])[0].text == (-3.0, True)


def test_media_come_as_pictures_samples_or_paths(tmp_path: Any) -> None:
    BLUE.save(tmp_path / "blue.png")
    assert np.array_equal(lmms.medium_of(str(tmp_path / "blue.png")), np.asarray(BLUE))
    sound = lmms.medium_of({"array": np.ones(800), "sampling_rate": 8000})
    assert isinstance(sound, Recording)
    assert len(sound.samples) == 1600
    with pytest.raises(UserError, match="neither an image nor a sound"):
        lmms.medium_of(7)
    video = {"role": "user", "content": [{"type": "video", "url": "a.mp4"}]}
    with pytest.raises(UserError, match="videos are not read"):
        lmms.prompt_of([video])


@pytest.mark.parametrize("options", [{"do_sample": True}, {"temperature": 0.7}])
def test_sampled_answers_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="answers are not sampled"):
        lmms.options_of(options)


def test_an_unknown_type_or_batch_size_is_refused_by_name(build: Any) -> None:
    with pytest.raises(UserError, match="dtype=int3 is none of float32, bfloat16, float16"):
        build(simple=False, batch_size=1, dtype="int3")
    with pytest.raises(UserError, match="batch_size=auto is no number"):
        build(simple=False, batch_size="auto")


def test_lmms_eval_registers_both_models_by_their_entry_points() -> None:
    registry = pytest.importorskip("lmms_eval.models.registry_v2").ModelRegistryV2()
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    for name, value in project["entry-points"]["lmms_eval.models"].items():
        registry.register_manifest(EntryPoint(name, value, "lmms_eval.models").load()())
        assert not registry.get_model_class(name).is_simple
        assert registry.get_model_class(name, force_simple=True).is_simple


def test_a_query_of_words_alone_has_no_medium() -> None:
    (turn,) = lmms.visual_prompt(("context", "continuation"), lambda *place: {})
    assert (turn.media, turn.text, turn.answer) == ((), "context", None)
    assert isinstance(turn, Turn)
