"""The house rules, counted by machine: directions of imports, sizes, one place for each default,
no hidden state, no side effect at import. A rule is a function from sources to violations; its
tests are in `test_house_rules.py`."""

from __future__ import annotations

import ast
import io
import json
import re
import subprocess
import sys
import tokenize
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TypeGuard

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("common", "flamingo", "flare")
FOLDERS = (*PACKAGES, "scripts", "tests")
Sources = dict[str, str]  # path relative to the root -> text
Rule = Callable[[Sources], list[str]]

# Inside common: a room may import itself and every room of a smaller number.
FLOOR = {
    "errors": 0,
    "json_files": 1,
    "shapes": 0,
    "attention": 1,
    "layers": 2,
    "encoders": 3,
    "objectives": 3,
    "data": 4,
    "generation": 5,  # conversations are data
    "parallel": 5,
    "checkpoint": 6,
    "training": 7,
    "evaluation": 8,
    "demo": 9,
}
MAY_IMPORT = {
    "common": {"common"},
    "flamingo": {"common", "flamingo"},
    "flare": {"common", "flare"},
    "scripts": {"common", "flamingo", "flare", "scripts"},
    "tests": {"common", "flamingo", "flare", "scripts", "tests"},
}
DISTRIBUTED = ("torch.distributed", "accelerate")
DISTRIBUTED_ROOMS = (
    "common/parallel/",
    "common/checkpoint/",
    "common/training/",
    "flamingo/parallelize.py",
    "flare/parallelize.py",
    "tests/distributed/",
    "tests/common/checkpoint/",
    "tests/common/training/",
)
ENVIRONMENT_ROOMS = ("common/parallel/", "common/training/processes.py", "tests/")
MAX_FILE, MAX_FUNCTION, MAX_LINE, MAX_NESTING, MAX_METHODS = 400, 60, 100, 3, 7
PRAGMA = re.compile(r"  # (?:type:|noqa)")  # A reason may run past the end of the line.
BLOCKS = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match, ast.AsyncFor, ast.AsyncWith)
Function = ast.FunctionDef | ast.AsyncFunctionDef


def project_sources() -> Sources:
    files = [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))]
    return {file.relative_to(ROOT).as_posix(): file.read_text() for file in files}


# --- imports -------------------------------------------------------------------------------


def imports_run_one_way(sources: Sources) -> list[str]:
    found = []
    for path, line, name in _imports(sources):
        here, there = path.split("/"), name.split(".")
        if there[0] not in MAY_IMPORT or here[0] == "tests":
            continue
        outside = there[0] not in MAY_IMPORT[here[0]]
        upwards = here[0] == there[0] == "common" and not _is_below(here, there)
        if outside or upwards:
            found.append(f"{path}:{line} imports {name}")
    return found


def _is_below(here: list[str], there: list[str]) -> bool:
    if len(here) < 2 or len(there) < 2 or here[1] == "__init__.py":
        return True
    own, other = here[1].removesuffix(".py"), there[1]
    return own == other or FLOOR[other] < FLOOR[own]


def model_code_is_single_device_code(sources: Sources) -> list[str]:
    elsewhere = _outside(sources, DISTRIBUTED_ROOMS)
    return [
        f"{path}:{line} uses {name}"
        for path, line, name in [*_imports(elsewhere), *_attributes(elsewhere)]
        if any(name == module or name.startswith(module + ".") for module in DISTRIBUTED)
    ]


