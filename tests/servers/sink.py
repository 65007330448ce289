"""A remote mail server that takes everything, counts it, and refuses what a test tells it to refuse.

It is a thread with an event loop of its own. A test sets the answers and reads the counts from outside at any time.
"""

import asyncio
import contextlib
import errno
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from servers.process import PortTaken, free_port

Stage = Literal["banner", "ehlo", "mail", "rcpt", "data", "end"]
"""Where an answer is given: at connect, or to EHLO, MAIL FROM, RCPT TO, DATA, or the end of the message."""
MAX_MESSAGE_BYTES = 1 << 20


class Attempt(NamedTuple):
    """A MAIL FROM, taken or not."""

    time: float
    """time.monotonic()"""
    client: str
    sender: str


class Message(NamedTuple):
    """A message that was taken."""

    time: float
    """time.monotonic()"""
    client: str
    sender: str
    recipients: tuple[str, ...]
    text: str


@dataclass(slots=True)
class Counts:
    """What came in so far."""

    connections: Counter[str] = field(default_factory=Counter)
    """by SMTP client"""
    senders: Counter[str] = field(default_factory=Counter)
    """MAIL FROM, by sender, taken or not"""
    recipients: Counter[str] = field(default_factory=Counter)
    """RCPT TO that were taken, by sender"""
    refused: Counter[str] = field(default_factory=Counter)
    """answers that a test asked for, by stage"""


@dataclass(frozen=True, slots=True)
class _Answer:
    stage: Stage
    lines: bytes
    after: int
    sender: re.Pattern[str]
    close: bool


class _Closed(Exception):
    """This session is over."""


class Sink:
    """``with Sink() as sink``: the server is at ``sink.address``, ``sink.port``."""

    def __init__(self, address: str = "127.0.0.2", port: int | None = None, name: str = "mx.remote.example") -> None:
        self.address = address
        self.port = free_port(address) if port is None else port
        self.name = name
        self.counts = Counts()
        self.attempts: list[Attempt] = []
        self.messages: list[Message] = []
        self._answers: tuple[_Answer, ...] = ()
        self._loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None
        self._server: asyncio.Server | None = None
        self._sessions: set[asyncio.Task[None]] = set()

    # what a test sets and asks

    def answer(self, stage: Stage, reply: str, *, after: int = 0, sender: str = "", close: bool | None = None) -> None:
        """From now on, give this reply at this stage: once ``after`` recipients were taken, and only to a sender in whom the
        pattern is found (at ``mail`` and later). The connection is closed after it when asked to, or when the code is 421, or at the
        banner. The first answer that fits is given.
        """
        ends = stage == "banner" or reply.startswith("421") if close is None else close
        self._answers += (_Answer(stage, _lines(reply), after, re.compile(sender), ends),)

    def accept(self) -> None:
        """Forget all answers, and take everything again."""
        self._answers = ()

    def recipients(self, sender: str | None = None) -> int:
        """Recipients that were taken, of one sender or of all."""
        return self.counts.recipients[sender] if sender is not None else self.counts.recipients.total()

    def attempts_of(self, sender: str) -> int:
        return self.counts.senders[sender]

    def messages_of(self, sender: str) -> list[Message]:
        return [message for message in self.messages if message.sender == sender]

    def messages_from(self, client: str) -> list[Message]:
        """By the address of the SMTP client that handed them over."""
        return [message for message in self.messages if message.client == client]

    # life

    def __enter__(self) -> "Sink":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        try:
            self._server = self._loop.run_until_complete(
                asyncio.start_server(self._serve, self.address, self.port, limit=MAX_MESSAGE_BYTES)
            )
        except OSError as error:
            self._loop.close()
            why = "somebody else does" if error.errno == errno.EADDRINUSE else str(error.strerror)
            raise PortTaken(f"the sink cannot listen on {self.address}:{self.port}: {why}") from None
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"sink-{self.port}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self._thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self._thread = None

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        for session in self._sessions:
            session.cancel()
        await asyncio.gather(*self._sessions, return_exceptions=True)

    # one session

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._sessions.add(task)
        try:
            await _Session(self, reader, writer).run()
        except (_Closed, ConnectionError, asyncio.CancelledError):
            pass  # the client went, an answer closed the connection, or the test is over: all of them end a session
        finally:
            self._sessions.discard(task)
            writer.close()

    def _answer_at(self, stage: Stage, sender: str) -> _Answer | None:
        taken = self.counts.recipients.total()
        for answer in self._answers:
            if answer.stage == stage and taken >= answer.after and answer.sender.search(sender):
                self.counts.refused[stage] += 1
                return answer
        return None


