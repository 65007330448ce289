"""Log lines of other projects' test suites against our table, each corpus by a small map from its words to our kinds and fields.

The corpora are read where they lie (``shared/corpora``); nothing of them is copied here. A line is named by its file and number. What its
``expected`` says is translated into a kind and fields of ours; where a corpus says nothing of kinds (generated test data, excerpts, lists of
counters), the kind stands here, read from the line by the reference. ``KNOWN`` names the differences that are not the scanner's, with whose
they are; they are listed too, but not counted against it.

Run as a script it prints the table: ``python tests/golden/corpora.py [FOLDER]``.
"""

import json
import re
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[n]) for n in (1, 2)]

from helpers import rows

YEAR = 2026
THEIRS, NOT_POSTFIX, CUT = "theirs", "not Postfix", "excerpt cut"


class Expected(NamedTuple):
    kind: str | None
    """None: no row at all."""
    fields: dict[str, Any]
    """Our fields. A name with ``~`` is the end of our field; ``client_ip?`` is one of several."""
    line: bytes
    """The line as it is parsed: with a header where the corpus has none."""


class Difference(NamedTuple):
    where: str
    source: str
    what: str
    fault: str
    """``ours``, or the first word of KNOWN."""
    why: str


class Result(NamedTuple):
    corpus: str
    lines: int
    judged: int
    """Lines without those whose difference is known not to be the scanner's."""
    right: int
    fields: int
    equal: int
    differences: list[Difference]


def micro(stamp: str) -> int | None:
    try:
        if stamp[:1].isdigit():
            at = datetime.fromisoformat(stamp)
        else:
            at = datetime.strptime(f"{YEAR} {' '.join(stamp.split())}", "%Y %b %d %H:%M:%S")
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return round(at.timestamp() * 1_000_000)


def relay(text: str) -> dict[str, Any]:
    found = re.fullmatch(r"([^\[]*)\[([^\]]*)\](?::(\d+))?", text)
    if found is None:
        return {} if text == "none" else {"relay_host": text}
    port = {"relay_port": int(found[3])} if found[3] else {}
    return {"relay_host": found[1], "relay_ip": found[2], **port}


# msimerson/postfix-parser: a type and fields in Postfix's own words.

_MSIMERSON_NUMBERS = {"uid": "uid", "size": "size", "nrcpt": "nrcpt", "pid": "pid"}


def msimerson(record: dict[str, Any], number: int) -> Expected:
    said, fields = record["expected"], record["expected"]["fields"]
    line = record["line"]
    program = record["program"]
    if program not in (None, "syslog", "empty") and not record["has_header"] and not line.startswith("Jul "):
        line = f"Jul  5 06:52:11 mx {program}[1]: {line}"
    raw = line.encode()
    if fields is None:
        # Their parser refuses these: empty, cut off, or another program's.
        return Expected(None if not line else "unparsed" if said["type"] == "spamd" else "other", {}, raw)
    out: dict[str, Any] = {ours: int(fields[theirs]) for theirs, ours in _MSIMERSON_NUMBERS.items() if theirs in fields}
    for theirs, ours in {
        "qid": "queue_id",
        "from": "sender",
        "to": "recipient",
        "orig_to": "orig_to",
        "dsn": "dsn",
        "host": "host",
    }.items():
        if theirs in fields:
            out[ours] = fields[theirs]
    if "message-id" in fields:
        out["message_id"] = f"<{fields['message-id']}>"
    if "delay" in fields:
        out["delay"] = float(fields["delay"])
    if "date" in fields:
        out["time"] = micro(fields["date"])
    if "prog" in fields:
        out["syslog_name"], _, out["service"] = fields["prog"].rpartition("/")
    for theirs in ("sasl_method", "sasl_username"):
        if theirs in fields:
            out[theirs] = fields[theirs]
    if "relay" in fields:
        out.update(relay(fields["relay"]))
    if "client" in fields:
        name, ip = fields["client"].rstrip("]").split("[")
        out.update(client_name=name, client_ip=ip)
    message = fields.get("msg", "")
    if "status" in fields:
        out["status"] = re.split(r"[ ,]", fields["status"])[0]
        if "(" in fields["status"]:
            out["reply"] = fields["status"].split("(", 1)[1].removesuffix(")")
        return Expected("delivery", out, raw)
    if "mx" in fields:
        return Expected("connect_failed", {**out, **relay(fields["mx"]), "reply": fields["err"]}, raw)
    if fields.get("action") in ("defer", "reject"):
        if "host" in fields and "[" in fields["host"]:
            del out["host"]
            out.update(relay(fields["host"]))
        return Expected("connect_failed", {**out, "reply~": message}, raw)
    if message.startswith(("lost connection with ", "SSL_connect error")):
        return Expected("connect_failed", out, raw)
    if message.startswith(("warning: ", "fatal: ")):
        action, _, reply = message.partition(": ")
        return Expected("warning", {**out, "action": action, "reply": reply}, raw)
    if said["type"] in ("postfix/pickup", "postfix/error") and "uid" not in fields:
        return Expected("warning", {**out, "reply~": message}, raw)
    if "dsnQid" in fields:
        return Expected("bounce_notice", {**out, "linked_queue_id": fields["dsnQid"]}, raw)
    if message == "released from hold":
        return Expected("other", {**out, "action": message}, raw)
    kind = (
        "removed"
        if message == "removed"
        else "queued"
        if "size" in fields
        else "picked_up"
        if "uid" in fields
        else "message_id"
        if "message-id" in fields or ": message-id=" in message
        else "accepted"
        if "client" in fields or ": client=" in message
        else "connect"
        if message.startswith("connect from")
        else "disconnect"
        if message.startswith("disconnect from")
        else "other"
    )
    return Expected(kind, out, raw)


