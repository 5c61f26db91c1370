"""A device of a user: stays connected, in sync, and sends each thing once (docs/protocol.md, sections 7 and 11).

It keeps everything in memory, and pulls whole logs. One that keeps messages on disk would keep the cursor, the floor
and the login epoch with them, and acknowledge pushes once they are durable.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from . import messages as m
from .conversation import ConversationLog
from .descriptor import Descriptor, DescriptorError, Floor
from .directory import Directory
from .errors import Code, Ended, LoginRefused, NoGateway, Refused, Rejected, Retry, WhimbrelError, is_for_later
from .ids import ROOT_PREFIX, operation_id, parse_key
from .session import Handlers, Session, StaleDescriptor

log = logging.getLogger(__name__)

BACKOFF_FIRST_S, BACKOFF_MAX_S = 1.0, 20.0
# Pushes of two servers overtake each other by less.
HOLE_WAIT_S = 0.3
SYNC_EVERY_S = (180, 300)
PAGE = 100
# For how long a call is tried again before its caller hears of it.
CALL_WITHIN_S = 60

SYNC, SEND, PULL, PULL_CHANGES, MARK_READ, RECALL, OPEN_DIRECT, CREATE_GROUP = 1, 2, 3, 4, 5, 6, 16, 19
PUSH_MESSAGES, PUSH_NOTICE = 1, 2


class Client:
    """One device of one user. `async with` it, then call its methods and read `entries()`.

    Methods raise Refused when the server says no, TimeoutError when nobody answers for a minute (what they asked for
    may have happened), and what ended the client once no login will help.
    """

    def __init__(
        self,
        *,
        lbs: Sequence[str],
        root_keys: Sequence[str],
        app_key: str,
        uid: str,
        token: Callable[[], str],
        device_id: str = "python",
        suite: int | None = None,
    ) -> None:
        self.uid = uid
        self.floor = Floor()
        self.rows: dict[bytes, Any] = {}
        self.logs: defaultdict[bytes, ConversationLog] = defaultdict(ConversationLog)
        self._directory = Directory(lbs, [parse_key(ROOT_PREFIX, key) for key in root_keys], app_key, self.floor)
        self._app_key, self._device_id, self._token, self._suite = app_key, device_id, token, suite
        self._epoch = 0
        self._clock_ahead_ms = 0
        self._cursor = b""
        self._session: Session | None = None
        self._live = asyncio.Event()
        self._move_now = asyncio.Event()
        self._failed: WhimbrelError | None = None
        self._shown: asyncio.Queue[tuple[bytes, Any]] = asyncio.Queue()
        self._sending: defaultdict[bytes, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._catching_up: dict[bytes, asyncio.Task[None]] = {}
        self._syncing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Client":
        self._spawn(self._stay_connected()).add_done_callback(self._not_connected)
        self._spawn(self._sync_now_and_then())
        try:
            await self._current()
            await self.sync()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Leaves."""
        self._failed = self._failed or Ended("closed by this side", Retry.NEVER)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
        self._live.set()

    # ---- what a user does ------------------------------------------------------------------------------------

    async def entries(self) -> AsyncIterator[tuple[bytes, Any]]:
        """(conversation, entry): each new one once and in order, and again when it changed (its `rev` grew)."""
        while True:
            yield await self._shown.get()

    async def open_direct(self, uid: str) -> bytes:
        """The conversation with another user."""
        return (await self._call(OPEN_DIRECT, m.OpenDirectRequest(uid=uid), m.Conversation)).conversation

    async def create_group(self, name: str, uids: Sequence[str]) -> bytes:
        """A new group that this user owns."""
        request = m.CreateGroupRequest(operation_id=self.new_id(), name=name, member_uids=uids)
        return (await self._call(CREATE_GROUP, request, m.GroupChangeResponse)).conversation

    async def send(self, conversation: bytes, *texts: str, ids: Sequence[bytes] | None = None) -> list[Any]:
        """Sends texts as one batch; gives the seq and time of each once they are durable.

        It is tried again with the same `ids` until it is answered, so each text is there once.
        """
        ids = [self.new_id() for _ in texts] if ids is None else ids
        outgoing = [
            m.OutgoingMessage(client_msg_id=id_, content={"text": {"text": text}})
            for id_, text in zip(ids, texts, strict=True)
        ]
        async with self._sending[conversation]:
            request = m.SendRequest(
                conversation=conversation, messages=outgoing, seen_seq=self.logs[conversation].have_seq
            )
            accepted = list((await self._call(SEND, request, m.SendResponse)).accepted)
        self._heard_of(conversation, accepted[-1].seq)
        return accepted

    async def pull(self, conversation: bytes, from_seq: int = 0, limit: int = 0, descending: bool = False) -> Any:
        """One page of the log."""
        request = m.PullRequest(conversation=conversation, from_seq=from_seq, limit=limit, descending=descending)
        return await self._call(PULL, request, m.PullResponse)

    async def mark_read(self, conversation: bytes, seq: int) -> Any:
        """Says that everything up to `seq` was read."""
        return await self._call(
            MARK_READ, m.MarkReadRequest(conversation=conversation, read_seq=seq), m.MarkReadResponse
        )

    async def recall(self, conversation: bytes, seq: int) -> int:
        """Takes a message back; gives the conversation's new rev."""
        request = m.RecallRequest(operation_id=self.new_id(), conversation=conversation, seq=seq)
        return (await self._call(RECALL, request, m.RecallResponse)).rev

    async def sync(self) -> None:
        """Brings the conversation list up to date; logs follow by themselves."""
        async with self._syncing:
            while True:
                answer = await self._call(SYNC, m.SyncRequest(cursor=self._cursor, limit=PAGE), m.SyncResponse)
                if answer.full_resync:
                    self.rows.clear()
                self._take_rows(answer.rows)
                self._cursor = answer.cursor
                if not answer.more:
                    return

    def new_id(self) -> bytes:
        """An id for a new operation."""
        return operation_id(_now_ms() + self._clock_ahead_ms)

    # ---- requests ------------------------------------------------------------------------------------------------

    async def _call(self, method: int, request: Any, response_class: Any) -> Any:
        """Tries until there is an answer that trying again would not change. Ids inside `request` make that safe."""
        async with asyncio.timeout(CALL_WITHIN_S):
            for failures in range(1_000_000):
                session = await self._current()
                try:
                    return await session.request(method, request, response_class)
                except Ended as ended:
                    log.info("method %d is tried again: %s", method, ended)
                except Refused as refused:
                    if not is_for_later(refused.code):
                        raise
                    await asyncio.sleep(refused.retry_after_ms / 1000 + _backoff(failures + 1))

    async def _current(self) -> Session:
        """The live session, waiting for one if need be."""
        while True:
            if self._failed is not None:
                raise self._failed
            session = self._session
            if session is not None and session.takes_requests():
                return session
            self._live.clear()
            self._move_now.set()
            await self._live.wait()

    # ---- staying connected -------------------------------------------------------------------------------------

    async def _stay_connected(self) -> None:
        failures = 0
        refresh = False
        while True:
            try:
                self._session = await self._connect(refresh)
                self._live.set()
                if failures or self._cursor:
                    self._spawn(self.sync())
                failures, refresh = 0, False
                # A GOAWAY puts another session here before this one ends.
                while (session := self._session) is not None:
                    ended = await asyncio.shield(session.ended)
                    if session is self._session:
                        raise ended
            except LoginRefused as refused:
                # Every login has a fresh token: one that is refused for more than its age comes from a broken callback.
                if refused.code != Code.TOKEN_EXPIRED and not is_for_later(refused.code):
                    return self._fail(refused)
                failures, retry_after_ms = failures + 1, refused.retry_after_ms
            except Ended as ended:
                if ended.retry == Retry.NEVER:
                    return self._fail(ended)
                refresh = ended.retry == Retry.NEW_DIRECTORY
                log.info("connecting again: %s", ended)
                failures, retry_after_ms = failures + 1, ended.retry_after_ms
            except (Rejected, NoGateway) as error:
                log.info("trying again: %s", error)
                refresh = True
                failures, retry_after_ms = failures + 1, error.retry_after_ms
            await asyncio.sleep(max(retry_after_ms / 1000, _backoff(failures)))

    async def _connect(self, refresh: bool = False, exclude: Sequence[str] = ()) -> Session:
        """One round over the gateways, one login at a time."""
        gateways = await self._directory.gateways(exclude, refresh)
        last: WhimbrelError = NoGateway(
            "no gateway is known: is the LBS reachable, and the root key right?", self._directory.retry_after_ms
        )
        for descriptor in gateways:
            try:
                return await self._log_in(descriptor)
            except StaleDescriptor as stale:
                last = NoGateway(f"{descriptor.node} named a key that does not work")
                try:
                    newer = self._directory.believe(stale.descriptor)
                    if newer.node != descriptor.node:
                        continue
                    self._directory.replace(newer)
                    return await self._log_in(newer)
                except (DescriptorError, StaleDescriptor, Rejected, Ended) as error:
                    log.info("%s is passed over: %s", descriptor.node, error)
            except (Rejected, Ended) as error:
                log.info("%s is passed over: %s", descriptor.node, error)
                last = error
        raise last

    async def _log_in(self, descriptor: Descriptor) -> Session:
        self._epoch = max(self._epoch + 1, _now_ms())
        login = m.Login(
            app_key=self._app_key,
            uid=self.uid,
            token=self._token(),
            device_id=self._device_id,
            login_epoch=self._epoch,
            platform="python",
        )
        handlers = Handlers(push=self._on_push, sync_hint=self._on_sync_hint, token=self._token)
        session = await Session.open(descriptor, login, handlers, self._suite)
        handlers.goaway = lambda window_ms, refresh: self._spawn(self._move(session, window_ms, refresh))
        self._clock_ahead_ms = session.answer.server_time_ms - _now_ms()
        self.floor.logged_in(session.answer.server_time_ms, descriptor)
        await session.ready()
        return session

    async def _move(self, old: Session, window_ms: int, refresh: bool) -> None:
        """After a GOAWAY: another gateway first, only then good-bye. Whoever waits to send shortens the wait."""
        self._move_now.clear()
        if not self._live.is_set():
            self._move_now.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._move_now.wait(), random.uniform(0, window_ms / 1000))
        try:
            new = await self._connect(refresh, exclude=[old.descriptor.node])
        except WhimbrelError as error:
            # The old session's end starts the ordinary rounds.
            log.info("no other gateway yet: %s", error)
            return
        self._session = new
        self._live.set()
        await self.sync()
        await old.close()

    def _not_connected(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(Ended(f"cannot stay connected: {error!r}", Retry.NEVER))

    def _fail(self, error: WhimbrelError) -> None:
        """No login will help; everybody who waits learns it."""
        self._failed = error
        self._live.set()

    # ---- staying in sync -----------------------------------------------------------------------------------------

    def _on_push(self, method: int, payload: bytes) -> None:
        if method == PUSH_MESSAGES:
            push = m.MessagesPush.FromString(payload)
            self._show(push.conversation, self.logs[push.conversation].pushed(push.entries))
            self._catch_up(push.conversation)
        elif method == PUSH_NOTICE:
            notice = m.NoticePush.FromString(payload)
            if notice.from_cursor == self._cursor and not self._syncing.locked():
                self._take_rows(notice.rows)
                self._cursor = notice.to_cursor
            elif notice.to_cursor != self._cursor:
                self._spawn(self.sync())

    def _on_sync_hint(self, spread_ms: int) -> None:
        self._spawn(self._sync_after(random.uniform(0, spread_ms / 1000)))

    async def _sync_after(self, wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        await self.sync()

    async def _sync_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(random.uniform(*SYNC_EVERY_S))
            await self.sync()

    def _take_rows(self, rows: Sequence[Any]) -> None:
        for row in rows:
            self.rows[row.conversation] = row
            log_ = self.logs[row.conversation]
            log_.head_rev = max(log_.head_rev, row.head_rev)
            self._heard_of(row.conversation, row.head_seq)

    def _heard_of(self, conversation: bytes, seq: int) -> None:
        self.logs[conversation].head_seq = max(self.logs[conversation].head_seq, seq)
        self._catch_up(conversation)

    def _catch_up(self, conversation: bytes) -> None:
        """Pulls what is missing, unless pushes bring it first."""
        if conversation not in self._catching_up and self._is_behind(conversation):
            task = self._spawn(self._pull_missing(conversation))
            self._catching_up[conversation] = task

            def again(done: asyncio.Task[None]) -> None:
                del self._catching_up[conversation]
                if not done.cancelled() and done.exception() is None:
                    self._catch_up(conversation)

            task.add_done_callback(again)

    def _is_behind(self, conversation: bytes) -> bool:
        log_ = self.logs[conversation]
        return log_.have_seq < log_.head_seq or log_.have_rev < log_.head_rev

    async def _pull_missing(self, conversation: bytes) -> None:
        log_ = self.logs[conversation]
        if log_.have_seq > 0:
            await asyncio.sleep(HOLE_WAIT_S)
        while log_.have_seq < log_.head_seq:
            from_seq = log_.have_seq + 1
            page = await self.pull(conversation, from_seq, PAGE)
            self._show(conversation, log_.pulled(from_seq, page.entries, page.head_seq, page.more))
            if not page.more:
                # What was heard of beyond the head is not this user's to see any more.
                log_.head_seq = log_.have_seq
        while log_.have_rev < log_.head_rev:
            request = m.PullChangesRequest(conversation=conversation, after_rev=log_.have_rev, limit=PAGE)
            changes = await self._call(PULL_CHANGES, request, m.PullChangesResponse)
            self._show(conversation, log_.changed(changes.entries))
            log_.have_rev = changes.next_after_rev if changes.more else max(log_.head_rev, changes.head_rev)

    def _show(self, conversation: bytes, entries: list[Any]) -> None:
        for entry in entries:
            self._shown.put_nowait((conversation, entry))

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.info("given up until the next sync: %s", error)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _backoff(failures: int) -> float:
    return random.uniform(0, min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** (min(failures, 10) - 1)))
