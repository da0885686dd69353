"""The one exception for a user's mistake: scripts print its single line and exit with status 2."""


class UserError(ValueError):
    """A mistake of the user's, told in one line: what is wrong, where, and the remedy."""
