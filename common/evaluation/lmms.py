"""What lmms-eval asks of a model, answered by any `Writer`: its requests become prompts, its media
are read batch by batch. lmms-eval is imported when it asks for a class itself. Videos are refused;
writing is greedy or by beams, never sampled."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image as Pillow

from common.data.audio import read_audio, to_recording
from common.data.images import read_image
from common.errors import UserError
from common.evaluation.models import Medium, Prompt, Turn, Writer
from common.training.processes import Processes, join_processes, num_launched

SOUNDS = (".wav", ".flac", ".ogg", ".mp3")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DEFAULT_NEW_TOKENS = 64  # where a task sets no limit
Messages = Sequence[Mapping[str, Any]]


@runtime_checkable
class Load(Protocol):
    """`flamingo.evaluated.load` and its like."""

    def __call__(self, folder: Path, *, device: torch.device | str, dtype: torch.dtype) -> Writer:
        """The model of a folder."""
        ...


@runtime_checkable
class Request(Protocol):
    """lmms-eval's `Instance`."""

    @property
    def args(self) -> tuple[Any, ...]:
        """What the task says; its layout follows from the kind of request."""
        ...


@dataclass(frozen=True, kw_only=True)
class Options:
    """How an answer is written and where it is cut."""

    max_new_tokens: int
    num_beams: int
    until: tuple[str, ...]


def adapters(module: str, load: Load) -> Callable[[str], type]:
    """The `__getattr__` of a module in which lmms-eval finds the classes `Chat` and `Simple`."""
    kinds = {"Chat": False, "Simple": True}

    def make(name: str) -> type:
        if name not in kinds:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return adapter(load, simple=kinds[name])

    return make


def adapter(load: Load, *, simple: bool) -> type:
    """A subclass of lmms-eval's `lmms` around the models that `load` reads.

    Args:
        simple: of lmms-eval's two kinds, the one that likelihoods and multiple choice need; the
            other is handed messages and takes turns.
    """
    from lmms_eval.api.instance import GenerationResult  # noqa: PLC0415 -- installed where it runs
    from lmms_eval.api.model import lmms  # noqa: PLC0415 -- as above

    class Adapter(lmms):
        is_simple = simple

        def __init__(
            self,
            pretrained: str,
            *,
            batch_size: int | str,
            device: str | None = None,
            max_batch_size: int | None = None,
            dtype: str = "float32",
        ) -> None:
            super().__init__()
            processes = _processes()
            self._rank, self._world_size = processes.rank, processes.num_ranks
            self.device = torch.device(device or processes.device)
            self.batch_size = _whole_number(batch_size, name="batch_size")
            if dtype not in DTYPES:
                raise UserError(f"dtype={dtype} is none of {', '.join(DTYPES)}")
            self.writer = load(Path(pretrained), device=self.device, dtype=DTYPES[dtype])

        def generate_until(self, requests: Sequence[Request]) -> list[str]:
            document = _documents(self.task_dict)
            read = visual_prompt if simple else chat_prompt
            place_of_options = 1 if simple else 2
            return write_all(
                self.writer,
                [partial(read, request.args, document) for request in requests],
                [options_of(request.args[place_of_options]) for request in requests],
                batch_size=self.batch_size,
            )

        def generate_until_multi_round(self, requests: Sequence[Request]) -> list[list[str]]:
            if simple:
                raise UserError("turns need messages; leave out --force_simple")
            document = _documents(self.task_dict)
            return [take_turns(self.writer, request.args, document) for request in requests]

        def loglikelihood(self, requests: Sequence[Request]) -> list[GenerationResult]:
            document = _documents(self.task_dict)
            pairs = weigh_all(self.writer, requests, document, batch_size=self.batch_size)
            # lmms-eval 0.7 takes the smallest for the best of several choices, and makes text of a
            # bare pair.
            return [
                GenerationResult(text=(value if _is_alone(request) else -value, is_greedy))
                for request, (value, is_greedy) in zip(requests, pairs, strict=True)
            ]

    return Adapter