def _imports(sources: Sources) -> Iterator[tuple[str, int, str]]:
    for path, node in _nodes(sources):
        if isinstance(node, ast.Import):
            yield from ((path, node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.split("/")[: -node.level] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            yield from ((path, node.lineno, f"{base}.{alias.name}") for alias in node.names)


def _attributes(sources: Sources) -> Iterator[tuple[str, int, str]]:
    for path, node in _nodes(sources):
        if isinstance(node, ast.Attribute) and (name := _dotted(node)):
            yield path, node.lineno, name


def _dotted(node: ast.expr) -> str:
    """`a.b.c`, as it was written; empty for anything but names. Much faster than `ast.unparse`."""
    if isinstance(node, ast.Name):
        return node.id
    before = _dotted(node.value) if isinstance(node, ast.Attribute) else ""
    return f"{before}.{node.attr}" if before else ""


# --- sizes ---------------------------------------------------------------------------------


def sizes_stay_small(sources: Sources) -> list[str]:
    found = []
    for path, text in sources.items():
        lines = text.splitlines()
        if len(lines) > MAX_FILE:
            found.append(f"{path} has {len(lines)} lines")
        wide = [(n, line) for n, line in enumerate(lines, 1) if len(line) > MAX_LINE]
        long = [n for n, line in wide if len(PRAGMA.split(line)[0]) > MAX_LINE]
        found += [f"{path}:{number} is longer than {MAX_LINE}" for number in long]
    classes = [(path, node) for path, node in _nodes(sources) if isinstance(node, ast.ClassDef)]
    # What a protocol asks for is counted at the protocol, not again at whoever answers to it.
    asked = {name for _, node in classes if _is_protocol(node) for name in _public_methods(node)}
    for path, node in classes:
        names = [n for n in _public_methods(node) if _is_protocol(node) or n not in asked]
        if len(names) > MAX_METHODS:
            found.append(f"{path} {node.name} has {len(names)} public methods")
    functions = ((path, node) for path, node in _nodes(sources) if isinstance(node, Function))
    return found + [item for path, node in functions for item in _function_size(path, node)]


def _is_protocol(node: ast.ClassDef) -> bool:
    return any(ast.unparse(base).startswith("Protocol") for base in node.bases)


def _function_size(path: str, function: Function) -> list[str]:
    first = min([function.lineno, *(item.lineno for item in function.decorator_list)])
    length, depth = (function.end_lineno or first) - first + 1, _nesting(function)
    found = [f"{path} {function.name} has {length} lines"] if length > MAX_FUNCTION else []
    return found + ([f"{path} {function.name} nests {depth} deep"] if depth > MAX_NESTING else [])


def _nesting(node: ast.AST) -> int:
    """Deepest stack of blocks below a node; `elif` continues its `if`, it does not nest in it."""
    continued = node.orelse if isinstance(node, ast.If) and len(node.orelse) == 1 else []
    depths = [
        _nesting(child) + (isinstance(child, BLOCKS) and child not in continued)
        for child in ast.iter_child_nodes(node)
        if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case)
    ]
    return max(depths, default=0)


def _public_methods(node: ast.ClassDef) -> list[str]:
    functions = [item for item in node.body if isinstance(item, Function)]
    return [f.name for f in functions if not f.name.startswith("_") and not _is_property(f)]


def _is_property(function: Function) -> bool:
    return any("property" in ast.unparse(item) for item in function.decorator_list)


# --- state and leftovers -------------------------------------------------------------------


def nothing_is_printed_outside_scripts(sources: Sources) -> list[str]:
    return [
        f"{path}:{node.lineno} prints"
        for path, node in _nodes(_outside(sources, ("scripts/", "tests/")))
        if isinstance(node, ast.Call) and _dotted(node.func) == "print"
    ]


def the_environment_is_read_in_one_room(sources: Sources) -> list[str]:
    readers = {"os.environ", "os.getenv", "os.putenv"}
    elsewhere = _outside(sources, ENVIRONMENT_ROOMS)
    used = [*_attributes(elsewhere), *_imports(elsewhere)]
    return [f"{path}:{line} {name}" for path, line, name in used if name in readers]


def no_name_is_global(sources: Sources) -> list[str]:
    return [f"{p}:{n.lineno} global" for p, n in _nodes(sources) if isinstance(n, ast.Global)]


def nothing_is_left_for_later(sources: Sources) -> list[str]:
    """No unfinished work, and no silenced checker without its reason, on the line or above it."""
    unfinished = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    silenced = re.compile(
        r"(type:\s*ignore|noqa|pyright:\s*ignore)(\[[^\]]+\]|: ?[A-Z0-9, ]+)?(.*)"
    )
    found, explained = [], ("", 0)
    suspects = {
        path: text
        for path, text in sources.items()
        if unfinished.search(text) or silenced.search(text)
    }
    for path, line, comment in _comments(suspects):
        match = silenced.search(comment)
        if unfinished.search(comment):
            found.append(f"{path}:{line} unfinished: {comment}")
        reason = explained == (path, line - 1) or (match and len(match[3].strip(" #-")) >= 4)
        explained = (path, line) if not match else explained
        if match and not (match[2] and reason):
            found.append(f"{path}:{line} silences a checker without a code and a reason")
    names = [(p, n) for p, n in _nodes(sources) if isinstance(n, ast.Name)]
    return found + [f"{p}:{n.lineno} {n.id}" for p, n in names if n.id == "NotImplementedError"]


def _comments(sources: Sources) -> Iterator[tuple[str, int, str]]:
    for path, text in sources.items():
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                yield path, token.start[0], token.string


def paths_and_hosts_are_not_wired_in(sources: Sources) -> list[str]:
    machine = re.compile(r"(?:^|[\s'\"=(])(?:/(?:home|work|root|tmp|mnt|data|opt|usr|etc)/|~/)")
    host = re.compile(r"pypi\.org|pythonhosted|huggingface\.co|hf\.co|download\.pytorch|index-url")
    spelled_out = ("tests/house_rules.py", "tests/test_house_rules.py")
    return [
        f"{path}:{number} {line.strip()[:60]}"
        for path, text in sources.items()
        if path not in spelled_out
        for number, line in enumerate(text.splitlines(), 1)
        if not line.startswith("#!") and (machine.search(line) or host.search(line))
    ]


# --- one default in one place --------------------------------------------------------------


def a_default_has_one_place(sources: Sources) -> list[str]:
    """A field of a `*Config` that has a default: no function's parameter of that name may have
    another (None, "not given", is none), and no reader of a config may supply its own."""
    code = _outside(sources, ("tests/",))
    configs = [node for _, node in _nodes(code) if _is_config(node)]
    # Hugging Face configs state their defaults in `__init__`, which then is the one place.
    inits = [item for node in configs for item in node.body if isinstance(item, Function)]
    fields = {name for node in configs for name in _field_defaults(node)}
    fields |= {name for item in inits for name in _parameter_defaults(item)}
    found = []
    for path, node in _nodes(code):
        if isinstance(node, Function) and node not in inits:
            repeated = [name for name in _parameter_defaults(node) if name in fields]
            found += [f"{path} {node.name}({name}=...) repeats a config's" for name in repeated]
        if isinstance(node, ast.Call) and _supplies_a_default(node):
            found.append(f"{path}:{node.lineno} {ast.unparse(node)}")
    return found


def _is_config(node: ast.AST) -> TypeGuard[ast.ClassDef]:
    return isinstance(node, ast.ClassDef) and node.name.endswith("Config")


def _field_defaults(node: ast.ClassDef) -> list[str]:
    fields = [item for item in node.body if isinstance(item, ast.AnnAssign) and item.value]
    return [ast.unparse(item.target) for item in fields]


def _parameter_defaults(function: Function) -> list[str]:
    positional = [*function.args.posonlyargs, *function.args.args]
    defaults = function.args.defaults
    late = positional[len(positional) - len(defaults) :]
    pairs = [*zip(late, defaults, strict=True)]
    pairs += [
        (name, value)
        for name, value in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
        if value is not None
    ]
    return [name.arg for name, value in pairs if ast.unparse(value) != "None"]


def _supplies_a_default(call: ast.Call) -> bool:
    if _dotted(call.func) == "getattr" and len(call.args) == 3:
        owner, _, value = map(ast.unparse, call.args)
        return "config" in owner.lower() and value != "None"
    if not isinstance(call.func, ast.Attribute) or len(call.args) != 2:
        return False
    called = ast.unparse(call.func).lower()
    return re.search(r"config\w*\.(get|setdefault)$", called) is not None


# --- shared readers ------------------------------------------------------------------------


def _nodes(sources: Sources) -> Iterator[tuple[str, ast.AST]]:
    for path, text in sources.items():
        yield from ((path, node) for node in _walked(text))


@cache
def _walked(text: str) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(_parsed(text)))


