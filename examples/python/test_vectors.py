"""The client's pure parts, held to docs/vectors.json."""

import base64
import hashlib
import hmac
import json
import unittest
import warnings
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from whimbrel_client import ids
from whimbrel_client import messages as m
from whimbrel_client.conversation import ConversationLog
from whimbrel_client.descriptor import CERTIFICATE_DOMAIN, DAY_MS, HOUR_MS, DescriptorError, Floor, verify
from whimbrel_client.frames import Decoder, Flag, Frame, FrameError, Kind, encode_varint
from whimbrel_client.secure import SUITES, Accept, Direction, Handshake, Reject, SecureError, StaleKey, parse_answer

VECTORS = json.loads((Path(__file__).resolve().parents[2] / "docs" / "vectors.json").read_text())


def raw(text: str) -> bytes:
    return bytes.fromhex(text)


class HandshakeVectors(unittest.TestCase):
    def handshake(self, vector: dict, key: bytes | None = None) -> Handshake:
        with warnings.catch_warnings():
            # The Noise library rightly warns of a fixed ephemeral key.
            warnings.simplefilter("ignore")
            return Handshake(
                vector["suite"],
                raw(vector["gateway_key_id"]),
                key or raw(vector["gateway_public"]),
                raw(vector["login"]),
                ephemeral_for_tests=raw(vector["client_ephemeral_secret"]),
            )

    def test_both_suites_give_every_byte_of_hello_and_session(self) -> None:
        self.assertEqual([vector["suite"] for vector in VECTORS["handshakes"]], [1, 2])
        for vector in VECTORS["handshakes"]:
            with self.subTest(vector["name"]):
                self.assertEqual(SUITES[vector["suite"]][0].decode(), vector["name"])
                self.assertEqual(ids.key_id(raw(vector["gateway_public"])), raw(vector["gateway_key_id"]))
                handshake = self.handshake(vector)
                self.assertEqual(handshake.prologue, raw(vector["prologue"]))
                self.assertEqual(handshake.hello, raw(vector["hello"]))
                answer = raw(vector["answer"])
                self.assertEqual(int.from_bytes(answer[1:3], "big"), len(answer) - 3)
                accept = parse_answer(answer[0], answer[3:])
                self.assertEqual(accept, Accept(raw(vector["message_2"])))
                established = handshake.finish(accept.message_2)
                self.assertEqual(established.login_answer, raw(vector["login_answer"]))
                self.assertEqual(established.outgoing.key, raw(vector["client_to_server_key"]))
                self.assertEqual(established.incoming.key, raw(vector["server_to_client_key"]))
                first = Frame(Kind.CONFIRM).encode()
                first += Frame(Kind.REQUEST, (1, 1), m.SyncRequest(limit=100).SerializeToString()).encode()
                self.assertEqual(first, raw(vector["first_client_plaintext"]))
                self.assertEqual(established.outgoing.seal(first), raw(vector["first_client_record"]))
                ready = established.incoming.open(raw(vector["first_server_record"])[2:])
                self.assertEqual(ready, raw(vector["first_server_plaintext"]))

    def test_every_intermediate_value_follows_from_the_page(self) -> None:
        for vector in VECTORS["handshakes"]:
            with self.subTest(vector["name"]):
                self.assertEqual(
                    list(intermediate_values(vector).items()), [tuple(step.values()) for step in vector["steps"]]
                )

    def test_login_and_its_answer_are_the_messages_of_the_worked_example(self) -> None:
        vector = VECTORS["handshakes"][0]
        login = m.Login(app_key="demo", uid="alice", token="a.b.c", device_id="phone", login_epoch=7)
        self.assertEqual(login.SerializeToString(), raw(vector["login"]))
        answer = m.LoginAnswer.FromString(raw(vector["login_answer"]))
        self.assertEqual((answer.server_time_ms, answer.heartbeat_ms, answer.requests_max), (1795219200001, 240000, 64))

    def test_a_gateway_without_the_key_of_its_descriptor_is_found_out(self) -> None:
        vector = VECTORS["handshakes"][1]
        another = X25519PrivateKey.from_private_bytes(bytes([9]) * 32).public_key().public_bytes_raw()
        with self.assertRaises(SecureError):
            self.handshake(vector, another).finish(raw(vector["message_2"]))
        with self.assertRaises(SecureError):
            self.handshake(vector).finish(raw(vector["message_2"])[:40])

    def test_answers_that_are_no_accepts(self) -> None:
        answers = [
            parse_answer(v["bytes"][0], v["bytes"][3:])
            for v in ({"bytes": raw(a["bytes"])} for a in VECTORS["answers"])
        ]
        self.assertEqual(answers, [Reject(5, 1500), Reject(1, 0), StaleKey(raw("01000107000108")), Reject(5, 0)])


