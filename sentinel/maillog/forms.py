"""The forms of Postfix's log lines, as a table.

A form is a template in nearly the notation of Postfix's own ``msg_info()`` calls. It is matched against the text after the tag (and
after the ``queue ID: `` where the form has one) and must match to the end of the line.

``{name}``    a field, up to the first occurrence of what may follow it in the template
``{name*}``   a field, up to the *last* occurrence of the literal that follows
``[ ... ]``   optional; the group begins with a literal that decides
``{client}``  ``name[ip]`` with an optional ``:port``
``{relay}``   ``host[ip]:port``, ``host[socket]``, or a word
``{code}``    an optional three-digit reply code and an optional DSN, each followed by a blank
``{tail}``    the end of every access message, ``; from=<> to=<> proto= helo=<>`` and the login, taken from the right
``{checked}``   what cleanup's header and body checks log: the attacker's text, `` from {client};`` or `` from local;``, the envelope, and
              perhaps the admin's text
``{ip}``      the client's address
``{_}``       text that no field takes; ``{word}`` without a blank; ``{rest}`` to the end of the line
``{name=a,b}``  the field must be one of these words, which may hold blanks
``{login}``   ``u>, method=M, rip=IP, ...`` of Dovecot's login processes, taken from the right
``{passdb}``  ``[...: ]db(u,IP[,<session>]): ...`` of Dovecot's auth processes, if it can be read in one way only; after ``Error: ``
              what follows is the reply

A text field after ``<`` honours a quoted local part, which may contain anything. Where the attacker writes the text, the template
anchors it between literals that he can't reach; what that needs is said beside the form.

Changing a name here means changing ``fields.py``; the numbers of special operations are repeated in ``_scan.pyx``.
"""

from typing import NamedTuple

from sentinel.maillog.fields import DIALECTS, KINDS, NUMBER_FIELDS, SERVICES, TEXT_FIELDS

QUEUED = "queue ID"
"""The form follows ``{queue ID}: ``, or ``NOQUEUE: ``."""
BARE = "no queue ID"

DAEMONS = tuple(name for name in SERVICES[1:-1] if name != "dovecot" and name not in DIALECTS[1:])
"""Postfix's own."""


class Form(NamedTuple):
    services: tuple[str, ...]
    prefix: str
    kind: str
    template: str


_ACCESS = (
    "{action=reject,reject_warning,warn,info,hold,delay,discard,filter,redirect,bcc,permit,hangup,milter-reject,milter-hold,"
    "milter-discard}: {stage} from {client}: {code}{reply}{tail}"
)
_BROKEN_OFF = "{action=lost connection,timeout,too many errors,hangup} after {stage}[ ({_} bytes)] from {client}"
_CHECKS = ("reject", "warning", "hold", "discard", "filter", "redirect", "replace", "prepend", "bcc", "info", "strip", "pass", "delay")
_CHECKED = ",".join((*_CHECKS, *(f"milter-{what}-{check}" for what in ("header", "body") for check in _CHECKS)))
_QMGR = ("qmgr", "oqmgr", "nqmgr")
# Before 2.3 the queue manager itself wrote what error(8) does now.
_DELIVERY_AGENTS = ("smtp", "lmtp", "local", "virtual", "pipe", "error", "discard", "retry", "cleanup", *_QMGR)
_CLIENTS = ("smtp", "lmtp")
_TO_RELAY = ("smtp", "lmtp", "tlsproxy")
_LOGIN = "{_=imap-login,pop3-login,submission-login,managesieve-login}: [Info: ]"