@cache
def _parsed(text: str) -> ast.Module:
    return ast.parse(text)


def _outside(sources: Sources, rooms: tuple[str, ...]) -> Sources:
    return {path: text for path, text in sources.items() if not path.startswith(rooms)}


# --- side effects at import ----------------------------------------------------------------

TRIPWIRE = """
import importlib, json, logging, os, random, signal, sys, threading
root, preload, modules = json.loads(sys.argv[1])
sys.path.insert(0, root)
for statement in preload:
    exec(statement, {})
import numpy, torch

def state():
    return {
        "environment": dict(os.environ),
        "seed of python": random.getstate(),
        "seed of numpy": str(numpy.random.get_state()),
        "seed of torch": torch.get_rng_state().tolist(),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "process group": torch.distributed.is_initialized(),
        "device": torch.cuda.is_initialized(),
        "default dtype": str(torch.get_default_dtype()),
        "number of torch threads": torch.get_num_threads(),
        "log handlers": len(logging.root.handlers),
        "working directory": os.getcwd(),
        "signal handlers": [str(signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM)],
    }

tripped = []
def watch(event, arguments):
    if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR):
        tripped.append(f"writes {arguments[0]}")
    if event in ("os.mkdir", "os.remove", "os.rename", "socket.connect", "subprocess.Popen"):
        tripped.append(event)

before = state()
sys.addaudithook(watch)
for module in modules:
    importlib.import_module(module)
tripped += [f"changes {name}" for name, value in state().items() if value != before[name]]
print(json.dumps(tripped))
"""


def side_effects_of_importing(sources: Sources, root: Path) -> list[str]:
    """Third-party modules are imported before the wire is laid: only our own lines can trip it."""
    foreign = {
        ast.unparse(node)
        for text in sources.values()
        for node in _parsed(text).body
        if isinstance(node, ast.Import | ast.ImportFrom) and not _is_ours(node)
    }
    modules = [path.removesuffix(".py").replace("/", ".") for path in sources]
    modules = [module.removesuffix(".__init__") for module in modules]
    request = json.dumps([str(root), sorted(foreign), modules])
    command = [sys.executable, "-B", "-c", TRIPWIRE, request]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 0, done.stderr
    tripped: list[str] = json.loads(done.stdout.splitlines()[-1])
    return tripped


def _is_ours(node: ast.Import | ast.ImportFrom) -> bool:
    name = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
    return name is None or name.split(".")[0] in (*MAY_IMPORT, "__future__")
