"""What follows a lock, so that the spam really stops: a changed row alone leaves caches, open sessions and the queue as they are.

- ``flush``: ``doveadm auth cache flush``: Dovecot forgets the old answer, after a lock and after an unlock
- ``flush-late``: the same two seconds later: Dovecot looks at a passwd-file once a second, and may have remembered the old answer anew
- ``map``: the account goes into an access map that smtpd asks for each recipient, so that open sessions are refused
- ``unmap``: it leaves that map again, unless it was in there before: part of the unlock
- ``kick``: ``doveadm kick``: ends the account's sessions in Dovecot
- ``smtpd``: the SMTP sessions of the account are cut (``ss -K``), or their smtpd processes get SIGTERM
- ``hold``: ``postsuper -h``: its queued mail stays where it is
- ``hold-late``: the same once more when the grace is over, for what came in meanwhile
- ``verify``: whether the lock is effective; that is for the responder to see, from the log

Each step does nothing where there is nothing to do, so it may be done again after a crash or by two processes at once. While the mail
system's database can't be reached, those that need no lock are done all the same (:meth:`Response.meanwhile`).

An account's name comes from a log that strangers write into. It is one argument of a command, behind ``--``; what means several users to
doveadm (``*`` and ``?``) is refused. A session is ended only when its process is an smtpd that began before the message in the log, and
has a connection with the very client that the log names. So behind a proxy no session is ended; the access map reaches those too.

SIGTERM to an smtpd in its first session makes master(8) believe that the service is broken: it starts no other for a minute
(``service_throttle_time``), and nobody gets in. Cutting the connection hurts nobody else, but wants CAP_NET_ADMIN and a kernel with
CONFIG_INET_DIAG_DESTROY.
"""

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sentinel.respond.journal import ABSENT, FLUSH_AGAIN_SECONDS, STEP_ORDER, THERE, Done
from sentinel.respond.locks import LockError, LockRefused
from sentinel.respond.policy import printable
from sentinel.respond.programs import ProgramError, run

if TYPE_CHECKING:
    from sentinel.config import ResponseSettings
    from sentinel.respond.locks import Locker
    from sentinel.respond.queue import PostfixQueue

STEPS = STEP_ORDER

_WILDCARDS = frozenset("*?")
_MAX_ACCOUNT_CHARACTERS = 320
_NO_SESSION = 68
"""What doveadm kick exits with (EX_NOHOST) where the user has no session."""


class StepError(Exception):
    """Why a step could not be done; a sentence without secrets. ``final``: trying again changes nothing."""

    def __init__(self, text: str, *, final: bool = False) -> None:
        super().__init__(text)
        self.final = final


class Session(NamedTuple):
    """An smtpd process that took a message of the account."""

    pid: int
    client_ip: str
    time: float
    """When it did, seconds since the epoch."""


class Connection(NamedTuple):
    """Both ends of a TCP connection as ``ADDRESS:PORT``, IPv6 in brackets, and the other side's address."""

    here: str
    there: str
    peer: Any


class Facts(NamedTuple):
    """What the log says about an account's mail and sessions."""

    queue_ids: Mapping[str, int] = {}
    """Queue ID → when it was accepted, microseconds since the epoch."""
    others: frozenset[str] | set[str] = frozenset()
    """Queue IDs that are known to be somebody else's."""
    sessions: Sequence[Session] = ()