# CrowdSec's hub: what its parsers and scenarios made of a line.

_OTHER_PROGRAMS = ("mailcow-", "mailscanner-", "mailu-", "nginx-")
_SCENARIOS = (
    # path, lines (None: all), kind
    ("dovecot-spam", {1, 2, 9, 10, 11, 12}, "other"),
    ("dovecot-", None, "auth_failed"),
    ("exim-bf", {6}, "rejected"),
    ("exim-bf", None, "auth_failed"),
    ("exim-spam", {3, 4, 6}, "warning"),
    ("exim-spam", None, "rejected"),
    ("postfix-spam", {5, 6}, "rejected"),
    ("postfix-helo", None, "rejected"),
    ("postfix-relay", None, "rejected"),
    ("postfix-non-smtp", None, "warning"),
    ("postfix-", None, "auth_failed"),
)


def crowdsec(record: dict[str, Any], number: int) -> Expected:
    line = record["line"].encode()
    said = record["expected"]
    path, _, at = record["source"].split("/.tests/")[-1].split(":.tests/")[-1].partition("#L")
    if path.startswith(_OTHER_PROGRAMS):
        return Expected("unparsed", {}, line)
    if said is None:
        return Expected("other", {}, line)
    if "scenario" in said:
        kind = next(kind for start, lines, kind in _SCENARIOS if path.startswith(start) and (lines is None or int(at) in lines))
        return Expected(kind, {"client_ip?": said["overflow_ips"]} if said["overflow_ips"] else {}, line)
    parsed, meta = said["Parsed"], said["Meta"]
    out: dict[str, Any] = {}
    if "pid" in parsed:
        out["pid"] = int(parsed["pid"])
    if "timestamp8601" in parsed:
        out["time"] = micro(parsed["timestamp8601"])
    if parsed.get("program", "").startswith("postfix/"):
        out["syslog_name"], _, out["service"] = parsed["program"].rpartition("/")
    names = {
        "source_ip": "client_ip",
        "remote_addr": "client_ip",
        "dovecot_remote_ip": "client_ip",
        "remote_host": "client_name",
        "source_dns": "client_name",
        "source_helo": "helo",
        "helo": "helo",
        "source_user": "sender",
        "dovecot_user": "sasl_username",
        "action": "action",
        "smtp_enhanced_status_code": "dsn",
    }
    out.update({ours: parsed[theirs] for theirs, ours in names.items() if theirs in parsed})
    for theirs, ours in {"source_port": "client_port", "port": "client_port", "smtp_basic_status_code": "reply_code"}.items():
        if theirs in parsed:
            out[ours] = int(parsed[theirs])
    kind = "other"
    log_type = meta.get("log_type", "")
    if path.startswith("dovecot"):
        # The login process tells the same failure, with the same address: what auth and its workers say is no event of ours.
        text = parsed["dovecot_login_message"]
        if parsed["message"].startswith("auth"):
            kind = "other"
        elif meta.get("dovecot_login_result") == "auth_failed":
            kind = "auth_failed"
        elif text.endswith(("Login", "Logged in")):
            kind = "auth_success"
    elif path.startswith("exim"):
        failed = log_type == "exim_failed_auth"
        if "target_user" in parsed:
            out["sasl_username" if failed else "recipient"] = parsed["target_user"]
        kind = "auth_failed" if failed else "rejected" if "target_user" in parsed or "rate_limit" in parsed else "warning"
    elif meta.get("log_type_enh") == "spam-attempt":
        kind, out["reply"] = "auth_failed", parsed["message_failure"].strip()
    elif meta.get("log_type_enh") == "non-smtp-command":
        kind, out["reply~"] = "warning", parsed["command"]
    elif "action" in parsed:
        kind, out["stage"], out["reply~"] = "rejected", parsed["command"], parsed["reason"]
    return Expected(kind, out, line)


