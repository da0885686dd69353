"""The tab of conversations: pictures, for some models sounds, and words; the answer appears while
it is written and can be stopped. Conversations are kept here, not in the browser."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, TypeAlias

import gradio as gr

from common.demo import inputs
from common.demo.abilities import Demonstrated
from common.demo.events import AT_ONCE, IN_TURN, mistakes_told, unchanged
from common.demo.limits import Limits
from common.demo.samples import Samples
from common.errors import UserError
from common.generation.chat import Chat

NUM_KEPT = 16  # conversations; each holds what the model has read
FIRST_LENGTH = 64  # where the slider of lengths stands
NO_ANSWER = "(nothing more to say)"

Shown: TypeAlias = list[dict[str, Any]]  # messages as Gradio's chatbot takes them


@dataclass(kw_only=True)
class Conversation:
    """A visitor's conversation, and what of it is on the page."""

    chat: Chat
    shown: Shown = field(default_factory=list)
    num_media: int = 0
    stopped: Event = field(default_factory=Event)


class Conversations:
    """Conversations by the browser's session; the one that rested longest makes room."""

    def __init__(self, start: Callable[[], Chat]) -> None:
        self._start = start
        self._kept: OrderedDict[str, Conversation] = OrderedDict()

    def of(self, session: str) -> Conversation:
        """The session's conversation, begun when there is none."""
        if session not in self._kept:
            self._kept[session] = Conversation(chat=self._start())
        self._kept.move_to_end(session)
        if len(self._kept) > NUM_KEPT:
            _, oldest = self._kept.popitem(last=False)
            oldest.stopped.set()
        return self._kept[session]

    def stop(self, session: str) -> None:
        """Ends the answer that is being written, if one is."""
        if session in self._kept:
            self._kept[session].stopped.set()

    def forget(self, session: str) -> None:
        """Ends a conversation."""
        self.stop(session)
        self._kept.pop(session, None)


def chat_tab(model: Demonstrated, *, samples: Samples, limits: Limits) -> Conversations:
    """Lay out the tab in the page that is being built; returns its conversations."""
    talks = Conversations(model.start_chat)
    shown, box = _conversation(hears=model.hears)
    with gr.Row(elem_classes="actions"):
        stop = gr.Button("Stop", size="sm")
        anew = gr.Button("New conversation", size="sm")
    _offer(samples, box, hears=model.hears)
    length, warmth = _settings(limits)

    def say(
        message: object, tokens: object, warmth: object, request: gr.Request
    ) -> Iterator[tuple[Any, Any]]:
        with mistakes_told():
            max_new_tokens = inputs.number_of_tokens(tokens, limits)
            temperature = inputs.temperature(warmth)
            files = inputs.stored_files(message, limits)
            text = inputs.words(message.get("text") if isinstance(message, dict) else None, limits)
            media = [inputs.medium(file, hears=model.hears) for file in files]
            talk = talks.of(str(request.session_hash))
            _check(talk, text, num_media=len(media), limits=limits)
            answer = talk.chat.say(
                [*media, *([text] if text else [])],
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                stop=talk.stopped.is_set,
            )
            yield from _answered(talk, answer, asked=_asked(files, text))

    def stop_answer(request: gr.Request) -> None:
        talks.stop(str(request.session_hash))

    def restart(request: gr.Request) -> Shown:
        talks.forget(str(request.session_hash))
        return []

    box.submit(say, [box, length, warmth], [shown, box], **IN_TURN)
    stop.click(stop_answer, **AT_ONCE)
    for again in (anew.click, shown.clear):
        # An answer that is being written ends first, or it would be shown in the new conversation.
        again(stop_answer, **AT_ONCE).then(restart, outputs=shown, **IN_TURN)
    return talks


def _conversation(*, hears: bool) -> tuple[gr.Chatbot, gr.MultimodalTextbox]:
    kinds = "pictures or sounds" if hears else "pictures"
    gr.Markdown(
        "For models that were tuned on conversations; any other only guesses how they go on.",
        elem_classes="lead",
    )
    shown = gr.Chatbot(
        height=380,
        show_label=False,
        render_markdown=False,
        allow_tags=False,
        feedback_options=None,
        buttons=["copy"],
        layout="bubble",
        placeholder=f"Add {kinds}, ask about them, and go on from the answer.",
        elem_classes="conversation",
    )
    box = gr.MultimodalTextbox(
        show_label=False,
        placeholder=f"Write a message, add or drop {kinds}",
        sources=["upload"],
        file_count="multiple",
        file_types=[*inputs.PICTURES, *(inputs.SOUNDS if hears else ())],
        elem_classes="message",
    )
    return shown, box


def _settings(limits: Limits) -> tuple[gr.Slider, gr.Slider]:
    with gr.Accordion("Settings", open=False):
        length = gr.Slider(
            1,
            limits.max_new_tokens,
            min(FIRST_LENGTH, limits.max_new_tokens),
            step=1,
            label="Longest answer in tokens",
        )
        warmth = gr.Slider(
            0, 2, 0, step=0.1, label="Temperature; 0 always takes the most probable word"
        )
    return length, warmth


def _offer(samples: Samples, box: gr.MultimodalTextbox, *, hears: bool) -> None:
    """Messages that a click puts into the box."""
    offered = [
        (samples.pictures[0], "What colour is shown?"),
        (samples.pictures[1], "How many shapes are there?"),
        (samples.pictures[2], ""),
    ]
    if hears:
        offered += [(samples.sounds[0], ""), (samples.sounds[1], "What kind of sound is heard?")]
    messages = [{"text": text, "files": [str(sample.file)]} for sample, text in offered]
    shown = gr.Dataset(
        components=[box],
        samples=[[message] for message in messages],
        label="Try one of these",
        type="index",
        elem_classes="offers",
    )

    def fill(chosen: object) -> object:
        if isinstance(chosen, int) and 0 <= chosen < len(messages):
            return messages[chosen]
        return unchanged()

    shown.click(fill, shown, box, **AT_ONCE)


def _check(talk: Conversation, text: str, *, num_media: int, limits: Limits) -> None:
    if not text and not num_media:
        raise UserError("the message is empty; type something or add a picture")
    if talk.num_media + num_media > limits.max_media:
        raise UserError(
            f"a conversation holds {limits.max_media} pictures or sounds; start a new one"
        )


def _asked(files: Sequence[Path], text: str) -> Shown:
    """The visitor's turn as it is shown."""
    media: Shown = [{"role": "user", "content": {"path": str(file)}} for file in files]
    return [*media, *([{"role": "user", "content": text}] if text else [])]


def _answered(
    talk: Conversation, answer: Iterator[str], *, asked: Shown
) -> Iterator[tuple[Any, Any]]:
    """The page, and an empty box, with the answer as far as it is written."""
    talk.stopped.clear()
    before, written = talk.shown, ""
    yield [*before, *asked], None
    for written in answer:
        yield [*before, *asked, {"role": "assistant", "content": written}], unchanged()
    talk.shown = [*before, *asked, {"role": "assistant", "content": written or NO_ANSWER}]
    talk.num_media += sum(1 for turn in asked if isinstance(turn["content"], dict))
    yield talk.shown, unchanged()
