"""The compiled scan: bytes of a log to an ``EventBatch``, one row for each line that means something.

A line is taken apart once, from left to right: header (time, host, tag, pid), severity, queue ID, and then the forms of ``forms.py`` that
its daemon can write. A row holds where its texts lie in the chunk; they become ``str`` when somebody asks. The header of one line is
usually that of the line before, so times are computed when they change.

Headers are those of syslog in all its spellings, with or without a host, behind another stamp that docker put there, and JSON lines of the
journal and of docker, which ``journal.py`` turns into such lines. ``message repeated N times: [ ... ]`` behind the tag, and ``last message
repeated N times`` where a tag would stand, give the row of the message again with a ``repeat``; the latter speaks of the line before from the
same host within the last ``TAIL_BYTES``. Only the syslog daemon's own place in a line counts.

Limits: a line of more than 65,535 bytes is counted as unparsed and passed over. Every access is checked against the end of the line.
"""

from bisect import bisect_right

cimport cython
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memchr, memcmp, memcpy, memset

from sentinel.maillog._symbols cimport ABSENT, sentinel_chr, sentinel_find, sentinel_rfind, sentinel_same

from sentinel.maillog import fields as _fields, forms as _forms
from sentinel.maillog.chunk import Chunk

cdef enum:
    LINE_LIMIT = 65535
    TAG_LIMIT = 128
    TAGS = 128
    TAG_PROBES = 4
    # How far back the line may lie that "last message repeated" speaks of.
    TAIL_BYTES = 8192
    # Nobody believes more.
    REPEAT_LIMIT = 1000000
    # msg_syslog.c and msg_logger.c: Postfix cuts its text there, not counting the severity; rsyslog what it repeats, with the blank before it.
    TEXT_LIMIT = 2000
    FOLDED_LIMIT = 800
    # Lines longer than this are searched for NULs before they are read, others only if they make no sense.
    ORDINARY = 512
    # Candidates for the beginning of an access message's tail, from the right. More than a few exist only in hostile lines.
    TAIL_CANDIDATES = 32
    # The same for the client of a header or body check.
    CHECKED_CANDIDATES = 32
    # A host name has 255 bytes at most, an address and a port some more.
    CLIENT_LIMIT = 400
    # The end of a Dovecot line tells whose it is, so none is believed that may have been cut: syslog packets are cut at 1,024 bytes.
    DOVECOT_LIMIT = 960

# forms.py
cdef enum:
    OP_LITERAL, OP_OPTIONAL, OP_TEXT, OP_INTEGER, OP_DECIMAL, OP_CLIENT, OP_RELAY, OP_CODE, OP_TAIL, OP_END
    OP_CHECKED, OP_LOGIN, OP_PASSDB

cdef extern from "Python.h":
    int PyBuffer_FillInfo(Py_buffer *view, object exporter, void *buf, Py_ssize_t length, int readonly, int flags) except -1

cdef struct Literal:
    const char *text
    int32_t length

cdef struct Op:
    uint8_t code
    int8_t field
    uint8_t may_end, last, quoted, word, address
    int32_t jump
    int32_t stops, n_stops
    int32_t words, n_words

cdef struct CForm:
    uint8_t kind
    uint8_t service
    uint8_t queued
    int32_t ops
    int32_t first       # the literal that the form begins with, or -1

TEXT_FIELDS = _fields.TEXT_FIELDS
NUMBER_FIELDS = _fields.NUMBER_FIELDS
KINDS = _fields.KINDS
SERVICES = _fields.SERVICES

cdef int64_t NO_TIME = -(1 << 62)

cdef inline bint is_digit(char c) noexcept nogil:
    return 48 <= c <= 57

cdef inline int two(const char *p) noexcept nogil:
    """Two digits, the first of which may be a blank; -1 if they are not."""
    cdef int tens = 0
    if is_digit(p[0]):
        tens = (p[0] - 48) * 10
    elif p[0] != 32:
        return -1
    if not is_digit(p[1]):
        return -1
    return tens + p[1] - 48

cdef inline int64_t days_from_civil(int64_t y, int m, int d) noexcept nogil:
    """Days since 1970-01-01 in the proleptic Gregorian calendar (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms")."""
    y -= m <= 2
    cdef int64_t era = (y if y >= 0 else y - 399) // 400
    cdef int64_t yoe = y - era * 400
    cdef int64_t doy = (153 * (m + (-3 if m > 2 else 9)) + 2) // 5 + d - 1
    cdef int64_t doe = yoe * 365 + yoe // 4 - yoe // 100 + doy
    return era * 146097 + doe - 719468

cdef inline int month_of(const char *p) noexcept nogil:
    cdef int i
    cdef const char *names = b"JanFebMarAprMayJunJulAugSepOctNovDec"
    for i in range(12):
        if memcmp(p, names + 3 * i, 3) == 0:
            return i + 1
    return 0

# 1: hexadecimal of a short queue ID; 2: base 52 of a long one; 4: part of an IP address; 8: may stand in a tag; 16: stands in an address
# only within quotes (RFC 5322, 3.2.3, without what domain literals and lists of routes need)
cdef uint8_t CLASS[256]

cdef void fill_classes() noexcept:
    cdef int c
    memset(CLASS, 0, 256)
    for c in b"0123456789ABCDEF":
        CLASS[c] |= 1
    for c in b"0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz":
        CLASS[c] |= 2
    for c in b"0123456789abcdefABCDEF:.%":
        CLASS[c] |= 4
    for c in b"%":
        CLASS[c] |= 4
    for c in b"\"<>();\\ ":
        CLASS[c] |= 16

fill_classes()


cdef Row BLANK

# The rows of a batch that is gone serve the next one: fresh memory costs a page fault for every twenty rows.
cdef enum:
    SPARE_LIMIT = 65536
cdef Row *SPARE = NULL
cdef Py_ssize_t SPARE_ROOM = 0

cdef void fill_blank() noexcept:
    cdef int i
    memset(&BLANK, 0, sizeof(Row))
    BLANK.time = NO_TIME
    BLANK.delay = -1
    BLANK.repeat = 1
    BLANK.host = BLANK.account = BLANK.ip = BLANK.sender = ABSENT
    for i in range(N_NUMBER):
        BLANK.number[i] = -1

fill_blank()


cdef class EventBatch:
    """The events of one chunk, in the order of the log.

    ``column(name)`` is a list, ``array()`` the numbers of all rows as numpy columns; ``row(i)`` a dict of what is present, by CONTRACT's names. On an
    attributed batch the origin's ``sasl_username``, ``client_ip`` and ``sender`` stand on every row of a message; they must be read
    before the engine collects texts it needs no more (``RuntimeError`` says so).
    """

    def __cinit__(self):
        self.rows = NULL

    def __dealloc__(self):
        global SPARE, SPARE_ROOM
        if self.room > SPARE_ROOM and self.room <= SPARE_LIMIT:
            free(SPARE)
            SPARE = self.rows
            SPARE_ROOM = self.room
        else:
            free(self.rows)

    def __len__(self):
        return self.size

    cdef Row *append(self) except NULL:
        cdef Row *bigger
        if self.size == self.room:
            self.room = self.room * 2 if self.room else 64
            bigger = <Row *> realloc(self.rows, self.room * sizeof(Row))
            if bigger == NULL:
                raise MemoryError
            self.rows = bigger
        cdef Row *row = &self.rows[self.size]
        memcpy(row, &BLANK, sizeof(Row))
        self.size += 1
        return row

    cdef int add(self, Row *header, int kind, int service, int said, double delay, spans, numbers) except -1:
        """A row of a line that Python has read: ``spans`` are (field, start, end) in the line, ``numbers`` (field, value)."""
        cdef Row *row = self.append()
        cdef Py_ssize_t field, start, end
        memcpy(row, header, sizeof(Row))
        row.kind = <uint8_t> kind
        row.service = <uint8_t> service
        row.said = <uint8_t> said
        row.delay = delay
        for field, start, end in spans:
            if not (0 <= field < N_TEXT and 0 < start <= end <= row.length):
                raise ValueError(f"no text of a line of {row.length} bytes: {field}, {start} to {end}")
            row.text[field].start = <uint16_t> start
            row.text[field].length = <uint16_t> (end - start)
        for field, value in numbers:
            if not 0 <= field < N_NUMBER:
                raise ValueError(f"no number field {field}")
            row.number[field] = min(value, 1 << 62)
        return 0

    cdef bytes raw(self, Row *row, int field):
        """A text as it stands in the line, or None."""
        if row.text[field].start == 0:
            return status_word(row.said)[:status_length(row.said)] if field == STATUS and row.said else None
        cdef const char *p = text_of(row, self.base + row.line, field)
        return p[:row.text[field].length]

    cdef Row *at(self, Py_ssize_t i) except NULL:
        if not 0 <= i < self.size:
            raise IndexError(f"row {i} of {self.size}")
        return &self.rows[i]

    cdef bytes own_or_origin(self, Row *row, int field):
        cdef bytes own = self.raw(row, field)
        cdef int32_t symbol
        if own is not None or not row.attributed:
            return own
        symbol = row.account if field == SASL_USERNAME else row.ip if field == CLIENT_IP else row.sender if field == SENDER else ABSENT
        if symbol < 0:
            return None
        if self.symbols is None or self.symbols.generation != self.generation:
            raise RuntimeError("the origins of this batch are gone: read it before the engine is fed again")
        return self.symbols.text(symbol)

    cdef int64_t place(self, Row *row) except -2:
        cdef int64_t start, real
        if self.places is None:
            return <int64_t> self.chunk.start + row.line
        start, real, verbatim = self.places[bisect_right(self.places, (row.line, 1 << 62)) - 1]
        return real + row.line - start if verbatim else real

    def line(self, Py_ssize_t i):
        """The whole line of a row, as bytes; of a JSON line, the syslog line that it was turned into."""
        cdef Row *row = self.at(i)
        return (self.base + row.line)[:row.length]

    def offset(self, Py_ssize_t i):
        """Where the row's line begins in its source, in bytes."""
        return self.place(self.at(i))

    def text(self, Py_ssize_t i, str name):
        """One text of one row, or None; bytes that are not UTF-8 are replaced."""
        cdef bytes raw = self.own_or_origin(self.at(i), _TEXT_NUMBER[name])
        return None if raw is None else raw.decode("utf-8", "replace")

    def time(self, Py_ssize_t i):
        """Event time in microseconds since the epoch, or None."""
        cdef int64_t t = self.at(i).time
        return None if t == NO_TIME else t

    def kind(self, Py_ssize_t i):
        return KINDS[self.at(i).kind]

    def service(self, Py_ssize_t i):
        return self.service_name(self.at(i))

    def unknown(self, Py_ssize_t i):
        """Whether one of Postfix's daemons wrote the line and none of its forms is this one."""
        cdef Row *row = self.at(i)
        return row.unknown != 0 and row.service != len(SERVICES) - 1

    cdef str service_name(self, Row *row):
        """The daemon, or None where the header has lost it; a daemon that is not Postfix's own as the tag writes it."""
        cdef Py_ssize_t at, end
        if row.service == 0:
            return None
        if row.service != len(SERVICES) - 1:
            return SERVICES[row.service]
        at = end = row.text[SYSLOG_NAME].start + row.text[SYSLOG_NAME].length + 1
        cdef const char *line = self.base + row.line
        while end < row.length and line[end] != 91 and line[end] != 58 and line[end] != 32:
            end += 1
        return line[at:end].decode("utf-8", "replace")

    def number(self, Py_ssize_t i, str name):
        cdef Row *row = self.at(i)
        if name == "delay":
            return row.delay if row.delay >= 0 else None
        if name == "repeat":
            return row.repeat
        cdef int64_t value = row.number[<int> _NUMBER_NUMBER[name]]
        return value if value >= 0 else None

    def row(self, Py_ssize_t i):
        """What is present in a row; ``time`` in microseconds since the epoch."""
        cdef Row *row = self.at(i)
        cdef dict out = {}
        cdef bytes raw
        cdef str name
        for name in _fields.COLUMNS:
            if name == "time":
                if row.time != NO_TIME:
                    out[name] = row.time
            elif name == "kind":
                out[name] = KINDS[row.kind]
            elif name == "service":
                if row.service:
                    out[name] = self.service_name(row)
            elif name == "delay":
                if row.delay >= 0:
                    out[name] = row.delay
            elif name == "repeat":
                if row.repeat != 1:
                    out[name] = row.repeat
            elif name in _NUMBER_NUMBER:
                if row.number[<int> _NUMBER_NUMBER[name]] >= 0:
                    out[name] = row.number[<int> _NUMBER_NUMBER[name]]
            else:
                raw = self.own_or_origin(row, _TEXT_NUMBER[name])
                if raw is not None:
                    out[name] = raw.decode("utf-8", "replace")
        return out

    def column(self, str name, Py_ssize_t start=0, Py_ssize_t stop=-1):
        """One column of rows [start, stop), None where absent; ``time`` in microseconds since the epoch."""
        cdef Py_ssize_t i
        cdef int field
        cdef bytes raw
        cdef list out = []
        cdef dict seen = {}
        if stop < 0:
            stop = self.size
        if not 0 <= start <= stop <= self.size:
            raise IndexError(f"rows {start} to {stop} of {self.size}")
        if name == "time":
            return [None if self.rows[i].time == NO_TIME else self.rows[i].time for i in range(start, stop)]
        if name == "delay":
            return [self.rows[i].delay if self.rows[i].delay >= 0 else None for i in range(start, stop)]
        if name == "repeat":
            return [self.rows[i].repeat if self.rows[i].repeat != 1 else None for i in range(start, stop)]
        if name == "kind":
            return [KINDS[self.rows[i].kind] for i in range(start, stop)]
        if name == "service":
            return [self.service_name(&self.rows[i]) for i in range(start, stop)]
        if name in _NUMBER_NUMBER:
            field = _NUMBER_NUMBER[name]
            return [self.rows[i].number[field] if self.rows[i].number[field] >= 0 else None for i in range(start, stop)]
        field = _TEXT_NUMBER[name]
        for i in range(start, stop):
            raw = self.own_or_origin(&self.rows[i], field)
            if raw is None:
                out.append(None)
                continue
            text = seen.get(raw)
            if text is None:
                text = seen[raw] = raw.decode("utf-8", "replace")
            out.append(text)
        return out

    def accepted_of(self, accounts, Py_ssize_t start=0, Py_ssize_t stop=-1):
        """Rows of [start, stop) in which a message of one of these accounts is accepted; ``accounts`` are bytes in lower case, as ``bytes.lower`` has it."""
        cdef Py_ssize_t i
        cdef bytes account
        cdef list out = []
        if stop < 0:
            stop = self.size
        if not 0 <= start <= stop <= self.size:
            raise IndexError(f"rows {start} to {stop} of {self.size}")
        for i in range(start, stop):
            if self.rows[i].kind != ACCEPTED:
                continue
            account = self.own_or_origin(&self.rows[i], SASL_USERNAME)
            if account is not None and account.lower() in accounts:
                out.append(i)
        return out

    def array(self):
        """The rows as a numpy structured array, a view without a copy: numbers and spans, for vectorised work. Read-only; keeps the batch alive."""
        import numpy
        cdef Row *row = &BLANK
        cdef const char *base = <const char *> row
        cdef dict offsets = {
            "time": ("i8", <const char *> &row.time - base), "delay": ("f8", <const char *> &row.delay - base),
            "line": ("u4", <const char *> &row.line - base), "length": ("u2", <const char *> &row.length - base),
            "repeat": ("u4", <const char *> &row.repeat - base),
            "kind": ("u1", <const char *> &row.kind - base), "service": ("u1", <const char *> &row.service - base),
        }
        for name, i in _NUMBER_NUMBER.items():
            offsets[name] = ("i8", <const char *> &row.number[<int> i] - base)
        dtype = numpy.dtype({
            "names": list(offsets), "formats": [f for f, _ in offsets.values()], "offsets": [o for _, o in offsets.values()],
            "itemsize": sizeof(Row),
        })
        out = numpy.frombuffer(self, dtype=dtype)
        out.flags.writeable = False
        return out

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        # The rows as plain bytes; numpy lays its columns over them.
        PyBuffer_FillInfo(buffer, self, <void *> self.rows, self.size * sizeof(Row), 1, flags)


