"""The technical report shows nothing but what files hold, and says where it is from."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from common.evaluation.technical_report.cost import cost
from common.evaluation.technical_report.document import Bullets, Shown, figures_of
from common.evaluation.technical_report.inputs import (
    Inputs,
    find_alignments,
    find_evaluations,
    find_models,
    find_runs,
    models_of,
)
from common.evaluation.technical_report.limitations import limitations
from common.evaluation.technical_report.published import PUBLISHED
from common.evaluation.technical_report.writing import verify, write_technical_report
from tests.common.evaluation.technical_report import written

GPUS = {"NVIDIA A100-SXM4-80GB": 2}
HOUR = {"started": "2026-11-22T10:00:00+00:00", "ended": "2026-11-22T11:00:00+00:00"}
KILLED = {"started": "2026-11-22T12:00:00+00:00", "ended": None}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of everything, in `report`."""
    folder = tmp_path_factory.mktemp("everything")
    starts = [written.start(devices=GPUS, **HOUR), written.start(devices=GPUS, **KILLED)]
    run = written.run(
        folder / "runs" / "small",
        starts=starts,
        **{"skipped_updates": 2, "data/scenes/faults/decode": 4},
    )
    notes = ("3 of 20 evaluated images lie in the demonstrations: 3 as the same file.",)
    vqa = written.evaluation(folder / "vqa", notes=notes, limit=60)
    report(
        folder / "report",
        runs=[run],
        evaluations=[vqa],
        alignments=[written.alignment(folder / "tuned")],
    )
    return folder


def report(
    out: Path,
    *,
    runs: Sequence[Path] = (),
    evaluations: Sequence[Path] = (),
    alignments: Sequence[Path] = (),
    **options: Any,
) -> str:
    found = find_runs(runs)
    inputs = Inputs(
        runs=found,
        evaluations=find_evaluations(evaluations),
        alignments=find_alignments(alignments),
        models=find_models([*models_of(found)]),
        **options,
    )
    return write_technical_report(out, inputs, command="report.py").read_text()


def shown_costs(inputs: Inputs) -> list[Shown]:
    chapter = cost(inputs)
    assert chapter is not None
    return [shown for block in chapter.blocks for shown in figures_of(block)]


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def test_every_figure_is_what_its_file_says_at_its_key(folder: Path) -> None:
    out = folder / "report"
    figures = json.loads((out / "report.json").read_text())["figures"]
    assert verify(out) == len(figures) > 100
    plain = [
        figure
        for figure in figures
        if figure["rule"] == "value"
        and figure["factor"] is None
        and figure["origins"]
        and figure["origins"][0]["file"].endswith(".json")
    ]
    assert len(plain) > 40
    for figure in plain:
        (origin,) = figure["origins"]
        value = json.loads((out / origin["file"]).read_text())
        for key in origin["key"]:
            value = value[key]
        assert value == figure["value"], origin


def test_a_figure_that_no_longer_holds_is_told(tmp_path: Path) -> None:
    vqa = written.evaluation(tmp_path / "vqa")
    report(tmp_path / "report", evaluations=[vqa])
    changed = (vqa / "results.json").read_text().replace("64.4", "64.5")
    (vqa / "results.json").write_text(changed)
    with pytest.raises(UserError, match=r"results\.json.* gives 64\.5 now, the report says 64\.4"):
        verify(tmp_path / "report")


