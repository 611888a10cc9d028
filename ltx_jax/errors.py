"""The one exception that entry points turn into a sentence and exit code 2."""


class UserError(Exception):
    """A mistake the user can mend; the message is one sentence that says what is wrong and what to do."""
