"""R4: any damage to a finished checkpoint is noticed before a weight is read, the one before it is
taken, and the damaged one is set aside under a name that tells, with the file named."""

import json
import logging
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors import safe_open

from common.checkpoint.folder import newest_good_checkpoint
from common.training.trainer import Trainer
from tests.common.training.toy import ToyTask, toy
from tests.matrix import Counted

pytestmark = pytest.mark.slow
OLDER, NEWER = "step_00000008", "step_00000012"
NUM_FLIPS = 100
Entries = dict[str, dict[str, object]]


@dataclass(frozen=True)
class Damage:
    """Something that is done to the newer of two checkpoints, and the file that must be named."""

    what: str
    file: str
    do: Callable[[Path], None]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a finished run."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("common.training.finish.write_plots", lambda metrics, folder: [])
        Trainer(toy(), ToyTask(toy().task), folder).train()
    return folder / "checkpoints"


def damages(checkpoints: Path) -> Iterator[Damage]:
    """Of every kind, to every file."""
    other = checkpoints / OLDER
    for path in sorted((checkpoints / NEWER).iterdir()):
        name, size = path.name, path.stat().st_size
        for share in (0.0, 0.1, 0.5, 0.999):
            yield Damage("truncated", name, cut(name, int(size * share)))
        yield Damage("lengthened", name, change(name, lambda content: content + b"}"))
        yield Damage("removed", name, lambda folder, name=name: (folder / name).unlink())
        yield Damage("zeroed", name, change(name, lambda content: bytes(len(content))))
        swapped = (other / name).read_bytes()
        if swapped != path.read_bytes():  # the index of two steps is the same
            yield Damage("of another step", named(name), change(name, lambda _, new=swapped: new))
    yield from flips(checkpoints / NEWER)
    for edit in (forget, shrink, redigest, rename, nonsense, empty):
        yield Damage("manifest edited", "", edited(edit))
    yield Damage("stray", "extra.json", lambda folder: (folder / "extra.json").write_text("{}"))


def flips(folder: Path) -> Iterator[Damage]:
    """Single bits; half of them anywhere in the weights, the others in every file alike."""
    draw = random.Random(0)
    names = sorted(path.name for path in folder.iterdir())
    for number in range(NUM_FLIPS):
        name = "tensors_00000.safetensors" if number % 2 else names[number // 2 % len(names)]
        bit = draw.randrange(8 * (folder / name).stat().st_size)
        yield Damage("bit flipped", named(name), change(name, lambda c, bit=bit: flipped(c, bit)))


def named(name: str) -> str:
    """Against a manifest that lies, it is the other files that seem wrong."""
    return "" if name == "manifest.json" else name


def change(name: str, edit: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(edit((folder / name).read_bytes())) and None


def cut(name: str, length: int) -> Callable[[Path], None]:
    return change(name, lambda content: content[:length])


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def edited(edit: Callable[[Entries], Entries]) -> Callable[[Path], None]:
    return change("manifest.json", lambda text: json.dumps(edit(json.loads(text))).encode())


def forget(entries: Entries) -> Entries:
    del entries["tensors_00000.safetensors"]
    return entries


def shrink(entries: Entries) -> Entries:
    entries["state.json"]["bytes"] = 7
    return entries


def redigest(entries: Entries) -> Entries:
    entries["index.json"]["sha256"] = "0" * 64
    return entries


def rename(entries: Entries) -> Entries:
    entries["tensors_00001.safetensors"] = entries.pop("tensors_00000.safetensors")
    return entries


def nonsense(entries: Entries) -> Entries:
    return {name: {"bytes": 1} for name in entries}


def empty(entries: Entries) -> Entries:
    return {}


def test_every_damage_is_noticed_before_a_weight_is_read(
    checkpoints: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    counted: Counted,
) -> None:
    def read_nothing(*opened: object, **named: object) -> None:
        raise AssertionError("a weight was read")

    monkeypatch.setattr("common.checkpoint.storage.safe_open", read_nothing)
    kinds: dict[str, int] = {}
    for number, damage in enumerate(damages(checkpoints)):
        folder = tmp_path / str(number)
        shutil.copytree(checkpoints, folder)
        damage.do(folder / NEWER)
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="common"):
            assert newest_good_checkpoint(folder) == folder / OLDER, damage
        aside = sorted(path.name for path in folder.iterdir())
        assert aside == [f"damaged_{NEWER}", OLDER], damage
        (record,) = caplog.records
        assert damage.file in record.getMessage().split(": ", 1)[1], damage
        shutil.rmtree(folder)
        kinds[damage.what] = kinds.get(damage.what, 0) + 1
    for what, times in kinds.items():
        counted("R4", what, times)


def test_an_undamaged_checkpoint_is_what_the_damaged_ones_were_copied_from(
    checkpoints: Path,
) -> None:
    assert newest_good_checkpoint(checkpoints) == checkpoints / NEWER
    with safe_open(checkpoints / NEWER / "tensors_00000.safetensors", framework="pt") as file:
        assert file.keys()
