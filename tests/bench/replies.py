"""What the classification of remote replies costs: replay with and without it, on a log of which 40 % are deferrals, and single hostile replies.

All runs are whole replays in processes of their own, pinned to one core, in turn; the medians are printed with their ratio. Nothing is
asserted, and the exit code is 0.
"""

import argparse
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STAMP = "Nov 22 %02d:%02d:%02d mx1 postfix"
OUR_IP = "192.0.2.1"
HOSTILE = 2_000


# What stood in the log of a real server while it was being blocked, in hundredths; and the same for a server whose refusals all bear an
# identifier of the message.
BLOCKED = {"yahoo": 55, "suspended": 30, "gmail": 9, "microsoft": 2, "greylisted": 4}
UNIQUE = {"gmail": 50, "microsoft": 30, "greylisted": 20}


def deferral(source: random.Random, kind: str) -> str:
    """A provider's words as they come by the thousand, with what differs from one to the next."""
    yahoo = f"mta{source.randrange(5, 8)}.am0.yahoodns.net[198.51.100.{source.randrange(1, 20)}]"
    if kind == "yahoo":
        return (
            f"host {yahoo} said: 421 4.7.0 [TSS04] Messages from {OUR_IP} temporarily deferred due to unexpected volume or user complaints - "
            "4.16.55.1; see https://postmaster.yahooinc.com/error-codes (in reply to MAIL FROM command)"
        )
    if kind == "suspended":
        return (
            f"delivery temporarily suspended: host {yahoo} refused to talk to me: 421 4.7.1 [TS03] All messages from {OUR_IP} will be "
            "permanently deferred; Retrying will NOT succeed. See https://postmaster.yahooinc.com/error-codes"
        )
    if kind == "gmail":
        tag = "".join(source.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=14))
        return (
            f"host gmail-smtp-in.l.google.com[198.51.100.{source.randrange(20, 40)}] said: 421-4.7.28 [{OUR_IP}      15] Our system has "
            "detected an unusual rate of 421-4.7.28 unsolicited mail originating from your IP address. To protect our 421-4.7.28 users from "
            "spam, mail sent from your IP address has been temporarily 421 4.7.28 rate limited. "
            f"{tag}.{source.randrange(1000)} - gsmtp (in reply to end of DATA command)"
        )
    if kind == "microsoft":
        return (
            f"host hotmail-com.olc.protection.outlook.com[198.51.100.{source.randrange(40, 60)}] said: 451 4.7.650 The mail server [{OUR_IP}] "
            "has been temporarily rate limited due to IP reputation. For e-mail delivery information, see https://postmaster.live.com (S775) "
            f"[DM6NAM{source.randrange(10, 13)}FT{source.randrange(100):03d}.eop-nam11.prod.protection.outlook.com "
            f"2026-11-22T02:00:{source.randrange(60):02d}.{source.randrange(1000):03d}Z {source.getrandbits(64):016X}] (in reply to MAIL FROM command)"
        )
    number = source.randrange(3000)
    return (
        f"host mx.d{number}.example[198.51.100.{number % 200}] said: 450 4.2.0 <user{number}@d{number}.example>: Recipient address rejected: "
        f"Greylisted, see http://postgrey.example/help/d{number}.example.html (in reply to RCPT TO command)"
    )


