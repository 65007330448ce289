"""Oracle of the scan: Postfix's lines by regular expressions. In a stamp a leading zero may be a blank.

One expression a form, written from Postfix's own templates. Atomic groups and possessive quantifiers (``*+``) say "as far as the
first place where this can end, and no second thoughts", which is what keeps one field from being read out of another. The package
``regex``, because ``re`` of Python before 3.11.5 gets groups inside possessive quantifiers wrong.
"""

import base64
from datetime import UTC, datetime, timedelta

import regex as re

from sentinel.maillog.fields import DIALECTS, SERVICES

_MONTHS = b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CLOCK = rb"(?P<hour>[ \d]\d):(?P<minute>[ \d]\d):(?P<second>[ \d]\d)"
_CLASSIC = rb"(?P<month>" + b"|".join(_MONTHS) + rb") (?P<day>[ \d]\d|\d) " + _CLOCK + rb" "
_ISO = (
    rb"(?P<year>\d{4})-(?P<imonth>[ \d]\d)-(?P<iday>[ \d]\d)(?:T|(?P<blank> ))"
    + _CLOCK.replace(b"<", b"<i")
    + rb"(?:[.,](?P<fraction>\d*))?(?P<zone>Z|(?(blank) ?+|)[+-][ \d]\d:?[ \d]\d|) "
)
_STAMP = re.compile(rb"(?P<pri><\d{1,3}>(?P<version>1 )?)?(?:" + _CLASSIC + rb"|" + _ISO + rb")", re.DOTALL)
_FACILITY = (
    rb"(?:kern|user|mail|daemon|auth|syslog|lpr|news|uucp|cron|authpriv|security|console|ftp|ntp|local[0-7]|1?[0-9]|2[0-3])"
    rb"\.(?:emerg|panic|alert|crit|err|error|warning|warn|notice|info|debug|[0-7])"
)
# What stands between the stamp and the host: CRI's two words, a second stamp, FreeBSD's facility.
_BETWEEN = re.compile(
    rb"(?:std(?:out|err) F )?+(?:(?:"
    + b"|".join(_MONTHS)
    + rb") (?:\d\d |(?: \d|\d) (?=.{9}.)|(?: \d) )[ \d]\d:[ \d]\d:[ \d]\d |\d{4}-[ \d]\d-[ \d]\d[T ][ \d]\d:[ \d]\d:[ \d]\d[\d.,+:Z-]*+ )?+"
    rb"(?:<" + _FACILITY + rb"> |(?!<))",
    re.DOTALL,
)
_LEVEL = re.compile(rb"(?:DEBUG|INFO|NOTICE|WARN|WARNING|ERR|ERROR|CRIT|CRITICAL|ALERT|EMERG|FATAL|PANIC) +(?=(?P<word>[^ ]+) )")
_TAGGED = re.compile(rb"(?:" + _FACILITY + rb" )?+(?P<tag>[^ \[:]+)(?:\[(?P<pid>\d{0,18})\])?:? ", re.DOTALL)
_LAST = rb"last message repeated (?P<times>\d+) times?"
_LAST_MESSAGE = re.compile(rb"--- " + _LAST + rb" ---|(?:syslogd(?:\[\d*\])?: )?" + _LAST.replace(b"times>", b"times2>"), re.DOTALL)
_FOLDED = re.compile(rb"message repeated (?P<times>\d+) times?: \[ (?P<text>.*?)\]?", re.DOTALL)
_REACH = 8192
_HEADER_5424 = re.compile(
    rb"(?P<host>[^ =]+) (?P<tag>[^ \[:]+) (?P<pid>\d{0,18})[^ ]*+ [^ ]*+ "
    rb'(?:-|(?:\[(?:[^\]"]|"(?:[^"\\]|\\.)*+")*+\])++) ++',
    re.DOTALL,
)
_QUEUE_ID = re.compile(rb"([0-9A-F]{6,24}|(?=.{10}[0-9A-Za-z]*z)[0-9B-DF-HJ-NP-TV-Zb-df-hj-np-tv-z]{12,24}): ", re.DOTALL)

_PORT = rb"(?::(?P<%s>\d{1,6}+))?+"
_HOST = rb"(?P<%s>[^ \[]*+)\[(?:(?P<%s>[0-9a-fA-F:.%%]++)(?=\])|[^\]]*+)\]"
_CLIENT = _HOST % (b"client_name", b"client_ip") + _PORT % b"client_port" + rb"(?:(?<=\]):unknown)?+"
_RELAY = re.compile(_HOST % (b"relay_host", b"relay_ip") + _PORT % b"relay_port", re.DOTALL)
_PEER = _HOST % (b"peer_host", b"peer_ip") + rb"(?::\d{1,6}+)?+"
_CODE = rb"(?:(?P<reply_code>\d{3}) )?+(?:(?P<dsn>\d{1,3}\.\d{1,3}\.\d{1,3}) )?+"
_ACTIONS = b"reject|reject_warning|warn|info|hold|delay|discard|filter|redirect|bcc|permit|hangup|milter-reject|milter-hold|milter-discard"


def _until(name: bytes, *stops: bytes) -> bytes:
    """A field up to the first of its stops, or to the end."""
    return rb"(?P<%s>(?:(?!%s).)*+)" % (name, b"|".join(re.escape(stop) for stop in stops))


