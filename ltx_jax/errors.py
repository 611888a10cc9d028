"""The one exception that entry points turn into a sentence and exit code 2, and the check that raises it."""


class UserError(Exception):
    """A mistake the user can mend; the message is one sentence that says what is wrong and what to do."""


def require(condition: bool, sentence: str) -> None:
    """Raise UserError(sentence) unless `condition` holds."""
    if not condition:
        raise UserError(sentence)
