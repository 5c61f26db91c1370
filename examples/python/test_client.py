"""The client against the real binary: WHIMBREL_BIN, else target/debug/whimbrel."""

import asyncio
import itertools
import unittest
from typing import Any

import demo_token
from server import Server
from whimbrel_client import Client, Code, Ended, LoginRefused, NoGateway, Refused, Session, messages
from whimbrel_client.errors import Retry
from whimbrel_client.frames import Frame, Kind
from whimbrel_client.session import Handlers

WITHIN_S = 20
SUPERSEDED, TOKEN_EXPIRED = 8, 10
_users = itertools.count(1)


def new_uids(count: int) -> list[str]:
    """Users no other test knows."""
    return [f"user-{next(_users)}" for _ in range(count)]


async def texts(client: Client, count: int, conversation: bytes | None = None) -> list[tuple[int, str, str]]:
    """(seq, sender, text) of the next `count` messages a client shows."""
    shown = []
    async with asyncio.timeout(WITHIN_S):
        async for of, entry in client.entries():
            if conversation in (None, of) and entry.HasField("message"):
                shown.append((entry.seq, entry.sender_uid, entry.message.text.text))
                if len(shown) == count:
                    break
    return shown


async def until(condition: Any) -> None:
    """Waits for something that arrives on its own."""
    async with asyncio.timeout(WITHIN_S):
        while not condition():
            await asyncio.sleep(0.01)


class LiveServer(unittest.IsolatedAsyncioTestCase):
    server: Server

    @classmethod
    def setUpClass(cls) -> None:
        cls.server = Server()

    @classmethod
    def tearDownClass(cls) -> None:
        cls.server.stop()

    async def open_session(self, uid: str, epoch: int = 1, suite: int | None = None, **handlers: Any) -> Session:
        """One bare connection."""
        client = self.server.client(uid)
        [descriptor] = await client._directory.gateways()
        login = messages.Login(
            app_key=self.server.ready["app_key"],
            uid=uid,
            token=self.server.token(uid),
            device_id="bare",
            login_epoch=epoch,
        )
        session = await Session.open(descriptor, login, Handlers(**({"push": lambda *_: None} | handlers)), suite)
        self.addAsyncCleanup(session.close)
        return session


