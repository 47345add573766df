"""Errors that a user can act on."""


class EquipotError(ValueError):
    """Something the user gave cannot be used.

    The message says what was given, what is allowed, and what to do next. The command line prints the
    message alone and exits with status 1; any other exception is a defect and keeps its traceback.
    """
