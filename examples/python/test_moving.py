"""What a client does when gateways leave, forget keys, lose pushes and cut connections; against fake gateways."""

import asyncio
import unittest
from typing import Any
from unittest import mock

from fake_gateway import Connection, FakeGateway, Root
from whimbrel_client import Client
from whimbrel_client import messages as m
from whimbrel_client.errors import LEAVING, Ended
from whimbrel_client.frames import VALUE_MAX, Flag, Frame, Kind

WITHIN_S = 10
SYNC, SEND, PULL = 1, 2, 3
CONVERSATION = b"d" + bytes(15)


class Backend:
    """What all fake gateways answer from: one conversation, and sends by their ids."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.by_id: dict[bytes, int] = {}
        self.syncs = 0
        # Request methods that are swallowed without an answer, once each.
        self.swallow: list[int] = []
        # Request methods that are left waiting, once each.
        self.hold: list[int] = []

    def append(self, text: str, id_: bytes = b"") -> Any:
        entry = m.Entry(seq=len(self.log) + 1, sender_uid="bob", message={"text": {"text": text}}, client_msg_id=id_)
        self.log.append(entry)
        return entry

    async def answer(self, connection: Connection, request: Frame) -> None:
        method = request.numbers[0]
        if method == SEND:
            [outgoing] = m.SendRequest.FromString(request.payload).messages
            if outgoing.client_msg_id not in self.by_id:
                entry = self.append(outgoing.content.text.text, outgoing.client_msg_id)
                self.by_id[outgoing.client_msg_id] = entry.seq
            body = m.SendResponse(accepted=[{"seq": self.by_id[outgoing.client_msg_id]}])
        elif method == PULL:
            pull = m.PullRequest.FromString(request.payload)
            entries = self.log[pull.from_seq - 1 :]
            body = m.PullResponse(entries=entries, head_seq=len(self.log))
        else:
            self.syncs += 1
            row = m.ConversationRow(conversation=CONVERSATION, head_seq=len(self.log), member=True)
            body = m.SyncResponse(cursor=b"cursor-%d" % self.syncs, rows=[row])
        if method in self.hold:
            self.hold.remove(method)
        elif method in self.swallow:
            self.swallow.remove(method)
            connection.cut()
        else:
            connection.respond(request, body)


def push(*entries: Any) -> Frame:
    payload = m.MessagesPush(conversation=CONVERSATION, entries=entries).SerializeToString()
    return Frame(Kind.PUSH, (1,), payload, Flag.TRACKED)


class Moving(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self) -> None:
        self.root = Root()
        self.backend = Backend()
        self.gateways = [FakeGateway(f"gateway-{n}", self.root, self.backend.answer) for n in (1, 2)]
        for gateway in self.gateways:
            await gateway.start()
            self.addAsyncCleanup(gateway.stop)
        self.first, self.second = self.gateways
        self.asked = 0
        self.client = Client(
            lbs=["fake"], root_keys=[self.root.pin], app_key="demo", uid="alice", token=lambda: "token"
        )
        self.client._directory._ask = self.lbs

    def lbs(self, _url: str, exclude: list[str]) -> dict[str, object]:
        self.asked += 1
        listed = [gateway.listed() for gateway in self.gateways if gateway.node not in exclude]
        return {"gateways": listed, "server_time_ms": 1, "refresh_after_s": 300}

    async def shown(self, count: int) -> list[str]:
        texts = []
        async with asyncio.timeout(WITHIN_S):
            async for _, entry in self.client.entries():
                texts.append(entry.message.text.text)
                if len(texts) == count:
                    break
        return texts

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(WITHIN_S):
            while not condition():
                await asyncio.sleep(0.005)

    async def test_after_a_goaway_it_is_elsewhere_before_it_leaves(self) -> None:
        async with self.client:
            [old] = self.first.connections
            old.send(Frame(Kind.GOAWAY, (VALUE_MAX, 50, 1)))
            await self.until(lambda: self.second.connections)
            [new] = self.second.connections
            self.assertGreater(new.login.login_epoch, old.login.login_epoch)
            self.assertEqual(self.asked, 2)
            async with asyncio.timeout(WITHIN_S):
                await old.is_over.wait()
            self.assertEqual(old.received[-1].kind, Kind.CLOSE)
            self.assertEqual(old.received[-1].numbers[0], LEAVING)
            # READY and a sync there came first.
            self.assertTrue(new.of_kind(Kind.REQUEST))
            await self.client.send(CONVERSATION, "from the new one")
            self.assertEqual(len(new.of_kind(Kind.CLOSE)), 0)

    async def test_requests_a_leaving_gateway_does_not_begin_are_sent_elsewhere_at_once(self) -> None:
        async with self.client:
            [old] = self.first.connections
            begun = [frame.numbers[1] for frame in old.of_kind(Kind.REQUEST)]
            # An hour's window: whoever has something to send does not wait for it.
            old.send(Frame(Kind.GOAWAY, (max(begun), 3_600_000, 0)))
            await self.until(lambda: self.client._session._last_request_id is not None)
            async with asyncio.timeout(WITHIN_S):
                [accepted] = await self.client.send(CONVERSATION, "hello")
            self.assertEqual(accepted.seq, 1)
            self.assertEqual(self.asked, 1)
            self.assertEqual([frame.numbers[1] for frame in old.of_kind(Kind.REQUEST)], begun)

    async def test_a_request_that_waits_at_a_leaving_gateway_is_sent_elsewhere(self) -> None:
        async with self.client:
            [old] = self.first.connections
            synced = old.of_kind(Kind.REQUEST)[-1].numbers[1]
            self.backend.hold = [SEND]
            sending = asyncio.create_task(self.client.send(CONVERSATION, "hello"))
            await self.until(lambda: not self.backend.hold)
            old.send(Frame(Kind.GOAWAY, (synced, 3_600_000, 0)))
            async with asyncio.timeout(WITHIN_S):
                [accepted] = await sending
            self.assertEqual((accepted.seq, len(self.backend.log)), (1, 1))
            self.assertIn(SEND, [frame.numbers[0] for frame in self.second.connections[0].of_kind(Kind.REQUEST)])

    async def test_a_send_without_an_answer_is_sent_again_with_its_id(self) -> None:
        async with self.client:
            self.backend.swallow = [SEND]
            async with asyncio.timeout(WITHIN_S):
                [accepted] = await self.client.send(CONVERSATION, "once")
            self.assertEqual(accepted.seq, 1)
            self.assertEqual(len(self.backend.log), 1)
            self.assertEqual(await self.shown(1), ["once"])

    async def test_a_hole_in_the_pushes_is_pulled(self) -> None:
        async with self.client:
            [connection] = self.first.connections
            entries = [self.backend.append(text) for text in ("one", "two", "three", "four")]
            connection.send(push(entries[0]))
            connection.send(push(entries[3]))
            self.assertEqual(await self.shown(4), ["one", "two", "three", "four"])

    async def test_pushes_that_overtake_or_repeat_are_shown_once_without_asking(self) -> None:
        async with self.client:
            [connection] = self.first.connections
            entries = [self.backend.append(text) for text in ("one", "two", "three")]
            connection.send(push(entries[0]), push(entries[2]))
            await self.until(lambda: self.client.logs[CONVERSATION].head_seq == 3)
            # What the client sends now goes out behind a pull, if it had begun one.
            self.client._session.ping()
            await self.until(lambda: connection.of_kind(Kind.PING))
            connection.send(push(entries[1], entries[2]), push(entries[0]))
            self.assertEqual(await self.shown(3), ["one", "two", "three"])
            await self.until(lambda: Frame(Kind.PUSH_ACK, (4,)) in connection.received)
            self.assertTrue(self.client._shown.empty())
            pulls = [frame for frame in connection.of_kind(Kind.REQUEST) if frame.numbers[0] == PULL]
            self.assertEqual(pulls, [])

    async def test_a_notice_moves_the_cursor_and_a_missed_one_syncs(self) -> None:
        async with self.client:
            [connection] = self.first.connections
            self.assertEqual(self.backend.syncs, 1)
            notice = m.NoticePush(from_cursor=b"cursor-1", to_cursor=b"noticed")
            notice.rows.add(conversation=CONVERSATION, name="birds", member=True)
            connection.send(Frame(Kind.PUSH, (2,), notice.SerializeToString()))
            await self.until(lambda: self.client._cursor == b"noticed")
            self.assertEqual(self.client.rows[CONVERSATION].name, "birds")
            missed = m.NoticePush(from_cursor=b"unheard of", to_cursor=b"later")
            connection.send(Frame(Kind.PUSH, (2,), missed.SerializeToString()))
            await self.until(lambda: self.client._cursor == b"cursor-2")

    async def test_a_sync_hint_syncs(self) -> None:
        async with self.client:
            self.first.connections[0].send(Frame(Kind.SYNC_HINT, (10,)))
            await self.until(lambda: self.backend.syncs == 2)

    async def test_a_stale_key_is_replaced_by_the_gateways_own_descriptor(self) -> None:
        listed = self.lbs("", [])
        self.first.rotate_key()
        self.client._directory._ask = lambda _url, _exclude: listed
        async with self.client:
            self.assertEqual(len(self.first.connections), 1)

    async def test_a_reauth_is_answered_with_a_fresh_token(self) -> None:
        async with self.client:
            [connection] = self.first.connections
            connection.send(Frame(Kind.REAUTH, (30_000,)))
            await self.until(lambda: connection.of_kind(Kind.REAUTH))
            self.assertEqual(connection.of_kind(Kind.REAUTH), [Frame(Kind.REAUTH, (0,), b"token")])

    async def test_a_token_that_cannot_be_had_is_told_to_who_waits(self) -> None:
        def no_token() -> str:
            raise RuntimeError("the server that signs is down")

        self.client._token = no_token
        with self.assertRaisesRegex(Ended, "that signs is down"):
            async with asyncio.timeout(WITHIN_S), self.client:
                pass

    async def test_a_silent_client_pings(self) -> None:
        self.first.heartbeat_ms = 50
        async with self.client:
            [connection] = self.first.connections
            await self.until(lambda: len(connection.of_kind(Kind.PING)) > 2)
            self.assertEqual(len(self.first.connections), 1)

    async def test_a_close_that_says_never_is_the_end(self) -> None:
        async with self.client:
            self.first.connections[0].send(Frame(Kind.CLOSE, (8, 0, 0)))
            await self.until(lambda: self.client._failed is not None)
            with self.assertRaisesRegex(Exception, "reason 8"):
                await self.client.send(CONVERSATION, "too late")
            self.assertEqual(self.second.connections, [])

    @mock.patch("whimbrel_client.client._backoff", lambda _failures: 0.0)
    async def test_a_close_that_says_later_comes_back_no_sooner(self) -> None:
        async with self.client:
            closed_at = asyncio.get_running_loop().time()
            self.first.connections[0].send(Frame(Kind.CLOSE, (12, 1, 300)))
            await self.until(lambda: len(self.first.connections) == 2)
            self.assertGreaterEqual(asyncio.get_running_loop().time() - closed_at, 0.3)

    async def test_requests_of_a_gateway_are_answered_as_unknown(self) -> None:
        async with self.client:
            [connection] = self.first.connections
            connection.send(Frame(Kind.REQUEST, (77, 2)))
            await self.until(lambda: connection.of_kind(Kind.RESPONSE))
            [response] = connection.of_kind(Kind.RESPONSE)
            self.assertEqual((response.numbers, m.Response.FromString(response.payload).code), ((2,), 101))


if __name__ == "__main__":
    unittest.main()