FORMS = (
    # smtpd/smtpd.c: connect and disconnect. The statistics follow a blank since 3.0.
    Form(("smtpd",), BARE, "connect", "connect from {client}"),
    Form(("smtpd",), BARE, "disconnect", "disconnect from {client}[ {_}]"),
    # smtpd/smtpd_sasl_glue.c. The client stands first, before anything the attacker wrote; the tried login is all that follows the first
    # ", sasl_username=" (since 3.5.22, 3.6.12, 3.7.8, 3.8.3, 3.9).
    Form(
        ("smtpd",),
        BARE,
        "auth_failed",
        "warning: {client}: SASL {sasl_method} authentication failed[:[ {reply}]][, sasl_username={sasl_username}]",
    ),
    # smtpd/smtpd.c and its kin, without a message: the client stands before what it wrote; anvil's limits have none of its text.
    # What begins with a severity word has all that follows the word as its reply.
    Form(("smtpd",), BARE, "warning", "warning: {client}: SASL {sasl_method} authentication aborted"),
    Form(
        ("smtpd",),
        BARE,
        "warning",
        "warning: {_=Connection concurrency,Connection rate,Message delivery request rate,Recipient address rate,New TLS session rate,"
        "AUTH command rate} limit exceeded: {_*} from {client} for service {_}",
    ),
    Form(("smtpd",), BARE, "warning", "warning: non-SMTP command from {client}: {_}"),
    Form(("smtpd",), BARE, "warning", "warning: Illegal address syntax from {client} in {stage} command: {_}"),
    # The name is a claim that has failed: it is no client_name.
    Form(("smtpd",), BARE, "warning", "warning: hostname {word} does not resolve to address {ip}[: {_}]"),
    Form(("smtpd",), BARE, "warning", "warning: [smtpd_peer_init: ]{ip}: address not listed for hostname {_}"),
    Form(("smtpd",), BARE, "warning", "warning: [smtpd_peer_init: ]{ip}: hostname {word} verification failed: {_}"),
    Form(("smtpd",), BARE, "warning", "warning: {client}: {_}"),
    Form(("smtpd",), BARE, "other", _BROKEN_OFF),
    Form(("smtpd",), BARE, "other", "{action=bare <LF> received} after {stage} from {client}"),
    Form(("smtpd",), BARE, "other", "{action=improper command pipelining} after {stage} from {client}[: {_}]"),
    Form(
        ("smtpd",),
        BARE,
        "other",
        "{_=Anonymous TLS,Untrusted TLS,Trusted TLS,Verified TLS,TLS} connection established from {client}[ to {word}]: {_}",
    ),
    Form(("smtpd",), BARE, "other", "SSL_accept error from {client}: {reply}"),
    Form(("smtpd",), BARE, "other", "discarding EHLO keywords: {_}"),
    # smtpd/smtpd.c: a queue file is opened, or a proxy filter takes the mail (NOQUEUE). What follows ", sasl_sender=" is the client's text
    # (MAIL FROM ... AUTH=) and may imitate all that can follow, so nothing behind it is believed. Logins are the server's own names.
    Form(
        ("smtpd", "qmqpd"),
        QUEUED,
        "accepted",
        "client={client}[, sasl_method={sasl_method}][, sasl_username={sasl_username}][, sasl_sender={rest}]"
        "[, orig_queue_id={linked_queue_id}][, orig_client={rest}]",
    ),
    # cleanup/cleanup_message.c, cleanup_act_log(); cleanup_milter_hbc_log(). Before the access forms: a body may look like one.
    Form(("cleanup",), QUEUED, "rejected", "{action=" + _CHECKED + "}: {stage=header,body,content} {checked}"),
    # postscreen/postscreen_smtpd.c: commas where smtpd has blanks, no host name. Before smtpd's form, which
    # would take it where the header has lost the daemon's name.
    Form(
        ("postscreen",),
        QUEUED,
        "rejected",
        "{action=reject}: {stage} from {client}: {code}{reply}; from=<{sender}>, to=<{recipient}>, proto={_}, helo=<{helo}>",
    ),
    # postscreen/postscreen_state.c and postscreen.c, before anybody was heard.
    Form(
        ("postscreen",),
        QUEUED,
        "rejected",
        "{action=reject}: {stage=CONNECT} from {client}: {reply=too many connections,all server ports busy,all screening ports busy}",
    ),
    Form(("cleanup",), QUEUED, "message_id", "message-id={message_id}"),
    # smtpd/smtpd_check.c log_whatsup() and its kin: reject, reject_warning, hold, discard, filter, redirect, milter-reject ...
    # The same from cleanup/cleanup_milter.c, without a reply code.
    Form(("smtpd", "cleanup"), QUEUED, "rejected", _ACCESS),
    # smtpd/smtpd_proxy.c: the filter's reply, and no client.
    Form(("smtpd",), QUEUED, "rejected", "{action=proxy-reject}: {stage}: {code}{reply}{tail}"),
    Form(("smtpd",), QUEUED, "other", "{action=proxy-accept}: {stage}: {code}{reply}{tail}"),
    Form(("smtpd",), QUEUED, "rejected", "{action=abort}: {stage} from {client}: {reply}"),
    # Since 3.10 with the queue ID, or NOQUEUE.
    Form(("smtpd",), QUEUED, "other", _BROKEN_OFF),
    # A postscreen reject whose tail was cut off. After smtpd's form, which has taken its own by then.
    Form(("postscreen",), QUEUED, "rejected", "{action=reject}: {stage} from {client}: {code}{reply}; from={_}"),
    Form(("cleanup",), QUEUED, "other", "resent-message-id={_}"),
    Form(("cleanup",), QUEUED, "removed", "removed ({action=canceled,discarded})"),
    # pickup/pickup.c; orig_id= on mail that postsuper requeued.
    Form(("pickup",), QUEUED, "picked_up", "uid={uid} from=<{sender*}>[ orig_id={linked_queue_id}]"),
    # qmgr/qmgr_active.c and qmgr_message.c. Only digits and fixed words follow the sender: the last ">, size=" is the real one.
    Form(_QMGR, QUEUED, "queued", "from=<{sender*}>, size={size}, nrcpt={nrcpt} (queue active)"),
    Form(_QMGR, QUEUED, "delivery", "from=<{sender*}>, status={status}, returned to sender"),
    Form(_QMGR, QUEUED, "removed", "removed"),
    # global/log_adhoc.c. The remote reply closes the line and may imitate every field: each is taken at its first place.
    Form(
        _DELIVERY_AGENTS,
        QUEUED,
        "delivery",
        "to=<{recipient}>[, orig_to=<{orig_to}>], relay={relay}[, conn_use={_}], delay={delay}[, delays={_}][, tls={_}]"
        "[, dsn={dsn}], status={status} ({reply}",
    ),
    # smtp/smtp_connect.c. Before 2.5 the port stood at the end, "(port 25)"; the scanner takes it from there.
    Form(_CLIENTS, BARE, "connect_failed", "connect to {relay}: {reply}"),
    # smtp/smtp_trouble.c smtp_site_fail(): why one host of several did not take the message; another will be tried. The relay stands
    # before all that the remote wrote.
    Form(_CLIENTS, QUEUED, "connect_failed", "host {relay} said: {reply}"),
    Form(_CLIENTS, QUEUED, "connect_failed", "host {relay} refused to talk to me: {reply}"),
    # smtp/smtp_sasl_glue.c, and smtp_sasl_auth_cache.c for a refusal that is remembered; the text is our own where we
    # could not even try.
    Form(_CLIENTS, QUEUED, "connect_failed", "SASL authentication failed; server {relay} said: {reply}"),
    Form(_CLIENTS, QUEUED, "connect_failed", "SASL {_=[CACHED]} authentication failed; server {relay} said: {reply}"),
    Form(_CLIENTS, QUEUED, "connect_failed", "SASL authentication failed; cannot authenticate to server {relay}: {reply}"),
    Form(_CLIENTS, QUEUED, "connect_failed", "connect to {relay}: {reply}"),
    Form(_CLIENTS, QUEUED, "connect_failed", "{action=lost connection} with {relay} {reply}"),
    Form(_CLIENTS, QUEUED, "connect_failed", "{action=conversation} with {relay} {reply}"),
    Form(_CLIENTS, QUEUED, "connect_failed", "{reply=TLS is required,SMTPUTF8 is required}, but was not offered by host {relay}"),
    # smtp/smtp_addr.c and smtp_proto.c: information about a delivery that goes on.
    Form(_CLIENTS, QUEUED, "other", "{action=passing} <{recipient}> to transport={_}"),
    Form(_CLIENTS, QUEUED, "other", "{action=enabling PIX workarounds}: {_} for {relay}"),
    Form(_CLIENTS, QUEUED, "other", "{action=enabling PIX} {_} workaround for {relay}"),
    # tls/tls_client.c. The level has stood in front since 2.5.
    *(
        Form(_TO_RELAY, BARE, "other", level + "TLS connection {action=established,reused} to {relay}: {reply}")
        for level in ("Untrusted ", "Trusted ", "Verified ", "Anonymous ", "")
    ),
    Form(_TO_RELAY, BARE, "other", "{action=certificate verification failed} for {relay}: {reply}"),
    Form(_TO_RELAY, BARE, "connect_failed", "{action=SSL_connect error} to {relay}: {reply}"),
    # bounce/bounce_notify_service.c and its kin
    Form(
        ("bounce", "defer", "trace"),
        QUEUED,
        "bounce_notice",
        "{action=sender non-delivery,sender delay,sender delivery status,"
        "postmaster non-delivery,postmaster delay,postmaster delivery status}"
        " notification: {linked_queue_id}",
    ),
    # postsuper/postsuper.c: an operator's removal is not a delivery.
    Form(("postsuper",), QUEUED, "removed", "removed"),
    Form(("postsuper",), QUEUED, "other", "{action=requeued,placed on hold,released from hold,expired}"),
    Form(("postsuper",), BARE, "other", "{action=Deleted,Requeued,Placed on hold,Released from hold,Force-expired}: {_}"),
    Form(_QMGR, QUEUED, "other", "{action=skipped}, still being delivered"),
    # postscreen/postscreen*.c. What the client has sent closes the line.
    Form(("postscreen",), BARE, "connect", "CONNECT from {client}[ to {_}]"),
    Form(("postscreen",), BARE, "disconnect", "DISCONNECT {client}"),
    Form(
        ("postscreen",),
        BARE,
        "other",
        "{action=PASS OLD,PASS NEW,ALLOWLISTED,WHITELISTED,DENYLISTED,BLACKLISTED,ALLOWLIST VETO,WHITELIST VETO} {client}",
    ),
    Form(("postscreen",), BARE, "other", "{action=PREGREET} {_} after {_} from {client}: {reply}"),
    Form(("postscreen",), BARE, "other", "{action=DNSBL rank} {_} for {client}"),
    Form(("postscreen",), BARE, "other", "{action=HANGUP} after {_} from {client} in tests {_=before,after} SMTP handshake"),
    Form(
        ("postscreen",),
        BARE,
        "other",
        "{action=COMMAND TIME LIMIT,COMMAND COUNT LIMIT,COMMAND LENGTH LIMIT,BARE NEWLINE,NON-SMTP COMMAND,COMMAND PIPELINING}"
        " from {client}[ after {stage}][: {reply}]",
    ),
    Form(("postscreen",), BARE, "other", "{stage=DATA,BDAT} without valid RCPT from {client}"),
    Form(("dnsblog",), BARE, "other", "addr {client_ip} listed by domain {reply}"),
    # tlsproxy/tlsproxy.c: the client has been counted by postscreen.
    Form(("tlsproxy",), BARE, "other", "{action=CONNECT} from {client}"),
    Form(("tlsproxy",), BARE, "other", "{action=DISCONNECT} {client}"),
    Form(("tlsproxy",), BARE, "other", "{action=TLS handshake failed} for service={_} peer={client}"),
    # Dovecot, login-common/client-common.c. The summary of a connection is the event; "Logged in" and "Login aborted" since 2.4. Which of
    # the others is a failed login the scanner decides by "(auth failed, " and LOGIN_FAULTS.
    Form(("dovecot",), BARE, "auth_success", _LOGIN + "{_=Login,Logged in}: user=<{login}"),
    Form(("dovecot",), BARE, "auth_failed", _LOGIN + "{reply}: user=<{login}"),
    # Dovecot, auth/auth-request.c. The same failure follows from the login process, or from smtpd that asked: no event.
    # So does one that is the server's own fault (AUTH_FAULTS), but smtpd's line then mostly looks as if the password were wrong.
    *(
        Form(("dovecot",), BARE, "warning", process + ": Error: " + text)
        for process in ("auth-worker({word})", "auth")
        # lib-sql/driver-mysql.c and its kin; auth/db-ldap.c; auth/auth-worker-server.c. Nothing before the reply is a client's.
        for text in ("{passdb}", "{_=mysql,pgsql,cassandra}({word}): {reply}", "LDAP: {reply}", "{_=auth worker,auth-worker}: {reply}")
    ),
    Form(("dovecot",), BARE, "other", "auth-worker({_}): {passdb}"),
    Form(("dovecot",), BARE, "other", "auth: {passdb}"),
)

