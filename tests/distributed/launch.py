"""Ranks and scripts without the minute that their imports take: one process imports everything,
once for all tests, and every rank is forked from it, with the environment that torchrun gives."""

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

PRELOADED = [
    "pytest",  # every process imports what its parent ran as main
    "scripts.evaluate",
    "scripts.generate",
    "scripts.parameters",
    "scripts.prepare_data",
    "scripts.train_flamingo",
    "scripts.train_flare",
    "timm",
    "tests.common.training.contrast_toy",
    "tests.common.training.toy",
    "tests.distributed.sharded_run",
    "tests.distributed.sharded_updates",
    "tests.distributed.preloaded",  # the last: it closes the memory to collections
]


def preloaded() -> multiprocessing.context.ForkServerContext:
    """Processes of this context find everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def launch(module: str, *words: object, num_ranks: int = 1) -> str:
    """`python -m module word ...` by so many ranks, or by none with one; what they printed."""
    context = preloaded()
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, str(rank)) for rank in range(num_ranks)]
        port = _free_port()
        processes = [
            context.Process(
                target=_run,
                args=([module, *map(str, words)], _environment(rank, num_ranks, port), output),
            )
            for rank, output in enumerate(outputs)
        ]
        has_succeeded = succeed(processes)
        printed = "\n".join(output.read_text() for output in outputs)
    assert has_succeeded, printed
    return printed


def run_script(*words: object) -> subprocess.CompletedProcess[str]:
    """`python script.py word ...` as a process of its own, in the folder of this one."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = Path(folder, "out"), Path(folder, "errors")
        process = start_script(*words, outputs=outputs)
        process.join()
        printed = [output.read_text() for output in outputs]
    return subprocess.CompletedProcess(words, process.exitcode, *printed)


def start_script(
    *words: object, outputs: tuple[Path, Path] = (Path(os.devnull), Path(os.devnull))
) -> BaseProcess:
    """The same, started; what it prints and complains of goes to two files."""
    process = preloaded().Process(
        target=_run_script, args=([*map(str, words)], os.getcwd(), outputs)
    )
    process.start()
    return process


def succeed(processes: Sequence[BaseProcess]) -> bool:
    """Starts ranks; whether all have succeeded. When one fails, the others would wait for it."""
    for process in processes:
        process.start()
    running = {process.sentinel: process for process in processes}
    while running:
        ended = [running.pop(sentinel) for sentinel in wait(list(running))]
        if any(process.exitcode for process in ended):
            for other in running.values():
                other.kill()  # a trainer would take SIGTERM for a wish
    return not any(process.exitcode for process in processes)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])


def _environment(rank: int, num_ranks: int, port: int) -> dict[str, str]:
    if num_ranks == 1:
        return {}
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_ranks}
    numbers = {**ranks, "LOCAL_WORLD_SIZE": num_ranks, "MASTER_PORT": port}
    return {"MASTER_ADDR": "localhost", **{name: str(value) for name, value in numbers.items()}}


def _run(words: list[str], environment: dict[str, str], output: Path) -> None:
    _write_to(output, output)
    os.environ |= environment
    sys.argv[1:] = words[1:]
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


def _run_script(words: list[str], folder: str, outputs: tuple[Path, Path]) -> None:
    _write_to(*outputs)
    os.chdir(folder)
    sys.argv = words
    sys.path.insert(0, os.path.dirname(words[0]))
    runpy.run_path(words[0], run_name="__main__")


def _write_to(*outputs: Path) -> None:
    """What is printed goes to the first, what is complained of to the second."""
    for descriptor, output in enumerate(outputs, 1):
        with output.open("a") as file:
            os.dup2(file.fileno(), descriptor)