Documents = Callable[[str, str, int], Mapping[str, Any]]  # of a task, a split and a number


def chat_prompt(args: tuple[Any, ...], document: Documents) -> Prompt:
    """Of `(context, messages of a document, options, number, task, split)`."""
    _, messages_of, _, number, task, split = args
    return prompt_of(messages_of(document(task, split, number)))


def visual_prompt(args: tuple[Any, ...], document: Documents) -> Prompt:
    """Of `(context, ..., media of a document, number, task, split)`; of a bare context alone."""
    if len(args) == 2:
        return (Turn(media=(), text=args[0]),)
    visuals_of, number, task, split = args[2:]
    visuals = visuals_of(document(task, split, number)) if visuals_of else None
    return (Turn(media=tuple(medium_of(visual) for visual in visuals or ()), text=args[0]),)


def prompt_of(messages: Messages) -> Prompt:
    """A conversation as turns; media stay where they stand among the words.

    `user: [image, "What?"], assistant: "red", user: [image, "And?"]` -> an example and a query.

    Raises:
        UserError: the last message is an answer, the first one is, or there is a video.
    """
    turns: list[Turn] = []
    for message in messages:
        if message["role"] != "assistant":
            turns += _turns(_contents(message))
        elif not turns or turns[-1].answer is not None:
            raise UserError("an assistant's message follows no user's; check the task's messages")
        else:
            words = "\n".join(part["text"] for part in _contents(message))
            turns[-1] = replace(turns[-1], answer=words)
    if not turns or turns[-1].answer is not None:
        raise UserError("the last message is not the user's; check the task's messages")
    return tuple(turns)


def medium_of(value: Any) -> Medium:
    """A PIL image, samples as `datasets` decodes them, or the path of a file.

    Raises:
        UserError: it is a video or something else, or the file cannot be read.
    """
    if isinstance(value, Pillow.Image):
        return np.asarray(value.convert("RGB"))
    if isinstance(value, np.ndarray) and value.ndim == 3:
        return value
    if isinstance(value, str | Path):
        path = Path(value)
        return read_audio(path) if path.suffix.lower() in SOUNDS else read_image(path)
    if isinstance(value, Mapping) and "array" in value:
        samples = np.asarray(value["array"], dtype=np.float32).reshape(-1, 1)
        return to_recording(samples, rate_hz=int(value["sampling_rate"]))
    if hasattr(value, "get_all_samples"):
        decoded = value.get_all_samples()
        return to_recording(decoded.data.T.numpy(), rate_hz=int(decoded.sample_rate))
    raise UserError(f"a medium of type {type(value).__name__} is neither an image nor a sound")


def options_of(asked: Mapping[str, Any]) -> Options:
    """lmms-eval's generation arguments.

    Raises:
        UserError: they ask for samples.
    """
    if asked.get("do_sample") or (asked.get("temperature") or 0) > 0:
        raise UserError("answers are not sampled; set do_sample: false and temperature: 0")
    until = asked.get("until") or ()
    return Options(
        max_new_tokens=int(asked.get("max_new_tokens") or DEFAULT_NEW_TOKENS),
        num_beams=int(asked.get("num_beams") or 1),
        until=(until,) if isinstance(until, str) else tuple(until),
    )


def write_all(
    model: Writer,
    reads: Sequence[Callable[[], Prompt]],
    options: Sequence[Options],
    *,
    batch_size: int,
) -> list[str]:
    """An answer to each prompt in their order; those of the same options share batches."""
    texts: dict[int, str] = {}
    for batch in _batches_of_equals(options, size=batch_size):
        chosen = options[batch[0]]
        written = model.write(
            [reads[place]() for place in batch],
            max_new_tokens=chosen.max_new_tokens,
            num_beams=chosen.num_beams,
        )
        texts |= zip(batch, (_cut(text, chosen.until) for text in written), strict=True)
    return [texts[place] for place in range(len(reads))]