def _address(name: bytes, *stops: bytes) -> bytes:
    """The same for what stands in angle brackets: a quoted local part may hold anything."""
    return rb'(?P<%s>(?:"(?:[^"\\]|\\.)*+")?+(?:(?!%s).)*+)' % (name, b"|".join(re.escape(stop) for stop in stops))


_WORD = rb"(?P<%s>(?:(?!%s)[^ ])*+)"
_AFTER_LOGIN = (b", sasl_sender=", b", orig_queue_id=", b", orig_client=")
_IP = rb"(?P<client_ip>[0-9a-fA-F:.%]+)"
_BROKEN_OFF = (
    rb"(?P<action>lost connection|timeout|too many errors|hangup) after (?P<stage>[^ ]*+)(?: \((?:(?! bytes\)).)*+ bytes\))?+ from "
    + _CLIENT
)
_CHECKS = b"reject|warning|hold|discard|filter|redirect|replace|prepend|bcc|info|strip|pass|delay"
_FORMS = [
    ("smtpd", False, "connect", rb"connect from " + _CLIENT),
    ("smtpd", False, "disconnect", rb"disconnect from " + _CLIENT + rb"(?: .*)?"),
    (
        "smtpd",
        False,
        "auth_failed",
        rb"warning: " + _CLIENT + rb": SASL " + _WORD % (b"sasl_method", b" ") + rb" authentication failed"
        rb"(?::(?: " + _until(b"reply", b", sasl_username=") + rb")?+)?+(?:, sasl_username=(?P<sasl_username>.*))?+",
    ),
    ("smtpd", False, "warning", rb"warning: " + _CLIENT + rb": SASL " + _WORD % (b"sasl_method", b" ") + rb" authentication aborted"),
    (
        "smtpd",
        False,
        "warning",
        rb"warning: (?:Connection concurrency|Connection rate|Message delivery request rate|Recipient address rate|New TLS session rate|"
        rb"AUTH command rate) limit exceeded: .* from(?= )(?!.* from ) " + _CLIENT + rb" for service .*",
    ),
    ("smtpd", False, "warning", rb"warning: non-SMTP command from " + _CLIENT + rb": .*"),
    ("smtpd", False, "warning", rb"warning: Illegal address syntax from " + _CLIENT + rb" in (?P<stage>[^ ]*) command: .*"),
    ("smtpd", False, "warning", rb"warning: hostname [^ ]* does not resolve to address " + _IP + rb"(?:: .*)?"),
    ("smtpd", False, "warning", rb"warning: (?:smtpd_peer_init: )?+" + _IP + rb": address not listed for hostname .*"),
    ("smtpd", False, "warning", rb"warning: (?:smtpd_peer_init: )?+" + _IP + rb": hostname [^ ]* verification failed: .*"),
    ("smtpd", False, "warning", rb"warning: " + _CLIENT + rb": .*"),
    ("smtpd", False, "other", _BROKEN_OFF),
    ("smtpd", True, "other", _BROKEN_OFF),
    ("smtpd", False, "other", rb"(?P<action>bare <LF> received) after (?P<stage>[^ ]*) from " + _CLIENT),
    ("smtpd", False, "other", rb"(?P<action>improper command pipelining) after (?P<stage>[^ ]*) from " + _CLIENT + rb"(?:: .*)?"),
    (
        "smtpd",
        False,
        "other",
        rb"(?:(?:Anonymous|Untrusted|Trusted|Verified) )?+TLS connection established from " + _CLIENT + rb"(?: to (?:(?!: )[^ ])*+)?+: .*",
    ),
    ("smtpd", False, "other", rb"SSL_accept error from " + _CLIENT + rb": (?P<reply>.*)"),
    (
        "smtpd qmqpd",
        True,
        "accepted",
        rb"client=" + _CLIENT + rb"(?:, sasl_method=" + _WORD % (b"sasl_method", b", ") + rb")?+"
        rb"(?:, sasl_username=" + _until(b"sasl_username", *_AFTER_LOGIN) + rb")?+"
        rb"(?:, sasl_sender=.*+)?+"
        rb"(?:, orig_queue_id=" + _until(b"linked_queue_id", *_AFTER_LOGIN[2:]) + rb")?+(?:, orig_client=.*)?+",
    ),
    (
        "cleanup",
        True,
        "rejected",
        rb"(?P<action>(?:milter-(?:header|body)-)?+(?:" + _CHECKS + rb")): (?P<stage>header|body|content) (?P<checked>.*)",
    ),
    # Before smtpd's: its tail has commas, and smtpd's would take all of it for one address where the daemon's name is lost.
    (
        "postscreen",
        True,
        "rejected",
        rb"(?P<action>reject): (?P<stage>[^ ]+) from "
        + _CLIENT
        + rb": "
        + _CODE
        + _until(b"reply", b"; from=<")
        + rb"; from=<"
        + _address(b"sender", b">, to=<")
        + rb">, to=<"
        + _address(b"recipient", b">, proto=")
        + rb">, proto="
        + _until(b"_1", b", helo=<")
        + rb", helo=<"
        + _address(b"helo", b">")
        + rb">",
    ),
    (
        "postscreen",
        True,
        "rejected",
        rb"(?P<action>reject): (?P<stage>CONNECT) from "
        + _CLIENT
        + rb": (?P<reply>too many connections|all server ports busy|all screening ports busy)",
    ),
    (
        "smtpd cleanup",
        True,
        "rejected",
        rb"(?P<action>" + _ACTIONS + rb"): (?P<stage>[^ ]+) from " + _CLIENT + rb": " + _CODE + rb"(?P<tailed>.*)",
    ),
    (
        "postscreen",
        True,
        "rejected",
        rb"(?P<action>reject): (?P<stage>[^ ]+) from " + _CLIENT + rb": " + _CODE + _until(b"reply", b"; from=") + rb"; from=.*",
    ),
    ("smtpd", True, "rejected", rb"(?P<action>proxy-reject): " + _WORD % (b"stage", b": ") + rb": " + _CODE + rb"(?P<tailed>.*)"),
    ("smtpd", True, "other", rb"(?P<action>proxy-accept): " + _WORD % (b"stage", b": ") + rb": " + _CODE + rb"(?P<tailed>.*)"),
    ("smtpd", True, "rejected", rb"(?P<action>abort): (?P<stage>[^ ]*) from " + _CLIENT + rb": (?P<reply>.*)"),
    ("cleanup", True, "removed", rb"removed \((?P<action>canceled|discarded)\)"),
    ("cleanup", True, "message_id", rb"message-id=(?P<message_id>.*)"),
    ("cleanup", True, "other", rb"resent-message-id=.*"),
    (
        "pickup",
        True,
        "picked_up",
        rb"uid=(?P<uid>\d{1,18}) from=<(?P<sender>.*)>(?: orig_id=(?P<linked_queue_id>[^>]*))?",
    ),
    (
        "qmgr oqmgr nqmgr",
        True,
        "queued",
        rb"from=<(?P<sender>.*)>, size=(?P<size>\d{1,18}), nrcpt=(?P<nrcpt>\d{1,18}) \(queue active\)",
    ),
    (
        "qmgr oqmgr nqmgr",
        True,
        "delivery",
        rb"from=<(?P<sender>.*)>, status=" + _until(b"status", b", returned to sender", b">, status=") + rb", returned to sender",
    ),
    ("qmgr oqmgr nqmgr postsuper", True, "removed", rb"removed"),
    (
        "smtp lmtp local virtual pipe error discard retry cleanup qmgr oqmgr nqmgr",
        True,
        "delivery",
        rb"to=<"
        + _address(b"recipient", b">, orig_to=<", b">, relay=")
        + rb">(?:, orig_to=<"
        + _address(b"orig_to", b">, relay=")
        + rb">)?+"
        rb", relay=" + _until(b"relay", b", conn_use=", b", delay=") + rb"(?:, conn_use=" + _until(b"_1", b", delay=") + rb")?+"
        rb", delay=(?P<delay>\d{1,18}+(?:\.\d{0,15}+)?+)(?:, delays=" + _until(b"_2", b", tls=", b", dsn=", b", status=") + rb")?+"
        rb"(?:, tls=" + _until(b"_3", b", dsn=", b", status=") + rb")?+(?:, dsn=" + _until(b"dsn", b", status=") + rb")?+"
        rb", status=" + _until(b"status", b" (") + rb" \((?P<reply>.*)",
    ),
    ("smtp lmtp", False, "connect_failed", rb"connect to " + _until(b"relay", b": ") + rb": (?P<reply>.*)"),
    ("smtp lmtp", True, "connect_failed", rb"connect to " + _until(b"relay", b": ") + rb": (?P<reply>.*)"),
    ("smtp lmtp", True, "connect_failed", rb"host " + _until(b"relay", b" said: ") + rb" said: (?P<reply>.*)"),
    (
        "smtp lmtp",
        True,
        "connect_failed",
        rb"host " + _until(b"relay", b" refused to talk to me: ") + rb" refused to talk to me: (?P<reply>.*)",
    ),
    (
        "smtp lmtp",
        True,
        "connect_failed",
        rb"SASL (?:\[CACHED\] )?authentication failed; server " + _until(b"relay", b" said: ") + rb" said: (?P<reply>.*)",
    ),
    (
        "smtp lmtp",
        True,
        "connect_failed",
        rb"SASL authentication failed; cannot authenticate to server " + _until(b"relay", b": ") + rb": (?P<reply>.*)",
    ),
    (
        "smtp lmtp",
        True,
        "connect_failed",
        rb"(?P<action>lost connection|conversation) with (?P<relay>[^ ]*+) (?P<reply>.*)",
    ),
    (
        "smtp lmtp",
        True,
        "connect_failed",
        rb"(?P<reply>(?:TLS|SMTPUTF8) is required), but was not offered by host (?P<relay>.*)",
    ),
    (
        "smtp lmtp",
        True,
        "other",
        rb"(?P<action>passing) <" + _address(b"recipient", b"> to transport=") + rb"> to transport=.*",
    ),
    ("smtp lmtp", True, "other", rb"(?P<action>enabling PIX workarounds): " + _until(b"_1", b" for ") + rb" for (?P<relay>.*)"),
    (
        "smtp lmtp",
        True,
        "other",
        rb"(?P<action>enabling PIX) " + _until(b"_1", b" workaround for ") + rb" workaround for (?P<relay>.*)",
    ),
    (
        "smtp lmtp tlsproxy",
        False,
        "other",
        rb"(?:(?:Untrusted|Trusted|Verified|Anonymous) )?TLS connection (?P<action>established|reused) to "
        + _until(b"relay", b": ")
        + rb": (?P<reply>.*)",
    ),
    (
        "smtp lmtp tlsproxy",
        False,
        "other",
        rb"(?P<action>certificate verification failed) for " + _until(b"relay", b": ") + rb": (?P<reply>.*)",
    ),
    (
        "smtp lmtp tlsproxy",
        False,
        "connect_failed",
        rb"(?P<action>SSL_connect error) to " + _until(b"relay", b": ") + rb": (?P<reply>.*)",
    ),
    (
        "bounce defer trace",
        True,
        "bounce_notice",
        rb"(?P<action>(?:sender|postmaster) (?:non-delivery|delay|delivery status)) notification: (?P<linked_queue_id>.*)",
    ),
    ("postsuper", True, "other", rb"(?P<action>requeued|placed on hold|released from hold|expired)"),
    ("postsuper", False, "other", rb"(?P<action>Deleted|Requeued|Placed on hold|Released from hold|Force-expired): .*"),
    ("qmgr oqmgr nqmgr", True, "other", rb"(?P<action>skipped), still being delivered"),
    ("postscreen", False, "connect", rb"CONNECT from " + _CLIENT + rb"(?: to .*)?"),
    ("postscreen", False, "disconnect", rb"DISCONNECT " + _CLIENT),
    ("postscreen", False, "other", rb"(?P<action>PASS (?:OLD|NEW)|(?:ALLOW|WHITE|DENY|BLACK)LISTED|(?:ALLOW|WHITE)LIST VETO) " + _CLIENT),
    (
        "postscreen",
        False,
        "other",
        rb"(?P<action>PREGREET) "
        + _until(b"_1", b" after ")
        + rb" after "
        + _until(b"_2", b" from ")
        + rb" from "
        + _CLIENT
        + rb": (?P<reply>.*)",
    ),
    ("postscreen", False, "other", rb"(?P<action>DNSBL rank) " + _until(b"_1", b" for ") + rb" for " + _CLIENT),
    (
        "postscreen",
        False,
        "other",
        rb"(?P<action>HANGUP) after " + _until(b"_1", b" from ") + rb" from " + _CLIENT + rb" in tests (?:before|after) SMTP handshake",
    ),
    (
        "postscreen",
        False,
        "other",
        rb"(?P<action>COMMAND (?:TIME|COUNT|LENGTH) LIMIT|BARE NEWLINE|NON-SMTP COMMAND|COMMAND PIPELINING) from "
        + _CLIENT
        + rb"(?: after "
        + _WORD % (b"stage", b": ")
        + rb")?+(?:: (?P<reply>.*))?+",
    ),
    ("postscreen", False, "other", rb"(?P<stage>DATA|BDAT) without valid RCPT from " + _CLIENT),
    ("dnsblog", False, "other", rb"addr " + _until(b"client_ip", b" listed by domain ") + rb" listed by domain (?P<reply>.*)"),
    ("tlsproxy", False, "other", rb"(?P<action>CONNECT) from " + _CLIENT),
    ("tlsproxy", False, "other", rb"(?P<action>DISCONNECT) " + _CLIENT),
    (
        "tlsproxy",
        False,
        "other",
        rb"(?P<action>TLS handshake failed) for service=" + _until(b"_1", b" peer=") + rb" peer=" + _CLIENT,
    ),
]
FORMS = [(services.split(), queued, kind, re.compile(pattern, re.DOTALL)) for services, queued, kind, pattern in _FORMS]