SERVER_FAULTS = (
    b"Connection lost to authentication server",
    b"Temporary authentication failure",
    b"Internal authentication failure",
    b"generic failure",
    b"no memory available",
    b"remote authentication server unavailable",
    b"transient failure",
    b"SASL library not initialized",
)
"""What the reason of a failed login begins with where it is the server's own trouble (xsasl/xsasl_dovecot_server.c and Cyrus's
sasl_errstring())."""
LOGIN_FAULTS = (
    b"(auth service reported temporary failure",
    b"(auth process communication failure",
    b": Auth process broken",
)
"""The same in what Dovecot's login processes say of a connection."""
AUTH_FAULTS = (
    b"Aborted ",
    b"Can't connect to server",
    b"Connect failed to database",
    b"Connection lost to LDAP server",
    b"Not connected to database",
    b"Password query failed: ",
)
"""What an error of Dovecot's auth processes begins with where it can't look up a password. A name with bytes that a database does not take
makes a query fail too, so one such line tells little."""
PROMPTS = (
    b"UGFzc3dvcmQ",  # Password
    b"cGFzc3dvcmQ",
    b"VXNlcm5hbWU",  # Username
    b"dXNlcm5hbWU",
    b"VXNlciBOYW1l",  # User Name
    b"PD",  # <, a digit: CRAM-MD5
    b"cmVhbG09",  # realm=, nonce=, rspauth=: DIGEST-MD5
    b"bm9uY2U9",
    b"cnNwYXV0aD",
)
"""What the server's last prompt begins with, in base64: it stands in the place of a reason, and is none."""

