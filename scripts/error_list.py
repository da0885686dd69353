"""Writes docs/errors.md: every message that a user's mistake or a bad sample can cause.

    python scripts/error_list.py            # writes
    python scripts/error_list.py --check    # exit status 1 when the page is another one

Read from the sources: each place that makes a `UserError` or a `BadSample`, or asks for something
with `require`, with the values that it fills in named in braces.
"""

import ast
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.training.options import OneLineParser

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "errors.md"
FOLDERS = ("common", "flamingo", "flare", "scripts")
MESSAGE_AT = {"UserError": 0, "BadSample": 1, "require": 1}  # place among the arguments
HEAD = """# What can go wrong, and what to do

Every mistake of a user's ends in one line, `error: ...`, and exit status 2; a sample that cannot be
used is counted by its cause and replaced. These are all the messages, {num} of them, as
`python scripts/error_list.py` finds them in the sources; what stands in braces is filled in.
"""


@dataclass(frozen=True, order=True)
class Message:
    """What is said in one place of the sources."""

    file: str
    line: int
    fault: str
    remedy: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the page, or compares it."""
    parser = OneLineParser(description="Writes docs/errors.md from the sources.")
    parser.add_argument("--check", action="store_true", help="compare only")
    chosen = parser.parse_args(arguments)
    page = rendered(messages())
    if chosen.check:
        return int(not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page)
    PAGE.write_text(page, encoding="utf-8")
    print(PAGE.relative_to(ROOT))
    return 0


def messages() -> list[Message]:
    """All of them, in the order of the files."""
    found: list[Message] = []
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found += _messages_in(tree, path.relative_to(ROOT).as_posix())
    return sorted(found)


def rendered(found: Sequence[Message]) -> str:
    """The page; without line numbers, which change with every edit."""
    lines = [HEAD.format(num=len(found))]
    for file in sorted({message.file for message in found}):
        lines += [f"\n## {file}\n", "| message | remedy |", "| --- | --- |"]
        own = [message for message in found if message.file == file]
        lines += [f"| {_cell(message.fault)} | {_cell(message.remedy)} |" for message in own]
    return "\n".join(lines) + "\n"


def _messages_in(tree: ast.Module, file: str) -> Iterator[Message]:
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    # The innermost function comes last, and knows its own names.
    names_of: dict[int, dict[str, ast.expr]] = {}
    for function in functions:
        names_of |= dict.fromkeys(map(id, ast.walk(function)), _texts(function))
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
            continue
        place = MESSAGE_AT.get(node.func.id)
        if place is None or len(node.args) <= place:
            continue
        text = _template(node.args[place], names_of.get(id(node), {}))
        if text is not None:
            fault, _, remedy = text.rpartition("; ")
            yield Message(file, node.lineno, fault or remedy, remedy if fault else "")


def _texts(function: ast.FunctionDef) -> dict[str, ast.expr]:
    """Texts that a function puts into a name before it says them."""
    return {
        target.id: node.value
        for node in ast.walk(function)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.JoinedStr | ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _template(node: ast.expr, names: dict[str, ast.expr]) -> str | None:
    """`f"{path} is empty; fill it"` -> `{path} is empty; fill it`; None: nothing is said here."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.Name):
        inner = names.get(node.id)
        others = {name: text for name, text in names.items() if name != node.id}
        return None if inner is None else _template(inner, others)
    if isinstance(node, ast.JoinedStr):
        return "".join(_piece(part, names) for part in node.values)
    if isinstance(node, ast.BinOp):
        pieces = [_template(node.left, names), _template(node.right, names)]
        return "".join(piece for piece in pieces if piece)
    return None


def _piece(part: ast.expr, names: dict[str, ast.expr]) -> str:
    if isinstance(part, ast.Constant):
        return str(part.value)
    value = part.value if isinstance(part, ast.FormattedValue) else part
    inner = _template(value, names) if isinstance(value, ast.Name) else None
    return f"{{{ast.unparse(value)}}}" if inner is None else inner


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    sys.exit(main())