# Dovecot. A line of more than 960 bytes may have been cut by syslog.
_DOVECOT_HEAD = rb"(?:imap|pop3|submission|managesieve)-login: (?:Info: )?+"
_DOVECOT_TAIL = (
    rb": user=<(?P<sasl_username>.*)>(?:, method=(?P<sasl_method>[^ ]+))?, rip=(?P<client_ip>[0-9A-Fa-f:.%]+)(?:,(?!.*, rip=).*)?"
)
_DOVECOT_LOGIN = re.compile(_DOVECOT_HEAD + rb"(?:Login|Logged in)" + _DOVECOT_TAIL, re.DOTALL)
_DOVECOT_END = re.compile(_DOVECOT_HEAD + _until(b"reply", b": user=<") + _DOVECOT_TAIL, re.DOTALL)
_DOVECOT_AUTH = re.compile(
    rb"(?:auth|auth-worker\([^)]*+\)): (?:Info: )?+"
    rb"(?:conn unix:auth-worker \((?:(?!\): auth-worker<).)*+\): auth-worker<\d*+>: )?+[a-z0-9-]++\((?P<rest>.*)",
    re.DOTALL,
)
_DOVECOT_ERROR = re.compile(rb"(?:auth|auth-worker\((?:(?!\): Error: )[^ ])*+\)): Error: (?P<rest>.*)", re.DOTALL)
_DOVECOT_BACKEND = re.compile(
    rb"(?:(?:mysql|pgsql|cassandra)\((?:(?!\): )[^ ])*+\)|LDAP|auth[ -]worker): (?P<reply>.*)",
    re.DOTALL,
)
_DOVECOT_LOGIN_FAULT = re.compile(rb"\(auth service reported temporary failure|\(auth process communication failure|: Auth process broken")
_DOVECOT_AUTH_FAULT = re.compile(
    rb"Aborted |Can't connect to server|Connect failed to database|Connection lost to LDAP server|Not connected to database|"
    rb"Password query failed: "
)
_DOVECOT_ADDRESS = re.compile(rb",([0-9A-Fa-f:.%]+)(?=\): |,<)")