def intermediate_values(vector: dict) -> dict[str, str]:
    """Noise_NK by hand, from section 13 of the page: what the library does inside."""

    def hkdf(chaining_key: bytes, material: bytes) -> tuple[bytes, bytes]:
        temporary = hmac.digest(chaining_key, material, hashlib.sha256)
        first = hmac.digest(temporary, b"\x01", hashlib.sha256)
        return first, hmac.digest(temporary, first + b"\x02", hashlib.sha256)

    def mix(data: bytes) -> bytes:
        return hashlib.sha256(values["h"] + data).digest()

    def exchange(name: str) -> bytes:
        secret = X25519PrivateKey.from_private_bytes(raw(vector["client_ephemeral_secret"]))
        return secret.exchange(X25519PublicKey.from_public_bytes(raw(vector[name])))

    name, aead, _ = SUITES[vector["suite"]]
    steps: dict[str, str] = {}
    values = {"h": name.ljust(32, b"\0")}
    ck = values["h"]

    def step(name: str, value: bytes) -> bytes:
        steps[name] = value.hex()
        if name.startswith("h_"):
            values["h"] = value
        return value

    step("h_from_name", values["h"])
    step("h_after_prologue", mix(raw(vector["prologue"])))
    step("h_after_gateway_key", mix(raw(vector["gateway_public"])))
    step("h_after_client_ephemeral", mix(raw(vector["client_ephemeral_public"])))
    for half, other, payload in (
        ("es", "gateway_public", "login"),
        ("ee", "server_ephemeral_public", "login_answer_padded"),
    ):
        if half == "ee":
            step("h_after_server_ephemeral", mix(raw(vector["server_ephemeral_public"])))
        ck, k = hkdf(ck, step(f"dh_{half}", exchange(other)))
        step(f"ck_after_{half}", ck)
        step(f"k_after_{half}", k)
        sealed = aead(k).encrypt(bytes(12), raw(vector[payload]), values["h"])
        step("h_after_message_1" if half == "es" else "h_after_message_2", mix(sealed))
    return steps


class RecordVectors(unittest.TestCase):
    def test_records_and_keys_across_both_rekeys(self) -> None:
        for suite in VECTORS["records"]:
            counters = [record["counter"] for record in suite["records"]]
            self.assertEqual(counters, [0, 1, 65535, 65536, 131071, 131072])
            for record in suite["records"]:
                with self.subTest(suite=suite["suite"], counter=record["counter"]):
                    sealing = Direction(suite["suite"], raw(record["key"]), record["counter"])
                    opening = Direction(suite["suite"], raw(record["key"]), record["counter"])
                    self.assertEqual(sealing.seal(raw(record["plaintext"])), raw(record["record"]))
                    self.assertEqual(opening.open(raw(record["record"])[2:]), raw(record["plaintext"]))
                    self.assertEqual((sealing.key, opening.key), (raw(record["next_key"]),) * 2)

    def test_a_direction_rekeys_by_itself(self) -> None:
        records = VECTORS["records"][1]["records"]
        sealing = Direction(2, raw(records[0]["key"]))
        opening = Direction(2, raw(records[0]["key"]))
        for _ in range(65_537):
            opening.open(sealing.seal(b"x")[2:])
        self.assertEqual(sealing.key, raw(records[3]["key"]))

    def test_a_record_out_of_turn_or_changed_does_not_open(self) -> None:
        first, second = (raw(record["record"])[2:] for record in VECTORS["records"][0]["records"][:2])
        for bad in (second, first[:-1] + b"\0", first[:16], b""):
            with self.subTest(bad.hex()), self.assertRaises(SecureError):
                Direction(1, raw(VECTORS["records"][0]["records"][0]["key"])).open(bad)