_TEXT_NUMBER = {name: i for i, name in enumerate(TEXT_FIELDS)}
_NUMBER_NUMBER = {name: i for i, name in enumerate(NUMBER_FIELDS)}


@cython.final
cdef class Matcher:
    """The forms of ``forms.py``, compiled. One instance serves every scanner."""

    cdef Op *ops
    cdef CForm *forms
    cdef Literal *literals
    cdef int32_t *order         # lists of forms to try, each ended by -1
    cdef int32_t *begin         # (service, queued, first byte of the text) -> where its list begins in order
    cdef int32_t n_forms
    cdef int32_t faults, prompts, n_faults, n_prompts     # SERVER_FAULTS and PROMPTS among the literals
    cdef int32_t login_faults, auth_faults, n_login_faults, n_auth_faults     # and Dovecot's
    cdef list keep      # the bytes objects that the literals point into
    cdef dict services
    cdef uint8_t dovecot
    cdef bint cut               # the message that is read was cut

    def __cinit__(self):
        compiled, by_service = _forms.compile_forms()
        cdef list ops = [op for form in compiled for op in form.operations]
        cdef Py_ssize_t n_literals = sum(len(op.stops) + len(op.words) for op in ops), at = 0, i, j, k
        n_literals += len(_forms.SERVER_FAULTS) + len(_forms.PROMPTS) + len(_forms.LOGIN_FAULTS) + len(_forms.AUTH_FAULTS)
        cdef list order = [-1]
        cdef dict begin = {(): 0}
        cdef tuple candidates
        self.ops = <Op *> malloc(len(ops) * sizeof(Op))
        self.forms = <CForm *> malloc(len(compiled) * sizeof(CForm))
        self.literals = <Literal *> malloc(max(1, n_literals) * sizeof(Literal))
        self.begin = <int32_t *> malloc(len(_fields.SERVICES) * 512 * sizeof(int32_t))
        if self.ops == NULL or self.forms == NULL or self.literals == NULL or self.begin == NULL:
            raise MemoryError
        self.keep = []
        self.n_forms = len(compiled)
        k = 0
        for i, form in enumerate(compiled):
            self.forms[i].kind = form.kind
            self.forms[i].service = form.service
            self.forms[i].queued = form.queued
            self.forms[i].ops = <int32_t> k
            for op in form.operations:
                self.ops[k].code = op.code
                self.ops[k].field = op.field
                self.ops[k].may_end = op.may_end
                self.ops[k].last = op.last
                self.ops[k].quoted = op.quoted
                self.ops[k].word = op.word
                self.ops[k].address = op.address
                self.ops[k].jump = op.jump + self.forms[i].ops
                self.ops[k].stops = <int32_t> at
                self.ops[k].n_stops = len(op.stops)
                self.ops[k].words = <int32_t> (at + len(op.stops))
                self.ops[k].n_words = len(op.words)
                for text in op.stops + op.words:
                    self.keep.append(text)
                    self.literals[at].text = <bytes> text
                    self.literals[at].length = len(text)
                    at += 1
                k += 1
            self.forms[i].first = self.ops[self.forms[i].ops].stops if form.first else -1
        self.faults, self.n_faults = <int32_t> at, len(_forms.SERVER_FAULTS)
        self.prompts, self.n_prompts = self.faults + self.n_faults, len(_forms.PROMPTS)
        self.login_faults, self.n_login_faults = self.prompts + self.n_prompts, len(_forms.LOGIN_FAULTS)
        self.auth_faults, self.n_auth_faults = self.login_faults + self.n_login_faults, len(_forms.AUTH_FAULTS)
        for text in _forms.SERVER_FAULTS + _forms.PROMPTS + _forms.LOGIN_FAULTS + _forms.AUTH_FAULTS:
            self.keep.append(text)
            self.literals[at].text = <bytes> text
            self.literals[at].length = len(text)
            at += 1
        memset(self.begin, 0, len(_fields.SERVICES) * 512 * sizeof(int32_t))
        cdef list begins_with = [form.first_bytes for form in compiled]
        for i, numbers in by_service.items():
            for queued in (0, 1):
                mine = [j for j in numbers if compiled[j].queued == queued]
                firsts = set().union(*[begins_with[j] for j in mine])
                for byte in (-1, *sorted(firsts)):
                    candidates = tuple([j for j in mine if not begins_with[j] or byte in begins_with[j]])
                    if candidates not in begin:
                        begin[candidates] = len(order)
                        order += [*candidates, -1]
                    at, k = i * 512 + queued * 256, begin[candidates]
                    if byte >= 0:
                        self.begin[at + <Py_ssize_t> byte] = <int32_t> k
                    else:
                        for j in range(256):
                            self.begin[at + j] = <int32_t> k
        self.order = <int32_t *> malloc(len(order) * sizeof(int32_t))
        if self.order == NULL:
            raise MemoryError
        for i in range(len(order)):
            self.order[i] = order[i]
        self.services = {name.encode(): i for i, name in enumerate(_fields.SERVICES) if name and name not in ("exim", "qmail", "*")}
        self.dovecot = _fields.SERVICES.index("dovecot")

    def __dealloc__(self):
        free(self.ops)
        free(self.forms)
        free(self.literals)
        free(self.order)
        free(self.begin)

    cdef inline bint starts(self, Literal *literal, const char *line, Py_ssize_t at, Py_ssize_t end) noexcept:
        return (end - at >= literal.length and line[at] == literal.text[0]
                and sentinel_same(line + at, literal.text, literal.length))

    cdef Py_ssize_t stop(self, Op *op, const char *line, Py_ssize_t at, Py_ssize_t end) noexcept:
        """Where the field that begins at ``at`` ends; -1 if what must follow does not."""
        cdef Literal *literal = &self.literals[op.stops]
        cdef Py_ssize_t i, k
        cdef char first
        cdef bint same = True
        cdef const char *hit
        if op.quoted and at < end and line[at] == 34:
            i = at + 1
            while i < end and line[i] != 34:
                i += 2 if line[i] == 92 else 1
            if i < end:
                at = i + 1
        if op.n_stops == 0:
            return end
        if op.last:
            return sentinel_rfind(line, at, end, literal.text, literal.length)
        if op.n_stops == 1:
            i = sentinel_find(line, at, end, literal.text, literal.length)
            return end if i < 0 and op.may_end else i
        first = literal.text[0]
        for k in range(1, op.n_stops):
            if self.literals[op.stops + k].text[0] != first:
                same = False
        i = at
        while i < end:
            if same:
                hit = sentinel_chr(line + i, first, end - i)
                if hit == NULL:
                    break
                i = hit - line
            for k in range(op.n_stops):
                if self.starts(&self.literals[op.stops + k], line, i, end):
                    return i
            i += 1
        return end if op.may_end else -1

    cdef bint client(self, Row *row, const char *line, Py_ssize_t *at, Py_ssize_t end, int name, int ip, int port) noexcept:
        """``name[ip]`` or ``name[ip]:port``. Postfix lets only valid host names and addresses get here."""
        cdef Py_ssize_t i = at[0], start = at[0], bracket
        cdef const char *hit = sentinel_chr(line + i, 91, end - i)
        if hit == NULL:
            return False
        bracket = hit - line
        if bracket > start and sentinel_chr(line + start, 32, bracket - start) != NULL:
            return False
        i = bracket + 1
        while i < end and CLASS[<uint8_t> line[i]] & 4:
            i += 1
        if i < end and line[i] == 93 and i > bracket + 1:
            row.text[ip].start = <uint16_t> (bracket + 1)
            row.text[ip].length = <uint16_t> (i - bracket - 1)
        else:
            # name[unknown]: the socket was gone; name[private/dovecot-lmtp]: a UNIX socket
            hit = sentinel_chr(line + i, 93, end - i)
            if hit == NULL:
                return False
            i = hit - line
        if bracket > start:
            row.text[name].start = <uint16_t> start
            row.text[name].length = <uint16_t> (bracket - start)
        i += 1
        if i + 1 < end and line[i] == 58 and is_digit(line[i + 1]):
            i += 1
            row.number[port] = 0
            while i < end and is_digit(line[i]) and row.number[port] < 100000:
                row.number[port] = row.number[port] * 10 + line[i] - 48
                i += 1
        elif port == CLIENT_PORT and begins(line, i, end, b":unknown", 8):
            i += 8
        at[0] = i
        return True

    cdef bint tail(self, Row *row, const char *line, Py_ssize_t at, Py_ssize_t end, int field) noexcept:
        """``{text}; from=<s> to=<r> proto=P helo=<h>`` (each item only if known), then perhaps the login; closes the field at ``at``.

        The text, the addresses and the HELO are the client's. The tail is the rightmost place from which all items parse to the
        very end: an imitation inside an item leaves a rest behind it. First as Postfix has quoted addresses since 3.5, where an imitation
        inside the quotes would have one left over; then as it wrote them before. smtpd has replaced blanks, ``<`` and ``>`` in the HELO
        name (smtpd.c, NEUTER_CHARACTERS); a login that holds a ``>`` is not believed.
        """
        cdef Py_ssize_t i, close = -1
        cdef int tried, strict = 2
        cdef Row trial
        while strict > 0 and close < 0:
            strict -= 1
            i = end
            for tried in range(TAIL_CANDIDATES):
                i = sentinel_rfind(line, at, i, b";", 1)
                if i < 0:
                    break
                memcpy(&trial, row, sizeof(Row))
                if self.items(&trial, line, i + 1, end, strict):
                    memcpy(row, &trial, sizeof(Row))
                    close = i
                    break
        if close < 0:
            close = end
        row.text[field].start = <uint16_t> at
        row.text[field].length = <uint16_t> (close - at)
        return True

    cdef bint items(self, Row *row, const char *line, Py_ssize_t at, Py_ssize_t end, bint strict) noexcept:
        cdef Py_ssize_t i, start, found = 0
        cdef int k
        cdef const char *names[5]
        cdef int fields[5]
        names[0], names[1], names[2], names[3], names[4] = b" from=<", b" to=<", b" proto=", b" helo=<", b" sasl_username=<"
        fields[0], fields[1], fields[2], fields[3], fields[4] = SENDER, RECIPIENT, -1, HELO, SASL_USERNAME
        cdef int lengths[5]
        lengths[0], lengths[1], lengths[2], lengths[3], lengths[4] = 7, 5, 7, 7, 16
        for k in range(5):
            if end - at < lengths[k] or line[at + 1] != names[k][1] or memcmp(line + at, names[k], lengths[k]) != 0:
                continue
            found += 1
            start = i = at + lengths[k]
            if k == 2:
                while i < end and line[i] != 32:
                    i += 1
                at = i
                continue
            if k < 2 and i < end and line[i] == 34:
                i += 1
                while i < end and line[i] != 34:
                    i += 2 if line[i] == 92 else 1
                if i >= end:
                    if strict:
                        return False
                    i = start
                elif strict:
                    i += 1
            if strict and k < 4:
                while i < end and not CLASS[<uint8_t> line[i]] & 16:
                    i += 1
                if i >= end or line[i] != 62 or i + 1 < end and line[i + 1] != 32:
                    return False
            # An unquoted ">" in an address of the internal form is followed by something else than the next item.
            while i < end and not (line[i] == 62 and (i + 1 == end or line[i + 1] == 32)):
                if k == 3 and (line[i] == 32 or line[i] == 60):
                    return False
                i += 1
            if i >= end:
                return False
            row.text[fields[k]].start = <uint16_t> start
            row.text[fields[k]].length = <uint16_t> (i - start)
            at = i + 1
        if at < end and self.login(row, line, at, end):
            at = end
        return at == end and (found > 0 or line[end - 1] == 59)

    cdef bint login(self, Row *row, const char *line, Py_ssize_t at, Py_ssize_t end) noexcept:
        """`` sasl_method=m sasl_username=u[ sasl_sender=s]``, blank separated and last (since 3.10)."""
        cdef Py_ssize_t i
        if sentinel_chr(line + at, 62, end - at) != NULL:
            return False
        if end - at > 13 and memcmp(line + at, b" sasl_method=", 13) == 0:
            i = at + 13
            while i < end and line[i] != 32:
                i += 1
            row.text[SASL_METHOD].start = <uint16_t> (at + 13)
            row.text[SASL_METHOD].length = <uint16_t> (i - at - 13)
            at = i
        if end - at > 15 and memcmp(line + at, b" sasl_username=", 15) == 0:
            i = sentinel_find(line, at + 15, end, b" sasl_sender=", 13)
            if i < 0:
                i = end
            row.text[SASL_USERNAME].start = <uint16_t> (at + 15)
            row.text[SASL_USERNAME].length = <uint16_t> (i - at - 15)
            at = end if i == end else i
        if end - at > 13 and memcmp(line + at, b" sasl_sender=", 13) == 0:
            at = end
        return at == end

    cdef void checked(self, Row *row, const char *line, Py_ssize_t at, Py_ssize_t end) noexcept:
        """``{text} from {client|local}; from=<s> to=<r> proto=P helo=<h>[: {text}]``: cleanup's header and body checks.

        The first text is the attacker's, and so are the addresses; the last is the admin's. A place qualifies if the envelope behind it is
        quoted as since 3.5 to its end, and the admin's text does not look like a part of an envelope: behind an imitation in the text stands
        the whole of the real envelope, and behind one in a quoted address the rest of it. If one place alone qualifies, it is the real one.
        Where none does, or several, only a place that is alone in its line is believed, with addresses as before 3.5; else all that is known
        is the action, and the client is that of the message. So it is, too, where the line was cut, which may have taken the rest of the
        envelope away, and where there are more places than anybody has a reason to write.

        What Postfix has not quoted (before 3.5, or with ``info_log_address_format = internal``) can imitate an envelope to the letter.
        """
        cdef Py_ssize_t i = end, k, stop, best_stop = -1
        cdef int places = 0, qualified = 0
        cdef Row trial, best, strict
        while True:
            i = sentinel_rfind(line, at, i, b" from ", 6)
            if i < 0:
                break
            k = i + 6
            memcpy(&trial, row, sizeof(Row))
            if begins(line, k, end, b"local;", 6):
                k += 5
            elif not self.client(&trial, line, &k, min(end, k + CLIENT_LIMIT), CLIENT_NAME, CLIENT_IP, CLIENT_PORT):
                continue
            if k >= end or line[k] != 59:
                continue
            k += 1
            if not (k == end or begins(line, k, end, b": ", 2) or in_envelope(line, k, end)):
                continue
            places += 1
            if places > CHECKED_CANDIDATES or self.cut and places > 1:
                return
            memcpy(&strict, &trial, sizeof(Row))
            stop = self.envelope(&strict, line, k, end, True)
            if stop == end or begins(line, stop, end, b": ", 2) and not names_envelope(line, stop + 2, end):
                qualified += 1
                best_stop = stop
                memcpy(&best, &strict, sizeof(Row))
            elif places == 1:
                best_stop = self.envelope(&trial, line, k, end, False)
                memcpy(&best, &trial, sizeof(Row))
        if qualified != 1 and places != 1 or best_stop < 0 or best_stop < end and not begins(line, best_stop, end, b": ", 2):
            return
        if best_stop < end:
            k = codes(&best, line, best_stop + 2, end)
            if k < end:
                best.text[REPLY].start = <uint16_t> k
                best.text[REPLY].length = <uint16_t> (end - k)
        memcpy(row, &best, sizeof(Row))

    cdef Py_ssize_t envelope(self, Row *row, const char *line, Py_ssize_t at, Py_ssize_t end, bint strict) noexcept:
        """`` from=<s> to=<r> proto=P helo=<h>``, each only if known, as global/info_log_addr_form.c quotes it; where it ends, or -1.

        ``strict``: outside quotes nothing that would need them. Else an address may be one of before 3.5.
        """
        cdef Py_ssize_t i
        cdef int k, fields[2]
        fields[0], fields[1] = SENDER, RECIPIENT
        for k in range(2):
            if not begins(line, at, end, b" from=<" if k == 0 else b" to=<", 7 if k == 0 else 5):
                continue
            at += 7 if k == 0 else 5
            i = at
            if strict or i < end and line[i] == 34:
                if i < end and line[i] == 34:
                    i += 1
                    while i < end and line[i] != 34:
                        i += 2 if line[i] == 92 else 1
                    i += 1
                while i < end and not (CLASS[<uint8_t> line[i]] & 16 if strict
                                       else line[i] == 34 or line[i] == 32 or line[i] == 60 or line[i] == 62):
                    i += 1
                if i >= end or line[i] != 62:
                    return -1
            else:
                while i < end and line[i] != 34 and not (line[i] == 62 and (
                        i + 1 == end or begins(line, i + 1, end, b": ", 2) or begins(line, i + 1, end, b" proto=", 7)
                        or begins(line, i + 1, end, b" helo=<", 7) or k == 0 and begins(line, i + 1, end, b" to=<", 5))):
                    i += 1
                if i >= end or line[i] == 34:
                    return -1
            row.text[fields[k]].start = <uint16_t> at
            row.text[fields[k]].length = <uint16_t> (i - at)
            at = i + 1
        if begins(line, at, end, b" proto=", 7):
            at += 7
            while at < end and (65 <= line[at] <= 90 or 97 <= line[at] <= 122):
                at += 1
        if begins(line, at, end, b" helo=<", 7):
            at += 7
            i = at
            while i < end and not (CLASS[<uint8_t> line[i]] & 16 if strict
                                   else line[i] == 34 or line[i] == 32 or line[i] == 60 or line[i] == 62):
                i += 1
            if i >= end or line[i] != 62:
                return -1
            row.text[HELO].start = <uint16_t> at
            row.text[HELO].length = <uint16_t> (i - at)
            at = i + 1
        return at

    cdef bint match(self, CForm *form, Row *row, const char *line, Py_ssize_t at, Py_ssize_t end) noexcept:
        """Whether a form fits to the end of the line; ``at`` is behind the literal that it begins with."""
        cdef Op *op = &self.ops[form.ops + (form.first >= 0)]
        cdef Py_ssize_t i, k
        cdef int64_t number
        cdef double scale
        cdef Literal *literal
        while True:
            # By themselves, because most operations are of these three: one switch for all would be guessed wrong too often.
            if op.code <= OP_OPTIONAL:
                literal = &self.literals[op.stops]
                if self.starts(literal, line, at, end):
                    at += literal.length
                    op += 1
                elif op.code == OP_OPTIONAL:
                    op = &self.ops[op.jump]
                else:
                    return False
                continue
            if op.code == OP_TEXT:
                if op.n_words:
                    # What follows the word is the next operation's to see.
                    i = -1
                    for k in range(op.n_words):
                        literal = &self.literals[op.words + k]
                        if self.starts(literal, line, at, end):
                            i = at + literal.length
                            break
                else:
                    i = self.stop(op, line, at, end)
                if i < 0 or (op.word and sentinel_chr(line + at, 32, i - at) != NULL) or (op.address and not is_address(line, at, i)):
                    return False
                if op.field >= 0:
                    row.text[op.field].start = <uint16_t> at
                    row.text[op.field].length = <uint16_t> (i - at)
                at = i
                op += 1
                continue
            if op.code == OP_INTEGER:
                number = 0
                i = at
                while i < end and is_digit(line[i]) and i - at < 18:
                    number = number * 10 + line[i] - 48
                    i += 1
                if i == at:
                    return False
                row.number[op.field] = number
                at = i
            elif op.code == OP_DECIMAL:
                row.delay = 0
                i = at
                while i < end and is_digit(line[i]) and i - at < 18:
                    row.delay = row.delay * 10 + (line[i] - 48)
                    i += 1
                if i == at:
                    return False
                if i + 1 < end and line[i] == 46:
                    i += 1
                    number = 0
                    scale = 1
                    while i < end and is_digit(line[i]) and scale < 1e15:
                        number = number * 10 + line[i] - 48
                        scale *= 10
                        i += 1
                    row.delay = row.delay + number / scale
                at = i
            elif op.code == OP_CLIENT:
                if not self.client(row, line, &at, end, CLIENT_NAME, CLIENT_IP, CLIENT_PORT):
                    return False
            elif op.code == OP_RELAY:
                i = self.stop(op, line, at, end)
                if i < 0:
                    return False
                k = at
                if sentinel_chr(line + at, 91, i - at) != NULL:
                    if not self.client(row, line, &k, i, RELAY_HOST, RELAY_IP, RELAY_PORT) or k != i:
                        return False
                elif not (i - at == 4 and memcmp(line + at, b"none", 4) == 0):
                    row.text[RELAY_HOST].start = <uint16_t> at
                    row.text[RELAY_HOST].length = <uint16_t> (i - at)
                at = i
            elif op.code == OP_CODE:
                at = codes(row, line, at, end)
            elif op.code == OP_TAIL:
                return self.tail(row, line, at, end, op.field)
            elif op.code == OP_CHECKED:
                self.checked(row, line, at, end)
                return True
            elif op.code == OP_LOGIN:
                return dovecot_login(row, line, at, end)
            elif op.code == OP_PASSDB:
                return dovecot_passdb(row, line, at, end)
            else:
                return at == end
            op += 1


