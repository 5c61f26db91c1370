"""Frames inside records (docs/protocol.md, section 6). Bytes in, frames out, and back."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, IntFlag

VALUE_MAX = (1 << 32) - 1
PAYLOAD_LEN_MAX = 65_536
FRAME_LEN_MAX = 65_566


class FrameError(Exception):
    """A frame that breaks the rules; it ends the session."""


class Kind(IntEnum):
    PADDING = 0
    REQUEST = 1
    RESPONSE = 2
    PUSH = 3
    PUSH_ACK = 4
    PING = 5
    PONG = 6
    READY = 7
    SYNC_HINT = 8
    REAUTH = 9
    GOAWAY = 10
    CLOSE = 11
    CONFIRM = 12
    LOGIN = 13


class Flag(IntFlag):
    MORE = 0x01
    CRITICAL = 0x02
    COMPRESSED = 0x04
    TRACKED = 0x08
    AFFINITY = 0x10
    DEADLINE = 0x20


@dataclass(frozen=True)
class _Form:
    """How a kind is laid out and who sends it."""

    numbers: int
    payload: bool = False
    flags: Flag = Flag.CRITICAL
    from_client: bool = True
    from_gateway: bool = True


_FORMS = {
    Kind.PADDING: _Form(0, payload=True),
    Kind.REQUEST: _Form(2, True, Flag.CRITICAL | Flag.COMPRESSED | Flag.AFFINITY | Flag.DEADLINE),
    Kind.RESPONSE: _Form(1, True, Flag.CRITICAL | Flag.COMPRESSED),
    Kind.PUSH: _Form(1, True, Flag.CRITICAL | Flag.COMPRESSED | Flag.TRACKED, from_client=False),
    Kind.PUSH_ACK: _Form(1, from_gateway=False),
    Kind.PING: _Form(1),
    Kind.PONG: _Form(1),
    Kind.READY: _Form(0, from_client=False),
    Kind.SYNC_HINT: _Form(1, from_client=False),
    Kind.REAUTH: _Form(1, payload=True),
    Kind.GOAWAY: _Form(3, from_client=False),
    Kind.CLOSE: _Form(3),
    Kind.CONFIRM: _Form(0, from_gateway=False),
    Kind.LOGIN: _Form(0, payload=True),
}


@dataclass(frozen=True)
class Frame:
    """One frame. `numbers` are its fields in the order of the table in section 6, without the optional ones."""

    kind: Kind
    numbers: tuple[int, ...] = ()
    payload: bytes = b""
    flags: Flag = Flag(0)
    affinity: int | None = None
    deadline_ms: int | None = None

    def encode(self) -> bytes:
        flags = self.flags
        fields = b"".join(map(encode_varint, self.numbers))
        if self.affinity is not None:
            flags |= Flag.AFFINITY
            fields += self.affinity.to_bytes(4, "big")
        if self.deadline_ms is not None:
            flags |= Flag.DEADLINE
            fields += encode_varint(self.deadline_ms)
        if len(self.payload) > PAYLOAD_LEN_MAX:
            raise ValueError(f"a payload of {len(self.payload)} bytes: at most {PAYLOAD_LEN_MAX} are allowed")
        body = bytes([self.kind, flags]) + fields + self.payload
        return encode_varint(len(body)) + body


class Decoder:
    """Cuts the stream of one direction's plaintexts into frames."""

    def __init__(self, from_gateway: bool = True) -> None:
        self._from_gateway = from_gateway
        self._rest = b""

    def feed(self, plaintext: bytes) -> Iterator[Frame]:
        """The frames that are now complete; those of unknown kinds are passed over."""
        self._rest += plaintext
        while (start := _varint_at(self._rest, 0)) is not None:
            length, at = start
            if not 2 <= length <= FRAME_LEN_MAX:
                raise FrameError(f"a frame of {length} bytes: expected 2 to {FRAME_LEN_MAX}")
            if len(self._rest) < at + length:
                return
            body, self._rest = self._rest[at : at + length], self._rest[at + length :]
            if (frame := _decode(body, self._from_gateway)) is not None:
                yield frame


def _decode(body: bytes, from_gateway: bool) -> Frame | None:
    raw_flags = body[1]
    if body[0] not in _FORMS:
        if raw_flags & Flag.CRITICAL:
            raise FrameError(f"kind {body[0]} is critical and not known here")
        return None
    kind = Kind(body[0])
    form = _FORMS[kind]
    if not (form.from_gateway if from_gateway else form.from_client):
        raise FrameError(f"{kind.name} is not its sender's to send")
    if raw_flags & ~int(form.flags):
        raise FrameError(f"flags {raw_flags:#04x} have no meaning on {kind.name}")
    flags = Flag(raw_flags)
    at = 2
    numbers = []
    for _ in range(form.numbers):
        number, at = _field(body, at)
        numbers.append(number)
    if kind in (Kind.REQUEST, Kind.RESPONSE) and numbers[-1] == 0:
        raise FrameError(f"{kind.name} with request id 0")
    affinity = deadline_ms = None
    if flags & Flag.AFFINITY:
        if len(body) < at + 4:
            raise FrameError("an affinity is cut")
        affinity, at = int.from_bytes(body[at : at + 4], "big"), at + 4
    if flags & Flag.DEADLINE:
        deadline_ms, at = _field(body, at)
    payload = body[at:] if form.payload else b""
    if len(payload) > PAYLOAD_LEN_MAX:
        raise FrameError(f"a payload of {len(payload)} bytes: at most {PAYLOAD_LEN_MAX} are allowed")
    flags &= ~(Flag.AFFINITY | Flag.DEADLINE)
    return Frame(kind, tuple(numbers), payload, flags, affinity, deadline_ms)


def _field(body: bytes, at: int) -> tuple[int, int]:
    field = _varint_at(body, at)
    if field is None:
        raise FrameError("a field is missing or cut")
    return field


def encode_varint(value: int) -> bytes:
    """QUIC's varint, bounded to 32 bits."""
    for prefix, length in enumerate((1, 2, 4, 8)):
        if value < 1 << (8 * length - 2) and value <= VALUE_MAX:
            return (value | prefix << (8 * length - 2)).to_bytes(length, "big")
    raise ValueError(f"{value} does not fit: at most {VALUE_MAX}")


def _varint_at(data: bytes, at: int) -> tuple[int, int] | None:
    """A value and where it ends; None when it is cut."""
    if at >= len(data):
        return None
    length = 1 << (data[at] >> 6)
    if len(data) < at + length:
        return None
    raw = int.from_bytes(data[at : at + length], "big")
    value = raw & ((1 << (8 * length - 2)) - 1)
    if value > VALUE_MAX or len(encode_varint(value)) != length:
        raise FrameError(f"the varint {data[at : at + length].hex()} is too large or not in its shortest form")
    return value, at + length