class DescriptorVectors(unittest.TestCase):
    def setUp(self) -> None:
        self.vector = VECTORS["descriptor"]
        self.raw = raw(self.vector["descriptor"])
        self.roots = [bytes(32), raw(self.vector["root_public"])]

    def test_the_descriptor_verifies_and_says_what_it_says(self) -> None:
        text = self.vector["descriptor_base64url"]
        self.assertEqual(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), self.raw)
        descriptor = verify(self.raw, self.roots)
        statement = self.vector["statement"]
        self.assertEqual(descriptor.node, self.vector["node"])
        self.assertEqual(descriptor.suites, tuple(statement["suites"]))
        self.assertEqual([key.public.hex() for key in descriptor.keys], [key["public"] for key in statement["keys"]])
        self.assertEqual([key.id.hex() for key in descriptor.keys], [key["key_id"] for key in statement["keys"]])
        self.assertEqual([dict(transport=t, endpoint=e) for t, e in descriptor.addresses], statement["addresses"])
        self.assertEqual(descriptor.tcp_addresses(), [("gateway-1.example.com", 7100)])
        self.assertEqual(descriptor.not_after_ms, statement["not_after_ms"])

    def test_addresses_are_read_and_what_is_none_is_passed_over(self) -> None:
        endpoints = ["[::1]:7100", "nowhere", ":1", "host:", "host:port", "host:7100"]
        descriptor = replace(verify(self.raw, self.roots), addresses=tuple((1, endpoint) for endpoint in endpoints))
        self.assertEqual(descriptor.tcp_addresses(), [("::1", 7100), ("host", 7100)])

    def test_another_root_or_a_changed_byte_is_refused(self) -> None:
        with self.assertRaisesRegex(DescriptorError, "no pinned root"):
            verify(self.raw, [raw(self.vector["identity_public"])])
        for at in range(len(self.raw)):
            changed = bytearray(self.raw)
            changed[at] ^= 1
            with self.subTest(at=at), self.assertRaises(DescriptorError):
                verify(bytes(changed), self.roots)

    def test_cut_or_longer_descriptors_are_refused(self) -> None:
        for at in range(len(self.raw)):
            with self.subTest(at=at), self.assertRaises(DescriptorError):
                verify(self.raw[:at], self.roots)
        with self.assertRaises(DescriptorError):
            verify(self.raw + b"\0", self.roots)

    def test_dates_are_judged_by_the_floor_and_an_hour(self) -> None:
        end_ms = self.vector["statement"]["not_after_ms"]
        verify(self.raw, self.roots, floor_ms=end_ms + HOUR_MS)
        with self.assertRaisesRegex(DescriptorError, "ended"):
            verify(self.raw, self.roots, floor_ms=end_ms + HOUR_MS + 1)

    def test_a_gateway_is_believed_about_the_time_to_its_own_end_only(self) -> None:
        floor = Floor(built_ms=1)
        floor.logged_in(10**15, verify(self.raw, self.roots))
        self.assertEqual(floor.time_ms(), self.vector["statement"]["not_after_ms"])

    def test_a_certificate_of_more_than_400_days_is_refused(self) -> None:
        root = Ed25519PrivateKey.from_private_bytes(raw(self.vector["root_seed"]))
        certificate = raw(self.vector["signed_certificate"])
        payload_len = int.from_bytes(certificate[:2], "big")
        start_ms = self.vector["certificate_not_before_ms"]
        for life_ms, fits in ((400 * DAY_MS, True), (400 * DAY_MS + 1, False)):
            payload = certificate[2 : 2 + payload_len - 8] + (start_ms + life_ms).to_bytes(8, "big")
            signature = root.sign(CERTIFICATE_DOMAIN + payload)
            signed = certificate[:2] + payload + certificate[2 + payload_len :][:8] + signature
            whole = self.raw[:3] + signed + self.raw[3 + len(certificate) :]
            with self.subTest(life_ms=life_ms):
                if fits:
                    verify(whole, self.roots)
                else:
                    self.assertRaisesRegex(DescriptorError, "lives", verify, whole, self.roots)