def write_log(path: Path, lines: int, kinds: dict[str, int]) -> None:
    """Messages of logins, most of them of one account that is abused; of the lines 40 % are deferrals."""
    source = random.Random(4)
    names, weights = list(kinds), list(kinds.values())
    out: list[str] = []
    message = 0
    while len(out) < lines:
        second = len(out) // 200
        head = STAMP % (second // 3600 % 24, second // 60 % 60, second % 60)
        name = f"{message:010X}"
        account = f"user{message % 400}@example.com" if message % 10 == 0 else "info@example.com"
        out.append(f"{head}/smtpd[11]: {name}: client=unknown[203.0.113.{message % 250}], sasl_method=PLAIN, sasl_username={account}")
        out.append(f"{head}/cleanup[12]: {name}: message-id=<{message}@example.com>")
        out.append(f"{head}/qmgr[13]: {name}: from=<{account}>, size=2345, nrcpt=8 (queue active)")
        for n in range(6):
            out.append(
                f"{head}/smtp[14]: {name}: to=<u{n}@x{message % 900}.example>, relay=none, delay=2.1, delays=0.1/0/1/1, dsn=4.7.0, status=deferred "
                f"({deferral(source, source.choices(names, weights)[0])})"
            )
        for n in range(2):
            out.append(
                f"{head}/smtp[14]: {name}: to=<v{n}@y{message % 900}.example>, relay=mx.y{message % 900}.example[198.51.100.7]:25, delay=2.1, "
                "delays=0.1/0/1/1, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as 4F2A1)"
            )
        out.append(f"{head}/smtpd[11]: connect from unknown[203.0.113.{message % 250}]")
        out.append(
            f"{head}/smtpd[11]: disconnect from unknown[203.0.113.{message % 250}] ehlo=1 auth=1 mail=1 rcpt=8 data=1 quit=1 commands=13"
        )
        out.append(f"{head}/smtpd[15]: connect from mx.z{message % 700}.example[198.51.100.{message % 250}]")
        out.append(f"{head}/smtpd[15]: disconnect from mx.z{message % 700}.example[198.51.100.{message % 250}] ehlo=1 quit=1 commands=2")
        message += 1
    path.write_text("\n".join(out) + "\n", encoding="utf-8")


HOW = {
    "with": "with classification",
    "unread": "with every refusal taken for rate_limited unread, so that the rules have the same to do",
    "without": "with no refusal known for one",
}


def replay(path: str, how: str) -> None:
    """One run: prints the seconds of getting ready and of reading, lines, and detections."""
    from sentinel.detect.engine import Engine
    from sentinel.detect.replies import CLASS_NAMES
    from sentinel.replaying import Merge, detections

    began = time.perf_counter()
    engine = Engine(year=2026)
    if how == "with":
        # All patterns are compiled when a reply that none matches has been seen.
        engine.replies.classify("550 x")
    else:
        engine._core.windows.use_replies(None, CLASS_NAMES.index("rate_limited") if how == "unread" else 0)
    ready = time.perf_counter()
    merge = Merge(engine, [path])
    found = sum(1 for _ in detections(merge))
    print(ready - began, time.perf_counter() - ready, merge.lines, found)


def one(path: Path, how: str) -> tuple[float, float]:
    command = ["taskset", "-c", "1", sys.executable, __file__, "--one", how, str(path)]
    ready, seconds, _, _ = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.split()
    return float(ready), float(seconds)


def hostile() -> None:
    """Replies of 2,000 bytes made of the rules' own words, each another; and the classics of slow regular expressions."""
    from sentinel.detect.replies import load_replies

    classifier = load_replies()
    words = sorted({word for rule in classifier.rules for p in (*rule.patterns, *rule.unless) for word in re.findall(r"[a-z]{2,}", p)})
    source = random.Random(5)
    soups = [("550 " + " ".join(source.choices(words, k=500)))[:2000] for _ in range(HOSTILE)]
    classics = [
        f"550 {unit * (1996 // len(unit))}"
        for unit in (
            *(
                "a",
                "a ",
                "(",
                "<",
                "<a",
                '<"',
                "550-",
                "1.2.3.4 ",
                "a::",
                "blocked using ",
                "blocked by the list ",
                "listed in our list ",
                "your ip is ",
            ),
            *("http://", "http://x)", "a.a.", "~.", "a-", "-a.", ".1234567.b "),
        )
    ]
    for name, replies in (("words of the rules, shuffled", soups), ("one thing, again and again", classics)):
        times = []
        for reply in replies:
            began = time.perf_counter()
            classifier.classify(reply)
            times.append((time.perf_counter() - began) * 1e3)
        rest = sorted(times[1:])
        print(
            f"a reply of 2,000 bytes ({name}): median {statistics.median(rest):.2f} ms, 99 % below {rest[int(len(rest) * 0.99)]:.2f} ms, "
            f"longest {rest[-1]:.2f} ms; the very first, with which patterns are compiled, {times[0]:.1f} ms"
        )


def compare(name: str, path: Path, runs: int) -> None:
    text = path.read_text()
    lines = text.count("\n")
    times: dict[str, list[tuple[float, float]]] = {how: [] for how in HOW}
    for _ in range(runs):
        for how, each in times.items():
            each.append(one(path, how))
    ready = {how: statistics.median(first for first, _ in each) for how, each in times.items()}
    speeds = {how: lines / statistics.median(second for _, second in each) for how, each in times.items()}
    print(f"{text.count('status=deferred') / lines:.0%} of {lines:,} lines are deferrals, {name}:")
    for how, words in HOW.items():
        ratio = "" if how == "with" else f"; with classification it is {speeds['with'] / speeds[how]:.1%} of that"
        print(f"  {speeds[how]:>10,.0f} lines a second {words}{ratio}")
    print(f"  once, before the first line: {(ready['with'] - ready['without']) * 1e3:.0f} ms to read what is known of replies")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=2_000_000)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--one", choices=HOW, help=argparse.SUPPRESS)
    parser.add_argument("file", nargs="?", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        replay(arguments.file, arguments.one)
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, kinds in (("as in a blocked server's log", BLOCKED), ("each with an identifier of its own", UNIQUE)):
            path = Path(folder) / "mail.log"
            write_log(path, arguments.lines, kinds)
            compare(name, path, arguments.runs)
    hostile()


if __name__ == "__main__":
    main()
