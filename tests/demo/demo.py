"""Half a minute with the real daemon: a log that grows, an account that is cracked, and what becomes of it.

In a folder of its own this makes an SQLite database with a small mailbox table and an empty log, and starts
`sentinel run --enforce` on both. Then it writes the log as a Postfix server would. Every login in it is decided by that
table, as Dovecot or courier-authlib would ask it, so a locked account is refused from then on. What is shown comes from
the daemon's HTTP endpoints, from the table and from `sentinel locks`. Ends with 1 when anything is not as it should be.
"""

import argparse
import http.client
import io
import itertools
import json
import random
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

CULPRIT = "info@example.com"
PEOPLE = {
    "anna@example.com": "198.51.100.20",
    "bert@example.com": "198.51.100.21",
    "carla@example.com": "198.51.100.22",
    "office@example.com": "198.51.100.23",
    CULPRIT: "198.51.100.24",
}
THIEF = "203.0.113.66"
RECIPIENTS = 50
"""Of each of the thief's messages."""
GUESSES = 12
READY_SECONDS = 20.0
LOCK_SECONDS = 15.0
STOP_SECONDS = 15.0
POLL_SECONDS = 0.05

YAHOO = (
    "host mta5.am0.yahoodns.net[192.0.2.50] refused to talk to me: 421 4.7.1 [TS03] All messages from 198.51.100.1 will be permanently "
    "deferred; Retrying will NOT succeed. See http://postmaster.yahoo.com/421-ts03.html"
)
ATT = (
    "host al-ip4-mx-vip1.prodigy.net[192.0.2.60] refused to talk to me: 550-198.51.100.1 blocked by ldap:ou=rblmx,dc=att,dc=net "
    "550 Error - Blocked for abuse. See http://att.net/blocks"
)

MARGINS = {"log": "dim", "sentinel": "bold yellow", "mailbox": "bold cyan", "metrics": "green", "$": "bold"}
_MOST_LINES = 4
"""Of the terminal, that one line of log may take."""

Row = tuple[str, str, int]


class Failure(Exception):
    """One sentence that says what did not happen as it should."""