class FrameVectors(unittest.TestCase):
    FRAMES = {
        "PADDING of 5 bytes": Frame(Kind.PADDING, (), bytes(5)),
        "REQUEST Sync, id 1, limit 100": Frame(Kind.REQUEST, (1, 1), b"\x10\x64"),
        "REQUEST Send, id 70001, affinity, deadline 10000 ms, COMPRESSED": Frame(
            Kind.REQUEST, (2, 70001), b"compressed", Flag.COMPRESSED, 0x0FBB7DE0, 10000
        ),
        "RESPONSE to 1, success": Frame(Kind.RESPONSE, (1,), m.Response(body=b"\1\2\3").SerializeToString()),
        "RESPONSE to 1, overloaded, retry after 500 ms": Frame(
            Kind.RESPONSE, (1,), m.Response(code=401, message="busy", retry_after_ms=500).SerializeToString()
        ),
        "PUSH Messages, TRACKED": Frame(Kind.PUSH, (1,), b"message", Flag.TRACKED),
        "PUSH Notice, untracked": Frame(Kind.PUSH, (2,), b"message"),
        "PUSH_ACK through 300": Frame(Kind.PUSH_ACK, (300,)),
        "PING with token 7": Frame(Kind.PING, (7,)),
        "PONG with token 7": Frame(Kind.PONG, (7,)),
        "READY": Frame(Kind.READY),
        "SYNC_HINT, spread 5000 ms": Frame(Kind.SYNC_HINT, (5000,)),
        "REAUTH, within 60000 ms": Frame(Kind.REAUTH, (60000,)),
        "REAUTH with a token": Frame(Kind.REAUTH, (0,), b"a.b.d"),
        "GOAWAY after request 9, window 30000 ms, ask the LBS": Frame(Kind.GOAWAY, (9, 30000, 1)),
        "CLOSE superseded, never": Frame(Kind.CLOSE, (8, 0, 0)),
        "CLOSE overloaded, after 3000 ms": Frame(Kind.CLOSE, (12, 1, 3000)),
        "CLOSE token expired, new token": Frame(Kind.CLOSE, (10, 2, 0)),
        "CLOSE draining, new directory": Frame(Kind.CLOSE, (4, 3, 0)),
        "CONFIRM": Frame(Kind.CONFIRM),
        "LOGIN": Frame(Kind.LOGIN, (), b"login"),
    }

    def test_every_frame_there_and_back(self) -> None:
        self.assertEqual({vector["name"] for vector in VECTORS["frames"]}, set(self.FRAMES))
        for vector in VECTORS["frames"]:
            with self.subTest(vector["name"]):
                frame = self.FRAMES[vector["name"]]
                self.assertEqual(frame.encode(), raw(vector["bytes"]))
                self.assertEqual(list(Decoder(vector["from"] != "client").feed(raw(vector["bytes"]))), [frame])

    def test_a_stream_cut_anywhere_gives_the_same_frames(self) -> None:
        from_gateway = [vector for vector in VECTORS["frames"] if vector["from"] != "client"]
        stream = b"".join(raw(vector["bytes"]) for vector in from_gateway)
        decoder = Decoder()
        frames = [frame for byte in stream for frame in decoder.feed(bytes([byte]))]
        self.assertEqual(frames, [self.FRAMES[vector["name"]] for vector in from_gateway])

    def test_frames_a_gateway_may_not_send_end_the_session(self) -> None:
        bad = {
            "CONFIRM is the client's": "020c00",
            "PUSH_ACK is the client's": "03040001",
            "MORE on a push": "03030101",
            "TRACKED on a PING": "03050801",
            "a reserved flag": "03054001",
            "a field that is missing": "020500",
            "a field that is cut": "03050040",
            "a varint longer than need be": "0405004001",
            "a value over 32 bits": "0a0500c000000100000000",
            "an unknown critical kind": "022a02",
            "a length over its bound": "8001001f",
            "a length without kind and flags": "0100",
            "a response to request 0": "03020000",
        }
        for name, frame in bad.items():
            with self.subTest(name), self.assertRaises(FrameError):
                list(Decoder().feed(raw(frame)))

    def test_unknown_kinds_and_more_fields_are_passed_over(self) -> None:
        self.assertEqual(list(Decoder().feed(raw("042afd1234" + "040700ff00"))), [Frame(Kind.READY)])

    def test_varints(self) -> None:
        for vector in VECTORS["varints"]:
            self.assertEqual(encode_varint(vector["value"]).hex(), vector["bytes"])


