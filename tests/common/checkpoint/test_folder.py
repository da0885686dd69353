import logging
import random
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from common.checkpoint.digests import tensors_digest
from common.checkpoint.folder import (
    DamagedCheckpointError,
    begin_folder,
    list_checkpoints,
    newest_good_checkpoint,
    publish_folder,
    remove_old_checkpoints,
    seal_file,
    step_folder,
    verify_folder,
)
from common.checkpoint.random_state import (
    capture_random_state,
    restore_random_state,
    undisturbed_random_state,
)
from common.errors import UserError
from tests.matrix import Counted


def write(checkpoints: Path, step: int) -> Path:
    return write_files(checkpoints, step, {"a.bin": b"content" * step})


def write_files(checkpoints: Path, step: int, contents: Mapping[str, bytes]) -> Path:
    folder = step_folder(checkpoints, step)
    unfinished = begin_folder(folder)
    for name, content in contents.items():
        (unfinished / name).write_bytes(content)
    publish_folder(folder, {name: seal_file(unfinished / name) for name in contents})
    return folder


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.proves("R4", "flipped, cut, removed", 1)
@pytest.mark.parametrize("damage", [flip_a_bit, truncate, Path.unlink])
@pytest.mark.parametrize("name", ["a.bin", "manifest.json"])
def test_any_damage_is_noticed_and_the_checkpoint_set_aside(
    tmp_path: Path, damage: Callable[[Path], None], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = write(tmp_path, 3), write(tmp_path, 5)
    damage(bad / name)
    with caplog.at_level(logging.WARNING, logger="common"):
        assert newest_good_checkpoint(tmp_path) == good
    assert "step_00000005" in caplog.text
    assert list_checkpoints(tmp_path) == [good]


@pytest.mark.slow
def test_any_flipped_bit_of_a_manifest_is_noticed(tmp_path: Path, counted: Counted) -> None:
    # One flipped bit makes one of the names the other's.
    folder = write_files(tmp_path, 1, {"a1": b"a1", "a3": b"a3"})
    manifest = folder / "manifest.json"
    content = manifest.read_bytes()
    for position in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << position % 8
        manifest.write_bytes(flipped)
        with pytest.raises(DamagedCheckpointError):
            verify_folder(folder)
    manifest.write_bytes(content)
    verify_folder(folder)
    counted("R4", "every bit of a manifest", 8 * len(content))


def test_when_every_checkpoint_is_damaged_the_run_refuses_to_start_anew(tmp_path: Path) -> None:
    truncate(write(tmp_path, 3) / "a.bin")
    for _ in range(2):
        with pytest.raises(UserError, match=r"every checkpoint in .* is damaged"):
            newest_good_checkpoint(tmp_path)


def test_a_writer_that_dies_leaves_no_checkpoint(tmp_path: Path) -> None:
    good = write(tmp_path, 2)
    (begin_folder(step_folder(tmp_path, 4)) / "a.bin").write_bytes(b"half")
    assert newest_good_checkpoint(tmp_path) == good


@pytest.mark.proves("R8", "foreign folders are left alone", 1)
def test_only_the_newest_few_are_kept_whatever_else_lies_there(tmp_path: Path) -> None:
    for step in (1, 20, 3):
        write(tmp_path, step)
    (tmp_path / "old-step_00000099.bak").mkdir()
    remove_old_checkpoints(tmp_path, newest=2)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["old-step_00000099.bak", "step_00000003", "step_00000020"]


def test_a_digest_sees_names_types_shapes_and_bits() -> None:
    tensor = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    digest = tensors_digest({"a": tensor, "b": tensor.to(torch.bfloat16)})
    assert digest == tensors_digest({"b": tensor.to(torch.bfloat16), "a": tensor})
    changed = tensor.clone()
    changed[1, 2] = 5.0000005
    others = [{"a": tensor.T}, {"c": tensor}, {"a": tensor.flatten()}, {"a": changed}]
    digests = {tensors_digest(other) for other in [{"a": tensor}, *others]}
    assert len(digests) == 5


def draw() -> tuple[float, float, float]:
    return torch.randn(()).item(), float(np.random.randn()), random.gauss(0, 1)


def test_restored_generators_draw_what_they_would_have_drawn() -> None:
    random.gauss(0, 1)  # Leaves a spare Gaussian behind, which is state too.
    np.random.randn()
    state = capture_random_state()
    expected = draw()
    assert draw() != expected
    restore_random_state(state)
    assert draw() == expected
    restore_random_state(state)
    with undisturbed_random_state():
        draw()
    assert draw() == expected