cdef inline bint in_envelope(const char *line, Py_ssize_t at, Py_ssize_t end) noexcept:
    """Whether a part of an envelope begins here."""
    return (begins(line, at, end, b" from=<", 7) or begins(line, at, end, b" to=<", 5) or begins(line, at, end, b" proto=", 7)
            or begins(line, at, end, b" helo=<", 7))


cdef inline bint names_envelope(const char *line, Py_ssize_t at, Py_ssize_t end) noexcept:
    """Whether a part of an envelope begins anywhere."""
    return (sentinel_find(line, at, end, b" from=<", 7) >= 0 or sentinel_find(line, at, end, b" to=<", 5) >= 0
            or sentinel_find(line, at, end, b" proto=", 7) >= 0 or sentinel_find(line, at, end, b" helo=<", 7) >= 0)


cdef inline bint was_cut(const char *line, Py_ssize_t text, Py_ssize_t end, bint folded) noexcept:
    """Whether a message of this length has been cut, by Postfix or by rsyslog."""
    cdef Py_ssize_t n = end - text
    if folded and n == FOLDED_LIMIT - 1:
        return True
    return n == TEXT_LIMIT or n == TEXT_LIMIT + 9 and begins(line, text, end, b"warning: ", 9)


cdef inline Py_ssize_t address_end(const char *line, Py_ssize_t at, Py_ssize_t end) noexcept:
    """The end of what may be an IP address, ``at`` where there is none."""
    while at < end and CLASS[<uint8_t> line[at]] & 4:
        at += 1
    return at