# What follows are the operations of the compiled matcher. (code, field, literals, last, quoted, jump)
LITERAL, OPTIONAL, TEXT, INTEGER, DECIMAL, CLIENT, RELAY, CODE, TAIL, END, CHECKED, LOGIN, PASSDB = range(13)
_TAIL = ("tail", False, ())
_ONE_WORD = ("stage", "sasl_method")
_SPECIAL = {"client": CLIENT, "code": CODE, "tail": TAIL, "checked": CHECKED, "login": LOGIN, "passdb": PASSDB}
_NO_FIELD = ("_", "word", "rest")


class Operation(NamedTuple):
    code: int
    field: int = -1
    stops: tuple[bytes, ...] = ()
    """What ends a field; for LITERAL and OPTIONAL the literal itself."""
    may_end: bool = False
    """The field may run to the end of the line."""
    last: bool = False
    quoted: bool = False
    word: bool = False
    """The field holds no blank."""
    address: bool = False
    """The field is an IP address."""
    words: tuple[bytes, ...] = ()
    """Where not empty: all that the field may be."""
    jump: int = 0
    """OPTIONAL: where to go on when the literal is not here."""


class CompiledForm(NamedTuple):
    kind: int
    service: int
    """What the form itself tells of the service, for headers that have lost it."""
    queued: bool
    operations: tuple[Operation, ...]

    @property
    def first(self) -> bytes:
        """The literal that the form begins with; empty if it begins with a field."""
        return self.operations[0].stops[0] if self.operations[0].code == LITERAL else b""

    @property
    def first_bytes(self) -> frozenset[int]:
        """What the form's first byte may be; empty if any."""
        return frozenset(text[0] for text in self.operations[0].words or (self.first,) if text)