class Chats(LiveServer):
    async def test_two_users_chat_both_ways(self) -> None:
        alice_uid, bob_uid = new_uids(2)
        async with self.server.client(bob_uid) as bob, self.server.client(alice_uid) as alice:
            conversation = await alice.open_direct(bob_uid)
            self.assertEqual(await bob.open_direct(alice_uid), conversation)
            [accepted] = await alice.send(conversation, "hello")
            self.assertEqual(accepted.seq, 1)
            self.assertEqual(await texts(bob, 1), [(1, alice_uid, "hello")])
            await bob.send(conversation, "well", "met")
            both = [(1, alice_uid, "hello"), (2, bob_uid, "well"), (3, bob_uid, "met")]
            self.assertEqual(await texts(alice, 3), both)
            self.assertEqual(await texts(bob, 2), both[1:])

    async def test_both_suites_carry_a_chat(self) -> None:
        alice_uid, bob_uid = new_uids(2)
        async with (
            self.server.client(bob_uid, suite=2) as bob,
            self.server.client(alice_uid, suite=1) as alice,
        ):
            conversation = await alice.open_direct(bob_uid)
            # Large enough that frames share records and span them.
            long = ["x" * 20_000, "y" * 20_000]
            await alice.send(conversation, *long)
            self.assertEqual([text for _, _, text in await texts(bob, 2)], long)

    async def test_who_was_away_gets_what_was_missed(self) -> None:
        alice_uid, bob_uid = new_uids(2)
        async with self.server.client(bob_uid):
            pass
        async with self.server.client(alice_uid) as alice:
            conversation = await alice.open_direct(bob_uid)
            for batch in range(3):
                await alice.send(conversation, *(f"{batch}-{n}" for n in range(32)))
            await alice.send(conversation, *(f"3-{n}" for n in range(10)))
        async with self.server.client(bob_uid) as bob:
            await until(lambda: conversation in bob.rows)
            missed = await texts(bob, 106)
            self.assertEqual([seq for seq, _, _ in missed], list(range(1, 107)))
            self.assertEqual(missed[0][2], "0-0")
            self.assertEqual(missed[-1][2], "3-9")

    async def test_a_retry_with_the_same_id_gets_the_same_seq(self) -> None:
        alice_uid, bob_uid = new_uids(2)
        async with self.server.client(bob_uid) as bob, self.server.client(alice_uid) as alice:
            conversation = await alice.open_direct(bob_uid)
            ids = [alice.new_id(), alice.new_id()]
            first = await alice.send(conversation, "once", "only", ids=ids)
            await alice.send(conversation, "between")
            again = await alice.send(conversation, "once", "only", ids=ids)
            self.assertEqual([(a.seq, a.time_ms) for a in again], [(a.seq, a.time_ms) for a in first])
            self.assertEqual([text for _, _, text in await texts(bob, 3)], ["once", "only", "between"])
            with self.assertRaises(Refused) as refused:
                await alice.send(conversation, "something else", ids=ids[:1])
            self.assertEqual(refused.exception.code, Code.OPERATION_MISMATCH)
            self.assertEqual((await alice.pull(conversation)).head_seq, 3)

    async def test_history_is_pulled_from_either_end(self) -> None:
        alice_uid, bob_uid = new_uids(2)
        async with self.server.client(bob_uid), self.server.client(alice_uid) as alice:
            conversation = await alice.open_direct(bob_uid)
            await alice.send(conversation, *"abcdefghij")
            up = await alice.pull(conversation, limit=4)
            self.assertEqual(([e.seq for e in up.entries], up.more, up.head_seq), ([1, 2, 3, 4], True, 10))
            up = await alice.pull(conversation, from_seq=9, limit=4)
            self.assertEqual(([e.seq for e in up.entries], up.more), ([9, 10], False))
            down = await alice.pull(conversation, limit=4, descending=True)
            self.assertEqual(([e.seq for e in down.entries], down.more), ([10, 9, 8, 7], True))

    async def test_reading_counts_unread_down(self) -> None:
        alice_uid, bob_uid = new_uids(2)
        async with self.server.client(bob_uid) as bob, self.server.client(alice_uid) as alice:
            conversation = await alice.open_direct(bob_uid)
            await alice.send(conversation, "1", "2", "3")
            await until(lambda: conversation in bob.rows and bob.rows[conversation].unread == 3)
            self.assertEqual(bob.rows[conversation].peer_uid, alice_uid)
            answer = await bob.mark_read(conversation, 2)
            self.assertEqual((answer.read_seq, answer.unread), (2, 1))
            self.assertEqual((await bob.mark_read(conversation, 1)).read_seq, 2)
            await until(lambda: bob.rows[conversation].unread == 1)
            self.assertEqual(alice.rows[conversation].unread, 0)

    async def test_a_recalled_message_changes_for_all(self) -> None:
        alice_uid, bob_uid = new_uids(2)
        async with self.server.client(bob_uid) as bob, self.server.client(alice_uid) as alice:
            conversation = await alice.open_direct(bob_uid)
            await alice.send(conversation, "oops", "fine")
            await texts(bob, 2)
            await alice.recall(conversation, 1)
            async with asyncio.timeout(WITHIN_S):
                _, entry = await anext(bob.entries())
            self.assertEqual((entry.seq, entry.recalled_by_uid), (1, alice_uid))
            self.assertFalse(entry.HasField("message"))

    async def test_a_group_shows_its_creation_and_its_messages_to_all(self) -> None:
        alice_uid, bob_uid, carol_uid = new_uids(3)
        async with (
            self.server.client(bob_uid) as bob,
            self.server.client(carol_uid) as carol,
            self.server.client(alice_uid) as alice,
        ):
            group = await alice.create_group("birds", [bob_uid, carol_uid])
            [accepted] = await alice.send(group, "fly")
            for member in (bob, carol):
                self.assertEqual(await texts(member, 1), [(accepted.seq, alice_uid, "fly")])
                await until(lambda rows=member.rows: group in rows)
                self.assertEqual(member.rows[group].name, "birds")
            self.assertEqual(bob.logs[group].entries[1].change.kind, 1)

    async def test_a_connection_cut_while_sending_loses_and_repeats_nothing(self) -> None:
        alice_uid, bob_uid = new_uids(2)
        async with self.server.client(bob_uid) as bob, self.server.client(alice_uid) as alice:
            conversation = await alice.open_direct(bob_uid)
            sent = [f"message {n}" for n in range(10)]
            for n, text in enumerate(sent):
                sending = asyncio.create_task(alice.send(conversation, text))
                if n in (3, 7):
                    # Far enough that the request is written, maybe not far enough that it is answered.
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
                    alice._session._writer.transport.abort()
                [accepted] = await sending
                self.assertEqual(accepted.seq, n + 1)
            self.assertEqual([text for _, _, text in await texts(bob, 10)], sent)