cdef inline Py_ssize_t codes(Row *row, const char *line, Py_ssize_t at, Py_ssize_t end) noexcept:
    """Takes ``{three digits} `` and ``{DSN} ``, each if it is there; where the text begins."""
    cdef Py_ssize_t i
    if end - at >= 4 and is_digit(line[at]) and is_digit(line[at + 1]) and is_digit(line[at + 2]) and line[at + 3] == 32:
        row.number[REPLY_CODE] = (line[at] - 48) * 100 + (line[at + 1] - 48) * 10 + line[at + 2] - 48
        at += 4
    i = dsn_end(line, at, end)
    if i > at and i < end and line[i] == 32:
        row.text[DSN].start = <uint16_t> at
        row.text[DSN].length = <uint16_t> (i - at)
        at = i + 1
    return at


cdef bint is_base64(const char *line, Py_ssize_t at, Py_ssize_t end) noexcept:
    while at < end and (is_digit(line[at]) or 65 <= line[at] <= 90 or 97 <= line[at] <= 122 or line[at] == 43 or line[at] == 47):
        at += 1
    if end - at <= 2:
        while at < end and line[at] == 61:
            at += 1
    return at == end


cdef inline bint foreign(const char *line, Span *action) noexcept:
    """Whether the text of a refusal was written by a milter or a proxy filter."""
    return action.length > 6 and (line[action.start] == 109 or line[action.start] == 112)


cdef inline bint is_address(const char *line, Py_ssize_t at, Py_ssize_t end) noexcept:
    return at < end and address_end(line, at, end) == end


cdef bint dovecot_login(Row *row, const char *line, Py_ssize_t at, Py_ssize_t end) noexcept:
    """``u>[, method=M], rip=IP[, ...]`` to the end of the line (Dovecot, login_log_format_elements).

    The user is the client's, and M its word in upper case; what comes after the address is Dovecot's. So the last ``, rip=`` is the real one.
    """
    cdef Py_ssize_t rip, ip_end, user_end, method
    if end > DOVECOT_LIMIT:
        return False
    rip = sentinel_rfind(line, at, end, b", rip=", 6)
    if rip <= at:
        return False
    ip_end = address_end(line, rip + 6, end)
    if ip_end == rip + 6 or (ip_end < end and line[ip_end] != 44):
        return False
    user_end = rip - 1
    if line[user_end] != 62:
        user_end = sentinel_rfind(line, at, rip, b">, method=", 10)
        if user_end < 0:
            return False
        method = user_end + 10
        if method == rip or sentinel_chr(line + method, 32, rip - method) != NULL:
            return False
        row.text[SASL_METHOD].start = <uint16_t> method
        row.text[SASL_METHOD].length = <uint16_t> (rip - method)
    if user_end > at:
        row.text[SASL_USERNAME].start = <uint16_t> at
        row.text[SASL_USERNAME].length = <uint16_t> (user_end - at)
    row.text[CLIENT_IP].start = <uint16_t> (rip + 6)
    row.text[CLIENT_IP].length = <uint16_t> (ip_end - rip - 6)
    return True


cdef bint dovecot_passdb(Row *row, const char *line, Py_ssize_t at, Py_ssize_t end) noexcept:
    """``[Info: ][conn ...: auth-worker<n>: ]db(u,IP[,<session>]): text``: user and address, if there is one place only to take them from.

    The user stands before the address and may imitate it, as may a password that is logged after it. After ``Error: `` the text is the reply.
    """
    cdef Py_ssize_t i, start, found = -1, found_end = -1
    cdef const char *hit
    cdef bint error = begins(line, at - 7, end, b"Error: ", 7)
    if error and end > DOVECOT_LIMIT:
        return False
    if begins(line, at, end, b"Info: ", 6):
        at += 6
    if begins(line, at, end, b"conn unix:auth-worker (", 23):
        i = sentinel_find(line, at, end, b"): auth-worker<", 15)
        if i < 0:
            return False
        i += 15
        while i < end and is_digit(line[i]):
            i += 1
        if not begins(line, i, end, b">: ", 3):
            return False
        at = i + 3
    start = at
    while start < end and (97 <= line[start] <= 122 or is_digit(line[start]) or line[start] == 45):
        start += 1
    if start == at or start >= end or line[start] != 40:
        return False
    start += 1
    i = start
    while i < end:
        hit = sentinel_chr(line + i, 44, end - i)
        if hit == NULL:
            break
        i = hit - line + 1
        at = address_end(line, i, end)
        if at > i and (begins(line, at, end, b"): ", 3) or begins(line, at, end, b",<", 2)):
            if found >= 0:
                return True
            found, found_end = i, at
    if found < 0:
        return False
    if found - 1 > start:
        row.text[SASL_USERNAME].start = <uint16_t> start
        row.text[SASL_USERNAME].length = <uint16_t> (found - 1 - start)
    row.text[CLIENT_IP].start = <uint16_t> found
    row.text[CLIENT_IP].length = <uint16_t> (found_end - found)
    if error:
        # A session's name is Dovecot's own.
        i = sentinel_find(line, found_end, end, b"): ", 3)
        if i >= 0 and i + 3 < end:
            row.text[REPLY].start = <uint16_t> (i + 3)
            row.text[REPLY].length = <uint16_t> (end - i - 3)
    return True


cdef inline Py_ssize_t dsn_end(const char *line, Py_ssize_t at, Py_ssize_t end) noexcept:
    """End of ``x.y.z`` (RFC 3463) at ``at``, or ``at`` where there is none."""
    cdef Py_ssize_t i = at
    cdef int part, digits
    for part in range(3):
        digits = 0
        while i < end and is_digit(line[i]) and digits < 4:
            digits += 1
            i += 1
        if digits == 0 or digits > 3:
            return at
        if part < 2:
            if i >= end or line[i] != 46:
                return at
            i += 1
    return i


cdef inline bint begins(const char *line, Py_ssize_t at, Py_ssize_t end, const char *word, Py_ssize_t n) noexcept:
    return end - at >= n and line[at] == word[0] and sentinel_same(line + at, word, n)


cdef Matcher MATCHER = Matcher()

# fields.DIALECTS, from 1
cdef enum:
    D_SENDMAIL = 1, D_EXIM, D_QMAIL

cdef list SERVICE_OF_DIALECT = [0, *[_fields.SERVICES.index(name) for name in _fields.DIALECTS]]

cdef int dialect_of(bytes tag) except -1:
    """Which other mail server writes under a syslog tag; 0 for none."""
    if tag in (b"sendmail", b"sm-mta", b"sm-msp", b"sm-msp-queue", b"sm-client", b"sm-queue", b"sendmail-client"):
        return D_SENDMAIL
    if tag.startswith(b"exim"):
        return D_EXIM
    return D_QMAIL if tag == b"qmail" else 0

_LEVELS = frozenset(b"DEBUG INFO NOTICE WARN WARNING ERR ERROR CRIT CRITICAL ALERT EMERG FATAL PANIC".split())
_PRIORITIES = frozenset(
    facility + b"." + severity
    for facility in (
        b"kern user mail daemon auth syslog lpr news uucp cron authpriv security console ftp ntp local0 local1 local2 local3 local4 local5 local6 "
        b"local7 " + b" ".join([b"%d" % i for i in range(24)])
    ).split()
    for severity in b"emerg panic alert crit err error warning warn notice info debug 0 1 2 3 4 5 6 7".split()
)

cdef struct Tag:
    int32_t length
    uint16_t name_length
    uint8_t service
    uint8_t postfix
    uint8_t dialect     # its number in fields.DIALECTS, from 1
    char text[128]


