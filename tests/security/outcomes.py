"""What every refusal has in common."""

from common.errors import UserError


def one_line(error: UserError) -> str:
    """The message, which a user sees behind `error: `."""
    text = str(error)
    assert text.strip(), "a refusal without a reason"
    assert "\n" not in text, text
    return text
