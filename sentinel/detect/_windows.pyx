"""Exact sliding windows over attributed rows, and the rules' conditions.

For each rule and key the events of ``(now - window, now]`` are kept and their measure with them: ``count``, ``sum``, ``distinct`` (by the
latest time of each item), ``ratio``, or ``share``: of different items those whose latest event is a hit. A row that syslog has folded (``repeat``) weighs as much as the lines it stands for. ``now`` is the watermark, the latest event time seen. An event that comes late by up to
``LATENESS`` is put in its place; a later one is counted and left out. If ``SET_BACK`` lines in a row are late, the clock was set back (or logs
were joined in the wrong order): the watermark follows and the windows begin anew.

A rule fires when the measure is at or above its threshold and the key is not in an episode already; the episode is over when the
measure, without the new event, is below the release level; the next one is reported ``cooldown`` after the last at the earliest. An episode
of a rule with ``until`` lasts, however long, until an event of that kind comes: for deliveries, from the same server and the same answering host's
provider; for others, with the same key while the measure is below the release level.

Limits, each with a count of evictions: keys a rule (the one not seen for longest goes), events a key (the oldest goes: the measure is then
too small, never too large), evidence lines in all (the key that began first goes).
"""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

from sentinel.maillog._scan cimport (ACCEPTED, ACTION, AUTH_FAILED, AUTH_SUCCESS, CLIENT_IP, DELIVERY, EventBatch, HOST, N_KINDS, PEER_HOST, PEER_IP, RECIPIENT,
    RELAY_HOST, RELAY_IP, LINKED_QUEUE_ID, MESSAGE_ID, REPLY, REPLY_CODE, Row, SASL_USERNAME, SENDER, SERVER_FAULT_START, STATUS, QUEUE_ID, status_length,
    status_word, text_of)
from sentinel.maillog._symbols cimport ABSENT, Symbols, sentinel_hash
from sentinel.track._join cimport Networks, Tracker

from sentinel.maillog.fields import DIALECTS, SERVICES

cdef int QMAIL = SERVICES.index("qmail")
cdef int64_t NO_TIME = -(1 << 62)
cdef int64_t LATENESS = 60 * 1000000
# Where there are MAX_LASTING of them, one that began this long ago makes room.
cdef int64_t ROOM_AFTER = 3600 * 1000000
cdef enum:
    SET_BACK = 1000
    N_SERVICES = 64
    KEY_FIELDS = 4
    N_ORIGINS = 5
    # Postfix cuts its lines at 2,000 bytes; what is longer is not its own.
    EVIDENCE_BYTES = 2560
    # Lines of a key that wait for a crossing: what "related" is drawn from.
    KEPT = 64
    REPLY_BYTES = 4096
    MAX_VERDICTS = 20000
    # Episodes of one server and one answerer that last until mail passes again: a hostile host may name a new address in each reply.
    MAX_LASTING = 16
    # Keys that are not let go because their episodes last, looked over before one of them must go after all.
    MAX_SPARED = 32

# Fields beyond the row's texts, for conditions, keys and distinct().
cdef enum:
    F_PROVIDER = 100
    F_SENDER_DOMAIN, F_RECIPIENT_DOMAIN, F_REPLY_CLASS, F_ORIGIN, F_SERVICE, F_INSIDE, F_RELAY_INSIDE, F_FORWARDED, F_SENDER_OWNED
    F_RECIPIENTS
    F_UID
    F_SIZE
    F_NRCPT
    F_REPLY_CODE
    F_REPLY_CONFIDENCE
    F_REPLY_SUB
    F_DNSBL
    F_BLOCKED_IP
    F_SUSPENDED
    F_KNOWN_CLIENT
    F_LOGIN_RESULT
    F_LOGIN

# What of a message is kept beside its line: what "related" is drawn from.
cdef enum:
    N_BESIDE = 4
cdef int32_t[4] BESIDE = [CLIENT_IP, SENDER, F_RECIPIENT_DOMAIN, QUEUE_ID]

cdef enum:
    C_PRESENT, C_LIKE, C_MASK, C_RANGE

cdef enum:
    M_COUNT, M_SUM, M_DISTINCT, M_RATIO, M_SHARE

# How a login went: the words of the condition "login_result", in their order there.
cdef enum:
    L_NONE, L_SUCCEEDED, L_FAILED, L_FAILED_KNOWN, L_SERVER_FAULT

TOLD_BY = b"\x01"
"""In a key, between a provider that a reply's text names and whose host wrote it."""

FIELD_NUMBERS = {
    "provider": F_PROVIDER,
    "sender_domain": F_SENDER_DOMAIN,
    "recipient_domain": F_RECIPIENT_DOMAIN,
    "reply_class": F_REPLY_CLASS,
    "origin": F_ORIGIN,
    "service": F_SERVICE,
    "inside": F_INSIDE,
    "relay_inside": F_RELAY_INSIDE,
    "forwarded": F_FORWARDED,
    "sender_owned": F_SENDER_OWNED,
    "recipients": F_RECIPIENTS,
    "uid": F_UID,
    "size": F_SIZE,
    "nrcpt": F_NRCPT,
    "reply_code": F_REPLY_CODE,
    "reply_confidence": F_REPLY_CONFIDENCE,
    "reply_sub": F_REPLY_SUB,
    "dnsbl": F_DNSBL,
    "blocked_ip": F_BLOCKED_IP,
    "suspended": F_SUSPENDED,
    "known_client": F_KNOWN_CLIENT,
    "login_result": F_LOGIN_RESULT,
    "login": F_LOGIN,
}
CONDITIONS = {"present": C_PRESENT, "like": C_LIKE, "mask": C_MASK, "range": C_RANGE}
MEASURES = {"count": M_COUNT, "sum": M_SUM, "distinct": M_DISTINCT, "ratio": M_RATIO, "share": M_SHARE}

cdef struct Pattern:
    const char *text
    int32_t length
    uint8_t glob

cdef struct Condition:
    uint8_t code
    uint8_t negate
    int32_t field
    uint64_t mask
    int64_t low, high
    int32_t patterns, n_patterns

cdef struct Entry:
    int64_t time
    int32_t weight
    int32_t item        # distinct, share: the text's number; ratio: the weight of what is counted as hit. A share's weight is 1 for a hit

cdef struct Key:
    int32_t symbol
    int32_t older, newer
    int32_t head, count, room
    Entry *entries
    int64_t total, hits
    int64_t last, fired
    int64_t placed      # when it was put at the end of the order of use
    uint8_t active, used
    uint8_t warm        # has evidence

cdef struct Rule:
    uint32_t kinds, then, until
    int32_t where, n_where
    int32_t until_where, n_until_where
    uint8_t until_key   # what ends an episode has its key; else its server and answerer
    int64_t quiet       # an episode with "until" ends when mail passes and this long nothing has been refused
    int32_t then_where, n_then_where
    int32_t of, n_of
    int32_t by[4]
    int32_t n_by
    int32_t subject[4]
    int32_t n_subject
    uint8_t measure
    int32_t item
    int64_t window, cooldown
    double threshold, release, warm
    int64_t at_least, hits
    int32_t max_keys, max_entries
    # running
    Key *keys
    int32_t room, top, free_list, oldest, newest, size
    # The key of the row before, where keys depend on server, answering host and reply alone.
    uint8_t by_reply
    int64_t last_said, last_provider
    int32_t last_host, last_symbol
    int64_t evicted_keys, evicted_entries
    int64_t look_at     # before then the key that was seen longest ago can't be let go
    int32_t active


cdef struct SaidText:
    const char *text
    Py_ssize_t length


cdef struct Slot:
    uint64_t key
    int64_t value

cdef uint64_t EMPTY = <uint64_t> -1


@cython.final
cdef class IntMap:
    """Integer to integer, open addressing with backward-shift deletion (D. Knuth, TAOCP 3, 6.4, algorithm R)."""

    cdef Slot *slots
    cdef uint64_t mask
    cdef readonly int64_t size

    def __cinit__(self):
        self.allocate(64)

    def __dealloc__(self):
        free(self.slots)

    cdef int allocate(self, uint64_t room) except -1:
        self.slots = <Slot *> malloc(room * sizeof(Slot))
        if self.slots == NULL:
            raise MemoryError
        memset(self.slots, 0xFF, room * sizeof(Slot))
        self.mask = room - 1
        self.size = 0
        return 0

    cdef inline uint64_t home(self, uint64_t key) noexcept:
        # The finalizer of splitmix64 (S. Vigna).
        key = (key ^ (key >> 30)) * <uint64_t> 0xBF58476D1CE4E5B9
        key = (key ^ (key >> 27)) * <uint64_t> 0x94D049BB133111EB
        return (key ^ (key >> 31)) & self.mask

    cdef inline int64_t get(self, uint64_t key, int64_t default) noexcept:
        cdef uint64_t i = self.home(key)
        while self.slots[i].key != EMPTY:
            if self.slots[i].key == key:
                return self.slots[i].value
            i = (i + 1) & self.mask
        return default

    cdef int put(self, uint64_t key, int64_t value) except -1:
        cdef uint64_t i, j, room
        cdef Slot *before
        if <uint64_t> self.size * 10 >= (self.mask + 1) * 7:
            before, room = self.slots, self.mask + 1
            self.slots = NULL
            self.allocate(room * 2)
            for j in range(room):
                if before[j].key != EMPTY:
                    self.put(before[j].key, before[j].value)
            free(before)
        i = self.home(key)
        while self.slots[i].key != EMPTY:
            if self.slots[i].key == key:
                self.slots[i].value = value
                return 0
            i = (i + 1) & self.mask
        self.slots[i].key = key
        self.slots[i].value = value
        self.size += 1
        return 0

    cdef void remove(self, uint64_t key) noexcept:
        cdef uint64_t i = self.home(key), j, h
        while self.slots[i].key != key:
            if self.slots[i].key == EMPTY:
                return
            i = (i + 1) & self.mask
        j = i
        while True:
            j = (j + 1) & self.mask
            if self.slots[j].key == EMPTY:
                break
            h = self.home(self.slots[j].key)
            if (i <= j and (h <= i or h > j)) or (i > j and h <= i and h > j):
                self.slots[i] = self.slots[j]
                i = j
        self.slots[i].key = EMPTY
        self.size -= 1


@cython.final
@cython.no_gc
@cython.freelist(1024)
cdef class Kept:
    """A line that counts towards a crossing that may come. Many are kept and few are ever told, so each is two objects and not ten."""

    cdef int64_t time, offset
    cdef str source
    cdef bytes provider
    cdef bytes texts            # the line, then what is kept beside it, one after another
    cdef int32_t line_length
    cdef int32_t lengths[4]     # negative: absent

    cdef list told(self):
        """``[time, source, offset, line, client_ip, sender, recipient_domain, queue_id, provider]``; the texts are bytes or None."""
        cdef list out = [self.time, self.source, self.offset, self.texts[:self.line_length]]
        cdef int32_t at = self.line_length, i
        for i in range(N_BESIDE):
            out.append(None if self.lengths[i] < 0 else self.texts[at:at + self.lengths[i]])
            at += max(0, self.lengths[i])
        out.append(self.provider)
        return out

    @staticmethod
    cdef Kept of(list told):
        """The inverse of ``told``."""
        cdef Kept kept = Kept.__new__(Kept)
        cdef list texts = told[3:4 + N_BESIDE]
        cdef int32_t i
        kept.time, kept.source, kept.offset, kept.provider = told[0], told[1], told[2], told[4 + N_BESIDE]
        kept.texts = b"".join([text or b"" for text in texts])
        kept.line_length = len(texts[0])
        for i in range(N_BESIDE):
            kept.lengths[i] = -1 if texts[i + 1] is None else len(texts[i + 1])
        return kept


