"""The tab of searches: a text against pictures or sounds, these against texts, a picture against
pictures; whatever the model's vectors can be compared for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from itertools import product
from pathlib import Path
from typing import Any

import gradio as gr
from jaxtyping import Float
from torch import Tensor

from common.demo import inputs
from common.demo.abilities import Demonstrated
from common.demo.events import AT_ONCE, IN_TURN, mistakes_told
from common.demo.limits import Limits
from common.demo.samples import Samples
from common.errors import UserError
from common.evaluation.models import ImageEmbedder, SoundEmbedder, TextEmbedder

MAX_TEXTS = 50


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Texts, pictures or sounds: how they are given, read, turned into vectors and offered."""

    one: str
    many: str
    give_one: Callable[[], Any]
    give_many: Callable[[], Any]
    read: Callable[[object], list[str] | list[Path]]
    embed: Callable[[Sequence[Any]], Float[Tensor, "n e"]]
    sample: Any
    samples: Any


def can_search(model: Demonstrated) -> bool:
    """Whether there is anything to compare."""
    return isinstance(model.embedder, ImageEmbedder)


def retrieval_tab(model: Demonstrated, *, samples: Samples, limits: Limits) -> None:
    """Lay out the tab in the page that is being built."""
    gr.Markdown(
        "What belongs together? Scores are cosines of the model's vectors: 1 is the same "
        "direction, 0 is unrelated.",
        elem_classes="lead",
    )
    with gr.Tabs():
        for query, among in _searches(_kinds(model.embedder, samples=samples, limits=limits)):
            with gr.Tab(f"{query.one} → {among.many}".capitalize()):
                _search(query, among)


def _search(query: Kind, among: Kind) -> None:
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            sought, candidates = query.give_one(), among.give_many()
            with gr.Row(elem_classes="actions"):
                rank = gr.Button("Rank", variant="primary", size="md")
                offer = gr.Button("Fill in an example", size="md")
        with gr.Column(scale=3, min_width=300):
            shows_pictures = among.give_many is _give_pictures
            ranked: gr.Gallery | gr.HTML
            if shows_pictures:
                ranked = gr.Gallery(
                    show_label=False,
                    columns=3,
                    interactive=False,
                    buttons=[],
                    elem_classes="ranked",
                )
            else:
                ranked = gr.HTML(EMPTY_LIST, elem_classes="ranked")

    def search(one: object, many: object) -> Any:
        with mistakes_told():
            asked, given = query.read(one), among.read(many)
            if not asked or not given:
                raise UserError(f"there is nothing to compare; give a {query.one} and {among.many}")
            scores = (query.embed(asked[:1]) @ among.embed(given).T)[0]
            order = scores.argsort(descending=True).tolist()
            found = [(given[place], float(scores[place])) for place in order]
            return _as_gallery(found) if shows_pictures else _as_list(found)

    def fill() -> tuple[Any, Any]:
        return query.sample, among.samples

    rank.click(search, [sought, candidates], ranked, **IN_TURN)
    offer.click(fill, outputs=[sought, candidates], **AT_ONCE)


def _searches(kinds: Sequence[Kind]) -> list[tuple[Kind, Kind]]:
    """Texts against media both ways; without texts, pictures against pictures."""
    texts, media = [k for k in kinds if k.one == "text"], [k for k in kinds if k.one != "text"]
    both = [pair for kind, text in product(media, texts) for pair in ((text, kind), (kind, text))]
    return both or [(kind, kind) for kind in media]


def _kinds(embedder: object, *, samples: Samples, limits: Limits) -> list[Kind]:
    found = []
    if isinstance(embedder, TextEmbedder):
        found.append(
            Kind(
                one="text",
                many="texts",
                give_one=_give_text,
                give_many=_give_texts,
                read=partial(_read_texts, limits=limits),
                embed=embedder.text_vectors,
                sample=samples.pictures[1].caption,
                samples="\n".join(s.caption for s in [*samples.pictures, *samples.sounds]),
            )
        )
    if isinstance(embedder, ImageEmbedder):
        found.append(
            Kind(
                one="picture",
                many="pictures",
                give_one=_give_picture,
                give_many=_give_pictures,
                read=partial(inputs.stored_files, limits=limits),
                embed=lambda files: embedder.image_vectors([inputs.picture(f) for f in files]),
                sample=str(samples.pictures[0].file),
                samples=[str(sample.file) for sample in samples.pictures],
            )
        )
    if isinstance(embedder, SoundEmbedder):
        found.append(
            Kind(
                one="sound",
                many="sounds",
                give_one=_give_sound,
                give_many=_give_sounds,
                read=partial(inputs.stored_files, limits=limits),
                embed=lambda files: embedder.sound_vectors([inputs.sound(f) for f in files]),
                sample=str(samples.sounds[0].file),
                samples=[str(sample.file) for sample in samples.sounds],
            )
        )
    return found


def _give_text() -> gr.Textbox:
    return gr.Textbox(label="Text", placeholder="three small green rings")


def _give_texts() -> gr.Textbox:
    return gr.Textbox(label="Texts, one a line", lines=6, max_lines=12)


def _give_picture() -> gr.Image:
    return gr.Image(
        show_label=False,
        placeholder="A picture",
        sources=["upload"],
        type="filepath",
        image_mode=None,
        height=210,
        buttons=[],
    )


def _give_pictures() -> gr.Gallery:
    return gr.Gallery(
        show_label=False,
        columns=3,
        height=300,
        interactive=True,
        type="filepath",
        file_types=[*inputs.PICTURES],
        sources=["upload"],
        buttons=[],
    )


def _give_sound() -> gr.File:
    return gr.File(label="Sound", file_types=[*inputs.SOUNDS], height=120)


def _give_sounds() -> gr.File:
    return gr.File(label="Sounds", file_count="multiple", file_types=[*inputs.SOUNDS], height=210)


def _read_texts(value: object, *, limits: Limits) -> list[str]:
    texts = inputs.lines(value, limits)
    if len(texts) > MAX_TEXTS:
        raise UserError(f"{len(texts)} texts are too many; give at most {MAX_TEXTS}")
    return texts


EMPTY_LIST = '<div class="ranking empty">The ranking appears here.</div>'


def _as_gallery(found: Sequence[tuple[str | Path, float]]) -> list[tuple[str, str]]:
    return [(str(file), f"{rank}. {score:+.2f}") for rank, (file, score) in enumerate(found, 1)]


def _as_list(found: Sequence[tuple[str | Path, float]]) -> str:
    rows = [
        f'<li><span class="what">{escape(item.name if isinstance(item, Path) else item)}</span>'
        f'<span class="bar"><i style="width:{100 * max(score, 0):.0f}%"></i></span>'
        f'<span class="score">{score:+.2f}</span></li>'
        for item, score in found
    ]
    return f'<ol class="ranking">{"".join(rows)}</ol>'
