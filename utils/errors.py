"""The one exception that stands for a mistake the user can mend."""


class UserError(ValueError):
    """One sentence that names the file or key at fault; scripts print it and exit with code 2."""
