"""What can go wrong, and the codes of docs/protocol.md, sections 3, 7 and 10."""

from enum import IntEnum


class Code(IntEnum):
    """Those that this client acts on by name."""

    TOKEN_INVALID = 200
    TOKEN_EXPIRED = 201
    TOKEN_MISMATCH = 202
    NOT_MEMBER = 302
    OPERATION_MISMATCH = 307
    UNAVAILABLE = 400


class Retry(IntEnum):
    """What a CLOSE says about coming back."""

    NEVER = 0
    AFTER = 1
    NEW_TOKEN = 2
    NEW_DIRECTORY = 3


LEAVING = 14


def is_for_later(code: int) -> bool:
    """Whether the same request may succeed later; otherwise it fails the same way again."""
    return code == 104 or not 100 <= code <= 399


class WhimbrelError(Exception):
    """Any of the below."""


class Refused(WhimbrelError):
    """A request, or a login, that the server refused."""

    def __init__(self, what: str, code: int, message: str, retry_after_ms: int = 0) -> None:
        super().__init__(f"{what} was refused with code {code}: {message}")
        self.code = code
        self.retry_after_ms = retry_after_ms


class LoginRefused(Refused):
    """The token or the user is not good."""


class Rejected(WhimbrelError):
    """A gateway that does not want this client now. Only a hint: anybody on the way can forge it."""

    def __init__(self, reason: int, retry_after_ms: int) -> None:
        super().__init__(f"the gateway rejected the hello with reason {reason}")
        self.retry_after_ms = retry_after_ms


class Ended(WhimbrelError):
    """The connection ended. Requests without a response are of unknown outcome."""

    def __init__(self, why: str, retry: int = Retry.AFTER, retry_after_ms: int = 0) -> None:
        super().__init__(why)
        self.retry = retry
        self.retry_after_ms = retry_after_ms


class NoGateway(WhimbrelError):
    """No gateway could be reached and believed."""

    def __init__(self, why: str, retry_after_ms: int = 0) -> None:
        super().__init__(why)
        self.retry_after_ms = retry_after_ms