# The end of an access message. An item's bracket closes where a blank or the end follows.
_MAILBOX = rb'(?P<%s>(?:"(?:[^"\\]|\\.)*+(?="))?+(?:[^>]|>(?! |\Z))*+)>'
_TAIL = re.compile(
    rb"(?P<items>(?: from=<" + _MAILBOX % b"sender" + rb")?+(?: to=<" + _MAILBOX % b"recipient" + rb")?+(?: proto=[^ ]*+)?+"
    rb"(?: helo=<(?P<helo>(?:[^> <]|>(?! |\Z))*+)>)?+(?: sasl_username=<(?P<bracketed>(?:[^>]|>(?! |\Z))*+)>)?+)"
    rb"(?P<login>(?: sasl_method=(?=.)(?P<sasl_method>[^ >]*+))?+(?: sasl_username=(?=[^<])(?P<sasl_username>(?:(?! sasl_sender=)[^>])*+))?+"
    rb"(?: sasl_sender=(?=.)[^>]*+)?+)",
    re.DOTALL,
)
# The same as Postfix has written it since 3.5: outside quotes nothing that would need them.
_EXTERNAL = rb'(?P<%s>(?:"(?:[^"\\]|\\.)*+")?+[^"<>();\\ ]*+)>(?= |\Z)'
_STRICT_TAIL = re.compile(
    _TAIL.pattern.replace(_MAILBOX % b"sender", _EXTERNAL % b"sender")
    .replace(_MAILBOX % b"recipient", _EXTERNAL % b"recipient")
    .replace(rb"(?P<helo>(?:[^> <]|>(?! |\Z))*+)>", rb'(?P<helo>[^"<>();\\ ]*+)>(?= |\Z)'),
    re.DOTALL,
)
_TAILS = 32
# The same in cleanup's checks, each address quoted as in a header, or not at all.
_QUOTED = rb'"(?:[^"\\]|\\.)*+"[^" <>]*+(?=>)'
_UNQUOTED = rb'(?:(?!>(?:\Z|: |%s))[^"])*+'
_CHECKED_FROM = re.compile(rb" from (?:local|(?!local;)" + _CLIENT + rb")(?=;(?: from=<| to=<| proto=| helo=<|: |\Z))", re.DOTALL)
_CHECKED_END = re.compile(
    rb"(?: from=<(?P<sender>"
    + _QUOTED
    + rb"|"
    + _UNQUOTED % b" to=<| proto=| helo=<"
    + rb")>)?+(?: to=<(?P<recipient>"
    + _QUOTED
    + rb"|"
    + _UNQUOTED % b" proto=| helo=<"
    + rb')>)?+(?: proto=[A-Za-z]*+)?+(?: helo=<(?P<helo>[^" <>]*+)>)?+'
    rb"(?:: " + _CODE + rb"(?P<reply>.*))?",
    re.DOTALL,
)
_CHECKED_STRICT = re.compile(
    rb'(?: from=<(?P<sender>(?:"(?:[^"\\]|\\.)*+")?+[^"<>();\\ ]*+)>)?+(?: to=<(?P<recipient>(?:"(?:[^"\\]|\\.)*+")?+[^"<>();\\ ]*+)>)?+'
    rb'(?: proto=[A-Za-z]*+)?+(?: helo=<(?P<helo>[^"<>();\\ ]*+)>)?+'
    rb"(?:: (?!.*(?: from=<| to=<| proto=| helo=<))" + _CODE + rb"(?P<reply>.*))?",
    re.DOTALL,
)
_FAULT = re.compile(
    rb"Connection lost to authentication server|(?:Temporary|Internal) authentication failure|generic failure|no memory available|"
    rb"remote authentication server unavailable|transient failure|SASL library not initialized"
)
_BASE64 = re.compile(rb"(?=.{8})(?:[A-Za-z0-9+/]{4})*+(?:[A-Za-z0-9+/]{2}(?:==|[A-Za-z0-9+/]=))?+", re.DOTALL)
_PROMPT = re.compile(rb"(?:[Pp]assword|[Uu]sername)(?:[\0-?]|\Z)|User Name|<[0-?]|realm=|nonce=|rspauth[0-?]", re.DOTALL)
_NOT_OWNED = re.compile(rb".*>: Sender address rejected: not owned by user (?P<login>[^>]+)", re.DOTALL)
_OLD_PORT = re.compile(rb"(?P<reply>.*) \(port (?P<relay_port>\d{1,5})\)", re.DOTALL)
_REPLY_CODE = re.compile(rb"([2-5]\d\d)(?=[ -]|\Z)")
_REMOTE = re.compile(
    rb"(?:delivery temporarily suspended: )?+(?:SASL (?:\[CACHED\] )?+authentication failed; server |host )"
    + _PEER
    + rb" (?:said|refused to talk to me): ",
    re.DOTALL,
)
_SEVERITY = re.compile(rb"(?P<action>warning|error|fatal|panic): (?P<reply>.*)", re.DOTALL)
_NUMBERS = ("pid", "client_port", "relay_port", "reply_code", "nrcpt", "size", "uid")


