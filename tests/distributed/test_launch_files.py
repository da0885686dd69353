"""What starts a run on many machines names what exists, and goes on when a job's time ends."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from flamingo.recipes import RECIPES as FLAMINGO
from flare.recipes import RECIPES as FLARE

LAUNCHES = sorted(Path("scripts/accelerate").glob("*.yaml"))
JOBS = sorted(Path("scripts/slurm").glob("*.sh"))
RECIPES = {"scripts/train_flare.py": FLARE, "scripts/train_flamingo.py": FLAMINGO}


@pytest.mark.parametrize("file", LAUNCHES, ids=lambda file: file.stem)
def test_accelerate_reads_every_launch_file(file: Path) -> None:
    config = load_config_from_file(str(file))
    kind, _, number = file.stem.rpartition("_")
    assert config.num_processes == int(number)
    per_machine = 8 if kind == "a100" else config.num_processes
    assert config.num_machines * per_machine == config.num_processes


@pytest.mark.parametrize("file", [*LAUNCHES, *JOBS], ids=lambda file: file.stem)
def test_files_and_recipes_that_are_named_exist(file: Path) -> None:
    text = file.read_text()
    for name in re.findall(r"(?:scripts|docs)/[\w/]+\.\w+", text):
        assert Path(name).is_file(), name
    starts = re.findall(r"(scripts/train_\w+\.py) (\w+)", text)
    assert starts or "cpu" in file.stem or "8" in file.stem or "gpu_1" in file.stem
    for script, recipe in starts:
        assert recipe in RECIPES[script]


@pytest.mark.parametrize("file", JOBS, ids=lambda file: file.stem)
def test_bash_understands_every_job(file: Path) -> None:
    assert subprocess.run(["bash", "-n", file], check=False).returncode == 0
    assert os.access(file, os.X_OK)


@pytest.mark.slow
@pytest.mark.parametrize(("status", "again"), [(138, True), (2, False)])
def test_a_job_that_a_signal_has_stopped_is_queued_again(
    status: int, again: bool, tmp_path: Path
) -> None:
    commands = {
        "srun": 'SLURM_NODEID=0 exec "$@"',
        "scontrol": f'case $1 in show) echo 127.0.0.1 ;; *) echo "$@" >> {tmp_path}/asked ;; esac',
    }
    for name, command in commands.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{command}\n")
        (tmp_path / name).chmod(0o755)
    script = tmp_path / "train.py"
    script.write_text(f"import sys\nassert sys.argv[1:] == ['recipe', 'two words']\nexit({status})")
    done = subprocess.run(
        ["scripts/slurm/train.sh", "scripts/accelerate/cpu_2.yaml", script, "recipe", "two words"],
        env=os.environ
        | {
            "PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "77",
            "SLURM_JOB_NODELIST": "node",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    asked = tmp_path / "asked"
    assert (asked.read_text() if asked.exists() else "") == ("requeue 77\n" if again else "")