# What a token of a reply is made of; 0 stands between tokens.
cdef enum:
    DIGIT = 1
    LOWER = 2
    UPPER = 4
    AT = 8
    JOINT = 16

cdef uint8_t SIGNS[256]

cdef void fill_signs() noexcept:
    cdef int c
    memset(SIGNS, 0, 256)
    for c in range(48, 58):
        SIGNS[c] = DIGIT
    for c in range(97, 123):
        SIGNS[c] = LOWER
        SIGNS[c - 32] = UPPER
    SIGNS[64] = AT
    SIGNS[46] = SIGNS[95] = JOINT

fill_signs()


cdef enum:
    MAX_LITERALS = 8

cdef struct Literal:
    # An address in a reply: where it stood in the shape, and where in the reply.
    int32_t place, start, length


cdef inline bint is_word(char c) noexcept:
    return SIGNS[<uint8_t> c] & (DIGIT | LOWER | UPPER) != 0 or c == 95


cdef Py_ssize_t ipv4_length(const char *p, Py_ssize_t i, Py_ssize_t n) noexcept:
    """How long the dotted quad at i is; 0 if none stands there."""
    cdef Py_ssize_t start = i, digits
    cdef int part, k
    for k in range(4):
        digits = part = 0
        while i < n and digits < 4 and SIGNS[<uint8_t> p[i]] == DIGIT:
            part = part * 10 + p[i] - 48
            i += 1
            digits += 1
        if digits == 0 or digits > 3 or part > 255:
            return 0
        if k < 3:
            if i >= n or p[i] != 46:
                return 0
            i += 1
    # A host's name goes on: 1.2.3.4.example.net; a sentence ends: 1.2.3.4.
    if i < n and (is_word(p[i]) or p[i] == 64 or p[i] == 46 and i + 1 < n and is_word(p[i + 1])):
        return 0
    return i - start


cdef Py_ssize_t ipv6_length(const char *p, Py_ssize_t i, Py_ssize_t n) noexcept:
    """How long what looks like an IPv6 address at i is: eight groups, or some and "::"; 0 if none stands there."""
    cdef Py_ssize_t start = i
    cdef int colons = 0, doubled = 0
    while i < n and i - start < 46 and (SIGNS[<uint8_t> p[i]] == DIGIT or p[i] == 58 or p[i] == 46 or 97 <= (p[i] | 32) <= 102):
        if p[i] == 58:
            colons += 1
            doubled |= p[i - 1] == 58
        i += 1
    while i > start and (p[i - 1] == 46 or p[i - 1] == 58 and (i < start + 2 or p[i - 2] != 58)):
        colons -= p[i - 1] == 58
        i -= 1
    if colons < 2 or colons > 7 or not (doubled or colons == 7) or i < n and (is_word(p[i]) or p[i] == 64):
        return 0
    return i - start


cdef Py_ssize_t stamp_length(const char *p, Py_ssize_t i, Py_ssize_t n) noexcept:
    """How long the time at i is, like 2026-11-22T02:00:33.123Z; 0 if none stands there."""
    cdef Py_ssize_t start = i, k
    if n - i < 12 or p[i + 4] != 45 or p[i + 7] != 45 or p[i + 10] != 84:
        return 0
    for k in range(10):
        if k != 4 and k != 7 and SIGNS[<uint8_t> p[i + k]] != DIGIT:
            return 0
    i += 11
    while i < n and (SIGNS[<uint8_t> p[i]] == DIGIT or p[i] == 58 or p[i] == 46 or p[i] == 90 or p[i] == 43 or p[i] == 45):
        i += 1
    return i - start


cdef Py_ssize_t domain_of(const char *p, Py_ssize_t start, Py_ssize_t end) noexcept:
    """Where the last two labels of a host's name begin, with the dot before them; ``end`` for what is no such name, or nothing more."""
    cdef Py_ssize_t i = end
    cdef int dots = 0
    while i > start and dots < 2:
        i -= 1
        if p[i] == 46:
            dots += 1
        elif SIGNS[<uint8_t> p[i]] & (LOWER | UPPER) == 0 and (dots == 0 or SIGNS[<uint8_t> p[i]] != DIGIT):
            return end
    return i if i > start and dots == 2 and p[end - 1] != 46 and end - i < 32 else end


cdef Py_ssize_t client_in(const char *p, Py_ssize_t i, Py_ssize_t n, Py_ssize_t *length) noexcept:
    """In ``<name[address]>``, as Postfix names a client: where the address is; 0 where there is none. ``i`` is at the ``<``."""
    cdef Py_ssize_t stop = min(n, i + 300)
    i += 1
    while i < stop and p[i] != 62 and p[i] != 91:
        i += 1
    if i + 1 >= stop or p[i] != 91:
        return 0
    length[0] = ipv4_length(p, i + 1, n)
    if length[0] == 0:
        length[0] = ipv6_length(p, i + 1, n)
    return i + 1 if length[0] and i + 1 + length[0] < n and p[i + 1 + length[0]] == 93 else 0


cdef enum:
    # A reply of each kind is remembered as a whole, so that of the next one only what differs is looked at.
    MAX_TEMPLATES = 512
    TEMPLATE_BYTES = 1024
    MAX_SPACES = 255
    # A longer reply mostly bears an identifier of the message: it never comes again, and hashing it would be for nothing.
    SHORT_REPLY = 224
    # A shape has at most a byte more than its reply, and while it is written two more.
    SHAPE_BYTES = TEMPLATE_BYTES + 8

cdef struct Space:
    # A blank outside of what is left out: where it is, and where the shape goes on after it. What comes before it does not reach beyond it.
    uint16_t at, after

cdef struct Template:
    uint64_t key
    int32_t length, shape_length
    int n_literals, n_spaces
    int64_t said
    Literal literals[8]
    Space spaces[255]
    char text[TEMPLATE_BYTES]
    char shape[SHAPE_BYTES]


cdef Py_ssize_t common(const char *a, const char *b, Py_ssize_t n) noexcept:
    """How many bytes two texts of at least n bytes have in common at their beginning."""
    cdef Py_ssize_t i = 0
    cdef uint64_t x = 0, y = 0
    while i + 8 <= n:
        memcpy(&x, a + i, 8)
        memcpy(&y, b + i, 8)
        if x != y:
            break
        i += 8
    while i < n and a[i] == b[i]:
        i += 1
    return i


cdef Py_ssize_t common_end(const char *a, const char *b, Py_ssize_t n) noexcept:
    """The same of n bytes before these places."""
    cdef Py_ssize_t i = 0
    cdef uint64_t x = 0, y = 0
    while i + 8 <= n:
        memcpy(&x, a - i - 8, 8)
        memcpy(&y, b - i - 8, 8)
        if x != y:
            break
        i += 8
    while i < n and a[-i - 1] == b[-i - 1]:
        i += 1
    return i


cdef Py_ssize_t write_shape(const char *p, Py_ssize_t n, char *out, Literal *literals, int *n_literals,
        Py_ssize_t i=0, Py_ssize_t at=0, Space *spaces=NULL, int *n_spaces=NULL, bint *ended=NULL) noexcept:
    """Writes a reply's shape, at most n + 1 bytes, and where in it the addresses stood; its length.

    ``i`` and ``at``: goes on at this byte of the reply and this one of the shape, after a blank of ``spaces``. ``ended``: whether
    nothing of what was decided depends on what follows the n bytes, if they end in a blank.

    What differs between two messages goes: an IP address becomes ``#``, a mail address ``@``, a time or an identifier ``~``. Codes and the names of lists, which decide, have fewer
    digits and stay. What stands in angle brackets without a blank goes, unless it is a URL or an IP address.
    """
    cdef Py_ssize_t start, digits, length, mixed, joints, k
    cdef char *to = out + at
    cdef char *before = NULL     # the token before a hyphen, if it may be part of an identifier
    cdef uint8_t sign, all_signs, last_sign
    cdef bint bracket = False    # what was decided at a "<" may depend on what follows
    cdef Py_ssize_t closing = -1, blank = -1     # the next ">" and the next blank, as far as looked for
    while i < n:
        sign = SIGNS[<uint8_t> p[i]]
        if sign == 0:
            to[0] = p[i]
            to += 1
            if p[i] == 60 and i + 1 < n and p[i + 1] != 32:
                # An address or an identifier of this one message, if a bracket closes it before a blank comes, or it is quoted.
                # Neither is looked for twice: a reply full of "<" costs no more than another.
                if closing <= i:
                    closing = i + 1
                    while closing < n and p[closing] != 62:
                        closing += 1
                if blank <= i:
                    blank = i + 1
                    while blank < n and p[blank] != 32:
                        blank += 1
                k = closing if p[i + 1] == 34 or closing < blank else blank
                length = ipv4_length(p, i + 1, n)
                if length == 0:
                    length = ipv6_length(p, i + 1, n)
                if (k == n or p[k] == 62) and length == 0 and not (i + 5 <= n and memcmp(p + i + 1, b"http", 4) == 0):
                    start = client_in(p, i, n, &length)
                    if start and n_literals[0] < MAX_LITERALS:
                        to[0] = 91
                        to[1] = 35
                        to[2] = 93
                        literals[n_literals[0]].place = <int32_t> (to + 1 - out)
                        literals[n_literals[0]].start = <int32_t> start
                        literals[n_literals[0]].length = <int32_t> length
                        n_literals[0] += 1
                        to += 3
                    # Where none closes it, more of the text might.
                    bracket = k == n
                    i = k
                    to[0] = 62
                    to += 1
            elif p[i] == 32 and spaces != NULL and n_spaces[0] < MAX_SPACES:
                spaces[n_spaces[0]].at = <uint16_t> i
                spaces[n_spaces[0]].after = <uint16_t> (to - out)
                n_spaces[0] += 1
            if i >= n or p[i] != 45 or i == 0 or p[i - 1] == 45:
                before = NULL
            i += 1
            continue
        start = i
        length = 0
        if i == 0 or not is_word(p[i - 1]):
            if sign == DIGIT:
                length = ipv4_length(p, i, n)
                k = stamp_length(p, i, n)
                if k:
                    to[0] = 126
                    to += 1
                    before = NULL
                    i += k
                    continue
            if length == 0 and (sign == DIGIT or 97 <= (p[i] | 32) <= 102):
                length = ipv6_length(p, i, n)
        if length:
            if n_literals[0] < MAX_LITERALS:
                literals[n_literals[0]].place = <int32_t> (to - out)
                literals[n_literals[0]].start = <int32_t> start
                literals[n_literals[0]].length = <int32_t> length
                n_literals[0] += 1
            to[0] = 35
            to += 1
            before = NULL
            i += length
            continue
        digits = mixed = joints = 0
        all_signs = last_sign = 0
        while sign:
            all_signs |= sign
            i += 1
            sign = SIGNS[<uint8_t> p[i]] if i < n else 0
        length = i - start
        # Most tokens are words, of which nothing is counted.
        if all_signs & (DIGIT | JOINT) or all_signs == LOWER | UPPER:
            for k in range(start, i):
                sign = SIGNS[<uint8_t> p[k]]
                digits += sign == DIGIT
                joints += sign == JOINT
                mixed += sign == UPPER and last_sign == LOWER
                last_sign = sign
        if digits > 6 or all_signs & AT or (joints == 0 and (length >= 10 and mixed > 1 or length >= 12 and digits)) or (
                joints and length >= 14 and digits > 1):
            # So does what such an identifier begins with: Google's "d9443c01a7336-22902a1b3c4d5e6f".
            if before != NULL:
                to = before
            to[0] = 64 if all_signs & AT else 126
            to += 1
            before = NULL
            if joints > 1 and not all_signs & AT:
                # Of a host's name the domain stays.
                k = domain_of(p, start, i)
                memcpy(to, p + k, i - k)
                to += i - k
        else:
            memcpy(to, p + start, length)
            before = to if length >= 8 or all_signs == DIGIT | LOWER else NULL
            to += length
    if ended != NULL:
        ended[0] = not bracket
    return to - out


