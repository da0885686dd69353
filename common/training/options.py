"""Options of small scripts, whose mistakes give one line: `OneLineParser` for argparse,
`parse_options` for a dataclass, `parse_commands` for several."""

import argparse
import contextlib
import io
import re
from collections.abc import Sequence
from typing import Any, Never, TypeVar

import tyro

from common.errors import UserError
from common.training.command_line import condense

OptionsT = TypeVar("OptionsT")


class OneLineParser(argparse.ArgumentParser):
    """One line on standard error and exit status 2; the description as it is written."""

    def __init__(self, **settings: Any) -> None:
        own: dict[str, Any] = {
            "formatter_class": argparse.RawDescriptionHelpFormatter,
            "allow_abbrev": False,
        }
        super().__init__(**own | settings)

    def error(self, message: str) -> Never:
        """Without the usage, which --help shows."""
        self.exit(2, f"error: {message}; --help shows all options\n")
        raise AssertionError  # `exit` does not come back


def parse_options(
    kind: type[OptionsT], arguments: Sequence[str] | None, *, description: str | None
) -> OptionsT | None:
    """The options on the command line; None: help was asked for, and printed.

    Raises:
        UserError: an option is unknown, is missing or has an impossible value.
    """
    options: OptionsT | None = parse_commands(kind, arguments, description=description)
    return options


def parse_commands(
    kinds: Any,
    arguments: Sequence[str] | None,
    *,
    description: str | None,
    program: str | None = None,
    markers: Sequence[Any] = (),
) -> Any:
    """The same of a union of subcommands, for which Python has no type; `markers` are tyro's, for
    all of them.

    Raises:
        UserError: as for `parse_options`.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                kinds,
                args=arguments,
                description=description,
                prog=program,
                config=tuple(markers),
            )
    except SystemExit as ended:
        if ended.code in (0, None):
            return None
        sentence = condense(complaint.getvalue())
        raise UserError(re.sub(r"^Error parsing \w+: ", "", sentence)) from None