def read(data: bytes, year: int) -> list[dict]:
    """The rows of a log, in which a line may say that the one before it from the same host came again."""
    out: list[dict] = []
    before: list[tuple[int, bytes]] = []
    at = 0
    for line in data.split(b"\n"):
        row = parse(line, year)
        if row is not None:
            last = row.pop("_last", None)
            if last:
                mine = next((old for place, old in before[::-1] if place >= at - _REACH and _says(old, row.get("host"))), None)
                again = (parse(mine, year) or {}) if mine is not None else {}
                again.pop("_folded", None)
                if again.get("kind", "other") not in ("other", "unparsed"):
                    row = {**again, "time": row["time"], "repeat": last}
            row.pop("_folded", None)
            out.append({name: value for name, value in row.items() if name != "repeat" or value != 1})
        before.append((at, line.rstrip(b"\0").rpartition(b"\0")[2]))
        at += len(line) + 1
    return out


def _says(line: bytes, host: str | None) -> bool:
    """Whether a line with a header comes from a host and says something of its own."""
    line = line.removesuffix(b"\r")
    stamp = _STAMP.match(line)
    where = _where(line, stamp) if stamp else None
    if where is None:
        return False
    last = _LAST_MESSAGE.fullmatch(line, where[1])
    if last and int(last["times"] or last["times2"]):
        return False
    return host is None or (where[0] is not None and where[0].decode("utf-8", "replace") == host)