class IdentifierVectors(unittest.TestCase):
    def test_conversations_and_operations(self) -> None:
        vector = VECTORS["identifiers"]
        conversation = vector["conversation"]
        self.assertEqual(ids.conversation_text(raw(conversation["bytes"])), conversation["text"])
        self.assertEqual(ids.parse_conversation(conversation["text"]), raw(conversation["bytes"]))
        operation = vector["operation"]
        self.assertEqual(ids.operation_id(operation["time_ms"], raw(operation["random"])).hex(), operation["bytes"])

    def test_key_texts(self) -> None:
        vector = VECTORS["key_texts"]
        for prefix, name in ((ids.ROOT_PREFIX, "root"), (ids.IDENTITY_PREFIX, "identity")):
            text, key = vector[f"{name}_key"], raw(vector[f"{name}_public"])
            self.assertEqual(ids.key_text(prefix, key), text)
            self.assertEqual(ids.parse_key(prefix, text), key)
            damaged = text[:20] + ("a" if text[20] != "a" else "b") + text[21:]
            self.assertRaisesRegex(ValueError, "damaged", ids.parse_key, prefix, damaged)


class ConversationLogs(unittest.TestCase):
    def entries(self, *seqs: int, rev: int = 0) -> list:
        return [m.Entry(seq=seq, rev=rev) for seq in seqs]

    def test_entries_are_shown_once_and_in_order(self) -> None:
        log = ConversationLog()
        self.assertEqual(log.pushed(self.entries(1, 2, 4)), self.entries(1, 2))
        self.assertEqual((log.have_seq, log.head_seq), (2, 4))
        self.assertEqual(log.pushed(self.entries(2)), [])
        self.assertEqual(log.pushed(self.entries(3)), self.entries(3, 4))

    def test_a_page_shows_what_there_is_to_see_and_closes_holes(self) -> None:
        log = ConversationLog()
        log.pushed(self.entries(1, 9))
        self.assertEqual(log.pulled(2, self.entries(5, 6), head_seq=8, more=False), self.entries(5, 6, 9))

    def test_a_changed_entry_replaces_the_one_there(self) -> None:
        log = ConversationLog()
        log.pushed(self.entries(1, 2))
        self.assertEqual(log.pushed(self.entries(1, rev=3)), self.entries(1, rev=3))
        self.assertEqual(log.changed(self.entries(1, rev=3)), [])


if __name__ == "__main__":
    unittest.main()
