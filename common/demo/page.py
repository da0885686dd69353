"""The page: a line about each model, and a tab for whatever it can do."""

from collections.abc import Sequence

import gradio as gr

from common.demo.abilities import Demonstrated
from common.demo.chat_tab import Conversations, chat_tab
from common.demo.limits import Limits
from common.demo.prompt_tab import prompt_tab, prompt_title
from common.demo.retrieval_tab import can_search, retrieval_tab
from common.demo.samples import Samples

TITLE = "Ask a model about pictures and sounds"
NUM_WAITING = 32  # questions; who comes later is told so
SECONDS_KEPT = 3600  # of uploaded files
SECONDS_BETWEEN_CLEANUPS = 600


def build_page(models: Sequence[Demonstrated], *, samples: Samples, limits: Limits) -> gr.Blocks:
    """The page for one model or several, each with its own tabs."""
    with gr.Blocks(
        title=TITLE,
        analytics_enabled=False,
        delete_cache=(SECONDS_BETWEEN_CLEANUPS, SECONDS_KEPT),
    ) as page:
        gr.Markdown(f"# {TITLE}", elem_id="title")
        if len(models) == 1:
            talks = [_model(models[0], samples=samples, limits=limits)]
        else:
            talks = _models(models, samples=samples, limits=limits)
        gr.Markdown(str(limits), elem_classes="limits")

        def leave(request: gr.Request) -> None:
            for kept in talks:
                kept.forget(str(request.session_hash))

        page.unload(leave)
    page.queue(max_size=NUM_WAITING, api_open=False)
    return page


def _models(
    models: Sequence[Demonstrated], *, samples: Samples, limits: Limits
) -> list[Conversations]:
    talks = []
    with gr.Tabs():
        for model in models:
            with gr.Tab(model.name):
                talks.append(_model(model, samples=samples, limits=limits))
    return talks


def _model(model: Demonstrated, *, samples: Samples, limits: Limits) -> Conversations:
    gr.Markdown(model.card, elem_classes="card")
    with gr.Tabs():
        # First what any model can do: conversations are for those that were tuned on them.
        with gr.Tab(prompt_title(model)):
            prompt_tab(model, samples=samples, limits=limits)
        with gr.Tab("Chat"):
            talks = chat_tab(model, samples=samples, limits=limits)
        if can_search(model):
            with gr.Tab("Retrieval"):
                retrieval_tab(model, samples=samples, limits=limits)
    return talks
