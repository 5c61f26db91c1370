"""What can go wrong, and the codes of docs/protocol.md, sections 3, 7 and 10."""

from enum import IntEnum


class Code(IntEnum):
    """Why a request or a login was refused; there may be others."""

    MALFORMED = 100
    UNKNOWN_METHOD = 101
    INVALID_ARGUMENT = 102
    TOO_LARGE = 103
    TOO_MANY_REQUESTS = 104
    TOKEN_INVALID = 200
    TOKEN_EXPIRED = 201
    TOKEN_MISMATCH = 202
    UNKNOWN_APP = 203
    USER_DISABLED = 204
    SUPERSEDED_LOGIN = 205
    UNKNOWN_USER = 300
    UNKNOWN_CONVERSATION = 301
    NOT_MEMBER = 302
    NOT_ALLOWED = 303
    GROUP_FULL = 304
    UNKNOWN_ENTRY = 305
    OPERATION_EXPIRED = 306
    OPERATION_MISMATCH = 307
    UNAVAILABLE = 400
    OVERLOADED = 401
    DEADLINE_EXCEEDED = 402
    STORE_READ_ONLY = 403
    INTERNAL = 500


class Retry(IntEnum):
    """What a CLOSE says about coming back."""

    NEVER = 0
    AFTER = 1
    NEW_TOKEN = 2
    NEW_DIRECTORY = 3


LEAVING = 14


def is_for_later(code: int) -> bool:
    """Whether the same request may succeed later; otherwise it fails the same way again."""
    return code == Code.TOO_MANY_REQUESTS or not 100 <= code <= 399


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