class Response:
    """The steps that an admin has chosen, and how each is done. Any thread may use it."""

    def __init__(self, settings: "ResponseSettings", queue: "PostfixQueue | None" = None, access_map: "Locker | None" = None) -> None:
        self.settings = settings
        self._queue = queue
        self._map = access_map

    # which, and when

    def after_lock(self, now: float) -> dict[str, float]:
        """Steps that a lock brings, in the order in which they are done, each with the wall clock from which it is due."""
        chosen = self.settings
        steps = self.meanwhile(now)
        if chosen.flush_auth_cache:
            # The map stops what the cache would still let in, so it comes first.
            others = {step: due for step, due in steps.items() if step != "map"}
            first = {"map": now} if "map" in steps else {}
            steps = {**first, "flush": now, "flush-late": now + FLUSH_AGAIN_SECONDS, **others}
        if chosen.hold:
            steps["hold-late"] = now + chosen.grace
        if chosen.verify:
            steps["verify"] = now + chosen.grace + chosen.watch
        return steps

    def meanwhile(self, now: float) -> dict[str, float]:
        """Those that help while the lock itself can't be made."""
        chosen = self.settings
        wanted = {"map": self._map is not None, "kick": chosen.kick, "smtpd": chosen.end_smtp != "no", "hold": chosen.hold}
        return {step: now for step, on in wanted.items() if on}

    def after_unlock(self, now: float) -> dict[str, float]:
        """Steps that an unlock brings, besides the undoing of what the lock's own steps did. Held mail stays on hold: whether it is
        spam is for a person to see.
        """
        return {"flush": now, "flush-late": now + FLUSH_AGAIN_SECONDS} if self.settings.flush_auth_cache else {}

    # doing

    def perform(
        self, step: str, account: str, facts: Facts, *, record: Callable[[str], None] = lambda _: None, found: str | None = None
    ) -> Done:
        """Does a step. ``account`` as the mail system has it. ``record`` is told what is there before anything is changed, where that
        matters for the undoing; ``found`` is that, when it is undone. Raises StepError.
        """
        began = time.monotonic()
        does: dict[str, Callable[[], Done]] = {
            "flush": lambda: self._flush(account),
            "flush-late": lambda: self._flush(account),
            "map": lambda: self._mapped(account, record),
            "unmap": lambda: self._unmapped(account) if found == ABSENT else Done(rows=0, detail="nothing of ours was in the map"),
            "kick": lambda: self._kick(account),
            "smtpd": lambda: self._end_smtp(facts.sessions),
            "hold": lambda: self._hold(account, facts),
            "hold-late": lambda: self._hold(account, facts),
        }
        try:
            done = does[step]()
        except KeyError:
            raise StepError(f"{printable(step)} is no step that this version knows", final=True) from None
        except LockRefused as error:
            raise StepError(str(error), final=True) from None
        except (LockError, ProgramError) as error:
            raise StepError(str(error)) from None
        return Done(done.statement, done.rows, time.monotonic() - began, done.detail)

    def _flush(self, account: str) -> Done:
        _check_user(account)
        argv = (*self.settings.doveadm, "auth", "cache", "flush", "--", account)
        ran = run(argv, check=False)
        # doveadm 2.3 exits with 0 where it could not reach the auth process, and only its standard error tells.
        if ran.code or b"Error:" in ran.err or b"Fatal:" in ran.err:
            raise StepError(f"doveadm auth cache flush failed: {_words(ran.err) or f'exit code {ran.code}'}")
        return Done(_shown(argv), _leading_number(ran.out))

    def _kick(self, account: str) -> Done:
        _check_user(account)
        argv = (*self.settings.doveadm, "kick", "--", account)
        ran = run(argv, check=False)
        if ran.code == _NO_SESSION:
            return Done(_shown(argv), 0, detail="no session was open")
        if ran.code:
            raise StepError(f"doveadm kick failed: {_words(ran.err) or f'exit code {ran.code}'}")
        return Done(_shown(argv), None, detail="sessions were ended")

    def _access_map(self) -> "Locker":
        if self._map is None:
            raise StepError("response.access_map is not configured any more, and the account may still stand in that map")
        return self._map

    def _mapped(self, account: str, record: Callable[[str], None]) -> Done:
        result = self._access_map().lock(account, lambda login, prior, there: record(THERE if there else ABSENT))
        return Done(result.statement, result.rows, detail="it is in the map already" if result.locked_already else "")

    def _unmapped(self, account: str) -> Done:
        access_map = self._access_map()
        if not access_map.is_locked(account):
            return Done(rows=0, detail="it was not in the map")
        result = access_map.unlock(account, {"entry": None})
        return Done(result.statement, result.rows)

    def _end_smtp(self, sessions: Sequence[Session]) -> Done:
        """Ends the sessions that are still open; those that are over, or that another client has now, are left alone."""
        end = self._cut if self.settings.end_smtp == "cut" else self._kill
        statements = [end(session, connection) for session in sessions for connection in connections_of(session)]
        detail = "no session was open" if not statements else f"{len(statements)} sessions ended"
        return Done("; ".join(statements), len(statements), detail=detail)

    def _cut(self, session: Session, connection: Connection) -> str:
        argv = (*self.settings.ss, "-K", "-t", "src", connection.here, "dst", connection.there)
        run(argv)
        # ss says nothing where the kernel can't do it.
        if connection in connections_of(session):
            raise StepError(
                "this kernel does not close other programs' connections (CONFIG_INET_DIAG_DESTROY, CAP_NET_ADMIN); "
                "use an access map, or end_smtp: kill",
                final=True,
            )
        return _shown(argv)

    def _kill(self, session: Session, _: Connection) -> str:
        try:
            os.kill(session.pid, signal.SIGTERM)
        except ProcessLookupError:
            return ""
        except PermissionError:
            raise StepError(f"smtpd process {session.pid} belongs to another user; only root may end it", final=True) from None
        return f"kill -TERM {session.pid}"

    def _hold(self, account: str, facts: Facts) -> Done:
        if self._queue is None:
            raise StepError("response.hold is not configured any more", final=True)
        found = self._queue.find(account=account, known=facts.queue_ids, foreign=facts.others, max_envelopes=self.settings.max_envelopes)
        held = self._queue.hold(found.entries)
        if held.error is not None:
            raise held.error
        detail = f"{held.done - held.already} of {found.queued} messages in the queue put on hold"
        if held.already:
            detail += f", {held.already} were before"
        if found.unread:
            detail += f"; {found.unread} of unknown origin were not looked into, do it with: sentinel queue hold"
        return Done(_shown(held.statement), held.done - held.already, detail=detail)