def take_turns(model: Writer, args: tuple[Any, ...], document: Documents) -> list[str]:
    """Answers until the task ends the conversation, whose messages follow from those before."""
    _, messages_of, asked, number, task, split = args
    shown = document(task, split, number)
    options, answers, state = options_of(asked), list[str](), None
    messages = messages_of(shown)
    while messages is not None:
        answers += write_all(model, [partial(prompt_of, messages)], [options], batch_size=1)
        following = messages_of(
            shown,
            round_idx=len(answers),
            previous_output=list(answers),
            previous_round_info=state,
        )
        if not isinstance(following, tuple):  # a task of a single round
            break
        messages, is_over, _, state = following
        messages = None if is_over else messages
    return answers


def weigh_all(
    model: Writer, requests: Sequence[Request], document: Documents, *, batch_size: int
) -> list[tuple[float, bool]]:
    """Log-probability in nats of each continuation, and whether greedy writing begins with it.

    Choices of one prompt, which come one after another, are weighed behind one reading of it.
    """
    groups = [[*group] for _, group in groupby(requests, key=lambda request: _asked(request.args))]
    weighed: list[tuple[float, bool]] = []
    for start in range(0, len(groups), batch_size):
        batch = groups[start : start + batch_size]
        prompts = [visual_prompt(group[0].args, document) for group in batch]
        answers = [[_continuation(one.args, document) for one in group] for group in batch]
        longest = max(len(answer.encode()) for own in answers for answer in own)
        greedy = model.write(prompts, max_new_tokens=longest, num_beams=1)
        sums = model.log_likelihoods(prompts, answers)
        for own, values, text in zip(answers, sums, greedy, strict=True):
            begins = [text.startswith(answer) for answer in own]
            weighed += zip(values, begins, strict=True)
    return weighed


def _processes() -> Processes:
    if num_launched() > 1:
        return join_processes(timeout=timedelta(hours=24))  # lmms-eval's own limit
    found = torch.accelerator.current_accelerator(check_available=True)
    return Processes() if found is None else Processes(device=found)


def _whole_number(value: int | str, *, name: str) -> int:
    if not str(value).isdecimal() or int(value) < 1:
        raise UserError(f"{name}={value} is no number of 1 or more")
    return int(value)


def _documents(tasks: Mapping[str, Any]) -> Documents:
    return lambda task, split, number: tasks[task][split][number]


def _contents(message: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _turns(contents: Sequence[Mapping[str, Any]]) -> Iterator[Turn]:
    """A turn for each run of media with the words behind it."""
    media: tuple[Medium, ...] = ()
    for is_text, run in groupby(contents, key=lambda part: part["type"] == "text"):
        if is_text:
            yield Turn(media=media, text="\n".join(part["text"] for part in run))
            media = ()
        else:
            media = tuple(_seen_or_heard(part) for part in run)
    if media:
        yield Turn(media=media, text="")


def _seen_or_heard(part: Mapping[str, Any]) -> Medium:
    if part["type"] == "video":
        raise UserError("videos are not read; choose a task of images or sounds")
    return medium_of(part["url"])


def _is_alone(request: Request) -> bool:
    """One continuation to weigh, which the task names by a function; not one of several choices."""
    return callable(request.args[1])


def _batches_of_equals(options: Sequence[Options], *, size: int) -> Iterator[list[int]]:
    for chosen in dict.fromkeys(options):
        places = [place for place, own in enumerate(options) if own == chosen]
        yield from (places[start : start + size] for start in range(0, len(places), size))


def _cut(text: str, until: Sequence[str]) -> str:
    return text[: min([text.find(stop) for stop in until if stop in text], default=len(text))]


def _asked(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """What tells prompts apart: the context, and the document's number, task and split."""
    return (args[0], *args[3:])


def _continuation(args: tuple[Any, ...], document: Documents) -> str:
    """A space parts the prompt from an answer, whether the task gives one or not."""
    given = args[1]
    if callable(given):
        _, _, _, number, task, split = args
        given = given(document(task, split, number))
    return str(given).strip()