def _ours(tag: bytes) -> bool:
    if len(tag) > 128:
        return False
    name, _, daemon = tag.rpartition(b"/")
    if not name and (daemon == b"postmulti" or (tag[:1] == b"/" and daemon.startswith(b"postfix"))):
        return True
    ours = (bool(name) or daemon.startswith((b"post", b"dovecot"))) and daemon.decode("latin-1") in set(SERVICES[1:-1]) - set(DIALECTS[1:])
    return ours or daemon.startswith(b"postfix") or name.startswith(b"postfix")


def _where(line: bytes, stamp: re.Match) -> tuple[bytes | None, int] | None:
    """The host, if there is one, and where the tag begins."""
    if stamp["version"]:
        word = re.compile(rb"([^ =]+) ").match(line, stamp.end())
        return word and (None if word[1] == b"-" else word[1], word.end())
    between = _BETWEEN.match(line, stamp.end())
    word = between and re.compile(rb"([^ ]+) ").match(line, between.end())
    if not word:
        return None
    if word[1][-1:] in (b":", b"]") and _ours(re.split(rb"[\[:]", word[1])[0]):
        return None, word.start()
    if re.fullmatch(rb"[^\[].*\]:?|[^:\[][^:]*:|:", word[1], re.DOTALL):
        return None
    level = _LEVEL.match(line, word.start())
    if level and re.search(rb"[\[:]", level["word"]) and _ours(re.split(rb"[\[:]", level["word"])[0]):
        return None, level.end()
    if line.startswith(b"--- last message repeated ", word.start()):
        return None, word.start()
    return None if b"=" in word[1] else (word[1], word.end())


def parse(line: bytes, year: int) -> dict | None:
    """The row of a line (without its newline), times in UTC; None for an empty line. Of an unparsed line only the kind is said."""
    line = line.lstrip(b"\0")
    line = line.removesuffix(b"\r")
    if len(line) > 512:
        line = line.rstrip(b"\0").rpartition(b"\0")[2]
    if not line:
        return None
    out = _parse(line, year)
    rest = line.rstrip(b"\0").rpartition(b"\0")[2]
    if len(line) <= 512 and out["kind"] in ("unparsed", "other") and rest != line:
        out = _parse(rest, year)
    return out


def _parse(line: bytes, year: int) -> dict:
    unparsed = {"kind": "unparsed"}
    stamp = _STAMP.match(line)
    if len(line) > 65535 or not stamp:
        return unparsed
    time = _time(stamp, year)
    where = _where(line, stamp)
    if time is None or not where:
        return unparsed
    if stamp["version"]:
        header = _HEADER_5424.match(line, stamp.end())
    else:
        last = _LAST_MESSAGE.fullmatch(line, where[1])
        if last and (number := min(int(last["times"] or last["times2"]), 10**6)):
            host = {} if where[0] is None else {"host": where[0].decode("utf-8", "replace")}
            return {"time": time, "kind": "other", **host, "repeat": number, "_last": number}
        header = _TAGGED.match(line, where[1])
    if not header or not _ours(header["tag"]):
        return unparsed
    name, _, daemon = header["tag"].rpartition(b"/")
    mine = not name and (daemon == b"postmulti" or header["tag"][:1] == b"/")
    found: dict = {"host": where[0], "pid": header["pid"] or None, "syslog_name": None if mine else name or header["tag"]}
    text = line[header.end() :]
    if stamp["version"] and not text:
        return unparsed
    folded = text.startswith(b"message repeated ")
    if folded:
        inner = _FOLDED.fullmatch(text)
        number = min(int(inner["times"]), 10**6) if inner else 0
        text = inner["text"] if number else b""
    if daemon == b"dovecot":
        kind, service = _dovecot(text, found, len(line)), "dovecot"
    else:
        alone = not name and (mine or daemon.startswith(b"post")) and daemon.decode("latin-1") in SERVICES
        kind, service = _message(text, daemon.decode("utf-8", "replace") if name or alone else None, found, folded)
    out = {"time": time, "kind": kind}
    if folded and number:
        out["repeat"] = number
    if service is not None:
        out["service"] = service
    for key, value in found.items():
        if value is None or key.startswith("_"):
            continue
        if key == "delay":
            out[key] = float(value)
        else:
            out[key] = int(value) if key in _NUMBERS else value.decode("utf-8", "replace")
    return out