_Token = str | tuple[str, bool, tuple[bytes, ...]] | list["_Token"]


def _longest_first(words: str) -> tuple[bytes, ...]:
    """Words of a field; one that begins another comes after it."""
    return tuple(word.encode() for word in sorted(filter(None, words.split(",")), key=len, reverse=True))


def _tokens(template: str) -> list[_Token]:
    out: list[_Token] = []
    stack = [out]
    literal = ""

    def flush() -> None:
        nonlocal literal
        if literal:
            stack[-1].append(literal)
            literal = ""

    i = 0
    while i < len(template):
        c = template[i]
        if c == "{":
            flush()
            close = template.index("}", i)
            name, _, words = template[i + 1 : close].partition("=")
            stack[-1].append((name.rstrip("*"), name.endswith("*"), _longest_first(words)))
            i = close
        elif c == "[":
            flush()
            group: list[_Token] = []
            stack[-1].append(group)
            stack.append(group)
        elif c == "]":
            flush()
            stack.pop()
        else:
            literal += c
        i += 1
    flush()
    return out


def _followers(rest: list[_Token]) -> tuple[tuple[bytes, ...], bool]:
    """The literals that may come next, and whether the line may end here."""
    stops: list[bytes] = []
    for token in rest:
        if isinstance(token, str):
            return (*stops, token.encode()), False
        if isinstance(token, tuple):
            return tuple(stops), True
        head = token[0]
        if not isinstance(head, str):
            raise ValueError("an optional group must begin with a literal")
        stops.append(head.encode())
    return tuple(stops), True


