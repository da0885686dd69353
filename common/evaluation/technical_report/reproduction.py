"""Chapter: the commands as they were typed, the commits and versions they ran with, and where the
settings and model cards lie."""

from collections.abc import Iterator

from common.evaluation.technical_report.document import (
    NOT_RECORDED,
    Block,
    Bullets,
    Chapter,
    Code,
    Heading,
    Inline,
    Origin,
    Table,
    paragraph,
)
from common.evaluation.technical_report.inputs import Inputs, Run
from common.evaluation.technical_report.sources import Source, number, shown

DIGITS = 12  # of a commit


def reproduction(inputs: Inputs, *, command: str) -> Chapter:
    """How to do it again."""
    blocks: list[Block] = [
        *(block for run in inputs.runs for block in _starts(run)),
        *_environments(inputs),
        *_evaluations(inputs),
        *_cards(inputs),
        Heading("This report"),
        paragraph(Code(command)),
    ]
    return Chapter(title="Commands, commits, environment", blocks=tuple(blocks))


def _starts(run: Run) -> Iterator[Block]:
    yield Heading(run.name)
    settings = Code(str(run.config.file.name))
    if run.starts is None:
        commit = None if run.state is None else run.state.shown("commit", form=_commit)
        yield paragraph(
            "Command: ",
            NOT_RECORDED,
            "; commit of the newest checkpoint: ",
            commit or NOT_RECORDED,
            "; settings: ",
            settings,
            " in the folder of the run.",
        )
        return
    rows = []
    for place in range(len(run.starts.data)):
        command = Origin(file=run.starts.file, key=(place, "command"))
        rows.append(
            (
                run.starts.shown(place, "started", form=_minute),
                shown([command], rule="command"),
                run.starts.shown(place, "commit", form=_commit) or NOT_RECORDED,
                run.starts.shown(place, "from_step", form=number),
                run.starts.shown(place, "to_step", form=number) or NOT_RECORDED,
                run.starts.shown(place, "exit_status") or NOT_RECORDED,
            )
        )
    yield Table(
        headings=("started (UTC)", "command", "commit", "from", "to", "exit"),
        rows=tuple(rows),
        caption=f"Starts of {run.name}; its settings are in {run.config.file.name} beside them.",
        words=(0, 1, 2),
    )


def _environments(inputs: Inputs) -> Iterator[Block]:
    places: list[tuple[str, Source, tuple[str | int, ...]]] = []
    for run in inputs.runs:
        if run.starts is not None and run.starts.data:
            places.append((run.name, run.starts, (len(run.starts.data) - 1, "versions")))
        elif run.state is not None:
            places.append((run.name, run.state, ("versions",)))
    packages = list(
        dict.fromkeys(name for _, source, key in places for name in source.at(*key) or ())
    )
    if packages:
        yield Heading("Environment")
        yield Table(
            headings=("run", *packages),
            rows=tuple(
                (name, *(source.shown(*key, package) or NOT_RECORDED for package in packages))
                for name, source, key in places
            ),
            caption="Versions that the runs were made with.",
        )


def _evaluations(inputs: Inputs) -> Iterator[Block]:
    rows: list[tuple[Inline, ...]] = []
    for evaluation in inputs.evaluations:
        if evaluation.config is not None:
            config = evaluation.config
            weights = config.shown("weights", form=_commit)
            limit = config.shown("limit", form=number) or "all"
            row = (evaluation.name, config.shown("suite"), config.shown("dtype"), limit, weights)
            rows.append(row)
    if rows:
        yield Heading("Evaluations")
        yield Table(
            headings=("folder", "suite", "precision", "examples", "digest of the weights"),
            rows=tuple(rows),
            caption="What the evaluations were begun with; all settings are in their config.json.",
            words=(0, 1, 2, 3, 4),
        )


def _cards(inputs: Inputs) -> Iterator[Block]:
    if not inputs.models:
        return
    yield Heading("Model cards")
    items: list[tuple[Inline, ...]] = []
    for model in inputs.models:
        is_there = (model.folder / "README.md").is_file()
        card = "`README.md` beside its weights, as the Hub shows it" if is_there else "none yet"
        items.append((f"{model.name}: {card}",))
    yield Bullets(tuple(items))
    yield paragraph("`--cards` writes them anew, with the figures of the evaluations above.")


def _commit(words: str) -> str:
    return words[:DIGITS]


def _minute(moment: str) -> str:
    return moment[:16].replace("T", " ")