# logwatch: bodies under headers that its generator made up. Kinds by the line of its script, read by the reference.

_LOGWATCH = (
    (1870, "warning"),
    (2200, "other"),
    (2334, "unparsed"),
    (2726, "connect"),
    (2740, "disconnect"),
    (2765, "connect_failed"),
    (2865, "other"),
    (3142, "rejected"),
    (3243, "accepted"),
    (3263, "queued"),
    (3411, "delivery"),
    (3425, "picked_up"),
    (3431, "delivery"),
    (3453, "connect_failed"),
    (3463, "other"),
    (3476, "connect_failed"),
    (3521, "other"),
    (3542, "rejected"),
    (3556, "other"),
    (3558, "rejected"),
    (3613, "other"),
    (3621, "rejected"),
    (3660, "other"),
    (3661, "connect_failed"),
    (3839, "other"),
    (4051, "bounce_notice"),
    (4072, "message_id"),
    (4085, "delivery"),
    (4124, "other"),
    (4201, "rejected"),
    (4208, "other"),
    (4304, "rejected"),
    (4461, "other"),
    (4512, "warning"),
    (4514, "other"),
    (4653, "warning"),
    (4659, "auth_failed"),
    (4759, "warning"),
)
"""Up to this line of the script: the kind."""


def logwatch(record: dict[str, Any], number: int) -> Expected:
    at = int(record["source"].partition("#L")[2])
    kind = next(kind for last, kind in _LOGWATCH if at <= last)
    fields = {} if kind == "unparsed" else {"service": record["expected"]["service"]}
    return Expected(kind, fields, record["line"].encode())


# Two Prometheus exporters: counters after a case of several lines; the kinds by number of the line.

_HSN723 = (
    *((32, "removed"), (34, "delivery"), (36, "warning"), (37, "auth_failed"), (39, "accepted"), (41, "other"), (42, "delivery")),
    *((43, "connect_failed"), (45, "delivery"), (46, "bounce_notice"), (47, "delivery"), (48, "connect"), (51, "rejected")),
    *((56, "other"), (57, "rejected"), (62, "other"), (65, "warning"), (67, "delivery")),
)
_KUMINA = (
    *((32, "removed"), (34, "delivery"), (36, "warning"), (37, "auth_failed"), (39, "accepted"), (41, "other"), (42, "delivery")),
    *((43, "connect_failed"), (45, "delivery"), (46, "bounce_notice"), (47, "delivery"), (48, "other"), (51, "warning")),
)
_COUNTERS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "removedCount": lambda row: row["kind"] == "removed",
    "saslFailedCount": lambda row: row["kind"] == "auth_failed",
    "expiredCount": lambda row: row.get("status") in ("expired", "force-expired"),
    "smtpdMessagesProcessed": lambda row: row["kind"] == "accepted",
    "smtpMessagesProcessed": lambda row: row["kind"] == "delivery" and row["service"] == "smtp",
    "smtpDeferred": lambda row: row.get("status") == "deferred",
    "smtpBounced": lambda row: row.get("status") == "bounced",
    "bounceNonDelivery": lambda row: row["kind"] == "bounce_notice" and "non-delivery" in row["action"],
    "virtualDelivered": lambda row: row["kind"] == "delivery" and row["service"] == "virtual",
    "postscreenConnects": lambda row: row["kind"] == "connect" and row["service"] == "postscreen",
    "postscreenConnectsRejected": lambda row: row["kind"] == "rejected" and row.get("stage") == "CONNECT",
    "postscreenRejects": lambda row: row["kind"] == "rejected" and row.get("stage") == "RCPT",
}
"""Their counters that our table can answer."""