def _emit(tokens: list[_Token], after: list[_Token], out: list[Operation], previous: str = "") -> None:
    """Operations of tokens; ``after`` is what comes after them, ``previous`` the literal before them."""
    for i, token in enumerate(tokens):
        rest = tokens[i + 1 :] + after
        if isinstance(token, str):
            out.append(Operation(LITERAL, stops=(token.encode(),)))
            previous = token
            continue
        if isinstance(token, list):
            head = token[0]
            assert isinstance(head, str)
            optional = len(out)
            out.append(Operation(OPTIONAL, stops=(head.encode(),)))
            _emit(token[1:], rest, out, head)
            out[optional] = out[optional]._replace(jump=len(out))
            previous = ""
            continue
        name, last, words = token
        stops, may_end = _followers(rest)
        quoted = previous.endswith("<") and not last and name not in _SPECIAL
        if quoted and rest[0] == ">":
            # An unquoted address (log_address_format = internal) may hold a ">"; what follows the real one tells them apart.
            after_bracket, may_end = _followers(rest[1:])
            if not may_end:
                stops = tuple(b">" + stop for stop in after_bracket)
        if name in _SPECIAL:
            out.append(Operation(_SPECIAL[name]))
        elif name == "relay":
            out.append(Operation(RELAY, stops=stops))
        elif name == "delay":
            out.append(Operation(DECIMAL))
        elif name in NUMBER_FIELDS:
            out.append(Operation(INTEGER, field=NUMBER_FIELDS.index(name)))
        elif rest and rest[0] == _TAIL:
            # The tail is found from the right and closes the field before it.
            out.append(Operation(TAIL, field=TEXT_FIELDS.index(name)))
        elif name == "ip":
            out.append(Operation(TEXT, field=TEXT_FIELDS.index("client_ip"), stops=stops, may_end=may_end, address=True))
        else:
            field = -1 if name in _NO_FIELD else TEXT_FIELDS.index(name)
            word = name in _ONE_WORD or name == "word"
            if name == "rest":
                stops, may_end = (), True
            out.append(Operation(TEXT, field=field, stops=stops, may_end=may_end, last=last, quoted=quoted, words=words, word=word))
        if rest and rest[0] == _TAIL:
            break
        previous = ""


def compile_form(form: Form) -> CompiledForm:
    """A template to its operations. Raises ValueError for a template or a name that can't be right."""
    operations: list[Operation] = []
    _emit(_tokens(form.template), [], operations)
    operations.append(Operation(END))
    return CompiledForm(
        kind=KINDS.index(form.kind),
        service=SERVICES.index(form.services[0]),
        queued=form.prefix == QUEUED,
        operations=tuple(operations),
    )


def compile_forms() -> tuple[list[CompiledForm], dict[int, list[int]]]:
    """All forms, and for each service the numbers of its forms in the order to try; service 0 (unknown) tries all of Postfix's.

    The queue manager's line and deliveries are known by themselves: under the name of any daemon of Postfix they come after its own forms
    (collectors that rewrite headers mistake one for another). No daemon lets a client write the beginning of a text.
    """
    compiled = [compile_form(form) for form in FORMS]
    # A header never loses the name of Dovecot, which is not a daemon's.
    by_service: dict[int, list[int]] = {0: [number for number, form in enumerate(FORMS) if form.services != ("dovecot",)]}
    for number, form in enumerate(FORMS):
        for service in form.services:
            by_service.setdefault(SERVICES.index(service), []).append(number)
    anywhere = [number for number, form in enumerate(FORMS) if form.kind in ("queued", "delivery")]
    for name in DAEMONS:
        own = by_service.setdefault(SERVICES.index(name), [])
        own += [number for number in anywhere if number not in own]
    return compiled, by_service