def shape_of(bytes reply not None):
    """``(shape, [(place in the shape, address), ...])`` of a reply."""
    cdef Literal literals[MAX_LITERALS]
    cdef int n = 0, k
    cdef Py_ssize_t length
    cdef bytearray out = bytearray(2 * len(reply) + 2)
    cdef const char *p = reply
    length = write_shape(p, len(reply), <char *> out, literals, &n)
    return bytes(out[:length]), [(literals[k].place, reply[literals[k].start:literals[k].start + literals[k].length]) for k in range(n)]


cdef inline char lower(char c) noexcept:
    return c + 32 if 65 <= c <= 90 else c


STATUSES = ("other", "sent", "deferred", "bounced", "expired", "deliverable", "undeliverable", "SOFTBOUNCE")

cdef int status_number(const char *text, Py_ssize_t n) noexcept:
    if n == 4 and memcmp(text, b"sent", 4) == 0:
        return 1
    if n == 8 and memcmp(text, b"deferred", 8) == 0:
        return 2
    if n == 7 and memcmp(text, b"bounced", 7) == 0:
        return 3
    if n == 7 and memcmp(text, b"expired", 7) == 0 or n == 13 and memcmp(text, b"force-expired", 13) == 0:
        return 4
    if n == 11 and memcmp(text, b"deliverable", 11) == 0:
        return 5
    if n >= 13 and memcmp(text, b"undeliverable", 13) == 0:
        return 6
    if n == 10 and memcmp(text, b"SOFTBOUNCE", 10) == 0:
        return 7
    return 0


cdef bint same(const char *a, Py_ssize_t n, const char *b, Py_ssize_t m) noexcept:
    """Equal but for the case of ASCII letters."""
    cdef Py_ssize_t i
    if n != m:
        return False
    for i in range(n):
        if a[i] != b[i] and lower(a[i]) != lower(b[i]):
            return False
    return True


cdef bint same_domain(const char *a, Py_ssize_t n, const char *b, Py_ssize_t m) noexcept:
    """Two addresses with one domain."""
    cdef Py_ssize_t i = n - 1, k = m - 1
    while i >= 0 and a[i] != 64:
        i -= 1
    while k >= 0 and b[k] != 64:
        k -= 1
    return i >= 0 and k >= 0 and same(a + i, n - i, b + k, m - k)


cdef bint like(const char *text, Py_ssize_t n, Pattern *pattern) noexcept:
    """Whole-text match without regard to ASCII case; ``*`` stands for any text. At most len(text) * len(pattern) steps."""
    cdef Py_ssize_t i = 0, k = 0, star = -1, mark = 0
    if not pattern.glob:
        return same(text, n, pattern.text, pattern.length)
    if pattern.text[0] != 42 and (n == 0 or lower(pattern.text[0]) != lower(text[0])):
        return False
    while i < n:
        if k < pattern.length and pattern.text[k] == 42:
            star = k
            mark = i
            k += 1
        elif k < pattern.length and lower(pattern.text[k]) == lower(text[i]):
            i += 1
            k += 1
        elif star >= 0:
            k = star + 1
            mark += 1
            i = mark
        else:
            return False
    while k < pattern.length and pattern.text[k] == 42:
        k += 1
    return k == pattern.length