def exporter(kinds: tuple[tuple[int, str], ...]) -> Callable[[dict[str, Any], int], Expected]:
    def one(record: dict[str, Any], number: int) -> Expected:
        return Expected(next(kind for last, kind in kinds if number <= last), {}, record["line"].encode())

    return one


def counters(records: list[dict[str, Any]], found: list[list[dict[str, Any]]]) -> Iterator[tuple[int, str, int, int]]:
    """(number of the case's first line, counter, expected, observed)"""
    cases: dict[str, list[int]] = {}
    for i, record in enumerate(records):
        cases.setdefault(record["expected"]["case"], []).append(i)
    for case, lines in cases.items():
        for counter, expected in records[lines[0]]["expected"]["case_counters"].items():
            if counter in _COUNTERS and case != "User-defined service labels":
                yield lines[0] + 1, counter, expected, sum(_COUNTERS[counter](row) for i in lines for row in found[i])


# Postfix's documentation: excerpts, wrapped by the text or with words where values stand. Nothing is said of fields.

_DOCS_WHOLE = {"warning": {20, 21, 22, 24, 25}, "other": {*range(2, 15)}}


def docs(record: dict[str, Any], number: int) -> Expected:
    line = record["line"] if record["has_header"] else f"Oct  2 10:51:19 mx {record['line']}"
    kind = next((kind for kind, lines in _DOCS_WHOLE.items() if number in lines), "")
    return Expected(kind, {}, line.encode())


CORPORA: dict[str, Callable[[dict[str, Any], int], Expected]] = {
    "crowdsec_hub_mail": crowdsec,
    "hsn723_postfix_exporter": exporter(_HSN723),
    "kumina_postfix_exporter": exporter(_KUMINA),
    "logwatch_postfix_TD": logwatch,
    "msimerson_postfix-parser": msimerson,
    "postfix_docs_examples": docs,
}

_SPAN = tuple[int, int]
KNOWN: dict[str, tuple[tuple[_SPAN, str, str, str], ...]] = {
    # corpus: ((first line, last line), "kind" or a field or "*", whose, why)
    "crowdsec_hub_mail": (
        ((58, 58), "kind", THEIRS, "calls a refused recipient a failed login"),
        ((78, 78), "kind", THEIRS, "calls a refused recipient a failed login"),
        ((150, 151), "helo", THEIRS, "takes the refused argument for the HELO"),
        ((153, 153), "time", THEIRS, "loses the year"),
    ),
    "logwatch_postfix_TD": (
        ((143, 143), "kind", NOT_POSTFIX, "client= without a queue ID or NOQUEUE"),
        ((154, 154), "kind", NOT_POSTFIX, "a comma is missing behind conn_use"),
        ((176, 176), "kind", NOT_POSTFIX, "a comma is missing behind conn_use"),
        ((208, 211), "kind", NOT_POSTFIX, "reject: without a queue ID or NOQUEUE"),
        ((222, 223), "kind", NOT_POSTFIX, "reject: without a queue ID or NOQUEUE"),
        ((238, 239), "kind", CUT, "words stand for the text in parentheses"),
    ),
    "msimerson_postfix-parser": (
        ((4, 4), "kind", NOT_POSTFIX, "an address without its brackets"),
        ((6, 6), "kind", NOT_POSTFIX, "an address without its brackets"),
        ((12, 12), "kind", NOT_POSTFIX, "the queue ID is taken off"),
        ((33, 33), "kind", NOT_POSTFIX, "the queue ID is taken off"),
        ((37, 37), "kind", NOT_POSTFIX, "the queue ID is taken off"),
        ((40, 40), "kind", NOT_POSTFIX, "the queue ID is taken off"),
        ((42, 42), "status", THEIRS, "a word of their own for sent (forwarded as)"),
        ((43, 43), "kind", NOT_POSTFIX, "the queue ID is taken off"),
        ((46, 46), "kind", NOT_POSTFIX, "the queue ID is taken off"),
        ((47, 47), "queue_id", THEIRS, "takes a queue ID out of the middle of an error's text"),
        ((47, 47), "reply", THEIRS, "takes a queue ID out of the middle of an error's text"),
        ((50, 50), "kind", NOT_POSTFIX, "the queue ID is taken off"),
    ),
    "postfix_docs_examples": (
        ((1, 1), "kind", CUT, "the excerpt ends after the action"),
        ((15, 17), "kind", CUT, "the excerpt ends after the queue ID"),
        ((18, 19), "kind", CUT, "process-id stands for a number"),
        ((23, 23), "kind", CUT, "pid stands for a number"),
        ((26, 27), "kind", CUT, "pid or the rest of the line is left out"),
        ((28, 34), "kind", CUT, "pid stands for a number"),
    ),
}