class Screen:
    """Lines with a margin that says where they come from. No colour, and nothing cut off, where there is no terminal."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, emoji=False)

    def title(self, text: str) -> None:
        self._console.print()
        self._console.print(Text(f"== {text}", style="bold"), soft_wrap=True)

    def say(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style=style), soft_wrap=True)

    def line(self, margin: str, text: str, style: str | None = None) -> None:
        pieces = [text]
        if self._console.is_terminal:
            room = max(20, self._console.width - 12)
            pieces = textwrap.wrap(text, room, max_lines=_MOST_LINES, placeholder=" ...", break_on_hyphens=False)
        for piece in pieces:
            self._console.print(Text(f"{margin:>8} | {piece}", style=MARGINS[margin] if style is None else style), soft_wrap=True)
            margin, style = "", MARGINS[margin] if style is None else style


class Mailboxes:
    """The table that logins are checked against."""

    def __init__(self, path: Path) -> None:
        self.url = f"sqlite:///{path}"
        self._path = path
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("CREATE TABLE mailbox (username TEXT PRIMARY KEY, name TEXT, active INTEGER)")
            names = ((account, account.partition("@")[0].title(), 1) for account in PEOPLE)
            db.executemany("INSERT INTO mailbox VALUES (?, ?, ?)", names)

    def rows(self) -> list[Row]:
        with closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, timeout=10)) as db:
            return db.execute("SELECT username, name, active FROM mailbox ORDER BY username").fetchall()

    def admits(self, account: str) -> bool:
        return (account, 1) in ((username, active) for username, _, active in self.rows())


class Postfix:
    """Writes the log of a mail server, stamped with the present second in local time."""

    def __init__(self, log: Path, mailboxes: Mailboxes, screen: Screen) -> None:
        self._log = log
        self._mailboxes = mailboxes
        self._screen = screen
        self._numbers = itertools.count(0x2404A1, 7)
        self._random = random.Random(4)
        log.touch()

    def login(self, account: str, ip: str, *, password_is_right: bool = True) -> str | None:
        """The queue ID of the message that follows, None where the login is refused."""
        if not (password_is_right and self._mailboxes.admits(account)):
            why = f"warning: unknown[{ip}]: SASL LOGIN authentication failed: authentication failure, sasl_username={account}"
            self._write("submission/smtpd", why, shown=True)
            return None
        queue_id = f"{self._random.randrange(1 << 20):05X}{next(self._numbers):X}"
        self._write("submission/smtpd", f"{queue_id}: client=unknown[{ip}], sasl_method=LOGIN, sasl_username={account}", shown=True)
        self._write("cleanup", f"{queue_id}: message-id=<{queue_id}@example.com>")
        return queue_id

    def accept(self, queue_id: str, sender: str, recipients: int) -> None:
        size = self._random.randrange(900, 9000)
        self._write("qmgr", f"{queue_id}: from=<{sender}>, size={size}, nrcpt={recipients} (queue active)", shown=True)

    def deliver(self, queue_id: str, recipient: str) -> None:
        relay = "relay=mx.example.org[192.0.2.10]:25, delay=0.6, delays=0.1/0/0.2/0.3, dsn=2.0.0"
        self._write("smtp", f"{queue_id}: to=<{recipient}>, {relay}, status=sent (250 2.0.0 Ok: queued as 1C2F9)")
        self._write("qmgr", f"{queue_id}: removed")

    def refused(self, queue_id: str, recipient: str, why: str) -> None:
        self._write(
            "smtp",
            f"{queue_id}: to=<{recipient}>, relay=none, delay=1.1, delays=0.2/0/0.9/0, dsn=4.0.0, status=deferred ({why})",
            shown=True,
        )

    def _write(self, service: str, text: str, *, shown: bool = False) -> None:
        line = f"{time.strftime('%b %e %H:%M:%S')} mx postfix/{service}[{4000 + len(service)}]: {text}"
        with self._log.open("ab", buffering=0) as file:
            file.write(line.encode() + b"\n")
        if shown:
            self._screen.line("log", line)


class Daemon:
    """`sentinel run` as a process."""

    mode = ("--enforce",)

    def __init__(self, folder: Path, log: Path, mailboxes: Mailboxes) -> None:
        self.state = folder / "state"
        self.log = log
        self.database = ["--database", mailboxes.url, "--preset", "generic"]
        self._messages = folder / "daemon.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    def start(self) -> None:
        options = ["--log", str(self.log), "--state", str(self.state), *self.database, *self.mode, "--listen", "127.0.0.1:0"]
        with self._messages.open("wb") as messages:
            command = [sys.executable, "-m", "sentinel", "run", *options]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=messages, stderr=messages)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._port}/"

    def ready(self) -> bool:
        found = re.search(r"status at http://127\.0\.0\.1:([0-9]+)/", self.messages())
        self._port = int(found[1]) if found else 0
        return self._port > 0 and self.get("/readyz")[0] == 200

    def check(self) -> None:
        assert self._process is not None
        code = self._process.poll()
        if code is not None:
            raise Failure(f"the daemon ended by itself with exit code {code}")

    def get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except (OSError, http.client.HTTPException) as error:
            self.check()
            raise Failure(f"the daemon does not answer at {self.address} ({error})") from error
        finally:
            connection.close()

    def command(self, *arguments: str) -> str:
        """A command of `sentinel locks`; what it prints."""
        command = [sys.executable, "-m", "sentinel", "locks", *arguments, "--state", str(self.state)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        if done.returncode != 0:
            raise Failure(f"sentinel locks {arguments[0]} ended with exit code {done.returncode}: {done.stderr.strip()}")
        return done.stdout.strip()

    def messages(self) -> str:
        return self._messages.read_text("utf-8", "replace") if self._messages.exists() else ""

    def stop(self) -> int | None:
        """Its exit code; None when it had to be killed."""
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return None


class Demo:
    """The story, and what is checked while it goes on."""

    def __init__(self, folder: Path, screen: Screen, pace: float) -> None:
        self.screen = screen
        self.pace = pace
        self.mailboxes = Mailboxes(folder / "mail.sqlite")
        self.postfix = Postfix(folder / "mail.log", self.mailboxes, screen)
        self.daemon = Daemon(folder, folder / "mail.log", self.mailboxes)
        self.before = self.mailboxes.rows()
        self.found: dict[str, dict[str, Any]] = {}
        self.locked_at = 0.0
        self.spam_began = 0.0
        self.spam_recipients = 0
        self.messages = itertools.count()

    def run(self) -> None:
        self.start()
        self.ordinary_traffic()
        self.attack()
        self.afterwards()
        self.numbers()
        self.undo()
        if self.daemon.stop() != 0:
            raise Failure("the daemon did not end in order after SIGTERM")

    def start(self) -> None:
        self.screen.title("A mailbox table, an empty mail log, and the daemon on both")
        self.show_rows(self.before)
        self.daemon.start()
        self.screen.line("$", "sentinel run --log mail.log --database sqlite:///mail.sqlite --preset generic --enforce")
        deadline = time.monotonic() + READY_SECONDS
        while not self.daemon.ready():
            self.daemon.check()
            if time.monotonic() > deadline:
                raise Failure(f"the daemon was not ready within {READY_SECONDS:g} s")
            time.sleep(POLL_SECONDS)
        self.screen.line("sentinel", f"ready, status page at {self.daemon.address}", "")

    def ordinary_traffic(self) -> None:
        self.screen.title("Ordinary traffic")
        for account in (*PEOPLE, "anna@example.com", "office@example.com", "bert@example.com"):
            self.write_mail(account)
            self.watch(0.9)
        if self.found:
            raise Failure(f"ordinary traffic gave a detection: {', '.join(one['rule'] for one in self.found.values())}")

    def attack(self) -> None:
        self.screen.title(f"Somebody guesses the password of {CULPRIT} ...")
        for _ in range(GUESSES - 1):
            self.postfix.login(CULPRIT, THIEF, password_is_right=False)
            self.watch(0.25)
        self.screen.title("... and sends spam under names that are not theirs; the first providers refuse this server's mail")
        self.spam_began = time.monotonic()
        accepted = []
        for number in range(12):
            queue_id = self.postfix.login(CULPRIT, THIEF)
            if queue_id is not None:
                self.postfix.accept(queue_id, f"linda{number}.lottery@example.net", RECIPIENTS)
                self.spam_recipients += RECIPIENTS
                accepted.append(queue_id)
            if number == 1:
                self.postfix.refused(accepted[0], "someone@example.org", YAHOO)
            if number == 2:
                self.postfix.refused(accepted[0], "someone.else@example.org", ATT)
            self.watch(1)
            if self.locked_at:
                break
        deadline = time.monotonic() + LOCK_SECONDS
        while not self.locked_at:
            if time.monotonic() > deadline:
                raise Failure(f"{CULPRIT} was not locked within {LOCK_SECONDS:g} s after {self.spam_recipients} recipients")
            self.watch(POLL_SECONDS)

    def afterwards(self) -> None:
        self.screen.title("The table now: the next login is refused, the others go on")
        self.show_rows(self.mailboxes.rows())
        for account in ("carla@example.com", "bert@example.com", "anna@example.com"):
            if self.postfix.login(CULPRIT, THIEF) is not None:
                raise Failure(f"{CULPRIT} could still log in after it was locked")
            self.watch(0.6)
            self.write_mail(account)
            self.watch(0.6)
        seconds = self.locked_at - self.spam_began
        self.screen.say(
            f"Locked {seconds:.1f} s after the first spam, with {self.spam_recipients} recipients; untouched: {self.others()}.", "bold"
        )
        fired = {(one["rule"], one["subject"].get("provider", "")) for one in self.found.values()}
        for wanted in (("outbound-burst-account", ""), ("sender-login-mismatch", ""), ("remote-block", "yahoo"), ("remote-block", "att")):
            if wanted not in fired:
                raise Failure(f"the rule {' for '.join(filter(None, wanted))} did not fire")

    def numbers(self) -> None:
        self.screen.title(f"The metrics that matter, from {self.daemon.address}metrics")
        deadline = time.monotonic() + LOCK_SECONDS
        while "sentinel_locked_accounts 1.0" not in (exposition := self.daemon.get("/metrics")[1]).splitlines():
            if time.monotonic() > deadline:
                raise Failure("the metric sentinel_locked_accounts did not become 1")
            self.watch(POLL_SECONDS)
        names = "account_score|detections_total|actions_total|locked_accounts|remote_replies_total"
        for line in exposition.splitlines():
            if re.match(f"sentinel_(?:{names})[ {{]", line) and not line.endswith(" 0.0"):
                self.screen.line("metrics", line)
        self.watch(2.5)

    def undo(self) -> None:
        self.screen.title("The journal, and one command to undo it: the row is again exactly as it was")
        self.screen.line("$", "sentinel locks list")
        listed = self.daemon.command("list")
        self.screen.say(listed)
        # Indented below a lock is what followed it.
        if CULPRIT not in listed or sum(not line.startswith(" ") for line in listed.splitlines()) != 1:
            raise Failure(f"the journal should have one lock, of {CULPRIT}")
        self.watch(2.5)
        why = "password changed, owner called"
        self.screen.line("$", f"sentinel locks unlock {CULPRIT} --why '{why}'")
        self.screen.say(self.daemon.command("unlock", CULPRIT, "--why", why, *self.daemon.database))
        rows = self.mailboxes.rows()
        self.show_rows(rows)
        if rows != self.before:
            raise Failure("the mailbox table is not as it was before the lock")
        if self.postfix.login(CULPRIT, PEOPLE[CULPRIT]) is None:
            raise Failure(f"{CULPRIT} could not log in after the unlock")
        self.watch(1)
        if self.mailboxes.rows() != self.before:
            raise Failure(f"{CULPRIT} was locked again although nothing new had happened")

    # one step each

    def write_mail(self, account: str) -> None:
        queue_id = self.postfix.login(account, PEOPLE[account])
        if queue_id is None:
            raise Failure(f"{account} could not log in, although it has done nothing")
        self.postfix.accept(queue_id, account, 1)
        self.postfix.deliver(queue_id, f"friend{next(self.messages)}@example.org")

    def watch(self, seconds: float) -> None:
        """Lets time pass, and shows what the daemon finds and does meanwhile."""
        deadline = time.monotonic() + seconds * self.pace
        while True:
            self.daemon.check()
            self.look()
            left = deadline - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, POLL_SECONDS))

    def look(self) -> None:
        status, body = self.daemon.get("/api/detections?limit=1000")
        if status != 200:
            raise Failure(f"/api/detections answered {status}: {body.strip()}")
        for detection in json.loads(body):
            if detection["id"] not in self.found:
                self.found[detection["id"]] = detection
                self.screen.line("sentinel", self.summary(detection))
        changed = [now for then, now in zip(self.before, self.mailboxes.rows(), strict=True) if then != now]
        wrong = [account for account, _, _ in changed if account != CULPRIT]
        if wrong:
            raise Failure(f"the wrong account was locked: {', '.join(wrong)}")
        if changed and not self.locked_at:
            self.locked_at = time.monotonic()
            self.show_rows(changed)

    def summary(self, detection: dict[str, Any]) -> str:
        who = ", ".join(detection["subject"].values())
        how = f"{detection['measure']} = {detection['value']:g} within {detection['window']:g} s"
        return f"{detection['severity'].upper()} {detection['rule']}, {detection['score']:g} points: {who}: {how}"

    def show_rows(self, rows: Sequence[Row]) -> None:
        for account, name, active in rows:
            self.screen.line(
                "mailbox", f"{account:<20} {name:<8} active={active}{'' if active else '   <-- locked'}", None if not active else "cyan"
            )

    def others(self) -> str:
        return ", ".join(account for account in PEOPLE if account != CULPRIT)


def next_steps(screen: Screen) -> None:
    installed = Path(sys.executable).with_name("sentinel")
    command = "sentinel"
    if installed.is_file():
        command = str(installed.relative_to(Path.cwd())) if installed.is_relative_to(Path.cwd()) else str(installed)
    screen.title("What to type next")
    for does, arguments in (
        ("what is in your own log", "replay /var/log/mail.log"),
        ("watch it, tell, and touch nothing", "run --log /var/log/mail.log --state /var/lib/sentinel"),
        ("and lock accounts too", "run --log /var/log/mail.log --database mysql://sentinel@localhost/mail --preset extmail --enforce"),
    ):
        screen.say(f"  {does}:")
        screen.say(f"    {command} {arguments}", "bold")


def perform(pace: float) -> int:
    """The whole demo; its exit code. ``pace`` stretches the pauses."""
    screen = Screen()
    with tempfile.TemporaryDirectory(prefix="sentinel-demo-") as name:
        demo = Demo(Path(name).resolve(), screen, pace)
        try:
            demo.run()
        except Failure as failure:
            sys.stdout.flush()
            sys.stderr.write(f"demo: {failure}\n")
            last = demo.daemon.messages().splitlines()[-15:]
            sys.stderr.write("".join(f"daemon: {line}\n" for line in last or ["(it wrote nothing)"]))
            return 1
        except KeyboardInterrupt:
            return 130
        finally:
            demo.daemon.stop()
    next_steps(screen)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="The real daemon on a log that grows before your eyes. Takes half a minute and cleans up.")
    parser.add_argument("--fast", action="store_true", help="half the pauses")
    options = parser.parse_args()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    return perform(0.5 if options.fast else 1.0)


if __name__ == "__main__":
    sys.exit(main())
