"""The one exception a user's mistake raises."""

from __future__ import annotations


class UserError(ValueError):
    """A user's mistake, told in one line: what was wrong, what was expected, how to mend it.

    The command line prints the line and exits with code 2; a notebook shows it as it is.
    """
