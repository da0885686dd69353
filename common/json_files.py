"""JSON files of a user's: read whole, or told in one line with their path."""

import json
from pathlib import Path

from common.errors import UserError


def read_json(path: Path) -> object:
    """Whatever the file holds.

    Raises:
        UserError: there is no such file, or it is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check the path") from error
    # Of json, of the codec, of numbers with too many digits; of what is nested too deep.
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON ({error}); copy it again") from error


def read_json_object(path: Path) -> dict[str, object]:
    """The fields of a file that holds one object.

    Raises:
        UserError: as `read_json`, or the file holds something else.
    """
    fields = read_json(path)
    if not isinstance(fields, dict):
        raise UserError(f"{path} holds no JSON object {{...}}; copy it again")
    return fields