def test_the_page_asks_for_nothing_and_runs_nothing(folder: Path) -> None:
    page = (folder / "report" / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(" in page
    sources = re.findall(r'src="([^"]{0,10})', page)
    assert len(sources) >= 4
    assert set(sources) <= {"data:image"}
    assert not re.search(r"<link|@import|url\(|<iframe|<object", page)
    assert "/srv/somebody" not in page + (folder / "report" / "report.md").read_text()


def test_markdown_has_the_same_chapters_and_its_pictures(folder: Path) -> None:
    out = folder / "report"
    text, page = (out / "report.md").read_text(), (out / "report.html").read_text()
    chapters = re.findall(r"^## \d+ (.+)$", text, flags=re.MULTILINE)
    assert chapters == re.findall(r"<h2><span>\d+</span>(.+)</h2>", page)
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert len(pictures) == 4
    assert all((out / picture).is_file() for picture in pictures)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith(" |") for line in rows)


def test_what_no_file_holds_is_not_measured(tmp_path: Path) -> None:
    page = text_of(report(tmp_path / "report", runs=[written.run(tmp_path / "old")]))
    assert "Answers to instructions, refusals and false refusals: not measured" in page
    assert "Command: not recorded" in page
    for missing in ("VQAv2", "Flickr30k retrieval", "AudioCaps retrieval"):
        assert missing in page.split("What was not measured")[1].split("Examples")[0]
    # Of a run without run.json the updates' own time remains: 40 updates of 2 seconds.
    figures = json.loads((tmp_path / "report" / "report.json").read_text())["figures"]
    (hours,) = [figure["value"] for figure in figures if figure["rule"] == "update seconds"]
    assert hours == pytest.approx(80 / 3600)


def test_a_resumed_run_has_every_step_once_and_what_came_last(tmp_path: Path) -> None:
    run = written.run(tmp_path / "resumed")
    with (run / "metrics.jsonl").open("a") as file:
        for step in (30, 40, 50):
            file.write(json.dumps(written.record(step, loss=7.0)) + "\n")
        file.write('{"step": 60, "lo')  # killed while it wrote
    (found,) = find_runs([run])
    assert [record["step"] for record in found.records] == [10, 20, 30, 40, 50]
    assert [record["loss"] for record in found.records] == [0.8, 0.4, 7.0, 7.0, 7.0]


def test_limitations_follow_from_the_files(folder: Path, tmp_path: Path) -> None:
    said = {
        "VQAv2, VQA accuracy, 8 shots, random: 31.0 cannot be told from blind ( 28.0 )",
        "3 of 20 evaluated images lie in the demonstrations",
        "VQAv2: only the first 60 examples",
        "small: 2 skipped updates",
        "small: 4 samples of scenes were replaced (decode)",
        "a start has no recorded end",
        "One seed only: small",
    }
    page = text_of((folder / "report" / "report.html").read_text())
    assert {words for words in said if words in page} == said
    assert "0 shots, random: 64.4 cannot be told" not in page
    starts = [written.start(devices=GPUS, **HOUR)]
    seeds = [written.run(tmp_path / name / "small", starts=starts) for name in ("a", "b")]
    config = json.loads((seeds[1] / "config.json").read_text()) | {"seed": 4}
    written.write(seeds[1] / "config.json", config)
    whole = written.evaluation(tmp_path / "vqa")
    inputs = Inputs(runs=find_runs(seeds), evaluations=find_evaluations([whole]))
    items = [b.items for b in limitations(inputs).blocks if isinstance(b, Bullets)]
    parts = [part for block in items for item in block for part in item]
    words = [part.text if isinstance(part, Shown) else str(part) for part in parts]
    clean = text_of(" ".join(words))
    assert {words for words in said if words in clean} == {next(w for w in said if "8 shots" in w)}


def test_published_figures_stand_beside_ours_with_their_sources(folder: Path) -> None:
    page = text_of((folder / "report" / "report.html").read_text())
    table = page.split("VQAv2 beside published figures, VQA accuracy")[1].split("Table")[0]
    assert table.index("0 shots") < table.index("4 shots") < table.index("32 shots")
    ours = table.split("this report")[1].split("Flamingo-80B")[0]
    assert ours.count("not measured") == 3
    assert "64.4" in ours
    assert "56.3 63.1 67.6" in re.sub(r"\s+", " ", table.split("Flamingo-80B")[1])
    assert "arXiv:2204.14198" in table
    for row in PUBLISHED:
        assert re.search(r"https://|arXiv:|on the Hub", row.source), row


@pytest.mark.parametrize(
    ("devices", "power_w", "watts"), [(GPUS, None, 400), ({"cpu x86_64": 2}, 65.0, 65)]
)
def test_energy_is_time_by_devices_by_power(
    tmp_path: Path, devices: dict[str, int], power_w: float | None, watts: float
) -> None:
    starts = [written.start(devices=devices, **HOUR), written.start(devices=devices, **HOUR)]
    run = written.run(tmp_path / "run", starts=starts)
    hours, energy = (
        float(str(shown.value))
        for shown in shown_costs(Inputs(runs=find_runs([run]), power_w=power_w))
        if shown.rule == "device seconds"
    )
    assert (hours, energy) == pytest.approx((4.0, 4.0 * watts / 1000))


def test_a_cpu_has_no_power_unless_it_is_given(tmp_path: Path) -> None:
    starts = [written.start(devices={"cpu x86_64": 1}, **HOUR)]
    inputs = Inputs(runs=find_runs([written.run(tmp_path / "run", starts=starts)]))
    rules = [shown.rule for shown in shown_costs(inputs)]
    assert rules == ["number", "seconds", "first name", "device seconds"]


def test_tuning_shows_shares_of_all_requests_before_and_after(folder: Path) -> None:
    page = text_of((folder / "report" / "report.html").read_text())
    table = page.split("Instructions and refusals before and after tuning")[1].split("Table")[0]
    assert "answered exactly be high 12.5 75.0" in table
    assert "harmful requests refused be high 0.0 100.0" in table
    assert "harmless look-alikes refused be low 0.0 14.3" in table


def test_parameters_are_counted_in_the_weights(folder: Path) -> None:
    page = text_of((folder / "report" / "report.html").read_text())
    table = page.split("counted in its files of weights")[1].split("Sizes of")[0]
    assert "head 6 54.55 %" in table
    assert "body 5 45.45 %" in table
    assert "all 11" in table


def damaged(file: str, text: str) -> Callable[[Path], object]:
    def case(folder: Path) -> object:
        written.run(folder / "run")
        written.evaluation(folder / "vqa")
        written.alignment(folder / "tuned")
        (folder / file).write_text(text)
        found = (find_runs([folder / "run"]), find_evaluations([folder / "vqa"]))
        return found, find_alignments([folder / "tuned"]), find_models([folder / "run" / "model"])

    return case


MISTAKES: dict[str, Callable[[Path], object]] = {
    r"holds no run \(no metrics.jsonl\)": lambda folder: find_runs([folder / "nowhere"]),
    r"metrics.jsonl is damaged in line 2": damaged("run/metrics.jsonl", '{"step": 1}\n{"st\n'),
    r"metrics.jsonl has no record": damaged("run/metrics.jsonl", ""),
    r"cannot read .*config.json": damaged("run/config.json", "{"),
    r"holds no results.json": lambda folder: find_evaluations([folder]),
    r"results.json is of no evaluation": damaged("vqa/results.json", "{}"),
    r"vqa.results.json is damaged": damaged("vqa/results.json", "[]"),
    r"results.json is damaged; remove": damaged("vqa/results.json", '{"scores": [{}]}'),
    r"results.json is damaged; run the q": damaged("vqa/results.json", '{"few_shot": [{}]}'),
    r"run.json is damaged": damaged("run/run.json", '[{"command": "x"}]'),
    r"results.json is of no alignment": damaged("tuned/results.json", '{"scores": 3}'),
    r"cannot read .*model.safetensors": damaged("run/model/model.safetensors", "no"),
    r"holds no model": lambda folder: find_models([folder]),
}


@pytest.mark.parametrize("message", list(MISTAKES))
def test_a_mistake_is_told(tmp_path: Path, message: str) -> None:
    with pytest.raises(UserError, match=message):
        MISTAKES[message](tmp_path)
