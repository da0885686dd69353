"""The project keeps the house rules, and a planted violation proves that each rule can fail."""

from pathlib import Path

import pytest

from tests.house_rules import (
    MAX_FILE,
    MAX_FUNCTION,
    MAX_LINE,
    ROOT,
    Rule,
    a_default_has_one_place,
    imports_run_one_way,
    model_code_is_single_device_code,
    no_name_is_global,
    nothing_is_left_for_later,
    nothing_is_printed_outside_scripts,
    paths_and_hosts_are_not_wired_in,
    project_sources,
    side_effects_of_importing,
    sizes_stay_small,
    the_environment_is_read_in_one_room,
)

# (rule, violation as the rule words it) -> why the better code breaks the rule there.
EXCEPTIONS: dict[tuple[Rule, str], str] = {}

DEEP = "def f(x):\n  for a in x:\n    if a:\n      with a:\n        while a:\n          a()\n"
METHODS = "".join(f"    def f{number}(self): ...\n" for number in range(8))
CONFIG = "class RunConfig:\n    steps: int = 5\n"
PLANTED: list[tuple[Rule, str, str]] = [
    (imports_run_one_way, "common/layers/x.py", "import flamingo.model"),
    (imports_run_one_way, "common/layers/x.py", "from common.data import episodes"),
    (imports_run_one_way, "common/layers/x.py", "from ..data import episodes"),
    (imports_run_one_way, "common/layers/x.py", "def f():\n    from common import training"),
    (imports_run_one_way, "common/encoders/x.py", "from common.objectives import language"),
    (imports_run_one_way, "flare/x.py", "from flamingo import model"),
    (imports_run_one_way, "flamingo/x.py", "import scripts.generate"),
    (imports_run_one_way, "flamingo/x.py", "from tests.reference import attend"),
    (model_code_is_single_device_code, "flamingo/model.py", "import torch.distributed as dist"),
    (model_code_is_single_device_code, "common/layers/x.py", "from torch import distributed"),
    (model_code_is_single_device_code, "flamingo/task.py", "from accelerate import Accelerator"),
    (model_code_is_single_device_code, "flare/x.py", "torch.distributed.barrier()"),
    (sizes_stay_small, "common/x.py", "\n" * (MAX_FILE + 1)),
    (sizes_stay_small, "common/x.py", "x = '" + "x" * MAX_LINE + "'"),
    (sizes_stay_small, "common/x.py", "def f():\n" + "    x = 1\n" * MAX_FUNCTION),
    (sizes_stay_small, "common/x.py", DEEP),
    (sizes_stay_small, "common/x.py", "class A:\n" + METHODS),
    (sizes_stay_small, "common/x.py", "class A(Protocol):\n" + METHODS),
    (nothing_is_printed_outside_scripts, "common/x.py", "def f():\n    print(1)"),
    (the_environment_is_read_in_one_room, "flamingo/x.py", "x = os.environ['RANK']"),
    (the_environment_is_read_in_one_room, "flamingo/x.py", "from os import environ"),
    (no_name_is_global, "common/x.py", "def f():\n    global x"),
    (nothing_is_left_for_later, "common/x.py", "x = 1  # TODO: more"),
    (nothing_is_left_for_later, "common/x.py", "def f():\n    raise NotImplementedError"),
    (nothing_is_left_for_later, "common/x.py", "x = 1  # type: ignore[assignment]"),
    (nothing_is_left_for_later, "common/x.py", "x = 1  # type: ignore  # a long enough reason"),
    (nothing_is_left_for_later, "common/x.py", "import os  # noqa: F401"),
    (paths_and_hosts_are_not_wired_in, "scripts/x.py", "x = '/home/somebody/data'"),
    (paths_and_hosts_are_not_wired_in, "scripts/x.py", "x = 'https://huggingface.co/model'"),
    (a_default_has_one_place, "common/x.py", CONFIG + "def run(*, steps: int = 7): ..."),
    (a_default_has_one_place, "common/x.py", CONFIG + "def run(steps=5): ..."),
    (a_default_has_one_place, "common/x.py", "x = getattr(self.config, 'steps', 5)"),
    (a_default_has_one_place, "common/x.py", "x = run_config.get('steps', 5)"),
]
RULES = list(dict.fromkeys(rule for rule, _, _ in PLANTED))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_project_keeps(rule: Rule) -> None:
    violations = rule(project_sources())
    excused = {violation for of_rule, violation in EXCEPTIONS if of_rule is rule}
    accused = sorted(set(violations) - excused)
    assert not accused, "\n".join(["", *accused])
    assert not excused - set(violations), "an exception that nothing needs any more"


@pytest.mark.parametrize(("rule", "path", "text"), PLANTED)
def test_a_planted_violation_is_found(rule: Rule, path: str, text: str) -> None:
    assert rule({path: text})


def test_clean_code_is_not_accused() -> None:
    text = CONFIG + (
        "import common.attention.attend\nfrom torch import Tensor\n"
        "x = 1  # type: ignore[assignment]  # the stub of the library is wrong\n"
        "def f(a: int, *, steps: int, folder: str | None = None):\n"
        "    if a:\n        return 1\n    elif a > 2:\n        return 2\n"
        "    elif a > 3:\n        return 3\n    elif a > 4:\n        return 4\n"
    )
    assert [rule({"common/layers/x.py": text}) for rule in RULES] == [[] for _ in RULES]


@pytest.mark.slow
def test_no_import_of_the_project_has_a_side_effect() -> None:
    sources = {path: text for path, text in project_sources().items() if path[:6] != "tests/"}
    assert side_effects_of_importing(sources, ROOT) == []


@pytest.mark.slow
def test_a_planted_side_effect_trips_the_wire(tmp_path: Path) -> None:
    text = (
        "import os, threading, torch\nopen('x.txt', 'w').close()\ntorch.manual_seed(7)\n"
        "torch.set_default_dtype(torch.float64)\nos.environ['X'] = '1'\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "bad.py").write_text(text)
    tripped = side_effects_of_importing({"common/bad.py": text}, tmp_path)
    effects = ["writes x.txt", "environment", "seed of torch", "threads", "default dtype"]
    assert tripped == [effects[0], *(f"changes {name}" for name in effects[1:])]
