"""The one SQLite database that the daemon remembers by: position and snapshot, detections, journal of actions, notices, bans.

Everything that changes and must survive a restart is in here, in one file, so that what belongs together is committed
together: a position is never stored without the engine's snapshot and the detections that belong to it. The file is in
WAL mode and every commit is synced, so a ``kill -9`` or a power cut leaves the state of the last commit.

One :class:`State` is one connection behind one lock: any thread may use it. Several processes may have the same
directory open (the command line beside the daemon); only one of them may :meth:`hold` it, and that is the daemon.

A database of an older version is brought up to this one when it is opened; see ``_UPGRADES``.

Limits: detections are kept for ``keep_days`` and at most ``max_detections`` of them, except those that an open lock
refers to. The journal is never pruned; policy writes few rows, and they are what an admin asks for months later.
"""

import contextlib
import fcntl
import json
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sentinel.detect.detection import account_key, parse_time
from sentinel.errors import UserError

SCHEMA_VERSION = 2
DATABASE_NAME = "sentinel.db"
LOCK_NAME = "sentinel.lock"

_APPLICATION_ID = 0x534E544C
"""``SNTL``: tells our file from any other SQLite database."""
_BUSY_SECONDS = 10.0
_AGAIN_SECONDS = 0.005
_PRUNE_EVERY_SECONDS = 3600.0
_DAY_SECONDS = 86_400.0

_SCHEMA = (
    """CREATE TABLE checkpoint (
         id INTEGER PRIMARY KEY CHECK (id = 1),
         positions TEXT NOT NULL,          -- JSON: configured path -> position
         snapshot BLOB NOT NULL,
         saved_at REAL NOT NULL            -- wall clock, seconds
       )
    """,
    """CREATE TABLE detections (
         seq INTEGER PRIMARY KEY AUTOINCREMENT,
         id TEXT NOT NULL UNIQUE,
         time INTEGER NOT NULL,            -- event time, microseconds
         account TEXT,                     -- account_key(), NULL when the subject is no account
         data TEXT NOT NULL,               -- JSON, as in the contract
         added REAL NOT NULL,              -- wall clock, seconds
         handled INTEGER NOT NULL DEFAULT 0  -- policy has seen it, in the transaction that journalled its decision
       )
    """,
    "CREATE INDEX detections_by_time ON detections (time)",
    "CREATE INDEX detections_by_account ON detections (account, time)",
    """CREATE TABLE actions (
         seq INTEGER PRIMARY KEY AUTOINCREMENT,
         id TEXT NOT NULL UNIQUE,
         account TEXT NOT NULL,            -- as the log or the admin wrote it
         account_key TEXT NOT NULL,
         action TEXT NOT NULL,             -- lock, unlock, notify, protect, unprotect
         state TEXT NOT NULL,              -- pending, done, failed, refused, simulated
         by TEXT NOT NULL,                 -- policy, hand
         why TEXT NOT NULL,
         refused TEXT,                     -- why not
         detections TEXT NOT NULL,         -- JSON array of ids
         total REAL NOT NULL,
         event_time INTEGER,               -- newest evidence, microseconds
         created REAL NOT NULL,
         changed REAL NOT NULL,
         attempts INTEGER NOT NULL DEFAULT 0,
         error TEXT,                       -- the last one
         login TEXT,                       -- the account exactly as the database has it
         prior TEXT,                       -- JSON: what the row's columns held before the lock
         target TEXT,                      -- unlock: id of the lock that it undoes
         closed INTEGER NOT NULL DEFAULT 0 -- lock: it has been undone
       )
    """,
    "CREATE INDEX actions_by_account ON actions (account_key, seq)",
    "CREATE INDEX actions_by_state ON actions (state)",
    # Whatever policy, worker and command line do at the same time: never two locks on one account.
    """CREATE UNIQUE INDEX one_open_lock ON actions (account_key)
         WHERE action = 'lock' AND state IN ('pending', 'done') AND closed = 0
    """,
    "CREATE TABLE protected (pattern TEXT PRIMARY KEY, why TEXT NOT NULL, created REAL NOT NULL)",
)

