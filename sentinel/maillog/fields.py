"""The event table's vocabulary: its columns, its kinds, Postfix's daemons.

The order of each tuple is the numbering that the compiled scanner uses; ``_scan.pxd`` repeats the numbers it needs by name, and a test
compares the two.
"""

TEXT_FIELDS = (
    "host",
    "syslog_name",
    "queue_id",
    "client_name",
    "client_ip",
    "sasl_method",
    "sasl_username",
    "sender",
    "recipient",
    "orig_to",
    "relay_host",
    "relay_ip",
    "dsn",
    "status",
    "reply",
    "message_id",
    "linked_queue_id",
    "action",
    "stage",
    "helo",
    # Not columns: the remote host that a reply text names (for a repeated reply of error(8) the only place that does).
    "peer_host",
    "peer_ip",
)
NUMBER_FIELDS = ("pid", "client_port", "relay_port", "reply_code", "nrcpt", "size", "uid")

KINDS = (
    "unparsed",
    "other",
    "connect",
    "disconnect",
    "accepted",
    "picked_up",
    "message_id",
    "queued",
    "delivery",
    "removed",
    "rejected",
    "auth_failed",
    "connect_failed",
    "bounce_notice",
    "warning",
    "auth_success",
)

# master.cf's daemons and the commands that log on their own (Postfix 3.11, conf/postfix-files and src/). The first is a name that the
# header has lost, the last a daemon that is not Postfix's own. Before it Dovecot, whose logins use the same passwords, and other mail
# servers: "exim", "qmail", and "sendmail" (as a tag by itself).
SERVICES = (
    "",
    "smtpd",
    "cleanup",
    "qmgr",
    "smtp",
    "lmtp",
    "local",
    "virtual",
    "pipe",
    "error",
    "discard",
    "bounce",
    "pickup",
    "postscreen",
    "postsuper",
    "oqmgr",
    "retry",
    "anvil",
    "dnsblog",
    "flush",
    "master",
    "postdrop",
    "postfix-script",
    "postlog",
    "postlogd",
    "postmulti",
    "postqueue",
    "proxymap",
    "qmqpd",
    "scache",
    "sendmail",
    "showq",
    "spawn",
    "tlsmgr",
    "tlsproxy",
    "trivial-rewrite",
    "verify",
    "defer",
    "trace",
    "nqmgr",
    "dovecot",
    "exim",
    "qmail",
    "*",
)

DIALECTS = ("sendmail", "exim", "qmail")
"""Mail servers whose lines ``dialects`` reads, by the name of their service."""

STATUSES = ("", "sent", "deferred", "bounced")
"""What a row says of a delivery whose line has no such word (``Row.said``)."""

COLUMNS = (
    "time",
    "host",
    "syslog_name",
    "service",
    "pid",
    "kind",
    "queue_id",
    "client_name",
    "client_ip",
    "client_port",
    "sasl_method",
    "sasl_username",
    "sender",
    "recipient",
    "orig_to",
    "relay_host",
    "relay_ip",
    "relay_port",
    "delay",
    "dsn",
    "status",
    "reply",
    "reply_code",
    "nrcpt",
    "size",
    "message_id",
    "linked_queue_id",
    "uid",
    "action",
    "stage",
    "helo",
    "repeat",
)
"""The public columns in their order (CONTRACT: event fields)."""
