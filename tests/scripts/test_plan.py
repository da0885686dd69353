"""A user plans a run at the command line."""

import json
from pathlib import Path

import pytest

from scripts.plan import main

TINY = ["flare_tiny", "--gpus", "4", "--seconds", "0.5"]
MISTAKES = {
    "unknown recipe": (["flare_12b"], "no recipe 'flare_12b'; recipes are flare_tiny"),
    "unknown GPU": (["flare_tiny", "--gpu", "tpu"], "a100-80gb"),
    "ranks": ([*TINY, "--pipeline", "3"], "are 3 ranks, not 4 GPUs"),
    "too few rows": ([*TINY, "--micro-batch", "64"], "use micro-batch <= 8"),
    "no layers": (["flamingo_tiny_vision", "--pipeline", "2"], "no layers that a pipeline"),
    "efficiency": ([*TINY, "--efficiency", "50"], "a share of the peak in 0..1, not 50"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MISTAKES))
def test_a_mistake_gives_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, message = MISTAKES[name]
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert not printed.out


@pytest.mark.slow
def test_a_plan_is_told_written_and_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--json", str(tmp_path / "plan.json"), "--plot", str(tmp_path / "plan.png")]
    assert main([*TINY, "--pipeline", "2", "--tokens", "1e9", *files]) == 0
    told = capsys.readouterr().out
    for word in ("vision projector", "Adam moments", "all-gather", "MFU, HFU", "It fits"):
        assert word in told
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["parameters"] == 2_775_478
    assert plan["fits"]
    assert len(plan["memory"]) == len(plan["stages"]) == 2
    for stage in plan["memory"]:
        kinds = stage["kinds"]
        activations = [size for kind, size in kinds.items() if "activations" in kind]
        backward = kinds["workspace of a block"] + kinds["gradients on their way"]
        idle = min(activations) + min(kinds["logits and loss"], backward)
        assert stage["total"] == pytest.approx(sum(kinds.values()) - idle)
    rate = plan["pace"]["tokens_per_second_per_gpu"]
    assert plan["gpu_hours"] == pytest.approx(1e9 / rate / 3600)
    assert (tmp_path / "plan.png").stat().st_size > 5000


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["flamingo_tiny", "flamingo_tiny_vision"])
def test_flamingo_s_stages_have_plans(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([recipe, "--gpus", "2"]) == 0
    assert "vision encoder" in capsys.readouterr().out


@pytest.mark.slow
def test_flare_13b_fits_as_specified_and_its_published_figures_do_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["flare_13b", "--tokens", "4.2e12", "--micro-batch", "2"]) == 0
    told = capsys.readouterr().out
    assert "13,029,696,450" in told
    assert "43,008 GPU-hours, not 1,500,000" in told


@pytest.mark.slow
def test_flare_13b_without_recomputation_names_what_is_too_large_and_what_fits(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["flare_13b", "--micro-batch", "2", "--recompute", "none"]) == 1
    told = capsys.readouterr().out
    assert "stage 0 needs" in told
    assert "most of it activations of layers" in told
    assert "This fits: --pipeline 4" in told