# What each version added to the one before. A new database is made of all of them in turn, so that it is the same as an upgraded one.
_UPGRADES: tuple[tuple[str, ...], ...] = (
    _SCHEMA,
    (
        "ALTER TABLE actions ADD COLUMN expires REAL",  # lock: when policy undoes it by itself, wall clock
        "ALTER TABLE actions ADD COLUMN troubles INTEGER NOT NULL DEFAULT 0",  # attempts that the database answered with an error
        """CREATE TABLE steps (
             action TEXT NOT NULL REFERENCES actions (id),
             step TEXT NOT NULL,               -- as respond/response.py names them
             state TEXT NOT NULL,              -- pending, done, failed, cancelled
             due REAL NOT NULL,                -- wall clock: not before
             attempts INTEGER NOT NULL DEFAULT 0,
             detail TEXT,                      -- what came of it, or the last error
             found TEXT,                       -- what was there before the first attempt changed anything
             changed REAL NOT NULL,
             PRIMARY KEY (action, step)
           )
        """,
        "CREATE INDEX steps_by_state ON steps (state)",
        """CREATE TABLE journal (
             seq INTEGER PRIMARY KEY AUTOINCREMENT,
             entry TEXT NOT NULL,              -- JSON, as respond/chain.py writes it
             hash TEXT NOT NULL
           )
        """,
        """CREATE TRIGGER journal_is_not_changed BEFORE UPDATE ON journal
             BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END
        """,
        """CREATE TRIGGER journal_is_not_shortened BEFORE DELETE ON journal
             BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END
        """,
        """CREATE TRIGGER journal_grows_at_its_end BEFORE INSERT ON journal
             WHEN NEW.seq <= (SELECT COALESCE(max(seq), 0) FROM journal)
             BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END
        """,
        """CREATE TABLE notices (
             seq INTEGER PRIMARY KEY AUTOINCREMENT,
             id TEXT NOT NULL,                 -- of the notice: the same for every target
             target TEXT NOT NULL,             -- the name of the target
             incident TEXT NOT NULL,
             resolved INTEGER NOT NULL,        -- it ends an earlier notice of its incident
             data TEXT NOT NULL,               -- JSON; emptied when it is old
             state TEXT NOT NULL DEFAULT 'pending',  -- pending, sent, failed
             created REAL NOT NULL,
             changed REAL NOT NULL,            -- wall clock; of a sent one: when it was last sent
             attempts INTEGER NOT NULL DEFAULT 0,
             error TEXT,                       -- the last one
             UNIQUE (id, target)
           )
        """,
        "CREATE INDEX notices_by_state ON notices (target, state, seq)",
        "CREATE INDEX notices_by_incident ON notices (incident, target)",
        """CREATE TABLE bans (
             seq INTEGER PRIMARY KEY AUTOINCREMENT,
             id TEXT NOT NULL UNIQUE,          -- of the detection
             ip TEXT NOT NULL,
             why TEXT NOT NULL,
             state TEXT NOT NULL,              -- pending, done, failed, refused
             refused TEXT,                     -- why not
             error TEXT,                       -- the last one
             attempts INTEGER NOT NULL DEFAULT 0,
             created REAL NOT NULL,
             changed REAL NOT NULL,
             until REAL                        -- of one that is done: when it ends, where we say so
           )
        """,
        "CREATE INDEX bans_by_state ON bans (state, seq)",
        "CREATE INDEX bans_by_time ON bans (created)",
        # breaker: why it is open; actions_before_journal: the last action that the journal knows nothing of.
        "CREATE TABLE flags (name TEXT PRIMARY KEY, value TEXT NOT NULL, since REAL NOT NULL)",
        "INSERT INTO flags SELECT 'actions_before_journal', seq, 0 FROM (SELECT max(seq) AS seq FROM actions) WHERE seq IS NOT NULL",
    ),
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where the sources stood, and the engine's state at exactly that place."""

    positions: dict[str, dict[str, Any]]
    snapshot: bytes
    saved_at: float
    """Wall clock, seconds since the epoch."""


class State:
    """The state database in one directory; see the module's text. Close it, or use it as a context manager."""

    def __init__(self, directory: str | Path, *, create: bool = True, keep_days: float = 90.0, max_detections: int = 100_000) -> None:
        """Opens the database, and makes it (directory 0700, file 0600) unless ``create`` is off. Raises UserError."""
        self.directory = Path(directory)
        self.path = self.directory / DATABASE_NAME
        self.keep_days = keep_days
        self.max_detections = max_detections
        self._lock = threading.RLock()
        self._depth = 0
        self._held: int | None = None
        self._pruned_at: float | None = None
        self._prepare(create)
        with self._readable_errors():
            self._db = sqlite3.connect(
                self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=64
            )
            self._give_to_owner()
            try:
                self._open()
            except BaseException:
                self._db.close()
                raise

    def __enter__(self) -> "State":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"State({str(self.directory)!r})"

    # opening

    def _prepare(self, create: bool) -> None:
        try:
            if create:
                self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                # For the owner's eyes: evidence lines and mailbox columns stand in it. The WAL files inherit the mode.
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            elif not stat.S_ISREG(self.path.stat().st_mode):
                raise UserError(f"{self.path} is not a file; name the directory that sentinel run --state uses")
        except (FileExistsError, NotADirectoryError):
            raise UserError(f"state directory {self.directory} is not a directory; name one that sentinel may own") from None
        except IsADirectoryError:
            raise UserError(f"{self.path} is a directory, but must be sentinel's database file; move it away") from None
        except FileNotFoundError:
            raise UserError(f"there is no sentinel state in {self.directory}; name the directory that sentinel run --state uses") from None
        except PermissionError:
            raise UserError(
                f"state directory {self.directory} is not writable for user id {os.geteuid()}; run as its owner or change its owner"
            ) from None
        except OSError as error:
            raise UserError(f"state directory {self.directory} cannot be used: {error.strerror}") from None

    def _give_to_owner(self) -> None:
        """What root makes here by hand must not keep the daemon's own user out. SQLite gives its side files the same owner."""
        owner = os.stat(self.directory)
        if os.geteuid() == 0 and owner.st_uid != os.stat(self.path).st_uid:
            os.chown(self.path, owner.st_uid, owner.st_gid)

    def _open(self) -> None:
        self._db.execute("PRAGMA foreign_keys = ON")
        self._db.execute("PRAGMA synchronous = FULL")
        if self._pragma("user_version") == 0:
            self._write_ahead()
        with self.transaction() as db:
            version = self._pragma("user_version")
            if version == 0:
                if db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
                    raise UserError(f"{self.path} is a database of another program; give sentinel a state directory of its own")
                db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            elif self._pragma("application_id") != _APPLICATION_ID:
                raise UserError(f"{self.path} is a database of another program; give sentinel a state directory of its own")
            elif version > SCHEMA_VERSION:
                raise UserError(
                    f"{self.path} was written by a newer sentinel (state version {version}, not {SCHEMA_VERSION}); "
                    "upgrade sentinel or use another state directory"
                )
            for added in _UPGRADES[version:]:
                for statement in added:
                    db.execute(statement)
            if version < SCHEMA_VERSION:
                db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _write_ahead(self) -> None:
        """WAL mode. SQLite does not wait for another who turns it on at the same moment, since both hold a lock that the other needs."""
        until = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
            time.sleep(_AGAIN_SECONDS)

    def _pragma(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}").fetchone()[0])

    @contextlib.contextmanager
    def _readable_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if isinstance(error, (sqlite3.ProgrammingError, sqlite3.IntegrityError)):
                raise  # ours, not the disk's
            raise UserError(f"state database {self.path}: {error}; {_remedy(error)}") from error

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing. Inside another transaction of the same thread it joins that one."""
        with self._lock, self._readable_errors():
            if self._depth:
                yield self._db
                return
            self._db.execute("BEGIN IMMEDIATE")
            self._depth = 1
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            finally:
                self._depth = 0

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Rows of one SELECT."""
        with self._lock, self._readable_errors():
            return self._db.execute(sql, parameters).fetchall()

    def close(self) -> None:
        """Gives the directory free. Safe to call twice."""
        with self._lock:
            self._db.close()
            if self._held is not None:
                os.close(self._held)
                self._held = None

    def hold(self) -> None:
        """Claims the directory for this process until :meth:`close`; a second daemon on it gets a UserError.

        The kernel drops the claim when the process dies, however it dies.
        """
        path = self.directory / LOCK_NAME
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UserError(f"{path} cannot be opened: {error.strerror}; sentinel must own its state directory") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip()
            os.close(descriptor)
            who = f"process {holder}" if holder.isdigit() else "another process"
            raise UserError(
                f"another sentinel ({who}) is running on state directory {self.directory}; stop it, or give this one its own --state"
            ) from None
        self._held = descriptor
        try:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode("ascii"))
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}; make room on that file system") from None

    # checkpoint

    def save(self, positions: dict[str, dict[str, Any]], snapshot: bytes, detections: Sequence[dict[str, Any]]) -> list[str]:
        """Positions, snapshot and detections in one transaction; the ids of the detections that were new."""
        now = time.time()
        with self.transaction() as db:
            new = self._insert_detections(db, detections, now)
            db.execute(
                "INSERT INTO checkpoint (id, positions, snapshot, saved_at) VALUES (1, ?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE "
                "SET positions = excluded.positions, snapshot = excluded.snapshot, saved_at = excluded.saved_at",
                (json.dumps(positions, sort_keys=True), snapshot, now),
            )
            if self._pruned_at is None or not 0 <= now - self._pruned_at < _PRUNE_EVERY_SECONDS:
                self.prune(now)
                self._pruned_at = now
        return new

    def load(self) -> Checkpoint | None:
        """The last checkpoint, or None before the first. ValueError if it is damaged."""
        rows = self.query("SELECT positions, snapshot, saved_at FROM checkpoint WHERE id = 1")
        if not rows:
            return None
        positions, snapshot, saved_at = rows[0]
        try:
            return Checkpoint(json.loads(positions), bytes(snapshot), float(saved_at))
        except TypeError as error:
            raise ValueError(str(error)) from None

    # detections

    def add_detections(self, detections: Sequence[dict[str, Any]]) -> list[str]:
        """Stores those that are not there yet; their ids, in the order given."""
        with self.transaction() as db:
            return self._insert_detections(db, detections, time.time())

    @staticmethod
    def _insert_detections(db: sqlite3.Connection, detections: Sequence[dict[str, Any]], now: float) -> list[str]:
        new = []
        for detection in detections:
            account = detection["subject"].get("sasl_username")
            cursor = db.execute(
                "INSERT OR IGNORE INTO detections (id, time, account, data, added) VALUES (?, ?, ?, ?, ?)",
                (
                    detection["id"],
                    parse_time(detection["time"]),
                    account_key(account) if account else None,
                    # ASCII escapes carry even a lone surrogate, which the log may hold and UTF-8 may not.
                    json.dumps(detection),
                    now,
                ),
            )
            if cursor.rowcount:
                new.append(detection["id"])
        return new

    def recent_detections(self, limit: int = 100, *, account: str | None = None) -> list[dict[str, Any]]:
        """The newest by event time, newest last."""
        where, parameters = ("WHERE account = ?", [account_key(account)]) if account is not None else ("", [])
        rows = self.query(f"SELECT data FROM detections {where} ORDER BY time DESC, seq DESC LIMIT ?", [*parameters, max(0, limit)])
        return [json.loads(data) for (data,) in reversed(rows)]

    def detections_for(self, account: str, since_us: int) -> list[dict[str, Any]]:
        """Those about one account from an event time on, oldest first."""
        rows = self.query(
            "SELECT data FROM detections WHERE account = ? AND time >= ? ORDER BY time, seq",
            (account_key(account), since_us),
        )
        return [json.loads(data) for (data,) in rows]

    def detections_by_id(self, ids: Iterable[str]) -> list[dict[str, Any]]:
        """Those of them that are still kept, in the order given."""
        found = []
        for id_ in ids:
            found += self.query("SELECT data FROM detections WHERE id = ?", (id_,))
        return [json.loads(data) for (data,) in found]

    def account_detections(self, memory_seconds: float, until: float | None = None) -> list[tuple[dict[str, Any], bool]]:
        """What policy has to remember after a restart: detections about accounts, in the order in which they were
        stored.

        Those of the last ``memory_seconds`` of event time, each with whether policy has already handled it. Event time
        ends at ``until`` (seconds since the epoch): what a wrong clock has dated later is there too, and makes nothing old.
        """
        latest = -1 if until is None else int(until * 1e6)
        rows = self.query(
            "SELECT data, handled FROM detections WHERE account IS NOT NULL AND time > COALESCE("
            "(SELECT max(time) FROM detections WHERE account IS NOT NULL AND (? < 0 OR time <= ?)), 0) - ? ORDER BY seq",
            (latest, latest, int(memory_seconds * 1e6)),
        )
        return [(json.loads(data), bool(handled)) for data, handled in rows]

    def mark_handled(self, ids: Sequence[str]) -> None:
        """Policy has decided about these; call it in the transaction that journals the decision."""
        with self.transaction() as db:
            db.executemany("UPDATE detections SET handled = 1 WHERE id = ?", [(id_,) for id_ in ids])

    def prune(self, now: float) -> int:
        """Drops old detections, and the oldest of too many; never those of an open lock. Returns how many."""
        with self.transaction() as db:
            return db.execute(
                "DELETE FROM detections WHERE (added < ? OR seq <= (SELECT max(seq) FROM detections) - ?) "
                "AND id NOT IN ("
                " SELECT value FROM actions, json_each(actions.detections)"
                " WHERE action = 'lock' AND state IN ('pending', 'done') AND closed = 0)",
                (now - self.keep_days * _DAY_SECONDS, self.max_detections),
            ).rowcount


def _remedy(error: sqlite3.Error) -> str:
    name = str(getattr(error, "sqlite_errorname", ""))
    if name.startswith("SQLITE_FULL"):
        return "make room on that file system"
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return "sentinel must be able to write this directory and the files in it"
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return "another program keeps it locked"
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return "the file is damaged; move it away and sentinel starts anew"
    return "check the disk"
