"""The exception for mistakes that the user can fix."""


class UserError(ValueError):
    """One sentence that names the wrong file or key; scripts print it and exit with code 2."""

    def __init__(self, sentence: str):
        # The error of an image-reading process arrives wrapped in a traceback; the sentence comes last.
        super().__init__(sentence.rpartition("UserError: ")[2].strip())


def reason(error: Exception) -> str:
    """The first line of an error's text, or its type if it has no text."""
    return next(iter(str(error).splitlines()), type(error).__name__)


class IncompleteWeights(UserError):
    """A weights file lacks values that the backbone needs, such as those of its deeper levels."""