def connections_of(session: Session) -> list[Connection]:
    """The connections with the session's client that its process has, where that is still the smtpd that took the message."""
    process = Path("/proc") / str(session.pid)
    try:
        name, _, rest = (process / "stat").read_bytes().rpartition(b")")
        if session.pid <= 1 or name.partition(b"(")[2] != b"smtpd":
            return []
        started = _boot_time() + int(rest.split()[19]) / os.sysconf("SC_CLK_TCK")
        # A log's stamps may be whole seconds, and the start is counted in ticks of a clock that was set meanwhile.
        if started > session.time + 2.0:
            return []
        client = _address(session.client_ip)
        return [connection for connection in _established(process) if connection.peer == client]
    except (OSError, ValueError, IndexError):
        return []


def _boot_time() -> float:
    for line in Path("/proc/stat").read_bytes().splitlines():
        if line.startswith(b"btime "):
            return float(line.split()[1])
    raise ValueError("/proc/stat has no btime")


def _established(process: Path) -> list[Connection]:
    inodes = set()
    for descriptor in (process / "fd").iterdir():
        try:
            target = os.readlink(descriptor)
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    found = []
    for table in ("tcp", "tcp6"):
        for line in (process / "net" / table).read_text("ascii").splitlines()[1:]:
            words = line.split()
            # local and remote address, state (01 is established), and in the tenth column the inode; see proc(5).
            if words[9] in inodes and words[3] == "01":
                here, there = (_end(word) for word in words[1:3])
                found.append(Connection(here[0], there[0], there[1]))
    return found


def _end(text: str) -> tuple[str, Any]:
    """An end of a connection as /proc/net/tcp has it: words of 32 bits in the machine's order, and the port."""
    import ipaddress
    import sys

    digits, _, port = text.partition(":")
    raw = bytes.fromhex(digits)
    if sys.byteorder == "little":
        raw = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
    address = ipaddress.ip_address(raw)
    shown = f"[{address}]" if address.version == 6 else str(address)
    return f"{shown}:{int(port, 16)}", getattr(address, "ipv4_mapped", None) or address


def _address(text: str) -> Any:
    import ipaddress

    address = ipaddress.ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address


def _check_user(account: str) -> None:
    """doveadm takes a user's name with wildcards, and would act on all that match."""
    if not account or len(account) > _MAX_ACCOUNT_CHARACTERS or not account.isprintable():
        raise StepError(f"this can't be a user of Dovecot: {printable(account)}", final=True)
    if _WILDCARDS & set(account):
        raise StepError(f"{printable(account)} would mean several users to doveadm", final=True)


def _shown(argv: Sequence[str]) -> str:
    import shlex

    return printable(shlex.join(argv))


def _words(output: bytes) -> str:
    return printable(" ".join(output.decode("utf-8", "replace").split()))


def _leading_number(output: bytes) -> int | None:
    first = output.split(None, 1)[:1]
    return int(first[0]) if first and first[0].isdigit() else None
