"""The tab of prompts: examples of a picture and its answer where the model learns of them, then a
picture or a sound to ask about. Beside the answer stands the prompt as the model reads it and, for
some models, where its words look."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import gradio as gr

from common.data.document import Image
from common.data.images import read_image
from common.data.prompts import OUTPUT_PROMPT, completed, question_prompt
from common.demo import inputs
from common.demo.abilities import Demonstrated, DocumentPart
from common.demo.events import AT_ONCE, IN_TURN, mistakes_told
from common.demo.limits import Limits
from common.demo.samples import Samples
from common.errors import UserError

NUM_OFFERED = 2  # examples that a click fills in
FIRST_LENGTH = 24  # where the slider of lengths stands


def prompt_title(model: Demonstrated) -> str:
    """What the tab is called."""
    return "Few-shot" if model.num_examples else "Describe"


def prompt_tab(model: Demonstrated, *, samples: Samples, limits: Limits) -> None:
    """Lay out the tab in the page that is being built."""
    num = min(model.num_examples, limits.max_media - 1)
    gr.Markdown(_lead(model), elem_classes="lead")
    with gr.Row(elem_classes="examples", visible=num > 0):
        pairs = [_pair(number) for number in range(1, num + 1)]
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            picture = _drop("The picture to ask about", height=210)
            sound = gr.Audio(
                label="Or a sound",
                sources=["upload"],
                type="filepath",
                visible=model.hears,
                buttons=[],
                elem_classes="sound",
            )
            question = gr.Textbox(label="Question", placeholder="Empty: it describes")
            length = gr.Slider(
                1,
                limits.max_new_tokens,
                min(FIRST_LENGTH, limits.max_new_tokens),
                step=1,
                label="Longest answer in tokens",
            )
            with gr.Row(elem_classes="actions"):
                ask = gr.Button("Ask", variant="primary", size="md")
                offer = gr.Button("Fill in an example", size="md")
                offer_sound = gr.Button("Fill in a sound", size="md", visible=model.hears)
        answer, prompt, looks = _answer(draws=model.draw_attention is not None)

    def write(*sent: object) -> tuple[str, str, Image | None]:
        with mistakes_told():
            *given, seen, heard, typed, tokens = sent
            max_new_tokens = inputs.number_of_tokens(tokens, limits)
            text = inputs.words(typed, limits)
            parts = _document(given, [seen, heard], text, limits=limits)
            written = model.completer.complete(parts, max_new_tokens=max_new_tokens)
            return written, model.completer.as_read(parts), _drawn(model, parts)

    def fill() -> list[str | None]:
        offered = samples.pictures[: min(num, NUM_OFFERED)]
        shots: list[tuple[str | None, str]] = [(str(one.file), one.word) for one in offered]
        shots += [(None, "")] * (num - len(shots))
        return [*chain.from_iterable(shots), str(samples.pictures[-1].file), None, ""]

    def fill_sound() -> tuple[None, str]:
        return None, str(samples.sounds[0].file)

    fields = [*chain.from_iterable(pairs), picture, sound, question]
    ask.click(write, [*fields, length], [answer, prompt, looks], **IN_TURN)
    offer.click(fill, outputs=fields, **AT_ONCE)
    offer_sound.click(fill_sound, outputs=[picture, sound], **AT_ONCE)


def _lead(model: Demonstrated) -> str:
    if model.num_examples:
        return (
            "Show the model what you mean: give some pictures with the answer that you want, then "
            "another one. Without examples it describes the picture."
        )
    return "Give a picture or a sound; the model says what it is."


def _pair(number: int) -> tuple[gr.Image, gr.Textbox]:
    with gr.Column(min_width=140):
        picture = _drop(f"Example {number}", height=150)
        answer = gr.Textbox(show_label=False, placeholder="Its answer")
    return picture, answer


def _answer(*, draws: bool) -> tuple[gr.Textbox, gr.Textbox, gr.Image]:
    with gr.Column(scale=3, min_width=300):
        answer = gr.Textbox(label="Answer", interactive=False, elem_classes="answer")
        prompt = gr.Textbox(
            label="The prompt as the model reads it",
            interactive=False,
            lines=3,
            elem_classes="prompt",
        )
        gr.Markdown("Where its words look", visible=draws, elem_classes="lead")
        looks = gr.Image(
            show_label=False,
            interactive=False,
            visible=draws,
            buttons=["fullscreen"],
            elem_classes="attention",
        )
    return answer, prompt, looks


def _drop(label: str, *, height: int) -> gr.Image:
    return gr.Image(
        show_label=False,
        placeholder=label,
        sources=["upload"],
        type="filepath",
        image_mode=None,
        height=height,
        buttons=[],
    )


def _document(
    given: Sequence[object], asked: Sequence[object], question: str, *, limits: Limits
) -> list[DocumentPart]:
    """Examples, then what is asked about, all with the same prompt.

    Raises:
        UserError: a file is missing or cannot be read, or an example has half of what it needs.
    """
    prompt = question_prompt(question) if question else OUTPUT_PROMPT
    parts: list[DocumentPart] = []
    for number, (sent, typed) in enumerate(zip(given[::2], given[1::2], strict=True), 1):
        files, answer = inputs.stored_files(sent, limits), inputs.words(typed, limits)
        if bool(files) != bool(answer):
            raise UserError(f"example {number} needs a picture and an answer; give both or none")
        if files:
            parts += [inputs.picture(files[0]), completed(prompt, answer)]
    seen, heard = (inputs.stored_files(sent, limits) for sent in asked)
    if not seen and not heard:
        raise UserError("there is nothing to ask about; drop a file, or fill in an example")
    return [*parts, *map(inputs.picture, seen), *map(inputs.sound, heard), prompt]


def _drawn(model: Demonstrated, parts: Sequence[DocumentPart]) -> Image | None:
    if model.draw_attention is None:
        return None
    with TemporaryDirectory() as folder:
        file = Path(folder) / "attention.png"
        model.draw_attention(parts, file)
        return read_image(file)