@cython.final
cdef class Windows:
    """All rules over one stream. ``knowledge`` answers what a row can't: ``said(shape, addresses)``, ``provider(host)``,
    ``owns(login, sender)``; and is told by ``fire(rule, time, value, subject, lines, key, reply)`` when a rule fires and by
    ``ended(rule, time, fired, lines, key)`` when an episode with ``until`` is over.

    Rules come compiled, as dicts of numbers (``rules.py``: ``Rule.compiled``).
    """

    cdef Symbols symbols
    cdef Networks networks
    cdef object ask_said, provider_of, owns, fire, ended
    cdef bint by_domain     # a sender in the login's own domain is its own, without asking
    cdef Rule *rules
    cdef int32_t n_rules
    cdef Condition *conditions
    cdef Pattern *patterns
    cdef list keep
    cdef list maps          # rule -> IntMap: key's text number -> slot
    cdef list items         # rule -> IntMap: (slot, item) -> latest time, for distinct; twice that and whether it was a hit, for share
    cdef int32_t by_kind[16][N_ORIGINS][64]      # rules that a row may concern, by its kind and origin
    cdef int32_t by_kind_size[16][N_ORIGINS]
    cdef readonly int64_t now
    cdef readonly int64_t late, set_back
    cdef int64_t late_run
    cdef dict evidence
    cdef int64_t evidence_size, evidence_limit
    cdef readonly int64_t evidence_evicted
    cdef int64_t events[16][64]
    cdef int64_t deliveries[8][256], replies[32][256]     # by status or class, and provider
    cdef IntMap provider_memo        # hash of a host -> place in provider_texts << 8 | its number among the known
    cdef IntMap provider_symbols     # place -> text number
    cdef list provider_texts
    cdef dict provider_places
    cdef dict known_providers
    cdef IntMap reply_memo           # hash of a reply -> what it says
    cdef Template *templates         # a reply of each kind
    cdef uint64_t template_key       # of the reply at hand
    cdef dict said_memo              # shape and addresses -> what it says
    cdef list verdicts               # (list, blocked address, sub-reason, provider) as texts
    cdef int64_t repeats[32][256]    # as replies, of deliveries that were not tried
    cdef int own_number, own_class, unread
    cdef uint64_t foreign_services   # a bit for each service that is another mail server
    cdef uint8_t gateway[256]        # by a provider's number: its hosts answer for others
    cdef SaidText *said_texts        # the texts of verdicts, four each
    cdef uint8_t *said_by            # by place in verdicts: the provider's number that the text tells
    cdef int32_t lasting_at[1024]    # how many of them, by a provider's place
    cdef dict group_of               # (rule, text number of a key) -> its entry there
    cdef dict lasting                # (rule, server and answerer) -> text numbers of the keys whose episodes last until mail passes
    cdef list class_names, provider_names
    # of the row at hand
    cdef EventBatch batch
    cdef Py_ssize_t index
    cdef int64_t row_provider
    cdef int64_t row_said
    cdef int row_owned
    cdef char *scratch
    cdef Py_ssize_t scratch_size
    cdef char blanks[REPLY_BYTES]

    def __cinit__(self, Symbols symbols not None, Networks networks not None, knowledge, compiled, class_names, *, int64_t evidence_limit=50_000):
        cdef Py_ssize_t i, c = 0, p = 0, k, origin
        cdef list every
        cdef Rule *rule
        self.symbols = symbols
        self.networks = networks
        self.ask_said, self.owns = knowledge.said, knowledge.logins.owns
        self.fire, self.ended = knowledge.fire, knowledge.ended
        self.by_domain = knowledge.logins.by_domain
        self.class_names = list(class_names)
        self.n_rules = len(compiled)
        if self.n_rules > 64:
            raise ValueError("more than 64 rules")
        self.rules = <Rule *> calloc(max(1, self.n_rules), sizeof(Rule))
        every = [x for rule_ in compiled for x in (*rule_["where"], *rule_["then_where"], *rule_["until_where"], *rule_["of"])]
        self.conditions = <Condition *> calloc(max(1, len(every)), sizeof(Condition))
        self.patterns = <Pattern *> calloc(max(1, sum(len(x["patterns"]) for x in every)), sizeof(Pattern))
        self.scratch_size = 1 << 17
        self.scratch = <char *> malloc(self.scratch_size)
        self.templates = <Template *> calloc(MAX_TEMPLATES, sizeof(Template))
        self.said_by = <uint8_t *> calloc(MAX_VERDICTS + 1, 1)
        self.said_texts = <SaidText *> calloc(4 * (MAX_VERDICTS + 1), sizeof(SaidText))
        if (self.rules == NULL or self.conditions == NULL or self.patterns == NULL or self.scratch == NULL
                or self.templates == NULL or self.said_by == NULL or self.said_texts == NULL):
            raise MemoryError
        self.keep = []
        self.maps = [IntMap() for _ in compiled]
        self.items = [IntMap() for _ in compiled]
        self.evidence = {}
        self.evidence_limit = evidence_limit
        self.lasting = {}
        self.group_of = {}
        # Number 0 is everybody else, or nobody.
        self.provider_names = [""]
        self.known_providers = {b"": 0}
        self.use_providers(knowledge.provider, knowledge.providers, knowledge.gateways)
        self.own_number = self.known_providers.get(b"self", -1)
        self.own_class = self.class_names.index("other")
        self.forget_replies()
        self.foreign_services = sum([1 << SERVICES.index(name) for name in DIALECTS])
        if len(self.class_names) > 32:
            raise ValueError("more than 32 classes of reply")
        self.now = NO_TIME
        for i, spec in enumerate(compiled):
            rule = &self.rules[i]
            rule.kinds = spec["kinds"]
            rule.then = spec["then"]
            rule.where, rule.n_where = <int32_t> c, len(spec["where"])
            c = self.add_conditions(spec["where"], c, &p)
            rule.then_where, rule.n_then_where = <int32_t> c, len(spec["then_where"])
            c = self.add_conditions(spec["then_where"], c, &p)
            rule.until = spec["until"]
            rule.quiet = spec["quiet"]
            rule.until_key = rule.until != 0 and rule.until != 1 << DELIVERY
            rule.until_where, rule.n_until_where = <int32_t> c, len(spec["until_where"])
            c = self.add_conditions(spec["until_where"], c, &p)
            rule.of, rule.n_of = <int32_t> c, len(spec["of"])
            c = self.add_conditions(spec["of"], c, &p)
            rule.n_by = len(spec["by"])
            rule.by_reply = rule.n_by > 1
            rule.last_said = -1
            for k in range(rule.n_by):
                rule.by[k] = spec["by"][k]
                if rule.by[k] not in (HOST, F_PROVIDER, F_DNSBL, F_BLOCKED_IP, F_REPLY_SUB):
                    rule.by_reply = False
            rule.n_subject = len(spec["subject"])
            for k in range(rule.n_subject):
                rule.subject[k] = spec["subject"][k]
            rule.measure = spec["measure"]
            rule.item = spec["item"]
            rule.window = spec["window"]
            rule.cooldown = spec["cooldown"]
            rule.threshold = spec["threshold"]
            rule.release = spec["release"]
            rule.warm = spec["warm"]
            rule.at_least = spec["at_least"]
            rule.hits = spec["hits"]
            rule.max_keys = spec["max_keys"]
            rule.max_entries = spec["max_entries"]
            rule.free_list = rule.oldest = rule.newest = ABSENT
            rule.look_at = NO_TIME
        # Silent windows first: what a rule asks them includes the row that makes it fire.
        for i in sorted(range(self.n_rules), key=lambda number: compiled[number]["threshold"] != float("inf")):
            rule = &self.rules[i]
            for k in range(N_KINDS):
                for origin in range(N_ORIGINS):
                    if (rule.kinds >> k & 1 and self.origins(rule.where, rule.n_where) >> origin & 1) or (
                            rule.then >> k & 1 and self.origins(rule.then_where, rule.n_then_where) >> origin & 1) or (
                            rule.until >> k & 1 and self.origins(rule.until_where, rule.n_until_where) >> origin & 1):
                        self.by_kind[k][origin][self.by_kind_size[k][origin]] = <int32_t> i
                        self.by_kind_size[k][origin] += 1

    cdef uint64_t origins(self, int32_t at, int32_t n) noexcept:
        """The origins that conditions let pass, a bit each."""
        cdef uint64_t mask = <uint64_t> -1
        cdef int32_t i
        for i in range(at, at + n):
            if self.conditions[i].code == C_MASK and self.conditions[i].field == F_ORIGIN:
                mask &= ~self.conditions[i].mask if self.conditions[i].negate else self.conditions[i].mask
        return mask

    def use_logins(self, logins):
        """Takes another answer to whose a sender is: ``owns(login, sender)`` and ``by_domain``."""
        self.owns = logins.owns
        self.by_domain = logins.by_domain

    def use_providers(self, provider_of, names, gateways):
        """Takes another answer to whose a host is: ``provider_of(host)``, the names that are counted apart (254 at most: those that
        come later count as others), and those whose hosts answer for others.
        """
        self.provider_of = provider_of
        for name in names:
            if len(self.provider_names) < 255 and name.encode() not in self.known_providers:
                self.known_providers[name.encode()] = len(self.provider_names)
                self.provider_names.append(name)
        memset(self.gateway, 0, sizeof(self.gateway))
        for name in gateways:
            self.gateway[<int> self.known_providers.get(name.encode(), 0)] = True
        # Nor does the text of nobody's host count for less.
        self.gateway[0] = True
        self.forget_hosts()

    cdef int forget_hosts(self) except -1:
        cdef int32_t r
        self.provider_memo = IntMap()
        self.provider_symbols = IntMap()
        self.provider_texts = []
        self.provider_places = {}
        for r in range(self.n_rules):
            self.rules[r].last_said = -1
        self.index_lasting()
        return 0

    cdef Py_ssize_t add_conditions(self, specs, Py_ssize_t c, Py_ssize_t *p) except -1:
        cdef Condition *condition
        for spec in specs:
            condition = &self.conditions[c]
            condition.code = spec["code"]
            condition.negate = spec["negate"]
            condition.field = spec["field"]
            condition.mask = spec["mask"]
            condition.low = spec["low"]
            condition.high = spec["high"]
            condition.patterns = <int32_t> p[0]
            condition.n_patterns = len(spec["patterns"])
            for text in spec["patterns"]:
                self.keep.append(text)
                self.patterns[p[0]].text = <bytes> text
                self.patterns[p[0]].length = len(text)
                self.patterns[p[0]].glob = b"*" in text
                p[0] += 1
            c += 1
        return c

    def __dealloc__(self):
        cdef int32_t r, k
        for r in range(self.n_rules):
            for k in range(self.rules[r].top):
                if self.rules[r].keys[k].used:
                    free(self.rules[r].keys[k].entries)
            free(self.rules[r].keys)
        free(self.rules)
        free(self.conditions)
        free(self.patterns)
        free(self.scratch)
        free(self.templates)
        free(self.said_by)
        free(self.said_texts)

    # --- what a row says -------------------------------------------------------------------------------------------------------------

    cdef bint text(self, Row *row, const char *line, int32_t field, const char ** p, Py_ssize_t *n) except -1:
        """A field's text: the row's own, or its message's. False where it is absent."""
        cdef int32_t symbol = ABSENT
        cdef int own = field
        cdef const char *at
        if field >= F_PROVIDER:
            if field == F_PROVIDER:
                symbol = self.provider(row, line)
            elif field == F_SENDER_DOMAIN or field == F_RECIPIENT_DOMAIN:
                if not self.text(row, line, SENDER if field == F_SENDER_DOMAIN else RECIPIENT, p, n):
                    return False
                at = p[0] + n[0] - 1
                while at >= p[0] and at[0] != 64:
                    at -= 1
                if at < p[0]:
                    return False
                n[0] -= at + 1 - p[0]
                p[0] = at + 1
                return n[0] > 0
            elif field == F_UID:
                return self.decimal(row.number[6], p, n)
            elif field == F_LOGIN:
                symbol = self.login(row, line)
            elif F_REPLY_SUB <= field <= F_BLOCKED_IP:
                return self.said_text(row, line, 2 if field == F_REPLY_SUB else field - F_DNSBL, p, n)
            if symbol < 0:
                return False
        elif field == SASL_USERNAME:
            symbol = self.symbols.fold(row.account if row.account >= 0 or not row.text[own].start else
                                       self.symbols.intern(line + row.text[own].start, row.text[own].length))
        elif field == CLIENT_IP:
            symbol = row.ip
        elif field == SENDER:
            symbol = row.sender
        if symbol >= 0:
            p[0] = self.symbols.pointer(symbol)
            n[0] = self.symbols.length(symbol)
            return True
        if row.text[own].start == 0:
            if own == STATUS and row.said:
                p[0] = status_word(row.said)
                n[0] = status_length(row.said)
                return True
            return False
        p[0] = text_of(row, line, own)
        n[0] = row.text[own].length
        return True

    cdef bint said_text(self, Row *row, const char *line, int part, const char ** p, Py_ssize_t *n) except -1:
        cdef int64_t said = self.said(row, line)
        cdef SaidText *text = &self.said_texts[(said >> 16) * 4 + part]
        if said == 0 or text.length == 0:
            return False
        p[0] = text.text
        n[0] = text.length
        return True

    cdef bint decimal(self, int64_t number, const char **p, Py_ssize_t *n) noexcept:
        """A number's digits, at the end of the scratch space."""
        cdef Py_ssize_t at = self.scratch_size
        if number < 0:
            return False
        while True:
            at -= 1
            self.scratch[at] = <char> (48 + number % 10)
            number //= 10
            if number == 0:
                break
        p[0] = self.scratch + at
        n[0] = self.scratch_size - at
        return True

    cdef int32_t symbol(self, Row *row, const char *line, int32_t field) except -2:
        """The number of a field's text, for keys and distinct items; logins, domains and addresses in lower case."""
        cdef const char *p
        cdef Py_ssize_t n
        if field == SASL_USERNAME and row.account >= 0:
            return self.symbols.fold(row.account)
        if field == CLIENT_IP and row.ip >= 0:
            return row.ip
        if field == HOST:
            return row.host
        if field == SENDER and row.sender >= 0:
            return self.symbols.fold(row.sender)
        if field == F_PROVIDER:
            return self.provider(row, line)
        if field == F_LOGIN:
            return self.login(row, line)
        if not self.text(row, line, field, &p, &n):
            return ABSENT
        # The next rule finds what this one has looked up.
        if field == CLIENT_IP:
            row.ip = self.symbols.intern(p, n)
            return row.ip
        if field == SASL_USERNAME:
            row.account = self.symbols.intern(line + row.text[field].start, row.text[field].length)
            return self.symbols.fold(row.account)
        if field == QUEUE_ID or field == LINKED_QUEUE_ID or field == MESSAGE_ID:
            return self.symbols.intern(p, n)
        return self.symbols.fold(self.symbols.intern(p, n))

    cdef int login_result(self, Row *row) noexcept:
        """How a login went, L_NONE for what is none."""
        if row.text[ACTION].start == SERVER_FAULT_START:
            return L_SERVER_FAULT
        if row.kind == AUTH_FAILED:
            return L_FAILED_KNOWN if row.known else L_FAILED
        return L_SUCCEEDED if row.kind == AUTH_SUCCESS or row.kind == ACCEPTED and row.text[SASL_USERNAME].start else L_NONE

    cdef int32_t login(self, Row *row, const char *line) except -2:
        """Whose login it is: the account's where it logs in from there or has done so before, else the client's; the server's own where none is
        told. So one client that fails counts as one, whatever names it makes up.
        """
        cdef int result = self.login_result(row)
        cdef int32_t symbol = ABSENT
        if result == L_NONE:
            return ABSENT
        if row.known or result == L_SUCCEEDED:
            symbol = self.symbol(row, line, SASL_USERNAME)
        if symbol < 0:
            symbol = self.symbol(row, line, CLIENT_IP)
        return symbol if symbol >= 0 else self.symbols.intern(b"", 0)

    cdef int64_t host_provider(self, Row *row, const char *line) except -2:
        """Who answered: place in provider_texts << 8 | number among the known providers, or ABSENT."""
        cdef int field
        cdef uint64_t key
        cdef bytes found
        if self.row_provider == -2:
            self.row_provider = ABSENT
            # By name, else by address; what the reply's text says of its host goes before what the line says.
            field = PEER_HOST
            if not row.text[PEER_HOST].length:
                field = RELAY_HOST if row.text[RELAY_HOST].length else PEER_IP if row.text[PEER_IP].length else RELAY_IP
            if self.own_host(row, line):
                field = -1
                self.row_provider = self.remember_provider(b"self")
            elif row.text[field].start:
                # A keyed 64-bit hash stands for the host: nobody can find two that share one.
                key = sentinel_hash(line + row.text[field].start, row.text[field].length, self.symbols.k1, self.symbols.k0) >> 1
                self.row_provider = self.provider_memo.get(key, -2)
                if self.row_provider == -2:
                    if self.provider_memo.size >= 50_000:
                        self.forget_hosts()
                    self.row_provider = self.remember_provider(self.provider_of((line + row.text[field].start)[:row.text[field].length]))
                    self.provider_memo.put(key, self.row_provider)
        return self.row_provider

    cdef int64_t remember_provider(self, bytes name) except -2:
        place = self.provider_places.get(name)
        if place is None:
            place = self.provider_places[name] = len(self.provider_texts)
            self.provider_texts.append(name)
        return (<int64_t> place << 8) | <int> self.known_providers.get(name, 0)

    cdef bint own_host(self, Row *row, const char *line) noexcept:
        """Whether a program on this host answered: over loopback, or a socket that is a file."""
        cdef int field = PEER_IP if row.text[PEER_IP].start else RELAY_IP
        cdef const char *p = line + row.text[field].start
        cdef Py_ssize_t n = row.text[field].length, i
        if row.text[field].start == 0:
            return False
        if n == 9 and memcmp(p, b"127.0.0.1", 9) == 0 or n == 3 and memcmp(p, b"::1", 3) == 0:
            return True
        # An address begins with a digit, or a letter of IPv6; the path of a socket holds a slash.
        if n == 0 or SIGNS[<uint8_t> p[0]] == DIGIT:
            return False
        for i in range(n):
            if p[i] == 47:
                return True
        return False

    cdef int32_t provider(self, Row *row, const char *line) except -2:
        cdef int64_t found = self.host_provider(row, line), symbol, said
        cdef bytes text
        if found < 0:
            return ABSENT
        if self.gateway[found & 255]:
            # No host that is known: a mark in the text tells, if it bears one.
            said = self.said(row, line)
            text = (<tuple> self.verdicts[said >> 16])[3] if said else b""
            if len(text):
                return self.symbols.intern(text, len(text))
        symbol = self.provider_symbols.get(<uint64_t> (found >> 8), ABSENT)
        if symbol < 0:
            text = self.provider_texts[found >> 8]
            symbol = self.symbols.intern(text, len(text))
            self.provider_symbols.put(<uint64_t> (found >> 8), symbol)
        return <int32_t> symbol

    cdef int32_t provider_key(self, Row *row, const char *line) except -2:
        """A provider as keys have it: where the text alone names it, with whose host wrote the text, so that nobody can speak in the
        name of another.
        """
        cdef int32_t symbol = self.provider(row, line)
        cdef int64_t found = self.host_provider(row, line)
        cdef bytes text
        if symbol < 0 or not self.gateway[found & 255] or self.symbols.text(symbol) == <bytes> self.provider_texts[found >> 8]:
            return symbol
        text = self.symbols.text(symbol) + TOLD_BY + <bytes> self.provider_texts[found >> 8]
        return self.symbols.intern(text, len(text))

    cdef int64_t said(self, Row *row, const char *line) except -1:
        """What a refusal says: place in ``verdicts`` << 16 | confidence in hundredths << 8 | number of its class. 0 for what isn't one.

        A shape of reply, with the addresses in it, is asked about once.
        """
        cdef const char *p
        cdef Py_ssize_t n, start, length
        cdef int n_literals = 0, k
        cdef Literal literals[MAX_LITERALS]
        cdef uint64_t key
        cdef int64_t provider
        cdef bytes name
        cdef bint foreign
        cdef Template *template
        if self.row_said >= 0:
            return self.row_said
        self.row_said = 0
        if row.kind != DELIVERY or row.text[REPLY].start == 0 or row.number[REPLY_CODE] < 400:
            return 0
        if self.ask_said is None:
            self.row_said = self.unread
            return self.row_said
        provider = self.host_provider(row, line)
        foreign = self.foreign_services >> row.service & 1
        if (row.text[PEER_IP].start == 0 and not foreign) or (provider >= 0 and provider & 255 == self.own_number):
            # Our own Postfix's words, or those of a program on this host.
            self.row_said = self.own_class
            return self.row_said
        # From " said: " or " refused to talk to me: " on: what was said does not depend on which of a provider's hosts said it.
        # Other mail servers log the remote server's words alone.
        start = 0 if foreign else row.text[PEER_IP].start + row.text[PEER_IP].length + 1 - row.text[REPLY].start
        p = line + row.text[REPLY].start + start
        if not foreign and start < row.text[REPLY].length and p[0] == 58:
            # Its port.
            while start < row.text[REPLY].length and p[0] != 32:
                start += 1
                p += 1
        n = min(row.text[REPLY].length - start, REPLY_BYTES)
        if row.service == QMAIL:
            # It logs a blank as "_".
            for k in range(n):
                self.blanks[k] = 32 if p[k] == 95 else p[k]
            p = self.blanks
        template = self.template_of(p, n, foreign)
        if template != NULL and template.length == n and memcmp(p, template.text, n) == 0 or (
                n > SHORT_REPLY and template != NULL and self.as_before(template, p, n)):
            self.row_said = template.said
            return self.row_said
        # The very same reply comes again and again, if it is short enough to hold nothing of its own. A keyed hash stands for it.
        key = sentinel_hash(p, n, self.symbols.k1 + foreign, self.symbols.k0) >> 1
        self.row_said = self.reply_memo.get(key, -1)
        if self.row_said >= 0:
            return self.row_said
        if n <= SHORT_REPLY and template != NULL and self.as_before(template, p, n):
            self.row_said = template.said
            self.remember_reply(key)
            return self.row_said
        length = write_shape(p, n, self.scratch, literals, &n_literals)
        name = b" said: " + self.scratch[:length] if foreign else self.scratch[:length]
        ips = []
        for k in range(n_literals):
            ips.append((literals[k].place + 7 * foreign, p[literals[k].start:literals[k].start + literals[k].length]))
        memo = (name, *ips) if ips else name
        found = self.said_memo.get(memo)
        if found is None:
            if len(self.verdicts) >= MAX_VERDICTS:
                self.forget_replies()
            found = self.said_memo[memo] = self.judge(name, ips)
        self.row_said = found
        self.remember_reply(key)
        if template != NULL:
            self.keep_template(template, p, n)
        return self.row_said

    cdef int remember_reply(self, uint64_t key) except -1:
        if self.reply_memo.size >= 50_000:
            self.reply_memo = IntMap()
        return self.reply_memo.put(key, self.row_said)

    cdef Template *template_of(self, const char *p, Py_ssize_t n, bint foreign) noexcept:
        """The place of a reply's kind: by its first words, which hold its code, and about how long it is."""
        cdef uint64_t words[2]
        cdef uint64_t key
        if n < 24 or n > TEMPLATE_BYTES:
            return NULL
        memcpy(words, p, 16)
        words[0] ^= self.symbols.k0
        words[1] ^= self.symbols.k1
        key = (words[0] ^ (words[1] * <uint64_t> 0x9E3779B97F4A7C15) ^ <uint64_t> (n >> 5)) * <uint64_t> 0xBF58476D1CE4E5B9
        key = (key ^ key >> 29) + foreign
        self.template_key = key
        return &self.templates[key & (MAX_TEMPLATES - 1)]

    cdef bint as_before(self, Template *template, const char *p, Py_ssize_t n) noexcept:
        """Whether a reply has the shape and the addresses of the one remembered: only what differs, from blank to blank, is looked at."""
        cdef Py_ssize_t front, back, at, after, length, stop = n, shape_stop
        cdef int first, last, low, high, middle, k, kept
        cdef bint ended = True
        cdef Literal literals[MAX_LITERALS]
        if template.length == 0 or template.key != self.template_key:
            return False
        front = common(p, template.text, min(n, template.length))
        back = common_end(p + n, template.text + template.length, min(n, template.length) - front)
        # The last blank within what is the same in front.
        low, high = 0, template.n_spaces
        while low < high:
            middle = (low + high) // 2
            if template.spaces[middle].at < front:
                low = middle + 1
            else:
                high = middle
        if low == 0:
            return False
        first = low - 1
        at = template.spaces[first].at + 1
        after = template.spaces[first].after
        # The first blank within what is the same behind.
        high = template.n_spaces
        while low < high:
            middle = (low + high) // 2
            if template.spaces[middle].at < template.length - back:
                low = middle + 1
            else:
                high = middle
        last = low
        shape_stop = template.shape_length
        if last < template.n_spaces:
            stop = template.spaces[last].at + 1 + n - template.length
            shape_stop = template.spaces[last].after
        kept = 0
        while kept < template.n_literals and template.literals[kept].start < at:
            kept += 1
        memcpy(literals, template.literals, kept * sizeof(Literal))
        k = kept
        length = write_shape(p, stop, self.scratch, literals, &k, at, after, NULL, NULL, &ended)
        if length != shape_stop or memcmp(self.scratch + after, template.shape + after, length - after) != 0 or not ended and stop < n:
            return False
        for low in range(kept, k):
            if low >= template.n_literals or literals[low].place != template.literals[low].place or literals[low].length != (
                    template.literals[low].length) or memcmp(
                    p + literals[low].start, template.text + template.literals[low].start, literals[low].length) != 0:
                return False
        # Those behind are the same; there must be none in between that this reply lacks.
        return k == template.n_literals or template.literals[k].place >= shape_stop

    cdef void keep_template(self, Template *template, const char *p, Py_ssize_t n) noexcept:
        template.length = 0
        if n > TEMPLATE_BYTES:
            return
        template.key = self.template_key
        template.length = <int32_t> n
        template.said = self.row_said
        template.n_literals = template.n_spaces = 0
        memcpy(template.text, p, n)
        template.shape_length = <int32_t> write_shape(
            p, n, template.shape, template.literals, &template.n_literals, 0, 0, template.spaces, &template.n_spaces)

    cdef object judge(self, bytes shape, list ips):
        said = self.ask_said(shape, ips)
        self.add_verdict((said.dnsbl.encode(), said.blocked_ip.encode(), said.sub.encode(), said.provider.encode()))
        self.said_by[len(self.verdicts) - 1] = self.known_providers.get(said.provider.encode(), 0)
        return len(self.verdicts) - 1 << 16 | <int> round(said.confidence * 100) << 8 | <int> said.number

    cdef int add_verdict(self, tuple texts) except -1:
        cdef int k
        for k in range(4):
            self.said_texts[len(self.verdicts) * 4 + k].text = <bytes> texts[k]
            self.said_texts[len(self.verdicts) * 4 + k].length = len(<bytes> texts[k])
        self.verdicts.append(texts)
        return 0

    cdef void forget_replies(self):
        cdef int32_t r
        memset(self.templates, 0, MAX_TEMPLATES * sizeof(Template))
        self.reply_memo = IntMap()
        self.said_memo = {}
        self.verdicts = []
        self.add_verdict((b"", b"", b"", b"self"))
        self.said_by[0] = <uint8_t> max(0, self.own_number)
        for r in range(self.n_rules):
            self.rules[r].last_said = -1

    def use_replies(self, said, int unread=0):
        """Takes another answer to what a reply means: ``said(shape, addresses)``. With None all refusals are of the class ``unread``, and
        none is looked at: to measure what looking costs.
        """
        self.ask_said = said
        self.unread = unread
        self.forget_replies()

    cdef bint suspended(self, Row *row, const char *line) noexcept:
        """A delivery that was not tried: error(8) repeats what a host said before."""
        return row.kind == DELIVERY and row.text[REPLY].length > 32 and memcmp(
            line + row.text[REPLY].start, b"delivery temporarily suspended: ", 32) == 0

    cdef bint sender_owned(self, Row *row, const char *line) except -1:
        """Whether the login may write as this sender; True where either is unknown."""
        cdef const char *login
        cdef const char *sender
        cdef Py_ssize_t n, m
        if self.row_owned < 0:
            self.row_owned = 1
            if self.text(row, line, SASL_USERNAME, &login, &n) and self.text(row, line, SENDER, &sender, &m) and m > 0:
                if not self.by_domain or not same_domain(login, n, sender, m):
                    self.row_owned = self.owns(login[:n], sender[:m])
        return self.row_owned

    cdef bint holds(self, Row *row, const char *line, int32_t at, int32_t n) except -1:
        """Whether all of n conditions hold."""
        cdef Condition *condition
        cdef const char *p
        cdef Py_ssize_t length
        cdef bint yes
        cdef int64_t value
        cdef int32_t i, k
        for i in range(n):
            condition = &self.conditions[at + i]
            if condition.code == C_MASK:
                if condition.field == F_ORIGIN:
                    value = row.origin
                elif condition.field == F_SERVICE:
                    value = row.service
                elif condition.field == F_REPLY_CLASS:
                    value = self.said(row, line) & 255
                elif condition.field == F_SUSPENDED:
                    value = self.suspended(row, line)
                elif condition.field == F_INSIDE:
                    # The join knows it of the message; other rows tell their own address.
                    value = row.inside if row.text[CLIENT_IP].start == 0 else self.networks.holds(
                        line + row.text[CLIENT_IP].start, row.text[CLIENT_IP].length)
                elif condition.field == F_RELAY_INSIDE:
                    value = row.text[RELAY_IP].start != 0 and self.networks.holds(
                        line + row.text[RELAY_IP].start, row.text[RELAY_IP].length)
                elif condition.field == F_FORWARDED:
                    value = row.forwarded
                elif condition.field == F_KNOWN_CLIENT:
                    value = row.known
                elif condition.field == F_LOGIN_RESULT:
                    value = self.login_result(row)
                else:
                    value = self.sender_owned(row, line)
                yes = condition.mask >> value & 1
            elif condition.code == C_RANGE:
                value = self.said(row, line) >> 8 & 255 if condition.field == F_REPLY_CONFIDENCE else self.value(row, condition.field)
                yes = condition.low <= value <= condition.high
            else:
                yes = self.text(row, line, condition.field, &p, &length)
                if yes and condition.code == C_LIKE:
                    yes = False
                    for k in range(condition.n_patterns):
                        if like(p, length, &self.patterns[condition.patterns + k]):
                            yes = True
                            break
            if yes == condition.negate:
                return False
        return True

    cdef int64_t value(self, Row *row, int32_t field) noexcept:
        if field == F_RECIPIENTS:
            return row.recipients
        if field == F_UID:
            return row.number[6]
        if field == F_SIZE:
            return row.number[5]
        if field == F_NRCPT:
            return row.number[4]
        return row.number[3]

    # --- the loop --------------------------------------------------------------------------------------------------------------------

    cdef int process(self, EventBatch batch, Py_ssize_t start, Py_ssize_t stop) except -1:
        cdef Py_ssize_t i
        cdef Row *row
        cdef const char *line
        cdef int32_t k, r, kind
        cdef Rule *rule
        self.batch = batch
        for i in range(start, stop):
            row = &batch.rows[i]
            kind = row.kind
            line = batch.base + row.line
            self.events[kind][row.service] += row.repeat
            if row.time == NO_TIME:
                continue
            if row.time > self.now:
                self.now = row.time
                self.late_run = 0
            elif row.time < self.now - LATENESS:
                self.late += 1
                self.late_run += 1
                if self.late_run < SET_BACK:
                    # What was delivered was delivered, however late one hears of it.
                    if kind == DELIVERY:
                        self.row_provider = -2
                        self.row_said = -1
                        self.count_delivery(row, line)
                    continue
                self.set_back += 1
                self.late_run = 0
                self.now = row.time
                self.clear()
            else:
                self.late_run = 0
            if self.by_kind_size[kind][row.origin] == 0 and kind != DELIVERY:
                continue
            self.row_provider = -2
            self.row_said = -1
            self.row_owned = -1
            self.index = i
            if kind == DELIVERY:
                self.count_delivery(row, line)
            if row.again or row.hop:
                continue
            for k in range(self.by_kind_size[kind][row.origin]):
                r = self.by_kind[kind][row.origin][k]
                rule = &self.rules[r]
                if rule.kinds >> kind & 1 and self.holds(row, line, rule.where, rule.n_where):
                    self.update(r, rule, row, line)
                if rule.then >> kind & 1 and self.holds(row, line, rule.then_where, rule.n_then_where):
                    self.follow(r, rule, row, line)
                if rule.active and rule.until >> kind & 1 and self.holds(row, line, rule.until_where, rule.n_until_where):
                    if rule.until_key:
                        self.over(r, rule, row, line)
                    else:
                        self.pass_again(r, rule, row, line)
        return 0

    cdef int count_delivery(self, Row *row, const char *line) except -1:
        cdef int64_t provider, said
        cdef int number
        if row.hop:
            return 0
        provider = self.host_provider(row, line)
        number = <int> (provider & 255) if provider >= 0 else 0
        self.deliveries[row.said if row.said else status_number(line + row.text[STATUS].start, row.text[STATUS].length)][number] += row.repeat
        if row.number[REPLY_CODE] >= 400:
            said = self.said(row, line)
            if said and (self.gateway[number] or said >> 16 == 0) and self.said_by[said >> 16]:
                number = self.said_by[said >> 16]
            if self.suspended(row, line):
                self.repeats[said & 255][number] += row.repeat
            else:
                self.replies[said & 255][number] += row.repeat
        return 0

    cdef int32_t key_symbol(self, Rule *rule, Row *row, const char *line) except -2:
        cdef int32_t symbols[4]
        cdef int32_t k
        cdef Py_ssize_t n = 0
        cdef int64_t said = 0, provider = 0
        if rule.by_reply:
            said, provider = self.said(row, line), self.host_provider(row, line)
            if said > 0 and said == rule.last_said and provider == rule.last_provider and row.host == rule.last_host:
                return rule.last_symbol
        for k in range(rule.n_by):
            symbols[k] = self.provider_key(row, line) if rule.by[k] == F_PROVIDER else self.symbol(row, line, rule.by[k])
            if symbols[k] < 0:
                if rule.by[k] != HOST and rule.by[k] != F_DNSBL and rule.by[k] != F_BLOCKED_IP:
                    return ABSENT
                # A log of one server that does not name it; a refusal that names no list, or not the address.
                symbols[k] = self.symbols.intern(b"", 0)
        if rule.n_by == 1:
            return symbols[0]
        for k in range(rule.n_by):
            if n + self.symbols.length(symbols[k]) + 1 > self.scratch_size:
                return ABSENT
            memcpy(self.scratch + n, self.symbols.pointer(symbols[k]), self.symbols.length(symbols[k]))
            n += self.symbols.length(symbols[k])
            self.scratch[n] = 0
            n += 1
        symbols[0] = self.symbols.intern(self.scratch, n)
        if rule.by_reply:
            rule.last_said, rule.last_provider, rule.last_host, rule.last_symbol = said, provider, row.host, symbols[0]
        return symbols[0]

    cdef int update(self, int32_t r, Rule *rule, Row *row, const char *line) except -1:
        """Adds a row to its key's window; fires on the crossing."""
        cdef int32_t symbol = self.key_symbol(rule, row, line), slot, item = 0
        cdef Key *key
        cdef int64_t weight = row.repeat
        cdef double value
        cdef bint fires, counts
        if symbol < 0:
            return 0
        if rule.measure == M_SUM:
            # Within 51 bits, then cut to 31.
            weight *= min(self.value(row, rule.item), 2147483647)
            if weight <= 0:
                return 0
        elif rule.measure == M_DISTINCT:
            item = self.symbol(row, line, rule.item)
            if item < 0:
                return 0
        elif rule.measure == M_RATIO:
            item = <int32_t> weight if self.holds(row, line, rule.of, rule.n_of) else 0
        elif rule.measure == M_SHARE:
            item = self.symbol(row, line, rule.item)
            if item < 0:
                return 0
            weight = self.holds(row, line, rule.of, rule.n_of)
        slot = self.obtain(r, rule, symbol)
        key = &rule.keys[slot]
        self.expire(r, rule, slot)
        value = self.measure(rule, key)
        if key.active and value < rule.release and rule.until == 0:
            key.active = 0
            rule.active -= 1
        if key.warm and key.count == 0:
            self.drop_evidence(r, key)
        if row.time > self.now - rule.window:
            self.insert(r, rule, slot, row.time, <int32_t> min(weight, 2147483647), item)
        key.last = self.now
        value = self.measure(rule, key)
        if key.active:
            return 0
        fires = rule.then == 0 and value >= rule.threshold and (key.fired == NO_TIME or self.now >= key.fired + rule.cooldown)
        if fires and rule.until and not rule.until_key and not self.has_room(r, rule, row, line):
            return 0
        if rule.measure == M_RATIO:
            counts = item and key.total * 4 >= rule.at_least
        else:
            counts = weight and key.hits * 2 >= rule.hits if rule.measure == M_SHARE else value >= rule.warm
        if counts:
            self.remember(r, key, row, line)
        if fires:
            self.cross(r, rule, key, row, value)
        return 0

    cdef int follow(self, int32_t r, Rule *rule, Row *row, const char *line) except -1:
        """The event that a rule waits for: fires if the window is full enough."""
        cdef int32_t symbol = self.key_symbol(rule, row, line)
        cdef int64_t slot
        cdef Key *key
        cdef double value
        if symbol < 0:
            return 0
        slot = (<IntMap> self.maps[r]).get(<uint64_t> symbol, -1)
        if slot < 0:
            return 0
        key = &rule.keys[slot]
        self.expire(r, rule, <int32_t> slot)
        value = self.measure(rule, key)
        if key.active and value < rule.release:
            key.active = 0
            rule.active -= 1
        if value >= rule.threshold and not key.active and (key.fired == NO_TIME or self.now >= key.fired + rule.cooldown):
            self.remember(r, key, row, line, True)
            self.cross(r, rule, key, row, value)
        return 0

    cdef bytes answerer(self, Row *row, const char *line):
        """The server and whose host answered it, by the host's name alone; None for what no host answered."""
        cdef int64_t found = self.host_provider(row, line)
        if found < 0:
            return None
        return (self.symbols.text(row.host) if row.host >= 0 else b"") + b"\0" + <bytes> self.provider_texts[found >> 8]

    cdef int pass_again(self, int32_t r, Rule *rule, Row *row, const char *line) except -1:
        """Mail passes: ends the episodes of this server and answerer in which nothing has been refused for a while."""
        cdef Key *key
        cdef int64_t found = self.host_provider(row, line)
        # Of most mail nobody blocks anything.
        if found < 0 or not self.lasting_at[found >> 8 & 1023]:
            return 0
        symbols = self.lasting.get((r, self.answerer(row, line)))
        if symbols is None:
            return 0
        for symbol in list(symbols):
            key = self.lasting_key(r, rule, symbol)
            # By the row's own time: it may come late.
            if row.time - key.last < rule.quiet:
                continue
            self.no_longer(r, rule, key)
            self.ended(r, self.now, key.fired, [self.kept(row, line).told()], self.symbols.text(key.symbol))
        return 0

    cdef int over(self, int32_t r, Rule *rule, Row *row, const char *line) except -1:
        """An event that may end the episode of its key: it does where the measure has fallen below the release level."""
        cdef int32_t symbol = self.key_symbol(rule, row, line)
        cdef int64_t slot = (<IntMap> self.maps[r]).get(<uint64_t> symbol, -1) if symbol >= 0 else -1
        cdef Key *key
        if slot < 0:
            return 0
        key = &rule.keys[slot]
        if not key.active:
            return 0
        self.expire(r, rule, <int32_t> slot)
        if self.level(rule, key) >= rule.release:
            return 0
        key.active = 0
        rule.active -= 1
        self.ended(r, self.now, key.fired, [self.kept(row, line).told()], self.symbols.text(key.symbol))
        return 0

    cdef Key *lasting_key(self, int32_t r, Rule *rule, int32_t symbol) except NULL:
        cdef int64_t slot = (<IntMap> self.maps[r]).get(<uint64_t> symbol, -1)
        if slot < 0:
            raise AssertionError("an episode lasts whose key is gone")
        return &rule.keys[slot]

    cdef int index_lasting(self) except -1:
        """Counts anew whose hosts' deliveries may end an episode."""
        memset(self.lasting_at, 0, sizeof(self.lasting_at))
        for _, group in self.lasting:
            self.lasting_at[self.place_of(group)] += 1
        return 0

    cdef int place_of(self, bytes group) except -1:
        """Where ``lasting_at`` counts an answerer's episodes."""
        return <int> (self.remember_provider(group[group.rindex(b"\0") + 1:]) >> 8 & 1023)

    cdef int no_longer(self, int32_t r, Rule *rule, Key *key) except -1:
        """Takes a lasting episode out."""
        cdef tuple group = self.group_of.pop((r, key.symbol))
        key.active = 0
        rule.active -= 1
        symbols = self.lasting[group]
        symbols.remove(key.symbol)
        if not symbols:
            del self.lasting[group]
            self.lasting_at[self.place_of(group[1])] -= 1
        return 0

    cdef bint has_room(self, int32_t r, Rule *rule, Row *row, const char *line) except -1:
        """Whether one more lasting episode of this server and answerer may begin; the one that began first makes room after a while.

        What no host answered begins none: nothing could end it.
        """
        cdef Key *key
        cdef bytes group = self.answerer(row, line)
        if group is None:
            return False
        symbols = self.lasting.get((r, group))
        if symbols is None or len(symbols) < MAX_LASTING:
            return True
        # In order of their beginnings.
        key = self.lasting_key(r, rule, symbols[0])
        if self.now - key.fired < ROOM_AFTER:
            return False
        self.no_longer(r, rule, key)
        return True

    cdef int cross(self, int32_t r, Rule *rule, Key *key, Row *row, double value) except -1:
        cdef const char *line = self.batch.base + row.line
        cdef bint by_answerer = rule.until and not rule.until_key
        if by_answerer:
            group = (r, self.answerer(row, line))
            symbols = self.lasting.get(group)
            if symbols is None:
                symbols = self.lasting[group] = []
                self.lasting_at[self.place_of(group[1])] += 1
            symbols.append(key.symbol)
            self.group_of[r, key.symbol] = group
        key.active = 1
        key.fired = self.now
        key.warm = 0
        rule.active += 1
        cdef list lines = self.evidence.pop((r, key.symbol), [])
        cdef int64_t since = self.now - rule.window
        self.evidence_size -= len(lines)
        cdef int32_t k
        self.fire(
            r,
            self.now,
            value,
            [self.subject(row, line, rule.subject[k]) for k in range(rule.n_subject)],
            [(<Kept> kept).told() for kept in lines if (<Kept> kept).time > since],
            self.symbols.text(key.symbol),
            self.reply(row, line) if by_answerer else None,
        )
        return 0

    cdef int remember(self, int32_t r, Key *key, Row *row, const char *line, bint last=False) except -1:
        """Keeps a line that counts towards a crossing that may come; the latest 64 of a key."""
        cdef tuple name = (r, key.symbol)
        cdef list lines = self.evidence.get(name)
        key.warm = 1
        if lines is None:
            lines = self.evidence[name] = []
        elif self.rules[r].then and len(lines) >= KEPT and row.time < (<Kept> lines[0]).time + (self.rules[r].window >> 3) and not last:
            # What waits for another event may wait long, under a storm: enough is kept, and renewed as time goes on.
            return 0
        lines.append(self.kept(row, line))
        self.evidence_size += 1
        if len(lines) > KEPT:
            del lines[0]
            self.evidence_size -= 1
        while self.evidence_size > self.evidence_limit:
            first = next(iter(self.evidence))
            self.evidence_size -= len(self.evidence.pop(first))
            self.evidence_evicted += 1
        return 0

    cdef Kept kept(self, Row *row, const char *line):
        cdef Kept kept = Kept.__new__(Kept)
        cdef const char *p[4]
        cdef Py_ssize_t n[4]
        cdef Py_ssize_t size = min(<Py_ssize_t> row.length, EVIDENCE_BYTES)
        cdef int64_t provider = self.host_provider(row, line)
        cdef int32_t i
        cdef char *to
        kept.time = row.time
        kept.source = self.batch.chunk.source
        kept.offset = self.batch.place(row)
        kept.provider = self.provider_texts[provider >> 8] if provider >= 0 else None
        kept.line_length = <int32_t> size
        for i in range(N_BESIDE):
            kept.lengths[i] = -1
            if self.text(row, line, BESIDE[i], &p[i], &n[i]):
                kept.lengths[i] = <int32_t> n[i]
                size += n[i]
        kept.texts = PyBytes_FromStringAndSize(NULL, size)
        to = kept.texts
        memcpy(to, line, kept.line_length)
        to += kept.line_length
        for i in range(N_BESIDE):
            if kept.lengths[i] > 0:
                memcpy(to, p[i], n[i])
                to += n[i]
        return kept

    cdef bytes subject(self, Row *row, const char *line, int32_t field):
        """As the log spells it: keys do not tell letter case apart, but the database that an account is locked in may."""
        if field == SASL_USERNAME:
            if row.text[SASL_USERNAME].start:
                return (line + row.text[SASL_USERNAME].start)[:row.text[SASL_USERNAME].length]
            return self.symbols.text(row.account) if row.account >= 0 else None
        return self.copy(row, line, field)

    cdef bytes reply(self, Row *row, const char *line):
        """As the remote server wrote it: qmail logs a blank as "_"."""
        cdef bytes reply = self.copy(row, line, REPLY)
        return reply.replace(b"_", b" ") if reply is not None and row.service == QMAIL else reply

    cdef bytes copy(self, Row *row, const char *line, int32_t field):
        cdef const char *p
        cdef Py_ssize_t n
        if not self.text(row, line, field, &p, &n):
            return None
        return p[:n]

    cdef int drop_evidence(self, int32_t r, Key *key) except -1:
        key.warm = 0
        lines = self.evidence.pop((r, key.symbol), None)
        if lines is not None:
            self.evidence_size -= len(lines)
        return 0

    # --- keys ------------------------------------------------------------------------------------------------------------------------

    cdef int32_t obtain(self, int32_t r, Rule *rule, int32_t symbol) except -2:
        """A key's slot, made if need be. Each call lets go of up to two keys that have nothing left to say."""
        cdef IntMap slots = self.maps[r]
        cdef int32_t slot = <int32_t> slots.get(<uint64_t> symbol, -1), n
        cdef Key *key
        cdef Key *bigger
        if slot >= 0:
            # A key in use is put at the end now and then and not at each event: the order is only for letting go.
            if slot != rule.newest and self.now - rule.keys[slot].placed >= rule.window >> 3:
                self.renew(rule, slot)
        else:
            if rule.size >= rule.max_keys:
                for n in range(MAX_SPARED if rule.active and rule.until else 0):
                    if not rule.keys[rule.oldest].active:
                        break
                    self.renew(rule, rule.oldest)
                self.release(r, rule, rule.oldest)
                rule.evicted_keys += 1
            if rule.free_list >= 0:
                slot = rule.free_list
                rule.free_list = rule.keys[slot].newer
            else:
                if rule.top == rule.room:
                    n = rule.room * 2 if rule.room else 64
                    bigger = <Key *> realloc(rule.keys, n * sizeof(Key))
                    if bigger == NULL:
                        raise MemoryError
                    rule.keys = bigger
                    rule.room = n
                slot = rule.top
                rule.top += 1
            key = &rule.keys[slot]
            memset(key, 0, sizeof(Key))
            key.used = 1
            key.symbol = symbol
            key.fired = NO_TIME
            key.last = self.now
            rule.size += 1
            self.attach(rule, slot)
            slots.put(<uint64_t> symbol, slot)
        if self.now < rule.look_at:
            return slot
        for n in range(2):
            key = &rule.keys[rule.oldest]
            if rule.until and key.active:
                # However long nothing is heard of it.
                self.renew(rule, rule.oldest)
                continue
            rule.look_at = key.last + rule.window + 1
            if key.fired != NO_TIME and key.fired + rule.cooldown > rule.look_at:
                rule.look_at = key.fired + rule.cooldown
            if rule.oldest == slot or rule.look_at > self.now:
                break
            self.release(r, rule, rule.oldest)
        return slot

    cdef void renew(self, Rule *rule, int32_t slot) noexcept:
        """Puts a key at the end of the order in which they are let go."""
        self.detach(rule, slot)
        self.attach(rule, slot)

    cdef void attach(self, Rule *rule, int32_t slot) noexcept:
        rule.keys[slot].placed = self.now
        rule.keys[slot].older = rule.newest
        rule.keys[slot].newer = ABSENT
        if rule.newest >= 0:
            rule.keys[rule.newest].newer = slot
        else:
            rule.oldest = slot
        rule.newest = slot

    cdef void detach(self, Rule *rule, int32_t slot) noexcept:
        cdef Key *key = &rule.keys[slot]
        if key.older >= 0:
            rule.keys[key.older].newer = key.newer
        else:
            rule.oldest = key.newer
        if key.newer >= 0:
            rule.keys[key.newer].older = key.older
        else:
            rule.newest = key.older

    cdef int release(self, int32_t r, Rule *rule, int32_t slot) except -1:
        cdef Key *key = &rule.keys[slot]
        if rule.measure == M_DISTINCT or rule.measure == M_SHARE:
            while key.count:
                self.pop(r, rule, slot)
        if key.warm:
            self.drop_evidence(r, key)
        (<IntMap> self.maps[r]).remove(<uint64_t> key.symbol)
        self.detach(rule, slot)
        if key.active and rule.until and not rule.until_key:
            self.no_longer(r, rule, key)
        elif key.active:
            rule.active -= 1
        free(key.entries)
        memset(key, 0, sizeof(Key))
        key.newer = rule.free_list
        rule.free_list = slot
        rule.size -= 1
        return 0

    cdef int clear(self) except -1:
        cdef int32_t r
        for r in range(self.n_rules):
            self.rules[r].look_at = NO_TIME
            while self.rules[r].oldest >= 0:
                self.release(r, &self.rules[r], self.rules[r].oldest)
        return 0

    # --- one window ------------------------------------------------------------------------------------------------------------------

    cdef inline double measure(self, Rule *rule, Key *key) noexcept:
        if rule.measure >= M_RATIO and (key.total < rule.at_least or key.hits < rule.hits):
            return 0.0
        return self.level(rule, key)

    cdef inline double level(self, Rule *rule, Key *key) noexcept:
        """The measure, of however few."""
        if rule.measure >= M_RATIO:
            return <double> key.hits / <double> key.total if key.total > 0 else 0.0
        return <double> key.total

    cdef void expire(self, int32_t r, Rule *rule, int32_t slot) noexcept:
        cdef Key *key = &rule.keys[slot]
        cdef int64_t since = self.now - rule.window
        while key.count and key.entries[key.head].time <= since:
            self.pop(r, rule, slot)

    cdef void pop(self, int32_t r, Rule *rule, int32_t slot) noexcept:
        """Takes the oldest entry out."""
        cdef Key *key = &rule.keys[slot]
        cdef Entry *entry = &key.entries[key.head]
        cdef uint64_t name
        if rule.measure == M_DISTINCT:
            name = (<uint64_t> slot << 32) | <uint32_t> entry.item
            if (<IntMap> self.items[r]).get(name, NO_TIME) == entry.time:
                (<IntMap> self.items[r]).remove(name)
                key.total -= 1
        elif rule.measure == M_SHARE:
            name = (<uint64_t> slot << 32) | <uint32_t> entry.item
            if (<IntMap> self.items[r]).get(name, NO_TIME) == 2 * entry.time + entry.weight:
                (<IntMap> self.items[r]).remove(name)
                key.total -= 1
                key.hits -= entry.weight
        else:
            key.total -= entry.weight
            if rule.measure == M_RATIO:
                key.hits -= entry.item
        key.head = (key.head + 1) & (key.room - 1)
        key.count -= 1

    cdef int insert(self, int32_t r, Rule *rule, int32_t slot, int64_t time, int32_t weight, int32_t item) except -1:
        """Puts an event in its place by time; late ones move back past those that came before them."""
        cdef Key *key = &rule.keys[slot]
        cdef Entry *entry
        cdef IntMap items
        cdef uint64_t name
        cdef int64_t latest
        cdef int32_t n, i
        cdef Entry *bigger
        if rule.measure == M_DISTINCT:
            items = self.items[r]
            name = (<uint64_t> slot << 32) | <uint32_t> item
            latest = items.get(name, NO_TIME)
            if latest >= time:
                return 0
            if latest == NO_TIME:
                key.total += 1
            items.put(name, time)
        elif rule.measure == M_SHARE:
            # Of an item only the latest event counts; of one moment, the last that was heard of.
            items = self.items[r]
            name = (<uint64_t> slot << 32) | <uint32_t> item
            latest = items.get(name, NO_TIME)
            if latest != NO_TIME:
                if latest >> 1 > time or latest == 2 * time + weight:
                    return 0
                key.total -= 1
                key.hits -= latest & 1
            key.total += 1
            key.hits += weight
            items.put(name, 2 * time + weight)
        else:
            key.total += weight
            if rule.measure == M_RATIO:
                key.hits += item
            if key.count:
                entry = &key.entries[(key.head + key.count - 1) & (key.room - 1)]
                if entry.time == time and <int64_t> entry.weight + weight < 2147483647:
                    entry.weight += weight
                    entry.item += item
                    return 0
        if key.count == rule.max_entries:
            self.pop(r, rule, slot)
            rule.evicted_entries += 1
        if key.count == key.room:
            n = key.room * 2 if key.room else 4
            bigger = <Entry *> malloc(n * sizeof(Entry))
            if bigger == NULL:
                raise MemoryError
            for i in range(key.count):
                bigger[i] = key.entries[(key.head + i) & (key.room - 1)]
            free(key.entries)
            key.entries = bigger
            key.room = n
            key.head = 0
        i = key.count
        while i > 0 and key.entries[(key.head + i - 1) & (key.room - 1)].time > time:
            key.entries[(key.head + i) & (key.room - 1)] = key.entries[(key.head + i - 1) & (key.room - 1)]
            i -= 1
        entry = &key.entries[(key.head + i) & (key.room - 1)]
        entry.time = time
        entry.weight = weight
        entry.item = item
        key.count += 1
        return 0

    # --- looking in from outside -----------------------------------------------------------------------------------------------------

    def keys(self):
        """Keys held, by rule."""
        return [self.rules[r].size for r in range(self.n_rules)]

    def active(self):
        """Episodes under way, by rule, as of the watermark."""
        cdef int32_t r, slot, under_way
        cdef Rule *rule
        cdef Key *key
        cdef list out = []
        for r in range(self.n_rules):
            rule = &self.rules[r]
            under_way = 0
            if rule.active:
                slot = rule.oldest
                while slot >= 0:
                    key = &rule.keys[slot]
                    if key.active and rule.until:
                        under_way += 1
                    elif key.active:
                        # Only counts: an episode ends at the key's own next event, so that looking changes nothing.
                        self.expire(r, rule, slot)
                        under_way += self.measure(rule, key) >= rule.release
                    slot = key.newer
            out.append(under_way)
        return out

    def evicted(self):
        """Evictions so far: keys, events in windows, evidence."""
        return {
            "window_keys": sum(self.rules[r].evicted_keys for r in range(self.n_rules)),
            "window_events": sum(self.rules[r].evicted_entries for r in range(self.n_rules)),
            "evidence": self.evidence_evicted,
        }

    def event_counts(self):
        """{(kind number, service number): rows}."""
        return {(k, s): self.events[k][s] for k in range(N_KINDS) for s in range(N_SERVICES) if self.events[k][s]}

    def delivery_counts(self):
        """{(status, provider): deliveries}; provider "" for all that are not known by name."""
        return {(STATUSES[i], name): self.deliveries[i][k] for i in range(8) for k, name in enumerate(self.provider_names) if self.deliveries[i][k]}

    def reply_counts(self):
        """{(class, provider): refusals}."""
        return {
            (label, name): self.replies[i][k]
            for i, label in enumerate(self.class_names) for k, name in enumerate(self.provider_names) if self.replies[i][k]
        }

    def repeat_counts(self):
        """{(class, provider): deliveries not tried because of such a refusal before}."""
        return {
            (label, name): self.repeats[i][k]
            for i, label in enumerate(self.class_names) for k, name in enumerate(self.provider_names) if self.repeats[i][k]
        }

    def ranking(self, int32_t r):
        """Of a rule that measures a ratio: [(key, events, hits)] of its window now, in no order."""
        cdef Rule *rule = &self.rules[r]
        cdef int32_t slot = rule.oldest
        cdef list out = []
        while slot >= 0:
            self.expire(r, rule, slot)
            if rule.keys[slot].count:
                out.append((self.symbols.text(rule.keys[slot].symbol), rule.keys[slot].total, rule.keys[slot].hits))
            slot = rule.keys[slot].newer
        return out

    def episodes(self, int32_t r):
        """Episodes under way: [(key, when it fired, when the key was last seen)], times in microseconds since the epoch."""
        cdef Rule *rule = &self.rules[r]
        cdef int32_t slot = rule.oldest
        cdef list out = []
        while slot >= 0:
            if rule.keys[slot].active:
                out.append((self.symbols.text(rule.keys[slot].symbol), rule.keys[slot].fired, rule.keys[slot].last))
            slot = rule.keys[slot].newer
        return out

    cdef void mark(self):
        cdef int32_t r, slot, i
        cdef Rule *rule
        cdef Key *key
        for r in range(self.n_rules):
            rule = &self.rules[r]
            slot = rule.oldest
            while slot >= 0:
                key = &rule.keys[slot]
                self.symbols.mark(key.symbol)
                if rule.measure == M_DISTINCT or rule.measure == M_SHARE:
                    for i in range(key.count):
                        self.symbols.mark(key.entries[(key.head + i) & (key.room - 1)].item)
                slot = key.newer
            rule.last_said = -1
        # The providers' names get new numbers after a sweep.
        self.provider_symbols = IntMap()

    def snapshot(self):
        """(head, keys and entries of all rules, evidence): a JSON-ready list, bytes, a JSON-ready list."""
        cdef int32_t r, slot, i
        cdef Rule *rule
        cdef Key *key
        cdef Entry entry
        cdef list parts = [], counts = []
        cdef bytearray entries
        cdef int64_t head[6]
        for r in range(self.n_rules):
            rule = &self.rules[r]
            counts.append([rule.size, rule.evicted_keys, rule.evicted_entries, rule.look_at])
            slot = rule.oldest
            while slot >= 0:
                key = &rule.keys[slot]
                head[0], head[1], head[2], head[3], head[4], head[5] = key.symbol, key.last, key.fired, key.active, key.count, key.placed
                parts.append((<char *> head)[:sizeof(head)])
                for i in range(key.count):
                    entry = key.entries[(key.head + i) & (key.room - 1)]
                    parts.append((<char *> &entry)[:sizeof(Entry)])
                slot = key.newer
        kept = [
            [r, s, [[x.decode("latin-1") if isinstance(x, bytes) else x for x in (<Kept> kept).told()] for kept in lines]]
            for (r, s), lines in self.evidence.items()
        ]
        events = [[k, s, self.events[k][s]] for k in range(N_KINDS) for s in range(N_SERVICES) if self.events[k][s]]
        return (
            [
                self.now, self.late, self.set_back, self.late_run, self.evidence_evicted, counts, events,
                [[i, self.provider_names[k], self.deliveries[i][k]] for i in range(8) for k in range(len(self.provider_names)) if self.deliveries[i][k]],
                [[i, self.provider_names[k], self.replies[i][k]] for i in range(32) for k in range(len(self.provider_names)) if self.replies[i][k]],
                [[i, self.provider_names[k], self.repeats[i][k]] for i in range(32) for k in range(len(self.provider_names)) if self.repeats[i][k]],
                [[r, group.decode("latin-1"), symbols] for (r, group), symbols in self.lasting.items()],
            ],
            b"".join(parts),
            kept,
        )

    def restore(self, head, bytes data not None, kept):
        """The inverse of ``snapshot`` on fresh windows of the same rules."""
        cdef int32_t r, slot
        cdef Rule *rule
        cdef Key *key
        cdef Entry entry
        cdef Py_ssize_t at = 0, i, k
        cdef int64_t words[6]
        cdef const char *source = data
        self.now, self.late, self.set_back, self.late_run, self.evidence_evicted, counts, events, deliveries, replies, repeats, lasting = head
        if len(counts) != self.n_rules:
            raise ValueError("the snapshot was made with other rules")
        for r in range(self.n_rules):
            rule = &self.rules[r]
            for k in range(counts[r][0]):
                if at + <Py_ssize_t> sizeof(words) > len(data):
                    raise ValueError("the snapshot of the windows is cut short")
                memcpy(words, source + at, sizeof(words))
                at += sizeof(words)
                if words[4] < 0 or at + words[4] * <Py_ssize_t> sizeof(Entry) > len(data):
                    raise ValueError("the snapshot of the windows is damaged")
                # As if it were seen now, so that none of those restored before is let go.
                slot = self.obtain(r, rule, <int32_t> words[0])
                for i in range(words[4]):
                    memcpy(&entry, source + at, sizeof(Entry))
                    at += sizeof(Entry)
                    self.insert(r, rule, slot, entry.time, entry.weight, entry.item)
                key = &rule.keys[slot]
                key.active = words[3] != 0
                rule.active += key.active
            rule.evicted_keys, rule.evicted_entries, rule.look_at = counts[r][1], counts[r][2], counts[r][3]
        self.times(counts, data)
        for k_, s_, n_ in events:
            self.events[<int> k_][<int> s_] = n_
        for i_, name, n_ in deliveries:
            self.deliveries[<int> i_][<int> self.known_providers.get(name.encode(), 0)] += <int64_t> n_
        for i_, name, n_ in replies:
            self.replies[<int> i_][<int> self.known_providers.get(name.encode(), 0)] += <int64_t> n_
        for i_, name, n_ in repeats:
            self.repeats[<int> i_][<int> self.known_providers.get(name.encode(), 0)] += <int64_t> n_
        self.lasting = {(r_, group.encode("latin-1")): symbols for r_, group, symbols in lasting}
        self.group_of = {(group[0], symbol): group for group, symbols in self.lasting.items() for symbol in symbols}
        self.index_lasting()
        self.evidence = {
            (r_, s_): [Kept.of([*e[:3], *[None if x is None else x.encode("latin-1") for x in e[3:]]]) for e in lines]
            for r_, s_, lines in kept
        }
        self.evidence_size = sum(len(lines) for lines in self.evidence.values())
        for r_, s_ in self.evidence:
            slot = <int32_t> (<IntMap> self.maps[<int> r_]).get(<uint64_t> <int32_t> s_, -1)
            if slot < 0:
                raise ValueError("the snapshot of the evidence is damaged")
            self.rules[<int> r_].keys[slot].warm = 1

    cdef int times(self, counts, bytes data) except -1:
        """Second pass of ``restore``: when each key was last seen and last fired."""
        cdef int32_t r, slot
        cdef Py_ssize_t at = 0
        cdef int64_t words[6]
        cdef const char *source = data
        for r in range(self.n_rules):
            slot = self.rules[r].oldest
            while slot >= 0:
                memcpy(words, source + at, sizeof(words))
                at += sizeof(words) + words[4] * sizeof(Entry)
                self.rules[r].keys[slot].last = words[1]
                self.rules[r].keys[slot].fired = words[2]
                self.rules[r].keys[slot].placed = words[5]
                slot = self.rules[r].keys[slot].newer
        return 0


