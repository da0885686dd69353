"""R3: whatever a disk refuses, the run ends in one line, what was good stays good, nothing
half-written stays, and the same command on a mended disk gives what an unbroken run gives."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from common.checkpoint.folder import list_checkpoints, verify_folder
from common.training.command_line import main
from tests.common.training.test_resume import results
from tests.common.training.toy import make_task, toy
from tests.matrix import Counted
from tests.reliability.faulty_disk import Fault, FaultyDisk

pytestmark = pytest.mark.slow
TENSORS = "tensors_00000.safetensors"
# Checkpoints are after steps 4, 8 and 12. The file, and its how-manieth such operation.
POSITIONS: dict[Fault, list[tuple[str, int]]] = {
    "full": [
        (TENSORS, 2),
        ("index.json", 2),
        ("state.json", 2),
        ("manifest.json", 3),
        ("metrics.jsonl", 6),
    ],
    "broken": [
        (TENSORS, 1),
        ("index.json", 2),
        ("state.json", 3),
        ("samples.jsonl", 1),
        ("run.json.unfinished", 2),
    ],
    "short": [
        (TENSORS, 3),
        ("index.json", 2),
        ("state.json", 2),
        ("manifest.json", 2),
        ("metrics.jsonl", 6),
    ],
    "forbidden": [
        ("config.json.unfinished", 1),
        ("rank_00000.log", 1),
        ("step_00000008.unfinished", 1),
        ("state.json", 2),
        ("model.unfinished", 1),
    ],
    "rename": [
        ("step_00000004", 1),
        ("step_00000008", 1),
        ("run.json", 2),
        ("metrics.jsonl", 1),
        ("model", 1),
    ],
    "fsync": [
        (TENSORS, 2),
        ("manifest.json", 2),
        ("step_00000008.unfinished", 1),
        ("checkpoints", 3),
        ("metrics.jsonl", 2),
    ],
}


def train(folder: Path) -> int:
    return main(
        {"toy": toy}, make_task, description="", arguments=["toy", "--run-folder", str(folder)]
    )


@pytest.fixture(scope="module", autouse=True)
def no_pictures() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setattr("common.training.finish.write_plots", lambda metrics, folder: [])
    yield
    patch.undo()


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight")
    assert train(folder) == 0
    return folder


@pytest.mark.parametrize("fault", POSITIONS)
def test_a_disk_that_fails_ends_the_run_in_one_line_and_harms_nothing(
    fault: Fault,
    straight: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    counted: Counted,
) -> None:
    for number, (name, nth) in enumerate(POSITIONS[fault]):
        run, where = tmp_path / str(number), (name, nth)
        with FaultyDisk(run, fault, name, nth=nth) as disk:
            status = train(run)
        assert (disk.has_failed, status) == (True, 2), where
        (line,) = [x for x in capfd.readouterr().err.splitlines() if not x.startswith("warning: ")]
        assert line.startswith(f"error: {run}"), where
        assert "not written" in line, where
        assert "look after the disk" in line, where
        assert not [*run.rglob(".*")], where
        for checkpoint in list_checkpoints(run / "checkpoints"):
            verify_folder(checkpoint)
        assert train(run) == 0, where
        assert results(run) == results(straight), where
        capfd.readouterr()
    counted("R3", fault, len(POSITIONS[fault]))