def _time(stamp: re.Match, year: int) -> int | None:
    micro = offset = 0
    prefix = ""
    if stamp["year"] is not None:
        prefix = "i"
        year, month, day = int(stamp["year"]), int(stamp["imonth"]), int(stamp["iday"])
        micro = int(((stamp["fraction"] or b"") + b"000000")[:6])
        if len(stamp["zone"]) > 1:
            zone = stamp["zone"].strip().replace(b":", b"")
            if int(zone[1:3]) > 23 or int(zone[3:5]) > 59:
                return None
            offset = int(zone[:1] + b"1") * (int(zone[1:3]) * 3600 + int(zone[3:5]) * 60)
    else:
        month, day = _MONTHS.index(stamp["month"]) + 1, int(stamp["day"])
    hour, minute, second = (int(stamp[prefix + name]) for name in ("hour", "minute", "second"))
    if hour > 23 or minute > 59 or second > 60:
        return None
    try:
        # A classic 29 February of a year that has none is the day after the 28th.
        lost = not prefix and (month, day) == (2, 29) and year % 4 != 0
        base = datetime(year, month, day - lost, tzinfo=UTC) + timedelta(days=lost)
    except ValueError:
        return None
    seconds = (base - _EPOCH) // timedelta(seconds=1) + hour * 3600 + minute * 60 + second - offset
    return seconds * 1_000_000 + micro


def _is_cut(text: bytes, folded: bool) -> bool:
    """Postfix cuts at 2,000 bytes behind the severity, rsyslog what it repeats at 800 with the blank before it."""
    return len(text.removeprefix(b"warning: ")) == 2000 or (folded and len(text) == 799)


def _message(text: bytes, service: str | None, found: dict, folded: bool) -> tuple[str, str | None]:
    """Fills in the fields; kind and service."""
    queued = text.startswith(b"NOQUEUE: ")
    body = text[9:] if queued else text
    queue_id = _QUEUE_ID.match(text)
    if queue_id:
        queued, body = True, text[queue_id.end() :]
        found["queue_id"] = queue_id[1]
    own = [form for form in FORMS if service is None or service in form[0]]
    known = service in set(SERVICES[1:-1]) - set(DIALECTS[1:])
    for services, of_queue, kind, pattern in own + [
        form for form in FORMS if known and form not in own and form[2] in ("queued", "delivery")
    ]:
        if of_queue != queued:
            continue
        match = pattern.fullmatch(body)
        if not match:
            continue
        fields = dict(match.groupdict())
        ends = {name for name in fields if match.end(name) == len(body)} - {"reply"}
        fields["client_name"] = fields.get("client_name") or None
        if "relay" in fields and not _relay(fields):
            continue
        whole = fields.get("tailed")
        if whole is not None:
            ends |= _tail(fields)
        if "checked" in fields:
            _checked(fields, _is_cut(text, folded))
        if kind == "rejected" and (service or services[0]) == "smtpd" and not fields["action"].startswith((b"milter-", b"proxy-")):
            if fields.get("sasl_username") is None and fields["reply"] == whole:
                ends.add("sasl_username")
            _owner(fields)
        if kind == "delivery" and "reply" in fields:
            _remote(fields)
        if kind == "auth_failed":
            _login(fields)
        if kind == "warning":
            _severity(text, fields)
        if kind == "connect_failed":
            reply = fields["reply"]
            code = _REPLY_CODE.match(reply, 30 if reply.startswith(b"server refused to talk to me: ") else 0)
            fields["reply_code"] = code[1] if code else None
            old = body.startswith(b"connect to ") and fields.get("relay_host") and not fields.get("relay_port")
            old_port = _OLD_PORT.fullmatch(reply) if old else None
            if old_port:
                fields.update(old_port.groupdict())
        if kind != "delivery" and not fields.get("reply"):
            fields["reply"] = None
        if _is_cut(text, folded):
            fields.update(dict.fromkeys(ends))
        found.update(fields)
        if service is None:
            service = _agent(fields) if kind == "delivery" and "reply" in fields else services[0]
        return kind, service
    return ("warning" if _severity(text, found) else "other"), service