@cython.final
cdef class Core:
    """Join and windows over one stream of batches, with the texts that both hold."""

    cdef readonly Symbols symbols
    cdef readonly Tracker tracker
    cdef readonly Windows windows
    cdef int32_t collect_at

    def __cinit__(self, Symbols symbols not None, Tracker tracker not None, Windows windows not None):
        self.symbols, self.tracker, self.windows = symbols, tracker, windows
        self.collect_at = 1 << 13

    def process(self, EventBatch batch not None, Py_ssize_t start=0, Py_ssize_t stop=-1):
        """Attributes rows [start, stop) and runs the rules over them, in this order."""
        if stop < 0:
            stop = batch.size
        if not 0 <= start <= stop <= batch.size:
            raise IndexError(f"rows {start} to {stop} of {batch.size}")
        self.tracker.process(batch, start, stop)
        self.windows.process(batch, start, stop)

    def collect(self, batches=()):
        """Lets go of texts that nobody holds any more, once there are many; ``batches`` are those still to be read."""
        cdef EventBatch batch
        cdef Py_ssize_t i
        if self.symbols.live <= self.collect_at:
            return
        self.tracker.mark()
        self.windows.mark()
        for batch in batches:
            if batch.symbols is None or batch.generation != self.symbols.generation:
                continue
            for i in range(batch.size):
                self.symbols.mark(batch.rows[i].account)
                self.symbols.mark(batch.rows[i].ip)
                self.symbols.mark(batch.rows[i].sender)
            batch.generation = self.symbols.generation + 1
        self.symbols.sweep()
        self.collect_at = max(1 << 13, 2 * self.symbols.live)
