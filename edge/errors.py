"""The error tree. Every error names the thing, the cause and the next command to type; the exit code lives on the class.

EdgeError
    BadInput        (2)  a file, name or option that cannot be used as it is
        BadArtifact (2)  an artifact folder that is damaged, unsafe or of an unknown schema version
    CheckFailed     (1)  parity, verdict or regression check failed, or a step that should have worked did not
        ConversionFailed (1)  a converter refused, crashed or wrote nothing
        OutOfMemory (1)  a model needs more memory than there is
    Unsupported     (3)  the combination asked for cannot work (format, precision, target)
        UnsupportedPrecision (3)  a precision was asked for and its kernels do not run
    Unavailable     (3)  it could work, but something is missing on this machine
        LinkLost    (3)  a board that was there does not answer any more: what follows would fail alike
    Interrupted   (130)  Ctrl-C
"""

from __future__ import annotations


class EdgeError(Exception):
    """Base of all errors shown to a user.

    Args:
        message: what failed and why, one sentence.
        hint: the next command to type, or what to change.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class BadInput(EdgeError):
    exit_code = 2


class BadArtifact(BadInput):
    pass


class CheckFailed(EdgeError):
    exit_code = 1


class ConversionFailed(CheckFailed):
    pass


class OutOfMemory(CheckFailed):
    pass


class Unsupported(EdgeError):
    exit_code = 3


class UnsupportedPrecision(Unsupported):
    pass


class Unavailable(EdgeError):
    exit_code = 3


class LinkLost(Unavailable):
    pass


class Interrupted(EdgeError):
    exit_code = 130
