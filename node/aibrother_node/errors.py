"""Errors, named by what the caller can do about them.

Each class stands for one reaction: mend the input, look elsewhere, throw the bytes away, ask for rights, try later,
make room. They carry data for programs in attributes and a sentence for people in `str()`. One place maps them to
HTTP (`web/errors.py`) and one to exit codes (`aibrother_tools/cli.py`).
"""


class NodeError(Exception):
    """Base of all errors that this project raises on purpose."""


class InvalidInput(NodeError):
    """Bytes or values from outside that break their format's rules; nothing was changed."""


class ConfigurationError(NodeError):
    """The configuration can't be used.

    Attributes:
        faults: one line a fault, each naming source (file or environment variable), key and reason.
    """

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        super().__init__("\n".join(faults))


class NotFound(NodeError):
    """What was asked for is not here."""


class Gone(NotFound):
    """It was here and was taken back on purpose; the message is the reason that its publisher gave."""


class VerificationFailed(NodeError):
    """Content is not what its name says; nothing of it was kept.

    Attributes:
        expected, actual: digests (`sha256:<hex>`) or lengths, as text, where they are known.
    """

    def __init__(self, message: str, *, expected: str | None = None, actual: str | None = None) -> None:
        self.expected = expected
        self.actual = actual
        super().__init__(message)


class Refused(NodeError):
    """The request is understood and not allowed."""


class Conflict(NodeError):
    """The request doesn't fit what its object is now: look again, and ask for what does."""


class Unsupported(NodeError):
    """This machine, file system or version can't do it, however often it is asked."""


class Temporary(NodeError):
    """It may work when tried again.

    Attributes:
        retry_after: seconds after which to try again, if something is known about that.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class DiskFull(Temporary):
    """Writing would eat into the reserve that is kept free, or the file system said ENOSPC."""