def known(corpus: str, number: int, what: str) -> tuple[str, str]:
    for (first, last), name, fault, why in KNOWN.get(corpus, ()):
        if first <= number <= last and name in ("*", what):
            return fault, why
    return "ours", ""


def unequal(row: dict[str, Any], name: str, value: Any) -> str:
    """How a field differs, in words without the line's text; empty if it is equal."""
    observed = row.get(name.rstrip("~?"))
    if name.endswith("~"):
        same = str(observed or "").endswith(value)
    elif name.endswith("?"):
        same = observed in value
    else:
        same = observed == value
    return "" if same else f"{name.rstrip('~?')} is {'absent' if observed is None else 'another'}"


def measure(path: Path) -> Result:
    corpus = path.stem
    translate = CORPORA[corpus]
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    out: list[Difference] = []
    judged = right = fields = equal = 0
    found: list[list[dict[str, Any]]] = []
    for number, record in enumerate(records, 1):
        expected = translate(record, number)
        here = rows(expected.line) if expected.line else []
        found.append(here)
        row = here[0] if here else {}
        where = f"{path.name}:{number}"
        if row.get("kind") == expected.kind:
            judged += 1
            right += 1
        else:
            fault, why = known(corpus, number, "kind")
            judged += fault == "ours"
            what = f"kind {row.get('kind', 'no row')}, not {expected.kind or 'a line of the log'}"
            out.append(Difference(where, record["source"], what, fault, why))
            if fault != "ours":
                continue
        for name, value in expected.fields.items():
            what = unequal(row, name, value)
            fault, why = known(corpus, number, name.rstrip("~?")) if what else ("ours", "")
            if what:
                out.append(Difference(where, record["source"], what, fault, why))
            fields += not what or fault == "ours"
            equal += not what
    if "exporter" in corpus:
        for number, counter, wanted, observed in counters(records, found):
            fields += 1
            equal += wanted == observed
            if wanted != observed:
                out.append(
                    Difference(f"{path.name}:{number}", records[number - 1]["source"], f"{counter} {observed}, not {wanted}", "ours", "")
                )
    return Result(corpus, len(records), judged, right, fields, equal, out)


def percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 100.0


def table(results: list[Result]) -> str:
    total = Result("all", *(sum(getattr(one, name) for one in results) for name in ("lines", "judged", "right", "fields", "equal")), [])
    out = [f"{'corpus':<28}{'lines':>7}{'judged':>8}{'right kind':>12}{'fields':>8}{'equal':>9}"]
    out += [
        f"{one.corpus:<28}{one.lines:>7}{one.judged:>8}{percent(one.right, one.judged):>11.2f}%{one.fields:>8}{percent(one.equal, one.fields):>8.2f}%"
        for one in (*results, total)
    ]
    differences = [each for one in results for each in one.differences]
    out.append(f"{len(differences)} differences, {sum(each.fault == 'ours' for each in differences)} of them ours")
    out += [f"  {each.fault}: {each.where} ({each.source}): {each.what}{'; ' + each.why if each.why else ''}" for each in differences]
    return "\n".join(out)


def all_of(folder: Path) -> list[Result]:
    return [measure(path) for path in sorted(folder.glob("*.jsonl")) if path.stem in CORPORA]


def main() -> int:
    from conftest import shared_folder

    shared = shared_folder()
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else shared / "corpora" if shared else None
    if folder is None or not folder.is_dir():
        print("no corpora: give their folder, or set SENTINEL_SHARED", file=sys.stderr)
        return 2
    print(table(all_of(folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
