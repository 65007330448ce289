"""The one exception that means *the user can mend this*."""


class UserError(Exception):
    """A sentence for the user: what is wrong, where, and what would be right.

    The command line prints it to standard error and exits with 2; nothing else about it is shown. Any other exception that reaches
    the top is a bug of ours.
    """


class ContentError(UserError):
    """What stands in a file is wrong, as opposed to a file that can't be read."""