class _Session:
    def __init__(self, sink: Sink, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._sink = sink
        self._reader = reader
        self._writer = writer
        self._client = str(writer.get_extra_info("peername")[0])
        self._sender = ""
        self._recipients: list[str] = []

    async def run(self) -> None:
        self._sink.counts.connections[self._client] += 1
        await self._say("banner", f"220 {self._sink.name} ESMTP")
        while True:
            line = await self._line()
            match line.split(b" ")[0].upper():
                case b"EHLO" | b"HELO":
                    await self._say("ehlo", f"250 {self._sink.name}\nPIPELINING\nENHANCEDSTATUSCODES\n8BITMIME")
                case b"MAIL":
                    await self._mail(_address(line))
                case b"RCPT":
                    await self._rcpt(_address(line))
                case b"DATA":
                    await self._data()
                case b"RSET" | b"NOOP":
                    self._write("250 2.0.0 Ok")
                case b"QUIT":
                    self._write("221 2.0.0 Bye")
                    await self._writer.drain()
                    return
                case _:
                    self._write("500 5.5.2 not understood")

    async def _mail(self, sender: str) -> None:
        self._sender, self._recipients = sender, []
        self._sink.counts.senders[sender] += 1
        self._sink.attempts.append(Attempt(time.monotonic(), self._client, sender))
        await self._say("mail", "250 2.1.0 Ok")

    async def _rcpt(self, recipient: str) -> None:
        if await self._say("rcpt", "250 2.1.5 Ok"):
            self._recipients.append(recipient)
            self._sink.counts.recipients[self._sender] += 1

    async def _data(self) -> None:
        if not self._recipients:
            self._write("554 5.5.1 no valid recipients")
            return
        if not await self._say("data", "354 go ahead"):
            return
        text = []
        while (line := await self._line()) != b".":
            text.append(line)
        if await self._say("end", "250 2.0.0 Ok: taken"):
            message = b"\n".join(text)[:MAX_MESSAGE_BYTES].decode("utf-8", "replace")
            self._sink.messages.append(Message(time.monotonic(), self._client, self._sender, tuple(self._recipients), message))

    async def _say(self, stage: Stage, usual: str) -> bool:
        """The answer of this stage; whether it was the usual one."""
        answer = self._sink._answer_at(stage, self._sender)
        self._writer.write(answer.lines if answer is not None else _lines(usual))
        await self._writer.drain()
        if answer is not None and answer.close:
            raise _Closed
        return answer is None

    def _write(self, reply: str) -> None:
        self._writer.write(_lines(reply))

    async def _line(self) -> bytes:
        with contextlib.suppress(asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return (await self._reader.readuntil(b"\n")).rstrip(b"\r\n")
        raise _Closed


def _lines(reply: str) -> bytes:
    """``550 5.7.1 one\\ntwo`` as SMTP says it on two lines."""
    code, first, *more = reply[:3], *reply[4:].split("\n")
    texts = [first, *more]
    return "".join(f"{code}{'-' if at + 1 < len(texts) else ' '}{text}\r\n" for at, text in enumerate(texts)).encode()


def _address(line: bytes) -> str:
    found = re.search(rb"<([^>]*)>", line)
    return found[1].decode("utf-8", "replace") if found else ""
