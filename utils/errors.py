"""The one exception that stands for a mistake the user can mend."""


class UserError(ValueError):
    """One sentence that names the file or key at fault; scripts print it and exit with code 2."""

    def __init__(self, sentence: str):
        # An image-reading process hands its error over wrapped in its traceback; the sentence comes last.
        super().__init__(sentence.rpartition("UserError: ")[2].strip())


def reason(error: Exception) -> str:
    """The first line of an error's text, or its kind where it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)


class IncompleteWeights(UserError):
    """A weights file lacks values that the backbone needs, such as those of its deeper levels."""
