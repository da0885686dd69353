"""Chapter: what the models are made of, by their configurations and by their stored weights."""

from collections.abc import Iterator, Mapping
from typing import Any

from common.evaluation.technical_report.document import (
    Block,
    Chapter,
    Heading,
    Origin,
    Paragraph,
    Shown,
    Table,
)
from common.evaluation.technical_report.inputs import Inputs, Model
from common.evaluation.technical_report.sources import fixed, number, shown

# Column -> names that a size has in configurations.
SIZES: Mapping[str, tuple[str, ...]] = {
    "layers": ("num_hidden_layers", "num_layers", "depth", "layers"),
    "width": ("hidden_size", "dim", "embed_dim", "num_features"),
    "heads": ("num_attention_heads", "num_heads", "heads"),
    "key/value heads": ("num_key_value_heads",),
    "head width": ("head_dim",),
    "feed-forward": ("intermediate_size", "feed_forward_dim"),
    "vocabulary": ("vocab_size",),
    "queries": ("num_queries", "num_latents", "latents"),
    "pixels": ("image_size",),
    "layers between": ("interval",),
}
PARTS = ("resampler", "cross_attention")  # whose sizes lie beside one another, with their prefix


def architecture(inputs: Inputs) -> Chapter | None:
    """Sizes and parameters of every model; None without a model."""
    if not inputs.models:
        return None
    blocks: list[Block] = []
    for model in inputs.models:
        blocks.append(Heading(model.name))
        if about := inputs.about.get(model.kind):
            blocks.append(Paragraph((about,)))
        blocks += [_parameters(model), *_sizes(model)]
    return Chapter(title="Architecture", blocks=tuple(blocks))


def total(model: Model) -> Shown:
    """All stored numbers."""
    return shown(list(_components(model)), rule="sum", form=number)


def _parameters(model: Model) -> Table:
    everything = total(model)
    names = sorted(
        {name for source in model.weights for name in source.data},
        key=lambda name: -sum(source.data.get(name, 0) for source in model.weights),
    )
    rows = []
    for name in names:
        origins = [origin for origin in _components(model) if origin.key == (name,)]
        share = 100 / float(str(everything.value))
        rows.append(
            (
                name.replace("_", " "),
                shown(origins, rule="sum", form=number),
                shown(origins, rule="sum", form=fixed(2, " %"), factor=share),
            )
        )
    return Table(
        headings=("component", "parameters", "share"),
        rows=(*rows, ("all", everything, "")),
        caption=f"Parameters of {model.name}, counted in its files of weights.",
        emphasised=(len(rows),),
    )


def _components(model: Model) -> Iterator[Origin]:
    for source in model.weights:
        for name in source.data:
            yield Origin(file=source.file, key=(name,))


def _sizes(model: Model) -> Iterator[Table]:
    parts = dict(_parts(model.config.data))
    found = {name: _row(model, places) for name, places in parts.items()}
    columns = [column for column in SIZES if any(column in row for row in found.values())]
    if columns:
        yield Table(
            headings=("part", *columns),
            rows=tuple(
                (name.replace("_", " "), *(row.get(column, "") for column in columns))
                for name, row in found.items()
                if row
            ),
            caption=f"Sizes of {model.name}, as its configuration states them.",
        )


def _parts(config: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, tuple[str, ...]]]]:
    """Part -> name of a size -> its key."""
    for name, inner in config.items():
        if isinstance(inner, dict) and name.endswith(("_config", "_projector")):
            keys: dict[str, tuple[str, ...]] = {leaf: (name, leaf) for leaf in inner}
            options = inner.get("model_options")
            if isinstance(options, dict):
                keys |= {leaf: (name, "model_options", leaf) for leaf in options}
            yield name.removesuffix("_config"), keys
    for part in PARTS:
        own = [leaf for leaf in config if leaf.startswith(part)]
        keys = {leaf.removeprefix(f"{part}_"): (leaf,) for leaf in own}
        if part == "resampler" and "num_latents" in config:
            keys["num_latents"] = ("num_latents",)
        yield part, keys


def _row(model: Model, places: Mapping[str, tuple[str, ...]]) -> dict[str, Shown]:
    row: dict[str, Shown] = {}
    for column, names in SIZES.items():
        for name in names:
            key = places.get(name)
            figure = None if key is None else model.config.shown(*key, form=number)
            if figure is not None and isinstance(figure.value, int) and column not in row:
                row[column] = figure
    return row
