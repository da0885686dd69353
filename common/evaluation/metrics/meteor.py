"""METEOR 1.5 (Denkowski and Lavie, 2014), computed by its authors' Java program as pycocoevalcap
calls it (`-l en -norm`). Java and the jar are found or named, never fetched. Texts are tokenised
before (`caption_tokens`)."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError

SEPARATOR = " ||| "


def meteor(candidates: Sequence[str], references: Sequence[Sequence[str]], *, jar: Path) -> float:
    """METEOR of a corpus of tokenised texts, each with one or more references.

    Args:
        jar: `meteor-1.5.jar`, with its `data` folder beside it, as in the wheel of pycocoevalcap.

    Raises:
        UserError: there is no Java, the jar does not exist, or the program fails.
        ValueError: there is no candidate.
    """
    if not candidates:
        raise ValueError("METEOR of no candidates is undefined")
    pairs = zip(candidates, references, strict=True)
    asked = [SEPARATOR.join(["SCORE", *map(_plain, own), _plain(text)]) for text, own in pairs]
    statistics = _answers(asked, jar=jar)
    return float(_answers([SEPARATOR.join(["EVAL", *statistics])], jar=jar)[-1])


def _plain(text: str) -> str:
    return text.replace(SEPARATOR.strip(), "").replace("  ", " ").replace("\n", " ")


def _answers(lines: Sequence[str], *, jar: Path) -> list[str]:
    java = shutil.which("java")
    if java is None:
        raise UserError("METEOR needs the command `java`; install a Java runtime or leave it out")
    if not jar.is_file():
        raise UserError(f"METEOR's {jar} does not exist; name the jar of the pycocoevalcap wheel")
    command = [java, "-Xmx2G", "-jar", jar.name, "-", "-", "-stdio", "-l", "en", "-norm"]
    text = "\n".join(lines) + "\n"
    done = subprocess.run(
        command, cwd=jar.parent, input=text, capture_output=True, encoding="utf-8", check=False
    )
    answers = done.stdout.splitlines()
    if done.returncode or len(answers) < len(lines):
        complaint = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        raise UserError(f"METEOR's {jar} failed ({complaint}); fetch the jar again")
    return answers
