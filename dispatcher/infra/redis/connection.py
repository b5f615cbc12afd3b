"""The sink's connection: opened, signed in, and known to be up or down."""

import asyncio
import os
import re
import ssl
from collections.abc import Callable, Sequence
from typing import Any

import anyio

from dispatcher.core.decide import NoReply, NotApplied, Refused
from dispatcher.core.errors import DispatcherError, Misconfigured, Unreachable
from dispatcher.core.incarnation import RedisIncarnation
from dispatcher.core.known_entries import NONE, KnownEntries
from dispatcher.core.outages import tells_nothing
from dispatcher.infra.blocking import CurrentSetting
from dispatcher.infra.redis.cluster import no_single_server
from dispatcher.infra.redis.pipe import Command, Pipe
from dispatcher.infra.redis.reach import candidates, leads_elsewhere, open_pipe, sign_in
from dispatcher.infra.redis.replies import clock_in, ids_named
from dispatcher.infra.redis.target import RedisTarget as RedisTarget

MINIMUM_VERSION = (5, 0)


def client_name(dispatcher: str) -> str:
    """The name of a dispatcher's connection; CLIENT SETNAME takes neither spaces nor control characters."""
    return re.sub(r"[^!-~]", "-", f"dispatcher-{dispatcher}")


class RedisConnection:
    """One connection at a time to the sink. Used by the relay and the audit of losses, all on one event loop.

    `target`, when it is a function, is asked at each connect: a rotated password is used without a restart.
    """

    def __init__(
        self,
        target: RedisTarget | Callable[[], RedisTarget],
        *,
        name: str,
        streams: Sequence[str],
        connect_timeout_s: float,
        on_lost: Callable[[str], None],
    ) -> None:
        self._target = CurrentSetting(target) if callable(target) else target
        self._connected_to: RedisTarget | None = None  # written by connect()
        self._name = client_name(name)
        self.streams = tuple(streams)
        self._key = next(iter(self.streams), "")  # in a Cluster, the node that serves it
        self.known_entries = KnownEntries(streams)
        self._connect_timeout_s = connect_timeout_s
        self._on_lost = on_lost
        self._pipe: Pipe | None = None  # written by connect(), close() and _lost()
        self._was_wrong = False  # written by _lost()
        self._client_id: int | None = None  # the server's number for our last connection; written by connect()
        self._run_id: str | None = None  # the server's run id then: after a restart the number may be another client's
        self._nomkstream = False  # whether the server knows XADD ... NOMKSTREAM; written by connect()
        self.named = True  # whether the server let us give our connection a name; written by connect()
        # What this connection was verified to lead to; None: not yet, publish nothing. Written by set_incarnation().
        self.incarnation: RedisIncarnation | None = None
        # What it was verified to lead to before, and the entries then. Written by set_incarnation().
        self.left: tuple[RedisIncarnation, dict[str, tuple[str, str]]] | None = None
        self.run_ids_differ = False  # the run id is one of a connection: a proxy makes it up; written by the audit
        self.address = ""  # where it leads to; written by connect()
        self.epoch = 0  # changes whenever the connection, or what it was verified to lead to, changes

    @property
    def up(self) -> bool:
        """Whether something may be sent."""
        return self._pipe is not None and self._pipe.open

    @property
    def wrong_server(self) -> bool:
        """Whether the connection was, or is being, closed because the server answered that it is the wrong one."""
        return self._pipe.wrong_server is not None if self._pipe is not None else self._was_wrong

    @property
    def server(self) -> str:
        """The server that it was made to: in a Cluster, which node."""
        return self._connected_to.address() if self._connected_to is not None else ""

    @property
    def floor(self) -> str:
        """Entries of rows that are claimed now can only come after this id."""
        return self.known_entries.floor

    def has_stream(self, stream: str) -> bool:
        """Whether the stream must be there, so that an entry must not make it anew: a loss would go unnoticed."""
        known = self.incarnation is not None and self.incarnation.known
        return self._nomkstream and known and self.known_entries.newest(stream) != NONE

    def send(
        self, commands: Sequence[Command], deadline_s: float, most_bytes: int | None = None
    ) -> asyncio.Future[list[Any]]:
        """Write the commands now; a future of one reply each. See Pipe.send."""
        if self._pipe is None:
            done: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
            done.set_result([NotApplied("redis is not connected")] * len(commands))
            return done
        return self._pipe.send(commands, deadline_s, most_bytes)

    def set_incarnation(self, incarnation: RedisIncarnation | None) -> None:
        """Note what the connection leads to. None: it is verified again before anything is published."""
        # Without this condition each try that fails would forget what is there.
        if self.incarnation is not None and self.known_entries.added:
            self.left = (self.incarnation, self.known_entries.ends())
        self.incarnation = incarnation
        self.known_entries.forget()
        self.epoch += 1

    def mark_unverified(self, incarnation: RedisIncarnation) -> None:
        """Hear that this incarnation may hold the stream no more: a connection to it has to be verified again."""
        if self.incarnation == incarnation:
            self.set_incarnation(None)

    async def connect(self) -> None:
        """Open the connection, sign in, choose the database, learn the newest entry id.

        Raises Misconfigured (password, rights, version) or Unreachable.
        """
        self.close()
        self.set_incarnation(None)
        wanted = await self._wanted()
        self.address = wanted.configured()
        *others, last = await candidates(wanted, self._key, self._connect_timeout_s)
        for target in others:
            try:
                return await self._connect_to(target)
            except Unreachable:
                continue
        return await self._connect_to(last)

    async def _connect_to(self, target: RedisTarget) -> None:
        where = f"Redis at {target.address()}"
        try:
            with anyio.fail_after(self._connect_timeout_s):
                pipe = await open_pipe(target, self._lost)
                try:
                    await self._handshake(pipe, target, where)
                except BaseException:
                    pipe.abort("the handshake failed")
                    raise
        except TimeoutError:
            hint = " (rediss:// speaks TLS: a server that does not needs redis://)" if target.tls else ""
            raise Unreachable(f"{where} did not answer within {self._connect_timeout_s:g} s{hint}") from None
        except ssl.SSLError as error:
            raise Misconfigured(
                f"{where}: TLS failed ({error.reason or type(error).__name__}). Check REDIS_URL"
            ) from None
        except UnicodeError as error:
            raise Unreachable(f"{where} is unreachable ({error})") from None
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else type(error).__name__
            raise Unreachable(f"{where} is unreachable ({reason})") from None
        if pipe.wrong_server is not None:
            raise Unreachable(f"{where}: {pipe.wrong_server}")
        self._pipe, self._connected_to = pipe, target

    async def _wanted(self) -> RedisTarget:
        return await self._target.get() if isinstance(self._target, CurrentSetting) else self._target

    async def leads_elsewhere(self) -> bool:
        """Whether the settings name another server by now than the one this connection was made to."""
        wanted, ours = await self._wanted_now(), self._connected_to
        if ours is None or wanted is None:
            return False
        return await leads_elsewhere(ours, wanted, self._key, self._connect_timeout_s)

    async def is_outdated(self) -> bool:
        """Whether the settings name another server, user or password by now than this connection was made with."""
        wanted, ours = await self._wanted_now(), self._connected_to
        if ours is None or wanted is None:
            return False
        return sign_in(wanted) != sign_in(ours) or await leads_elsewhere(
            ours, wanted, self._key, self._connect_timeout_s
        )

    async def _wanted_now(self) -> RedisTarget | None:
        try:
            return await self._wanted()
        except DispatcherError:  # the file that holds the URL or the password is gone or half written
            return None

    async def _handshake(self, pipe: Pipe, target: RedisTarget, where: str) -> None:
        commands = sign_in(target)
        if target.sentinels is not None:
            commands.append(("ROLE",))  # a sentinel that is cut off names a server that was demoted
        commands += [("CLIENT", "SETNAME", self._name), ("CLIENT", "ID"), ("INFO", "server")]
        replies = await self._ask(pipe, where, commands)
        *_, named, client_id, info = replies
        if target.sentinels is not None and (role := replies[-4]) and isinstance(role, list) and role[0] != b"master":
            raise Unreachable(f"{where} is no primary, though sentinels say so")
        self.named = not isinstance(named, Refused)
        run_id = clock_ms = None
        if isinstance(info, bytes):
            clock_ms = clock_in(info)
            version, run_id = self._check_server(where, info.decode(errors="replace"))
            if target.cluster is None and (instead := no_single_server(info)) is not None:
                raise Misconfigured(f"{where} {instead}")
            self._nomkstream = version >= (6, 2)
            run_id = None if self.run_ids_differ else run_id
        elif isinstance(info, Refused) and not tells_nothing(info.text):
            raise self._refusal(where, info.text)
        # XINFO carries payloads: of many streams only their types are asked, where the clock is a floor for all.
        several = len(self.streams) > 1 and clock_ms is not None
        commands = [("TYPE", each) if several else ("XINFO", "STREAM", each) for each in self.streams]
        old = self._client_id if run_id == self._run_id else None
        if old is not None and (run_id is not None or await self._is_ours(pipe, where, old)):
            # What our last connection left in the server's socket buffer must not be applied after we looked.
            commands.insert(0, ("CLIENT", "KILL", "ID", str(old)))
        replies = (await self._ask(pipe, where, commands))[len(commands) - len(self.streams) :]
        self._client_id = client_id if isinstance(client_id, int) else None
        self._run_id = run_id
        last_ids = dict[str, str]()  # one that is missing: there is no stream yet, or no more, or we may not look
        for stream, reply in zip(self.streams, replies, strict=True):
            if isinstance(reply, list):
                fields = dict(zip(reply[::2], reply[1::2], strict=False))
                last_ids[stream] = fields.get(b"last-generated-id", b"0-0").decode()
            elif (isinstance(reply, Refused) and reply.text.startswith("WRONGTYPE")) or (
                isinstance(reply, bytes) and reply not in (b"stream", b"none")
            ):
                setting = "DISPATCH_STREAM_NAME" if len(self.streams) == 1 else "name in the settings"
                raise Misconfigured(
                    f"{where}: the key '{stream}' is not a stream. Set another {setting} or rename the key"
                )
        self.known_entries.begin(last_ids, clock_ms)

    async def run_id_elsewhere(self) -> str | None:
        """The run id that one more connection is told, opened and closed for this; None: it could not be asked."""
        target = self._connected_to
        if target is None:
            return None
        try:
            with anyio.fail_after(self._connect_timeout_s):
                pipe = await open_pipe(target, lambda _, why: None)
                try:
                    commands = [*sign_in(target), ("INFO", "server")]
                    info = (await self._ask(pipe, "Redis", commands))[-1]
                finally:
                    pipe.abort("asked")
            return self._check_server("", info.decode(errors="replace"))[1] if isinstance(info, bytes) else None
        except (OSError, TimeoutError, DispatcherError):
            return None

    async def _is_ours(self, pipe: Pipe, where: str, client_id: int) -> bool:
        """Whether the client of that number has our name: INFO would tell a restart, after which it is a stranger's."""
        [clients] = await self._ask(pipe, where, [("CLIENT", "LIST")])
        return isinstance(clients, bytes) and str(client_id) in ids_named(
            {self._name}, clients.decode(errors="replace")
        )

    async def _ask(self, pipe: Pipe, where: str, commands: list[tuple[str, ...]]) -> list[Any]:
        replies = await pipe.send(commands, self._connect_timeout_s)
        for command, reply in zip(commands, replies, strict=True):
            if isinstance(reply, NoReply | NotApplied):
                said = [each.text for each in replies if isinstance(each, Refused)]
                raise Unreachable(f"{where}: {said[0][:200] if said else reply.error}")
            if isinstance(reply, Refused) and command[0] in ("AUTH", "SELECT"):
                raise self._refusal(where, reply.text)
        return replies

    @staticmethod
    def _refusal(where: str, text: str) -> Misconfigured | Unreachable:
        code = text.split(" ", 1)[0]
        if code in ("WRONGPASS", "NOAUTH", "NOPERM") or "auth" in text.lower() or "invalid password" in text:
            return Misconfigured(f"{where} refused us ({code}): check the user and password in REDIS_URL")
        if "DB index" in text:
            return Misconfigured(f"{where}: there is no database of that number; check the end of REDIS_URL")
        return Unreachable(f"{where}: {text[:200]}")

    @staticmethod
    def _check_server(where: str, info: str) -> tuple[tuple[int, ...], str | None]:
        """The version, and the id of this run of the server, from what INFO says; () and None: it does not tell."""
        match = re.search(r"^redis_version:(\d+)\.(\d+)", info, re.MULTILINE)
        version = (int(match[1]), int(match[2])) if match else ()
        if match and version < MINIMUM_VERSION:
            raise Misconfigured(f"{where} is version {match[1]}.{match[2]}; streams need Redis 5.0 or later, or Valkey")
        run_id = re.search(r"^run_id:(\w+)", info, re.MULTILINE)
        return version, run_id[1] if run_id else None

    def _lost(self, pipe: Pipe, why: str) -> None:
        if pipe is self._pipe:
            self._pipe, self._was_wrong = None, pipe.wrong_server is not None
            self._on_lost(why)

    def close(self) -> None:
        """Close the connection, if there is one. Whatever waits for replies gets NoReply."""
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            pipe.abort("closed by us")