@cython.final
cdef class Scanner:
    """Scans the chunks of one source. Its state between chunks: the last time seen, which gives the next line its year; the last lines, which the
    next may say are repeated; what docker has not written to its end.
    """

    cdef object clock
    cdef bint keep_all
    cdef bint postfix           # its lines are read
    cdef int dialects           # bits of the other mail servers whose lines are read, by their number in fields.DIALECTS from 1
    cdef int dialect            # of the line that parse() has left to Python
    cdef Py_ssize_t text_at     # where its text begins
    cdef object reader          # dialects.read, once a line has asked for it
    cdef Matcher matcher
    # the stamp of the line before, and what it came to
    cdef char stamp[32]
    cdef int stamp_length
    cdef int64_t stamp_time, stamp_seconds
    cdef int hour_key, local_key     # the local hours whose starts are known: of classic stamps, of ISO stamps without a zone
    cdef int64_t hour_start, local_start
    cdef bint has_last
    cdef int64_t last
    cdef char host[64]
    cdef int host_length
    cdef Tag tags[TAGS]
    cdef Tag *free_tag
    cdef int64_t counts[4]      # lines: event, ignored, unparsed, repeated
    cdef int folded             # the line at hand is 1: message repeated, 2: last message repeated
    cdef Py_ssize_t text_start  # where the line at hand has its text
    cdef bint translated        # the chunk at hand
    cdef bytes tail             # the last lines before the chunk at hand
    cdef list tail_places       # as EventBatch.places
    cdef object tail_file, tail_end
    cdef list appendix          # lines of the tail that rows of the chunk at hand speak of: (row, offset, line)
    cdef dict unfinished        # docker: stream -> text that still waits for its newline

    def __cinit__(self, clock, *, bint keep_all=False, str dialect="auto"):
        """``clock``: a ``LogClock``. ``keep_all``: rows also for lines that mean nothing (kinds ``other`` and ``unparsed``).

        ``dialect``: ``auto``, or the one mail server whose lines are read (``postfix``, ``sendmail``, ``exim``, ``qmail``).
        """
        self.clock = clock
        self.keep_all = keep_all
        self.postfix = dialect in ("auto", "postfix")
        self.dialects = sum([2 << i for i, name in enumerate(_fields.DIALECTS) if dialect in ("auto", name)])
        self.matcher = MATCHER
        self.hour_key = self.local_key = -1
        memset(self.tags, 0, sizeof(self.tags))
        self.tail = b""
        self.tail_places = []
        self.unfinished = {}

    @property
    def lines(self):
        """Lines so far, by outcome."""
        return {"event": self.counts[0], "ignored": self.counts[1], "unparsed": self.counts[2], "repeated": self.counts[3]}

    def forget_time(self):
        """The next line is dated as if it were the first."""
        self.has_last = False
        self.stamp_length = 0
        self.hour_key = -1

    def snapshot(self):
        """What the next line depends on: seconds of the last line, or None; the line counts; the last lines and where they stand; what docker
        has not finished.
        """
        return [
            self.last if self.has_last else None, [self.counts[0], self.counts[1], self.counts[2], self.counts[3]],
            [self.tail.decode("latin-1"), [list(place) for place in self.tail_places], self.tail_file, self.tail_end], dict(self.unfinished),
        ]

    def restore(self, state):
        """The inverse; a state of before lines were counted as repeated has only its first two parts."""
        last, counts, *more = state
        self.has_last = last is not None
        self.last = last or 0
        self.stamp_length = 0
        self.hour_key = self.local_key = -1
        self.counts[0], self.counts[1], self.counts[2], self.counts[3] = (*counts, 0)[:4]
        self.tail, self.tail_places, self.tail_end, self.unfinished = b"", [], None, {}
        if more:
            (tail, places, self.tail_file, self.tail_end), self.unfinished = more
            self.tail = tail.encode("latin-1")
            self.tail_places = [tuple(place) for place in places]

    def scan(self, chunk):
        """An ``EventBatch`` of a ``Chunk``'s lines."""
        cdef EventBatch batch = EventBatch.__new__(EventBatch)
        cdef bytes data = chunk.data
        if len(data) >= 1 << 32:
            raise ValueError("a chunk must be smaller than 4 GiB")
        batch.chunk = chunk
        batch.data = data
        batch.base = data
        cdef const char *base = batch.base
        cdef Py_ssize_t n = len(data), at = 0, end
        cdef const char *newline
        global SPARE, SPARE_ROOM
        batch.room = n // 160 + 16
        if SPARE_ROOM >= batch.room:
            batch.rows, batch.room = SPARE, SPARE_ROOM
            SPARE, SPARE_ROOM = NULL, 0
        else:
            batch.rows = <Row *> malloc(batch.room * sizeof(Row))
            if batch.rows == NULL:
                raise MemoryError
        self.translated = False
        self.appendix = None
        if self.tail_end != chunk.start or self.tail_file != chunk.file_id:
            self.tail, self.tail_places = b"", []
        while at < n:
            newline = <const char *> memchr(base + at, 10, n - at)
            end = newline - base if newline != NULL else n
            if self.line(batch, base, at, end):
                self.translate(batch, at)
                base = batch.base
                n = len(batch.data)
                continue
            batch.lines += 1
            at = end + 1
        if n:
            self.keep_tail(batch)
        return batch

    cdef int translate(self, EventBatch batch, Py_ssize_t at) except -1:
        """From ``at`` on the chunk has JSON lines: its buffer goes on with the syslog lines that they stand for, one for one."""
        from sentinel.maillog.journal import translate

        cdef int64_t start = batch.chunk.start
        text, places = translate(batch.data[at:], self.unfinished)
        batch.places = [(0, start, True)] if at else []
        batch.places += [(at + begin, start + at + offset, verbatim) for begin, offset, verbatim in places]
        batch.data = batch.data[:at] + text
        batch.base = batch.data
        self.translated = True
        return 0

    cdef int keep_tail(self, EventBatch batch) except -1:
        """Keeps the lines that begin in the last bytes, for a ``last message repeated`` in the next chunk."""
        cdef bytes data = batch.data
        cdef list places = batch.places
        cdef Py_ssize_t n = len(data), cut, k
        if places is None:
            places = [(0, batch.chunk.start, True)]
        cdef bint plain = batch.places is None
        if self.appendix is not None:
            self.append(batch, places)
        if batch.base[n - 1] != 10:
            self.tail, self.tail_places, self.tail_end = b"", [], None
            return 0
        if n < TAIL_BYTES and self.tail:
            cut = len(self.tail)
            places = self.tail_places + [(start + cut, offset, verbatim) for start, offset, verbatim in places]
            data = self.tail + data
            n += cut
            start, offset, verbatim = self.tail_places[len(self.tail_places) - 1]
            if verbatim and plain and offset + cut - start == batch.chunk.start:
                places.pop()
        cut = 0
        if n > TAIL_BYTES:
            cut = data.find(b"\n", n - TAIL_BYTES - 1) + 1
            k = bisect_right(places, (cut, 1 << 62)) - 1
            start, offset, verbatim = places[k]
            places = [(0, offset + cut - start if verbatim else offset, verbatim)] + [(s - cut, o, v) for s, o, v in places[k + 1:]]
        self.tail = data[cut:n]
        self.tail_places = places if self.tail else []
        self.tail_file, self.tail_end = batch.chunk.file_id, batch.chunk.end
        return 0

    cdef int line(self, EventBatch batch, const char *base, Py_ssize_t begin, Py_ssize_t end) except -1:
        """Reads a line. 1, and nothing done, if it is JSON."""
        cdef Row *row
        cdef int kind
        cdef Py_ssize_t first = begin
        # A run of NULs is what copytruncate leaves behind, and some crashes; Postfix writes none.
        while begin < end and base[begin] == 0:
            begin += 1
        if end > begin and base[end - 1] == 13:
            end -= 1
        if begin == end:
            self.counts[1] += 1
            return 0
        if end - begin > ORDINARY:
            return self.long_line(batch, base, first, begin, end)
        row = batch.append()
        row.line = <uint32_t> begin
        row.length = <uint16_t> (end - begin)
        self.dialect = 0
        kind = self.parse(row, base + begin, end - begin)
        if kind > OTHER and not self.folded:
            row.kind = kind
            self.counts[0] += 1
            return 0
        return self.odd_line(batch, row, base, first, begin, end, kind)

    cdef int long_line(self, EventBatch batch, const char *base, Py_ssize_t first, Py_ssize_t begin, Py_ssize_t end) except -1:
        """A line that may have NULs in it, or may have been cut."""
        cdef Row *row
        cdef int kind
        while end > begin and base[end - 1] == 0:
            end -= 1
        begin = max(begin, sentinel_rfind(base, begin, end, b"\0", 1) + 1)
        row = batch.append()
        row.line = <uint32_t> begin
        if end - begin > LINE_LIMIT:
            row.length = LINE_LIMIT
            kind = UNPARSED
        else:
            row.length = <uint16_t> (end - begin)
            self.dialect = 0
            kind = self.parse(row, base + begin, end - begin)
            if kind > OTHER:
                self.drop_cut(row, base + begin, end - begin)
        return self.odd_line(batch, row, base, first, begin, end, kind)

    cdef int odd_line(self, EventBatch batch, Row *row, const char *base, Py_ssize_t first, Py_ssize_t begin, Py_ssize_t end, int kind) except -1:
        """What becomes of a line that means nothing, or another one again, or is another mail server's."""
        if kind <= OTHER:
            if base[begin] == 123 and not self.translated:
                batch.size -= 1
                return 1
            if end - begin <= ORDINARY and memchr(base + begin, 0, end - begin) != NULL:
                # Half a line, NULs, and a line.
                while base[end - 1] == 0:
                    end -= 1
                begin = max(begin, sentinel_rfind(base, begin, end, b"\0", 1) + 1)
                memcpy(row, &BLANK, sizeof(Row))
                row.line = <uint32_t> begin
                row.length = <uint16_t> (end - begin)
                self.folded = 0
                self.dialect = 0
                kind = self.parse(row, base + begin, end - begin)
        if self.folded:
            if self.folded == 2:
                kind = self.last_message(batch, row, base, first)
            self.folded = 0
            if kind > OTHER:
                row.kind = kind
                self.counts[3] += 1
                return 0
        elif kind == UNPARSED and self.dialect and self.dialects >> self.dialect & 1:
            kind = self.other_server(batch, base + begin)
            row = &batch.rows[batch.size - 1]
        row.kind = kind
        if kind > OTHER:
            self.counts[0] += 1
            return 0
        if row.time == NO_TIME:
            self.counts[2] += 1
        else:
            self.counts[1] += 1
        if not self.keep_all:
            batch.size -= 1
        return 0

    cdef int other_server(self, EventBatch batch, const char *line) except -1:
        """Lets Python read the last row's line; its rows take that row's place. The kind of the last one."""
        cdef Row header = batch.rows[batch.size - 1]
        if header.text[SYSLOG_NAME].start == 0:
            # No syslog header: what was taken for one is text.
            header.text[HOST].start = header.text[HOST].length = 0
            header.number[PID] = -1
        if self.reader is None:
            from sentinel.maillog import dialects
            self.reader = dialects.read
        events = self.reader(line[:header.length], self.text_at, self.dialect)
        if events is None:
            batch.rows[batch.size - 1] = header
            return UNPARSED
        if not events:
            header.service = <uint8_t> SERVICE_OF_DIALECT[self.dialect]
            batch.rows[batch.size - 1] = header
            return OTHER
        batch.size -= 1
        for kind, said, delay, spans, numbers in events:
            batch.add(&header, kind, SERVICE_OF_DIALECT[self.dialect], said, delay, spans, numbers)
        return batch.rows[batch.size - 1].kind

    cdef int last_message(self, EventBatch batch, Row *row, const char *base, Py_ssize_t begin) except -1:
        """Makes the row of a ``last message repeated`` that of the line before from the same host, at the time of the repetition."""
        cdef Row said = row[0]
        cdef Py_ssize_t low = begin - TAIL_BYTES, place = 0, length = 0
        cdef const char *host = base + said.line + said.text[HOST].start
        cdef Py_ssize_t n = said.text[HOST].length if said.text[HOST].start else 0
        cdef const char *tail = self.tail
        cdef int kind = self.latest(row, &said, base, max(0, low), begin, host, n, &place, &length)
        if kind > OTHER and kind != N_KINDS:
            row.line = <uint32_t> place
        elif kind == N_KINDS and low < 0 and self.tail:
            kind = self.latest(row, &said, tail, max(0, len(self.tail) + low), len(self.tail), host, n, &place, &length)
            if kind > OTHER and kind != N_KINDS:
                self.append_line(batch, place, length)
        if kind == N_KINDS:
            row[0] = said
            return OTHER
        return kind

    cdef int latest(self, Row *row, Row *said, const char *base, Py_ssize_t low, Py_ssize_t at, const char *host, Py_ssize_t n,
                    Py_ssize_t *place, Py_ssize_t *length) except -1:
        """Reads the latest line of a host in [low, at) that says something of its own; its kind, N_KINDS if there is none."""
        cdef int64_t last = self.last
        cdef int kind = N_KINDS
        while kind == N_KINDS:
            place[0] = self.before(base, low, &at, host, n, length)
            if place[0] < 0:
                break
            kind = self.again(row, said, base + place[0], length[0], last)
        return kind

    cdef int append_line(self, EventBatch batch, Py_ssize_t at, Py_ssize_t length) except -1:
        """Keeps a line of the tail for the row that has its texts."""
        start, offset, verbatim = self.tail_places[bisect_right(self.tail_places, (at, 1 << 62)) - 1]
        if self.appendix is None:
            self.appendix = []
        self.appendix.append((batch.size - 1, offset + at - start if verbatim else offset, self.tail[at:at + length]))
        return 0

    cdef int append(self, EventBatch batch, list places) except -1:
        """Puts the lines of the tail that rows speak of behind the chunk's own."""
        cdef Py_ssize_t n = len(batch.data)
        batch.places = places[:]
        for row, offset, text in self.appendix:
            batch.rows[<Py_ssize_t> row].line = <uint32_t> n
            batch.places.append((n, offset, True))
            n += len(text)
        batch.data += b"".join([text for _, _, text in self.appendix])
        batch.base = batch.data
        return 0

    cdef int again(self, Row *row, Row *said, const char *line, Py_ssize_t length, int64_t last) except -1:
        """Reads a line once more, for a repetition of it; OTHER if it means nothing, N_KINDS if it only speaks of one before it."""
        cdef int kind
        memcpy(row, &BLANK, sizeof(Row))
        row.length = <uint16_t> length
        self.folded = 0
        kind = self.parse(row, line, length)
        if kind > OTHER and length > ORDINARY:
            self.drop_cut(row, line, length)
        # Time goes on from the line that says so.
        self.last = last
        self.has_last = True
        self.hour_key = -1
        self.stamp_length = 0
        row.kind = kind
        row.time = said.time
        row.repeat = said.repeat
        if kind > OTHER:
            return kind
        row[0] = said[0]
        return N_KINDS if self.folded == 2 else OTHER

    cdef Py_ssize_t before(self, const char *base, Py_ssize_t low, Py_ssize_t *at, const char *host, Py_ssize_t n, Py_ssize_t *length) except -2:
        """Where the line from a host begins that is the last one in [low, at); from any, if n is 0. -1 if there is none. ``at``, where a line begins, moves to
        where the line found begins, which may have NULs before it.
        """
        cdef Py_ssize_t start, stop, i, begin, line_stop = at[0]
        cdef Row trial
        while line_stop > low:
            stop = line_stop - 1
            i = max(0, low - 1)
            start = sentinel_rfind(base, i, stop, b"\n", 1) + 1
            if start == 0 and i > 0:
                return -1
            if start < low:
                return -1
            line_stop = start
            while stop > start and base[stop - 1] == 0:
                stop -= 1
            begin = max(start, sentinel_rfind(base, start, stop, b"\0", 1) + 1)
            if stop > begin and base[stop - 1] == 13:
                stop -= 1
            if stop - begin > LINE_LIMIT or stop == begin:
                continue
            i = after_stamp(base + begin, after_priority(base + begin, stop - begin), stop - begin)
            if i < 0:
                continue
            memset(&trial, 0, sizeof(Row))
            if self.host_of(&trial, base + begin, i, stop - begin) < 0:
                continue
            if n == 0 or (trial.text[HOST].length == n and trial.text[HOST].start
                          and sentinel_same(base + begin + trial.text[HOST].start, host, n)):
                length[0] = stop - begin
                at[0] = start
                return begin
        return -1

    cdef int parse(self, Row *row, const char *line, Py_ssize_t end) except -1:
        cdef Py_ssize_t at = 0, i, n, start
        cdef bint rfc5424 = False
        cdef Tag *tag
        cdef const char *hit
        if line[0] == 60:
            i = 1
            while i < end and i < 5 and is_digit(line[i]):
                i += 1
            if i > 1 and i < end and line[i] == 62:
                at = i + 1
                if begins(line, at, end, b"1 ", 2):
                    rfc5424 = True
                    at += 2
        n = self.stamp_length
        if n and end - at > n and line[at + n] == 32 and sentinel_same(line + at, self.stamp, n):
            row.time = self.stamp_time
            self.last = self.stamp_seconds
            at += n + 1
        else:
            i = self.timestamp(row, line, at, end)
            if i < 0:
                if at < end and line[at] == 64 and self.tai64n(row, line, at, end):
                    self.dialect = D_QMAIL
                    self.text_at = at + 26
                    return UNPARSED
                row.time = NO_TIME
                return UNPARSED
            # "2026-11-22 02:04:46 text": exim's own log has a blank in its stamp, and neither host nor tag.
            if at == 0 and is_digit(line[0]) and line[10] == 32:
                self.dialect = D_EXIM
                self.text_at = i
            at = i
        start = at
        if end - at > self.host_length and line[at + self.host_length] == 32 and self.host_length and sentinel_same(line + at, self.host, self.host_length):
            at += self.host_length + 1
            row.text[HOST].start = <uint16_t> start
            row.text[HOST].length = <uint16_t> self.host_length
        else:
            at = self.host_of(row, line, at, end) if not rfc5424 else self.host_5424(row, line, at, end)
            if at < 0:
                return UNPARSED
        start = at
        if rfc5424:
            return self.rfc5424(row, line, at, end)
        # Most tags have been seen before, and end in "[".
        hit = sentinel_chr(line + at, 91, min(end - at, TAG_LIMIT))
        tag = NULL if hit == NULL else self.known(line + start, hit - line - start)
        if tag != NULL:
            at = hit - line
        else:
            while at < end and line[at] != 91 and line[at] != 58 and line[at] != 32:
                at += 1
            if at >= end or at == start:
                return UNPARSED
            tag = self.tag(line + start, at - start)
        if tag == NULL or not tag.postfix:
            if tag != NULL and tag.dialect:
                self.syslog_text(row, line, at, end, start, tag)
                return UNPARSED
            start = self.past_facility(row, line, start, end)
            if start < 0:
                return UNPARSED
            at = start
            while at < end and line[at] != 91 and line[at] != 58 and line[at] != 32:
                at += 1
            if at >= end:
                return UNPARSED
            tag = self.tag(line + start, at - start)
            if tag == NULL or not tag.postfix:
                if tag != NULL and tag.dialect:
                    self.syslog_text(row, line, at, end, start, tag)
                return UNPARSED
        if line[at] == 91:
            at = self.pid(row, line, at + 1, end)
            if at < 0 or at >= end or line[at] != 93:
                return UNPARSED
            at += 1
        if at < end and line[at] == 58:
            at += 1
        if at >= end or line[at] != 32:
            return UNPARSED
        return self.message(row, line, at + 1, end, start, tag)

    cdef void syslog_text(self, Row *row, const char *line, Py_ssize_t at, Py_ssize_t end, Py_ssize_t tag_start, Tag *tag) noexcept:
        """The rest of the header of a line that another mail server has written through syslog."""
        if line[at] == 91:
            at = self.pid(row, line, at + 1, end)
            if at >= end or line[at] != 93:
                return
            at += 1
        if at < end and line[at] == 58:
            at += 1
        if at >= end or line[at] != 32:
            return
        row.text[SYSLOG_NAME].start = <uint16_t> tag_start
        row.text[SYSLOG_NAME].length = <uint16_t> tag.length
        self.dialect = tag.dialect
        self.text_at = at + 1

    cdef bint tai64n(self, Row *row, const char *line, Py_ssize_t at, Py_ssize_t end) noexcept:
        """``@400000006ab1c2d31234abcd ``: seconds since 1970 with 2^62 and 10 added, nanoseconds (daemontools, taia_now.c)."""
        cdef int64_t seconds = 0, nanoseconds = 0
        cdef Py_ssize_t i
        cdef int digit
        if end - at < 26 or line[at + 25] != 32 or line[at + 1] != 52:
            return False
        for i in range(at + 1, at + 25):
            digit = line[i] - 48 if is_digit(line[i]) else line[i] - 87 if 97 <= line[i] <= 102 else line[i] - 55 if 65 <= line[i] <= 70 else -1
            if digit < 0:
                return False
            if i == at + 1:
                continue
            if i < at + 17:
                seconds = seconds << 4 | digit
            else:
                nanoseconds = nanoseconds << 4 | digit
        seconds -= 10
        if not 0 <= seconds < 7258118400 or nanoseconds >= 1000000000:
            return False
        self.last = seconds
        self.has_last = True
        self.hour_key = -1
        self.stamp_length = 0
        row.time = seconds * 1000000 + nanoseconds // 1000
        return True

    cdef bint plain(self, const char *word, Py_ssize_t n) noexcept:
        if word[0] == 60 or word[0] == 45 or word[n - 1] == 58 or word[n - 1] == 93:
            return False
        if 65 <= word[0] <= 90:
            return n > 8
        return not (n > 4 and word[4] == 45 and is_digit(word[0])) and not (n == 6 and memcmp(word, b"std", 3) == 0)

    cdef void take_host(self, Row *row, const char *line, Py_ssize_t start, Py_ssize_t stop) noexcept:
        row.text[HOST].start = <uint16_t> start
        row.text[HOST].length = <uint16_t> (stop - start)
        # Words that may be something else than a host are looked at each time.
        if stop - start <= <Py_ssize_t> sizeof(self.host) and self.plain(line + start, stop - start):
            self.host_length = <int> (stop - start)
            memcpy(self.host, line + start, self.host_length)

    cdef Py_ssize_t host_5424(self, Row *row, const char *line, Py_ssize_t at, Py_ssize_t end) noexcept:
        cdef const char *hit = sentinel_chr(line + at, 32, end - at)
        if hit == NULL or hit == line + at or sentinel_chr(line + at, 61, hit - line - at) != NULL:
            return -1
        # "-" says that it is not known.
        if hit - line - at > 1 or line[at] != 45:
            self.take_host(row, line, at, hit - line)
        return hit - line + 1

    cdef Py_ssize_t host_of(self, Row *row, const char *line, Py_ssize_t at, Py_ssize_t end) except -2:
        """Takes the host that follows the stamp, or sees that there is none; where the tag begins, or -1."""
        cdef Py_ssize_t i, start
        cdef const char *hit
        # Docker, and Kubernetes with two more words, put a stamp of their own before the line: it has year and zone.
        if begins(line, at, end, b"stdout F ", 9) or begins(line, at, end, b"stderr F ", 9):
            at += 9
        i = after_stamp(line, at, end)
        if i >= 0:
            at = i
        if at < end and line[at] == 60:
            # FreeBSD's syslogd -v: <mail.info> before the host
            hit = sentinel_chr(line + at, 32, end - at)
            if hit == NULL or (hit - 1)[0] != 62 or line[at + 1:hit - line - 1] not in _PRIORITIES:
                return -1
            at = hit - line + 1
        hit = sentinel_chr(line + at, 32, end - at)
        if hit == NULL or hit == line + at:
            return -1
        start = at
        at = hit - line
        if line[at - 1] == 58 or line[at - 1] == 93:
            if self.names_daemon(line, start, at):
                return start
            # Another program's tag; but an address may be a host.
            if line[start] != 91 and (line[at - 1] == 93 or line[at - 2] == 93 or sentinel_chr(line + start, 58, at - start - 1) == NULL):
                return -1
        elif at - start <= 8 and 65 <= line[start] <= 90 and line[start:at] in _LEVELS:
            # boky/postfix: the severity, padded, and no host
            i = at
            while i < end and line[i] == 32:
                i += 1
            hit = sentinel_chr(line + i, 32, end - i)
            if hit != NULL and self.names_daemon(line, i, hit - line):
                return i
        elif at - start == 3 and begins(line, start, end, b"--- last message repeated ", 26):
            return start
        if sentinel_chr(line + start, 61, at - start) != NULL:
            # exim's "H=(name given in HELO ...": what follows is the client's.
            return -1
        self.take_host(row, line, start, at)
        return at + 1

    cdef bint names_daemon(self, const char *line, Py_ssize_t at, Py_ssize_t stop) except -1:
        """Whether a word is ``tag[pid]:``, ``tag[pid]`` or ``tag:`` of Postfix."""
        cdef Py_ssize_t i = at
        cdef Tag *tag
        while i < stop and line[i] != 91 and line[i] != 58:
            i += 1
        if i == stop or i == at:
            return False
        tag = self.tag(line + at, i - at)
        return tag != NULL and tag.postfix

    cdef Py_ssize_t past_facility(self, Row *row, const char *line, Py_ssize_t at, Py_ssize_t end) except -2:
        """Where the tag begins if a facility and severity stand before it (``mail.info``); else -1, after a look at what syslog itself says."""
        cdef Py_ssize_t i
        cdef const char *hit = sentinel_chr(line + at, 32, end - at)
        if hit == NULL:
            return -1
        if sentinel_chr(line + at, 46, hit - line - at) != NULL:
            return hit - line + 1 if hit - line - at < 20 and line[at:hit - line] in _PRIORITIES else -1
        if begins(line, at, end, b"--- ", 4):
            at += 4
            if not begins(line, end - 4, end, b" ---", 4):
                return -1
            end -= 4
        elif begins(line, at, end, b"syslogd: ", 9):
            at += 9
        elif begins(line, at, end, b"syslogd[", 8):
            at += 8
            while at < end and is_digit(line[at]):
                at += 1
            if not begins(line, at, end, b"]: ", 3):
                return -1
            at += 3
        if begins(line, at, end, b"last message repeated ", 22):
            i = times(row, line, at + 22, end)
            if i == end and row.repeat:
                self.folded = 2
            else:
                row.repeat = 1
        return -1

    cdef Py_ssize_t pid(self, Row *row, const char *line, Py_ssize_t at, Py_ssize_t end) noexcept:
        cdef int64_t number = 0
        cdef Py_ssize_t start = at
        cdef uint8_t digit
        end = min(end, at + 18)
        while at < end:
            digit = <uint8_t> (line[at] - 48)
            if digit > 9:
                break
            number = number * 10 + digit
            at += 1
        if at > start:
            row.number[PID] = number
        return at

    cdef int rfc5424(self, Row *row, const char *line, Py_ssize_t at, Py_ssize_t end) except -1:
        """``APP-NAME PROCID MSGID STRUCTURED-DATA MSG`` (RFC 5424, 6): the app name of rsyslog's template ends at the first slash."""
        cdef Py_ssize_t start = at
        cdef Tag *tag
        while at < end and line[at] != 32:
            at += 1
        if at >= end or at == start:
            return UNPARSED
        tag = self.tag(line + start, at - start)
        if tag == NULL or not (tag.postfix or tag.dialect):
            return UNPARSED
        cdef Py_ssize_t i = self.pid(row, line, at + 1, end)
        while i < end and line[i] != 32:
            i += 1
        i += 1
        while i < end and line[i] != 32:      # MSGID
            i += 1
        i += 1
        if i >= end:
            return UNPARSED
        if line[i] == 91:                     # structured data: elements in brackets, values in quotes
            while i < end and line[i] == 91:
                i += 1
                while i < end and line[i] != 93:
                    if line[i] == 34:
                        i += 1
                        while i < end and line[i] != 34:
                            i += 2 if line[i] == 92 else 1
                    i += 1
                i += 1
        elif line[i] == 45:
            i += 1
        else:
            return UNPARSED
        if i >= end or line[i] != 32:
            return UNPARSED
        while i < end and line[i] == 32:
            i += 1
        if i >= end:
            return UNPARSED
        if tag.dialect and not tag.postfix:
            row.text[SYSLOG_NAME].start = <uint16_t> start
            row.text[SYSLOG_NAME].length = <uint16_t> tag.length
            self.dialect = tag.dialect
            self.text_at = i
            return UNPARSED
        return self.message(row, line, i, end, start, tag)

    cdef int message(self, Row *row, const char *line, Py_ssize_t at, Py_ssize_t end, Py_ssize_t tag_start, Tag *tag) except -1:
        cdef Py_ssize_t i, text = at
        cdef bint queued = False
        cdef int32_t *order
        cdef CForm *form
        cdef Literal *literal
        row.service = tag.service
        row.text[SYSLOG_NAME].start = <uint16_t> (tag_start if tag.name_length else 0)
        row.text[SYSLOG_NAME].length = tag.name_length
        self.text_start = at
        self.matcher.cut = end - at > ORDINARY and was_cut(line, at, end, self.folded == 1)
        if at < end and line[at] == 109 and begins(line, at, end, b"message repeated ", 17) and not self.folded:
            return self.folded_message(row, line, at, end, tag_start, tag)
        if begins(line, at, end, b"NOQUEUE: ", 9):
            queued = True
            at += 9
        else:
            i = queue_id_end(line, at, end)
            if i > 0:
                row.text[QUEUE_ID].start = <uint16_t> at
                row.text[QUEUE_ID].length = <uint16_t> (i - at)
                queued = True
                at = i + 2
        i = self.matcher.begin[tag.service * 512 + queued * 256 + (<uint8_t> line[at] if at < end else 0)]
        order = &self.matcher.order[i]
        while order[0] >= 0:
            form = &self.matcher.forms[order[0]]
            order += 1
            # Nobody asks for it, and no other form fits where this one does.
            if form.kind == OTHER and not self.keep_all:
                continue
            i = at
            if form.first >= 0:
                literal = &self.matcher.literals[form.first]
                if not self.matcher.starts(literal, line, at, end):
                    continue
                i += literal.length
            if self.matcher.match(form, row, line, i, end):
                if not row.service:
                    row.service = form.service
                    if form.kind == DELIVERY and form.service == S_SMTP:
                        row.service = self.agent(row, line)
                if form.kind == WARNING:
                    self.severity(row, line, text, end)
                return self.finish(row, line, end, form.kind)
            self.forget(row)
        if self.severity(row, line, text, end):
            return WARNING
        row.unknown = 1
        return OTHER

    cdef bint severity(self, Row *row, const char *line, Py_ssize_t at, Py_ssize_t end) noexcept:
        """``{severity}: [{queue ID}: ]{text}``: all that follows the word is the reply."""
        cdef Py_ssize_t i = at
        if not (begins(line, at, end, b"warning: ", 9) or begins(line, at, end, b"error: ", 7) or begins(line, at, end, b"fatal: ", 7)
                or begins(line, at, end, b"panic: ", 7)):
            return False
        while line[i] != 58:
            i += 1
        row.text[ACTION].start = <uint16_t> at
        row.text[ACTION].length = <uint16_t> (i - at)
        at = i + 2
        if at < end:
            row.text[REPLY].start = <uint16_t> at
            row.text[REPLY].length = <uint16_t> (end - at)
        i = queue_id_end(line, at, end)
        if i > 0:
            row.text[QUEUE_ID].start = <uint16_t> at
            row.text[QUEUE_ID].length = <uint16_t> (i - at)
        return True

    cdef int folded_message(self, Row *row, const char *line, Py_ssize_t at, Py_ssize_t end, Py_ssize_t tag_start, Tag *tag) except -1:
        """rsyslog's ``message repeated N times: [ text]``: the text is another line's, with the blank before it."""
        at = times(row, line, at + 17, end)
        if at < 0 or row.repeat == 0 or not begins(line, at, end, b": [ ", 4):
            row.repeat = 1
            return OTHER
        at += 4
        if at < end and line[end - 1] == 93:
            end -= 1
        self.folded = 1
        return self.message(row, line, at, end, tag_start, tag)

    cdef void drop_cut(self, Row *row, const char *line, Py_ssize_t end) noexcept:
        """Of a text that was cut, forgets the field that the cut goes through; a reply stays, as far as it is there."""
        cdef int i
        if self.folded == 1 and end > self.text_start and line[end - 1] == 93:
            end -= 1
        if not was_cut(line, self.text_start, end, self.folded == 1):
            return
        for i in range(N_TEXT):
            if i != REPLY and row.text[i].start and row.text[i].start + row.text[i].length == end:
                row.text[i].start = row.text[i].length = 0

    cdef uint8_t agent(self, Row *row, const char *line) noexcept:
        """The delivery agent, from its relay, where the header has lost its name."""
        cdef Span *relay = &row.text[RELAY_HOST]
        if row.text[RELAY_IP].start:
            return S_SMTP
        if relay.start == 0:
            return S_ERROR
        if relay.length == 5 and memcmp(line + relay.start, b"local", 5) == 0:
            return S_LOCAL
        if relay.length == 7 and memcmp(line + relay.start, b"virtual", 7) == 0:
            return S_VIRTUAL
        return S_PIPE

    cdef void forget(self, Row *row) noexcept:
        """Undoes what a form has taken that did not match to its end."""
        cdef int i
        for i in range(N_TEXT):
            if i != HOST and i != SYSLOG_NAME and i != QUEUE_ID:
                row.text[i].start = row.text[i].length = 0
        for i in range(N_NUMBER):
            if i != PID:
                row.number[i] = -1
        row.delay = -1

    cdef int finish(self, Row *row, const char *line, Py_ssize_t end, int kind) noexcept:
        """What a form's fields tell beyond themselves."""
        cdef Span *reply = &row.text[REPLY]
        cdef Py_ssize_t at, stop, i
        if kind == DELIVERY and reply.start:
            # The parenthesis that closes the line is Postfix's; a line cut at 2,000 bytes has lost it.
            if reply.length and line[reply.start + reply.length - 1] == 41:
                reply.length -= 1
            self.remote(row, line, reply.start, reply.start + reply.length)
        elif kind == AUTH_FAILED:
            self.login_failed(row, line)
            if row.service == self.matcher.dovecot and sentinel_find(
                    line, reply.start, reply.start + reply.length, b"(auth failed, ", 14) < 0 and not self.login_fault(row, line):
                return OTHER
        elif kind == WARNING and row.service == self.matcher.dovecot:
            if not self.server_fault(row, line, self.matcher.auth_faults, self.matcher.n_auth_faults):
                self.forget(row)
                return OTHER
        elif kind == CONNECT_FAILED:
            at = reply.start
            if begins(line, at, at + reply.length, b"server refused to talk to me: ", 30):
                at += 30
            code(row, line, at, reply.start + reply.length)
            # What other forms end with is the remote's.
            at = row.text[RELAY_HOST].start - 11
            if row.number[RELAY_PORT] < 0 and at > 0 and begins(line, at, end, b"connect to ", 11):
                old_port(row, line)
        elif kind == REJECTED and not row.text[SASL_USERNAME].start and row.service == S_SMTPD and not foreign(line, &row.text[ACTION]):
            # smtpd_check.c: "<sender>: Sender address rejected: not owned by user {login}". The login closes the text. Where an address
            # only pretends to be the sentence, the bracket that closes it follows.
            at = reply.start
            stop = at + reply.length
            i = sentinel_rfind(line, at, stop, b">: Sender address rejected: ", 28)
            if i >= 0 and begins(line, i + 28, stop, b"not owned by user ", 18) and stop > i + 46 \
                    and sentinel_chr(line + i + 46, 62, stop - i - 46) == NULL:
                row.text[SASL_USERNAME].start = <uint16_t> (i + 46)
                row.text[SASL_USERNAME].length = <uint16_t> (stop - i - 46)
        if reply.start and reply.length == 0 and kind != DELIVERY:
            reply.start = 0
        return kind

    cdef void login_failed(self, Row *row, const char *line) noexcept:
        """A reason that is only the server's last prompt is none; a name that Postfix does not know is none; a fault of the server is no guess."""
        cdef Span *reply = &row.text[REPLY]
        cdef Span *name = &row.text[SASL_USERNAME]
        cdef Literal *literals = self.matcher.literals
        cdef Py_ssize_t at = reply.start, stop = at + reply.length, i
        if name.start and name.length == 13 and sentinel_same(line + name.start, b"(unavailable)", 13):
            name.start = name.length = 0
        if self.server_fault(row, line, self.matcher.faults, self.matcher.n_faults):
            return
        if reply.length < 8 or reply.length % 4:
            return
        for i in range(self.matcher.prompts, self.matcher.prompts + self.matcher.n_prompts):
            if self.matcher.starts(&literals[i], line, at, stop) and is_base64(line, at, stop):
                reply.start = reply.length = 0
                return

    cdef bint server_fault(self, Row *row, const char *line, int32_t first, int32_t n) noexcept:
        """Whether the reply begins with one of n literals; says so in the row."""
        cdef Span *reply = &row.text[REPLY]
        cdef int32_t i
        for i in range(first, first + n):
            if self.matcher.starts(&self.matcher.literals[i], line, reply.start, reply.start + reply.length):
                row.text[ACTION].start = SERVER_FAULT_START
                row.text[ACTION].length = SERVER_FAULT_LENGTH
                return True
        return False

    cdef bint login_fault(self, Row *row, const char *line) noexcept:
        """Whether Dovecot's login process says that the server could not check a password; says so in the row."""
        cdef Span *reply = &row.text[REPLY]
        cdef Literal *literal
        cdef int32_t i
        for i in range(self.matcher.login_faults, self.matcher.login_faults + self.matcher.n_login_faults):
            literal = &self.matcher.literals[i]
            if sentinel_find(line, reply.start, reply.start + reply.length, literal.text, literal.length) >= 0:
                row.text[ACTION].start = SERVER_FAULT_START
                row.text[ACTION].length = SERVER_FAULT_LENGTH
                return True
        return False

    cdef void remote(self, Row *row, const char *line, Py_ssize_t at, Py_ssize_t end) noexcept:
        """The remote host and its code, from a reply text (smtp/smtp_trouble.c): host h[ip] said: ..., refused to talk to me: ..."""
        cdef Py_ssize_t i = at
        cdef Row trial
        if begins(line, i, end, b"delivery temporarily suspended: ", 32):
            i += 32
        if begins(line, i, end, b"SASL authentication failed; server ", 35):
            i += 35
        elif begins(line, i, end, b"SASL [CACHED] authentication failed; server ", 44):
            i += 44
        elif begins(line, i, end, b"host ", 5):
            i += 5
        else:
            if i == at:
                code(row, line, at, end)
            return
        memset(&trial, 0, sizeof(Row))
        if not self.matcher.client(&trial, line, &i, end, PEER_HOST, PEER_IP, RELAY_PORT):
            return
        row.text[PEER_HOST] = trial.text[PEER_HOST]
        row.text[PEER_IP] = trial.text[PEER_IP]
        if begins(line, i, end, b" said: ", 7):
            code(row, line, i + 7, end)
        elif begins(line, i, end, b" refused to talk to me: ", 24):
            code(row, line, i + 24, end)

    cdef inline Tag *known(self, const char *text, Py_ssize_t n) noexcept:
        """What is known of a tag, or NULL; ``free_tag`` is then where it may go."""
        if n <= 0 or n > TAG_LIMIT:
            return NULL
        cdef Py_ssize_t home = n * 7 + <uint8_t> text[n - 1] + 3 * <uint8_t> text[n // 2] + 5 * <uint8_t> text[max(0, n - 4)]
        cdef Tag *entry
        cdef int i
        for i in range(TAG_PROBES):
            entry = &self.tags[(home + i) & (TAGS - 1)]
            if entry.length == n and sentinel_same(entry.text, text, n):
                return entry
            if entry.length == 0:
                break
        else:
            entry = &self.tags[home & (TAGS - 1)]
        self.free_tag = entry
        return NULL

    cdef Tag *tag(self, const char *text, Py_ssize_t n) except? NULL:
        """The daemon of a tag: its last element. A small cache, since a log has few tags."""
        cdef Tag *entry = self.known(text, n)
        if entry != NULL:
            return entry
        if n <= 0 or n > TAG_LIMIT:
            return NULL
        entry = self.free_tag
        cdef bytes whole = text[:n], name, service
        name, _, service = whole.rpartition(b"/")
        entry.length = <int32_t> n
        memcpy(entry.text, text, n)
        # Without a slash only names that are nobody else's: Dovecot, and Postfix's commands (postmulti).
        entry.service = self.matcher.services.get(service, 0) if name or service == b"dovecot" or service.startswith(b"post") else 0
        # "postfix" alone: the service name was lost on the way (RFC 5424 templates), or a command that has none.
        entry.postfix = (entry.service != 0 or service.startswith(b"postfix") or name.startswith(b"postfix")) and not (
            b":" in whole or b"[" in whole)
        entry.dialect = 0 if name else dialect_of(whole)
        entry.postfix = entry.postfix and self.postfix
        if name and not entry.service:
            # A daemon that we don't know must not be read as one that we do.
            entry.service = <uint8_t> (len(SERVICES) - 1)
        entry.name_length = <uint16_t> (len(name) if name else n)
        if not name and (service == b"postmulti" or (whole[:1] == b"/" and service.startswith(b"postfix"))):
            # Without a syslog_name: "postmulti[7]", Zimbra's "/postfix-script[7]"
            entry.service = self.matcher.services.get(service, 0)
            entry.postfix = self.postfix
            entry.name_length = 0
        return entry

    cdef Py_ssize_t timestamp(self, Row *row, const char *line, Py_ssize_t at, Py_ssize_t end) except -2:
        """Sets the row's time; where the next word begins, or -1."""
        cdef Py_ssize_t i = at, n
        cdef int month, day, hour, minute, second, key, digits
        cdef int64_t year, micro = 0, seconds, unit
        cdef int sign, offset
        cdef bint follows = True
        if end - at < 16:
            return -1
        if is_digit(line[at]):
            return self.iso(row, line, at, end)
        month = month_of(line + at)
        if month == 0 or line[at + 3] != 32:
            return -1
        i = at + 4
        if line[i] == 32 or (is_digit(line[i]) and is_digit(line[i + 1])):
            day = two(line + i)
            i += 2
        elif is_digit(line[i]):
            day = line[i] - 48
            i += 1
        else:
            return -1
        if end - i < 10 or line[i] != 32 or line[i + 3] != 58 or line[i + 6] != 58:
            return -1
        hour, minute, second = two(line + i + 1), two(line + i + 4), two(line + i + 7)
        if day < 1 or day > 31 or hour < 0 or hour > 23 or minute < 0 or minute > 59 or second < 0 or second > 60 or line[i + 9] != 32:
            return -1
        key = (month * 32 + day) * 24 + hour
        if key != self.hour_key:
            found = self.clock.hour(month, day, hour, minute * 60 + second, self.last if self.has_last else None)
            if found is None:
                return -1
            self.hour_start, whole, follows = found
            self.hour_key = key if whole else -1
        seconds = self.hour_start + minute * 60 + second
        if follows:
            self.last = seconds
            self.has_last = True
        row.time = seconds * 1000000
        n = i + 9 - at
        if self.hour_key >= 0:
            memcpy(self.stamp, line + at, n)
            self.stamp_length = <int> n
            self.stamp_time = row.time
            self.stamp_seconds = seconds
        else:
            self.stamp_length = 0
        return i + 10

    cdef Py_ssize_t iso(self, Row *row, const char *line, Py_ssize_t at, Py_ssize_t end) except -2:
        """``2026-11-22T02:04:46[.766066](Z|+01:00|+0100)``; without a zone it is local."""
        cdef Py_ssize_t i
        cdef int month, day, hour, minute, second, sign, h, m, key
        cdef int64_t year, micro = 0, unit = 100000, seconds
        if end - at < 20:
            return -1
        for i in range(4):
            if not is_digit(line[at + i]):
                return -1
        year = (line[at] - 48) * 1000 + (line[at + 1] - 48) * 100 + (line[at + 2] - 48) * 10 + line[at + 3] - 48
        month, day, hour = two(line + at + 5), two(line + at + 8), two(line + at + 11)
        minute, second = two(line + at + 14), two(line + at + 17)
        if line[at + 4] != 45 or line[at + 7] != 45 or (line[at + 10] != 84 and line[at + 10] != 32) or line[at + 13] != 58 \
                or line[at + 16] != 58:
            return -1
        if month < 1 or month > 12 or day < 1 or day > 31 or hour < 0 or hour > 23 or minute < 0 or minute > 59 or second < 0 or second > 60:
            return -1
        if year < 1970 or year > 2199 or day > 30 + ((month + month // 8) & 1) - (month == 2):
            return -1
        if month == 2 and day == 29 and (year % 4 or (year % 100 == 0 and year % 400)):
            return -1
        i = at + 19
        if i < end and (line[i] == 46 or line[i] == 44):
            i += 1
            while i < end and is_digit(line[i]):
                micro += (line[i] - 48) * unit
                unit //= 10
                i += 1
        if i >= end:
            return -1
        if end - i > 6 and line[i] == 32 and (line[i + 1] == 43 or line[i + 1] == 45) and is_digit(line[i + 2]) and line[10 + at] == 32:
            # exim with "log_timezone": a blank before the zone.
            i += 1
        if line[i] == 90:
            seconds = days_from_civil(year, month, day) * 86400 + hour * 3600 + minute * 60 + second
            i += 1
        elif line[i] == 43 or line[i] == 45:
            sign = 1 if line[i] == 43 else -1
            if end - i < 5:
                return -1
            h = two(line + i + 1)
            if line[i + 3] == 58:
                if end - i < 6:
                    return -1
                m = two(line + i + 4)
                i += 6
            else:
                m = two(line + i + 3)
                i += 5
            if h < 0 or h > 23 or m < 0 or m > 59:
                return -1
            seconds = days_from_civil(year, month, day) * 86400 + hour * 3600 + minute * 60 + second - sign * (h * 3600 + m * 60)
        else:
            key = ((<int> year * 13 + month) * 32 + day) * 24 + hour
            if key != self.local_key:
                found = self.clock.local(year, month, day, hour, minute * 60 + second, self.last if self.has_last else None)
                if found is None:
                    return -1
                self.local_start, whole = found
                self.local_key = key if whole else -1
            seconds = self.local_start + minute * 60 + second
        if i >= end or line[i] != 32:
            return -1
        self.last = seconds
        self.has_last = True
        # The next classic stamp is to be seen from here.
        self.hour_key = -1
        self.stamp_length = 0
        row.time = seconds * 1000000 + micro
        return i + 1


cdef Py_ssize_t times(Row *row, const char *line, Py_ssize_t at, Py_ssize_t end) noexcept:
    """``N times``: sets the row's repeat, at most REPEAT_LIMIT; the end, or -1."""
    cdef uint32_t number = 0
    cdef Py_ssize_t start = at
    while at < end and is_digit(line[at]):
        number = min(number * 10 + <uint32_t> (line[at] - 48), <uint32_t> REPEAT_LIMIT)
        at += 1
    if at == start or not begins(line, at, end, b" time", 5):
        return -1
    at += 5
    if at < end and line[at] == 115:
        at += 1
    row.repeat = number
    return at


cdef Py_ssize_t after_priority(const char *line, Py_ssize_t end) noexcept:
    """Behind ``<22>``, if it is there."""
    cdef Py_ssize_t i = 1
    if line[0] != 60:
        return 0
    while i < end and i < 5 and is_digit(line[i]):
        i += 1
    if i == 1 or i >= end or line[i] != 62:
        return 0
    return i + 3 if begins(line, i + 1, end, b"1 ", 2) else i + 1


cdef Py_ssize_t after_stamp(const char *line, Py_ssize_t at, Py_ssize_t end) noexcept:
    """Behind what has the shape of a stamp and a blank; -1 if it has not."""
    cdef Py_ssize_t i = at
    cdef bint iso
    if end - at < 16:
        return -1
    iso = is_digit(line[at])
    if iso:
        for i in range(4):
            if not is_digit(line[at + i]):
                return -1
        if line[at + 4] != 45 or two(line + at + 5) < 0 or line[at + 7] != 45 or two(line + at + 8) < 0 or (line[at + 10] != 84 and line[at + 10] != 32):
            return -1
        i = at + 11
    else:
        if month_of(line + at) == 0 or line[at + 3] != 32:
            return -1
        i = at + 4
        if line[i] == 32:
            i += 1
        while i < at + 6 and is_digit(line[i]):
            i += 1
        if not is_digit(line[i - 1]) or line[i] != 32:
            return -1
        i += 1
    if end - i < 9 or two(line + i) < 0 or line[i + 2] != 58 or two(line + i + 3) < 0 or line[i + 5] != 58 or two(line + i + 6) < 0:
        return -1
    i += 8
    if iso:
        while i < end and (is_digit(line[i]) or line[i] == 46 or line[i] == 44 or line[i] == 43 or line[i] == 45 or line[i] == 58 or line[i] == 90):
            i += 1
    return i + 1 if i < end and line[i] == 32 else -1


cdef inline Py_ssize_t queue_id_end(const char *line, Py_ssize_t at, Py_ssize_t end) noexcept:
    """Where a queue ID of 6 to 24 characters ends that ": " follows; -1 if there is none at ``at``.

    A short one is hexadecimal in upper case; a long one is base 52 and has a "z" after at least ten characters (global/mail_queue.h).
    """
    cdef uint8_t both = 3
    cdef Py_ssize_t i, stop
    if end - at < 8:
        return -1
    cdef const char *colon = sentinel_chr(line + at + 6, 58, min(end - at - 7, 19))
    if colon == NULL or colon[1] != 32:
        return -1
    stop = colon - line
    for i in range(at, stop):
        both &= CLASS[<uint8_t> line[i]]
    if both & 1 or both & 2 and stop - at >= 12 and sentinel_chr(line + at + 10, 122, stop - at - 10) != NULL:
        return stop
    return -1


cdef void old_port(Row *row, const char *line) noexcept:
    """The port of ``connect to host[ip]: text (port 25)``, as it was before 2.5."""
    cdef Span *reply = &row.text[REPLY]
    cdef Py_ssize_t stop = reply.start + reply.length, at = sentinel_rfind(line, reply.start, stop, b" (port ", 7), i
    cdef int64_t port = 0
    if at < 0:
        return
    i = at + 7
    while i < stop and is_digit(line[i]) and i < at + 12:
        port = port * 10 + line[i] - 48
        i += 1
    if i == at + 7 or i + 1 != stop or line[i] != 41:
        return
    row.number[RELAY_PORT] = port
    reply.length = <uint16_t> (at - reply.start)


cdef inline void code(Row *row, const char *line, Py_ssize_t at, Py_ssize_t end) noexcept:
    if end - at >= 3 and 50 <= line[at] <= 53 and is_digit(line[at + 1]) and is_digit(line[at + 2]) \
            and (end - at == 3 or line[at + 3] == 32 or line[at + 3] == 45):
        row.number[REPLY_CODE] = (line[at] - 48) * 100 + (line[at + 1] - 48) * 10 + line[at + 2] - 48


def numbering():
    """The names that the compiled numbers stand for, for the test that compares them with fields.py."""
    return {
        "text": [("queue_id", QUEUE_ID), ("client_ip", CLIENT_IP), ("helo", HELO), ("peer_ip", PEER_IP), ("count", N_TEXT)],
        "number": [("pid", PID), ("uid", UID), ("count", N_NUMBER)],
        "kind": [("unparsed", UNPARSED), ("delivery", DELIVERY), ("warning", WARNING), ("auth_success", AUTH_SUCCESS), ("count", N_KINDS)],
        "service": [("smtpd", S_SMTPD), ("qmgr", S_QMGR), ("postsuper", S_POSTSUPER), ("sendmail", S_SENDMAIL)],
        "operation": [OP_LITERAL, OP_OPTIONAL, OP_TEXT, OP_INTEGER, OP_DECIMAL, OP_CLIENT, OP_RELAY, OP_CODE, OP_TAIL, OP_END,
                      OP_CHECKED, OP_LOGIN, OP_PASSDB],
    }