class Sessions(LiveServer):
    async def test_bad_tokens_are_refused_with_their_codes(self) -> None:
        alice_uid, bob_uid = new_uids(2)
        app = self.server.ready["app_key"]
        cases = {
            "no token at all": ({"token": lambda: ""}, Code.TOKEN_INVALID),
            "rubbish": ({"token": lambda: "a.b.c"}, Code.TOKEN_INVALID),
            "another secret": (
                {"token": lambda: demo_token.sign(b"x" * 32, app, alice_uid)},
                Code.TOKEN_INVALID,
            ),
            "another user's": ({"token": lambda: self.server.token(bob_uid)}, Code.TOKEN_MISMATCH),
            "another app": ({"app_key": "nobody"}, Code.UNKNOWN_APP),
        }
        for name, (options, code) in cases.items():
            with self.subTest(name), self.assertRaises(LoginRefused) as refused:
                async with asyncio.timeout(WITHIN_S):
                    async with self.server.client(alice_uid, **options):
                        pass
            self.assertEqual(refused.exception.code, code, name)

    async def test_an_expired_token_is_replaced_by_a_fresh_one(self) -> None:
        [uid] = new_uids(1)
        tokens = [self.server.token(uid), self.server.token(uid, ttl_s=-3600)]
        async with self.server.client(uid, token=lambda: tokens.pop()):
            self.assertEqual(tokens, [])

    async def test_another_root_key_trusts_no_gateway(self) -> None:
        [uid] = new_uids(1)
        wrong = "root1zuklg74vn2ktdfh7p63twpmb3tcwdvq2ou4ass34hyngipxf6oval4m2"
        client = self.server.client(uid, root_keys=[wrong])
        with self.assertRaises(NoGateway), self.assertLogs("whimbrel_client.directory"):
            await client._connect()

    async def test_a_ping_is_answered(self) -> None:
        [uid] = new_uids(1)
        session = await self.open_session(uid)
        await session.ready()
        session.ping()
        pong = session._pong
        async with asyncio.timeout(WITHIN_S):
            await pong

    async def test_a_newer_login_of_the_device_supersedes_the_older(self) -> None:
        [uid] = new_uids(1)
        old = await self.open_session(uid, epoch=1)
        await old.ready()
        new = await self.open_session(uid, epoch=2)
        await new.ready()
        async with asyncio.timeout(WITHIN_S):
            ended = await old.ended
        self.assertEqual(ended.retry, Retry.NEVER)
        self.assertIn(f"reason {SUPERSEDED}", str(ended))
        self.assertFalse(new.ended.done())

    async def test_a_login_with_an_epoch_that_did_not_grow_is_turned_away(self) -> None:
        [uid] = new_uids(1)
        old = await self.open_session(uid, epoch=2)
        await old.ready()
        for epoch in (2, 1):
            with self.subTest(epoch=epoch), self.assertRaisesRegex(Ended, f"reason {SUPERSEDED}"):
                await (await self.open_session(uid, epoch=epoch)).ready()
        self.assertFalse(old.ended.done())

    async def test_requests_before_ready_are_answered_after_it(self) -> None:
        [uid] = new_uids(1)
        session = await self.open_session(uid)
        answer = await session.request(1, messages.SyncRequest(limit=10), messages.SyncResponse)
        self.assertTrue(session._ready.done())
        self.assertNotEqual(answer.cursor, b"")

    async def test_tracked_pushes_are_acknowledged(self) -> None:
        alice_uid, bob_uid = new_uids(2)
        async with self.server.client(bob_uid) as bob, self.server.client(alice_uid) as alice:
            conversation = await alice.open_direct(bob_uid)
            await alice.send(conversation, "hello")
            await texts(bob, 1)
            session = bob._session
            self.assertGreater(session._tracked, 0)
            await until(lambda: session._acknowledged == session._tracked)
            # An acknowledgement beyond what was sent would end the session before this answer.
            await bob.sync()
            self.assertIs(bob._session, session)

    async def test_a_fresh_token_is_taken_and_another_users_ends_the_session(self) -> None:
        alice_uid, bob_uid = new_uids(2)
        session = await self.open_session(alice_uid)
        await session.ready()
        session._write(Frame(Kind.REAUTH, (0,), self.server.token(alice_uid).encode()))
        await session.request(1, messages.SyncRequest(), messages.SyncResponse)
        session._write(Frame(Kind.REAUTH, (0,), self.server.token(bob_uid).encode()))
        async with asyncio.timeout(WITHIN_S):
            ended = await session.ended
        self.assertIn(f"reason {TOKEN_EXPIRED}", str(ended))
        self.assertEqual(ended.retry, Retry.NEW_TOKEN)

    async def test_breaking_a_rule_ends_the_session_with_protocol_violation(self) -> None:
        rules = {
            "a second CONFIRM": Frame(Kind.CONFIRM),
            "an even request id": Frame(Kind.REQUEST, (1, 2)),
            "an acknowledgement of what was not sent": Frame(Kind.PUSH_ACK, (99,)),
            "a LOGIN on TCP": Frame(Kind.LOGIN),
        }
        for name, frame in rules.items():
            with self.subTest(name):
                [uid] = new_uids(1)
                session = await self.open_session(uid)
                await session.ready()
                session._write(frame)
                async with asyncio.timeout(WITHIN_S):
                    ended = await session.ended
                self.assertIn("reason 1", str(ended))
                self.assertEqual((ended.retry, ended.retry_after_ms), (Retry.AFTER, 2000))

    async def test_requests_that_make_no_sense_get_their_codes(self) -> None:
        [uid] = new_uids(1)
        session = await self.open_session(uid)
        nowhere = messages.PullRequest(conversation=b"d" + bytes(15))
        rubbish = messages.OpenDirectRequest(uid="\u0001")
        cases = {
            Code.UNKNOWN_METHOD: (9999, nowhere),
            Code.UNKNOWN_CONVERSATION: (3, nowhere),
            Code.INVALID_ARGUMENT: (16, rubbish),
        }
        for code, (method, request) in cases.items():
            with self.subTest(code=code), self.assertRaises(Refused) as refused:
                await session.request(method, request, messages.Response)
            self.assertEqual(refused.exception.code, code)


class Draining(LiveServer):
    async def test_a_gateway_that_leaves_says_so_first(self) -> None:
        [uid] = new_uids(1)
        told: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        session = await self.open_session(uid, goaway=lambda window_ms, _refresh: told.set_result(window_ms))
        await session.ready()
        self.server.process.terminate()
        async with asyncio.timeout(WITHIN_S):
            self.assertGreater(await told, 0)
            # Nobody should notice a drain: requests are still answered.
            await session.request(1, messages.SyncRequest(), messages.SyncResponse)
            await session.close()
            # With nobody left there is nothing to wait for.
            self.assertEqual(await asyncio.to_thread(self.server.process.wait), 0)


if __name__ == "__main__":
    unittest.main()
