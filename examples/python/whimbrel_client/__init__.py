"""A Whimbrel client in Python, written from docs/protocol.md and protocol/proto/client.proto alone.

`Client` is a user's device; `Session` is one connection; the rest is what they are made of: `directory` and
`descriptor` (whom to trust), `secure` (handshake and records), `frames`, `messages` and `ids`, `conversation` (the log
as one device has it).
"""

from .client import Client
from .errors import Code, Ended, LoginRefused, NoGateway, Refused, WhimbrelError
from .ids import conversation_text, parse_conversation
from .session import Session

__all__ = [
    "Client",
    "Code",
    "Ended",
    "LoginRefused",
    "NoGateway",
    "Refused",
    "Session",
    "WhimbrelError",
    "conversation_text",
    "parse_conversation",
]