def _dovecot(text: bytes, found: dict, length: int) -> str:
    queue_id = _QUEUE_ID.match(text)
    if queue_id:
        found["queue_id"] = queue_id[1]
    login, end = _DOVECOT_LOGIN.fullmatch(text), _DOVECOT_END.fullmatch(text)
    if (login or end) and length <= 960:
        fields = (login or end).groupdict()
        found.update({name: value or None for name, value in fields.items()})
        if login or b"(auth failed, " in fields["reply"]:
            return "auth_success" if login else "auth_failed"
        if not _DOVECOT_LOGIN_FAULT.search(fields["reply"]):
            return "other"
        found["action"] = b"server-fault"
        return "auth_failed"
    error = _DOVECOT_ERROR.fullmatch(text)
    if error:
        return _dovecot_error(error["rest"], found, length)
    asked = _DOVECOT_AUTH.fullmatch(text)
    places = list(_DOVECOT_ADDRESS.finditer(asked["rest"])) if asked else []
    if len(places) == 1:
        found["client_ip"] = places[0][1]
        found["sasl_username"] = asked["rest"][: places[0].start()] or None
    return "warning" if not asked and _severity(text, found) else "other"


def _dovecot_error(text: bytes, found: dict, length: int) -> str:
    """What an auth process could not look up, and for whom, if there is one place only to take that from."""
    asked, backend = _DOVECOT_AUTH.fullmatch(b"auth: " + text), _DOVECOT_BACKEND.fullmatch(text)
    places = list(_DOVECOT_ADDRESS.finditer(asked["rest"])) if asked and length <= 960 else []
    fields = {}
    if len(places) == 1:
        rest, place = asked["rest"], places[0]
        fields = {"sasl_username": rest[: place.start()] or None, "client_ip": place[1]}
        fields["reply"] = rest[place.end() :].partition(b"): ")[2]
    elif not places and backend:
        fields = {"reply": backend["reply"]}
    if not _DOVECOT_AUTH_FAULT.match(fields.get("reply", b"")):
        return "other"
    found.update(fields, action=b"server-fault")
    return "warning"


def _severity(text: bytes, fields: dict) -> bool:
    severity = _SEVERITY.fullmatch(text)
    if severity is None:
        return False
    queue_id = _QUEUE_ID.match(severity["reply"])
    fields.update(action=severity["action"], reply=severity["reply"] or None)
    if queue_id:
        fields["queue_id"] = queue_id[1]
    return True


def _login(fields: dict) -> None:
    """What a failed login says of the reason and of the name."""
    reason = fields["reply"] or b""
    if fields["sasl_username"] == b"(unavailable)":
        fields["sasl_username"] = None
    if _FAULT.match(reason):
        fields["action"] = b"server-fault"
    elif _BASE64.fullmatch(reason) and _PROMPT.match(base64.b64decode(reason)):
        fields["reply"] = None


def _checked(fields: dict, cut: bool) -> None:
    """The envelope of a checked header, if there is only one place where it can stand whole, or one place at all."""
    text = fields.pop("checked")
    places = [match for match in _CHECKED_FROM.finditer(text, overlapped=True) if match.end() - match.start() <= 406]
    whole = [(place, end) for place in places if (end := _CHECKED_STRICT.fullmatch(text, place.end() + 1))]
    if len(places) > _TAILS or (cut and len(places) > 1):
        return
    if len(whole) != 1:
        whole = [(place, end) for place in places if len(places) == 1 and (end := _CHECKED_END.fullmatch(text, place.end() + 1))]
    for place, end in whole:
        fields.update(place.groupdict())
        fields.update(end.groupdict())
        fields["client_name"] = fields["client_name"] or None


def _relay(fields: dict) -> bool:
    relay = fields.pop("relay")
    if b"[" in relay:
        match = _RELAY.fullmatch(relay)
        if not match:
            return False
        fields.update(match.groupdict())
        fields["relay_host"] = fields["relay_host"] or None
    elif relay != b"none":
        fields["relay_host"] = relay
    return True


def _agent(fields: dict) -> str:
    if fields.get("relay_ip"):
        return "smtp"
    host = fields.get("relay_host")
    if host is None:
        return "error"
    return host.decode() if host in (b"local", b"virtual") else "pipe"


def _tail(fields: dict) -> set[str]:
    """Splits the text of an access message at the rightmost ``;`` from which all parses to the end; the fields that reach the end."""
    text = fields["reply"] = fields.pop("tailed")
    ends = set()
    places = [i for i in range(len(text)) if text[i : i + 1] == b";"][::-1][:_TAILS]
    for pattern, place in [(pattern, place) for pattern in (_STRICT_TAIL, _TAIL) for place in places]:
        match = pattern.fullmatch(text, place + 1)
        if match and (match["items"] or place + 1 == len(text)):
            fields.update({name: match[name] for name in ("sender", "recipient", "helo", "sasl_method")})
            fields["sasl_username"] = match["sasl_username"] if match["bracketed"] is None else match["bracketed"]
            ends = {name for name in match.groupdict() if match.end(name) == len(text)}
            fields["reply"] = text[:place]
            break
    return ends


def _owner(fields: dict) -> None:
    if fields.get("sasl_username") is None:
        refused = _NOT_OWNED.fullmatch(fields["reply"])
        fields["sasl_username"] = refused["login"] if refused else None


def _remote(fields: dict) -> None:
    reply = fields["reply"].removesuffix(b")")
    fields["reply"] = reply
    remote = _REMOTE.match(reply)
    code = _REPLY_CODE.match(reply, remote.end() if remote else 0)
    fields["reply_code"] = code[1] if code else None
