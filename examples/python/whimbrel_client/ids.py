"""Identifiers and the text forms of keys (docs/protocol.md, sections 2 and 9)."""

import base64
import hashlib
import secrets

ROOT_PREFIX = "root1"
IDENTITY_PREFIX = "identity1"


def key_id(public: bytes) -> bytes:
    """The first 4 bytes of SHA-256 of a public key."""
    return hashlib.sha256(public).digest()[:4]


def key_text(prefix: str, key: bytes) -> str:
    """A key with its checksum, as people pass it on."""
    return prefix + _base32(key + _checksum(prefix, key))


def parse_key(prefix: str, text: str) -> bytes:
    """The 32 bytes of a key's text form."""
    text = text.strip()
    if not text.startswith(prefix):
        raise ValueError(f"{text!r} is no {prefix} key: it has to begin with {prefix!r}")
    raw = _unbase32(text.removeprefix(prefix))
    key, checksum = raw[:32], raw[32:]
    if len(raw) != 35 or checksum != _checksum(prefix, key):
        raise ValueError(f"{text!r} is damaged: its checksum is wrong; copy it anew")
    return key


def _checksum(prefix: str, key: bytes) -> bytes:
    return hashlib.sha256(prefix.encode() + key).digest()[:3]


def conversation_text(conversation: bytes) -> str:
    """A conversation as text: its letter, and 24 letters for the other 15 bytes."""
    return chr(conversation[0]) + _base32(conversation[1:])


def parse_conversation(text: str) -> bytes:
    """The 16 bytes of a conversation's text form."""
    rest = _unbase32(text[1:])
    if text[:1] not in ("d", "g") or len(rest) != 15:
        raise ValueError(f"{text!r} is no conversation: expected 'd' or 'g' and 24 letters")
    return text[:1].encode() + rest


def operation_id(time_ms: int, random: bytes | None = None) -> bytes:
    """A UUIDv7 of the server's time; the same operation is tried again with the same id."""
    random = secrets.token_bytes(10) if random is None else random
    raw = bytearray(time_ms.to_bytes(6, "big") + random)
    raw[6] = 0x70 | raw[6] & 0x0F
    raw[8] = 0x80 | raw[8] & 0x3F
    return bytes(raw)


def _base32(raw: bytes) -> str:
    return base64.b32encode(raw).decode().lower().rstrip("=")


def _unbase32(text: str) -> bytes:
    if text != text.lower():
        raise ValueError(f"{text!r} has capital letters")
    return base64.b32decode(text.upper() + "=" * (-len(text) % 8))
