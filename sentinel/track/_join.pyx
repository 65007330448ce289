"""The queue-ID join: every later line of a message learns where the message came from.

A ``Message`` is what lies between its first line (smtpd ``client=``, pickup ``uid=``, or cleanup's message-id for mail that Postfix makes
itself) and ``removed``, under one (host, queue ID). These are all the ways its state changes:

- ``client=`` and ``uid=`` begin a message, also where the queue ID was in use: short IDs come back. So does a message-id for an ID that
  qmgr has printed already.
- ``orig_queue_id=`` (a filter that uses XFORWARD; smtpd takes it only from hosts it trusts), pickup's ``orig_id=``, ``queued as`` from a relay in
  our own networks for a message that came from our own networks without login, and local's ``forwarded as`` hand a message's origin on.
  What a remote server replies never does: else one could answer with the queue ID of somebody's spam and have it charged to the writer.
- qmgr's ``from=`` gives the sender, and, the first time, the number of recipients; never for a message that was handed on.
- ``removed``, by qmgr or postsuper, ends it.
- sendmail names a login once, in the line of its session's process; the messages that this process takes from the same address within an
  hour are that login's (``session``).

Limits: at most ``limit`` open messages; the one not seen for longest is forgotten and counted. A line whose message began before the log
did belongs to nobody and is counted (``unattributed``).
"""

import ipaddress

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

from sentinel.maillog._scan cimport (ACCEPTED, BOUNCE_NOTICE, CLIENT_IP, DELIVERY, EventBatch, HOST, LINKED_QUEUE_ID,
    MESSAGE_ID_LINE, NRCPT, ORIGIN_CLIENT, ORIGIN_INTERNAL, ORIGIN_LOCAL, ORIGIN_LOGIN, ORIGIN_UNKNOWN, PICKED_UP, QUEUE_ID, QUEUED_LINE,
    RELAY_IP, REMOVED, REPLY, Row, SASL_USERNAME, SENDER, STATUS, S_LOCAL, S_LMTP, S_PIPE, S_SENDMAIL, AUTH_SUCCESS, CONNECT, PID)
from sentinel.maillog._symbols cimport ABSENT, Symbols, sentinel_rfind, sentinel_same, sentinel_short_hash
from sentinel.track._clients cimport KnownClients

cdef extern from "arpa/inet.h" nogil:
    int inet_pton(int family, const char *text, void *address)

cdef extern from "sys/socket.h" nogil:
    enum: AF_INET6

cdef uint64_t V4_MAPPED = 0xFFFF
cdef int64_t SESSION_GAP = 3600 * 1000000
WORD = (1 << 64) - 1

FORMAT = 1


cdef class Networks:
    """Our own networks, as CIDR; ValueError for what isn't one."""

    def __cinit__(self, networks):
        cdef list parsed = [ipaddress.ip_network(text, strict=False) for text in networks]
        cdef Py_ssize_t i
        cdef object address, mask
        self.size = len(parsed)
        self.items = <Network *> malloc(max(1, self.size) * sizeof(Network))
        if self.items == NULL:
            raise MemoryError
        for i, network in enumerate(parsed):
            address, mask = int(network.network_address), int(network.netmask)
            if network.version == 4:
                address += V4_MAPPED << 32
                mask += ((1 << 96) - 1) << 32
            self.items[i].high, self.items[i].low = address >> 64, address & WORD
            self.items[i].high_mask, self.items[i].low_mask = mask >> 64, mask & WORD

    def __dealloc__(self):
        free(self.items)

    cdef bint holds(self, const char *text, Py_ssize_t n) noexcept:
        cdef uint8_t address[16]
        cdef char copy[64]
        cdef uint64_t high = 0, low = V4_MAPPED
        cdef Py_ssize_t i
        cdef int32_t k
        cdef int part, value, digits
        cdef bint dotted = False
        i = 0
        for part in range(4):
            value = digits = 0
            while i < n and <uint8_t> (text[i] - 48) <= 9 and digits < 3:
                value = value * 10 + text[i] - 48
                digits += 1
                i += 1
            if digits == 0 or value > 255:
                break
            low = low << 8 | <uint64_t> value
            if part < 3:
                if i >= n or text[i] != 46:
                    break
                i += 1
            else:
                dotted = i == n
        if not dotted:
            if n >= 64:
                return False
            memcpy(copy, text, n)
            copy[n] = 0
            if inet_pton(AF_INET6, copy, address) != 1:
                return False
            low = 0
            for i in range(8):
                high = high << 8 | address[i]
                low = low << 8 | address[i + 8]
        for k in range(self.size):
            if ((high ^ self.items[k].high) & self.items[k].high_mask | (low ^ self.items[k].low) & self.items[k].low_mask) == 0:
                return True
        return False

    def __contains__(self, str text):
        cdef bytes raw = text.encode()
        return self.holds(raw, len(raw))


cdef class Tracker:
    def __cinit__(self, Symbols symbols not None, Networks networks not None, int32_t limit=1_000_000, *, int32_t known_clients=200_000):
        """``limit``: the number of messages that may be open at once, at least 2; ``known_clients``: that of pairs of account and address."""
        if limit < 2:
            raise ValueError(f"at least 2 messages must be able to be open, not {limit}")
        self.symbols = symbols
        self.networks = networks
        self.clients = KnownClients(known_clients)
        self.limit = limit
        self.room = 1024
        self.messages = <Message *> malloc(self.room * sizeof(Message))
        if self.messages == NULL:
            raise MemoryError
        self.free_list = self.oldest = self.newest = self.host = ABSENT
        self.rehash(2048)

    def __dealloc__(self):
        free(self.messages)
        free(self.buckets)

    cdef int rehash(self, uint32_t size) except -1:
        cdef int32_t slot
        cdef Message *message
        free(self.buckets)
        self.buckets = <int32_t *> malloc(size * sizeof(int32_t))
        if self.buckets == NULL:
            raise MemoryError
        memset(self.buckets, 0xFF, size * sizeof(int32_t))
        self.mask = size - 1
        slot = self.oldest
        while slot >= 0:
            message = &self.messages[slot]
            message.chain = self.buckets[message.hash & self.mask]
            self.buckets[message.hash & self.mask] = slot
            slot = message.newer
        return 0

    cdef int grow(self) except -1:
        cdef Message *bigger = <Message *> realloc(self.messages, 2 * self.room * sizeof(Message))
        if bigger == NULL:
            raise MemoryError
        self.messages = bigger
        self.room *= 2
        return self.rehash(<uint32_t> self.room * 2)

    cdef uint64_t key(self, int32_t host, const char *queue_id, Py_ssize_t n) noexcept:
        return sentinel_short_hash(queue_id, n, self.symbols.k0 + <uint64_t> host)

    cdef int32_t find(self, uint64_t h, int32_t host, const char *queue_id, Py_ssize_t n) noexcept:
        cdef int32_t slot = self.buckets[h & self.mask]
        cdef Message *message
        while slot >= 0:
            message = &self.messages[slot]
            if message.hash == h and message.host == host and message.length == n and sentinel_same(message.queue_id, queue_id, n):
                return slot
            slot = message.chain
        return ABSENT

    cdef int32_t look_up(self, int32_t host, const char *queue_id, Py_ssize_t n) noexcept:
        if n <= 0 or n > QUEUE_ID_LIMIT:
            return ABSENT
        return self.find(self.key(host, queue_id, n), host, queue_id, n)

    cdef int32_t obtain(self, int32_t host, const char *queue_id, Py_ssize_t n, int64_t time) except -2:
        """The open message of a queue ID, begun now if there is none. The scanner lets no longer queue ID pass than the limit."""
        cdef uint64_t h
        cdef int32_t slot
        if n <= 0 or n > QUEUE_ID_LIMIT:
            return ABSENT
        h = self.key(host, queue_id, n)
        slot = self.find(h, host, queue_id, n)
        if slot >= 0:
            self.touch(slot)
            return slot
        return self.create(h, host, queue_id, n, time)

    cdef int32_t create(self, uint64_t h, int32_t host, const char *queue_id, Py_ssize_t n, int64_t time) except -2:
        cdef int32_t slot
        if self.open >= self.limit:
            self.release(self.oldest)
            self.evicted += 1
        if self.free_list >= 0:
            slot = self.free_list
            self.free_list = self.messages[slot].chain
        else:
            if self.top == self.room:
                self.grow()
            slot = self.top
            self.top += 1
        cdef Message *message = &self.messages[slot]
        message.hash = h
        message.host = host
        message.length = <uint8_t> n
        memset(message.queue_id, 0, QUEUE_ID_LIMIT)
        memcpy(message.queue_id, queue_id, n)
        self.reset(message, time)
        message.chain = self.buckets[h & self.mask]
        self.buckets[h & self.mask] = slot
        self.begun += 1
        message.placed = self.begun
        message.older = self.newest
        message.newer = ABSENT
        if self.newest >= 0:
            self.messages[self.newest].newer = slot
        else:
            self.oldest = slot
        self.newest = slot
        self.open += 1
        return slot

    cdef void reset(self, Message *message, int64_t time) noexcept:
        message.since = time
        message.account = message.ip = message.sender = ABSENT
        message.origin = ORIGIN_UNKNOWN
        message.inside = message.queued = message.linked = message.forwarded = 0

    cdef void unlink(self, int32_t slot) noexcept:
        cdef Message *message = &self.messages[slot]
        if message.older >= 0:
            self.messages[message.older].newer = message.newer
        else:
            self.oldest = message.newer
        if message.newer >= 0:
            self.messages[message.newer].older = message.older
        else:
            self.newest = message.older

    cdef void touch(self, int32_t slot) noexcept:
        # The order decides only who is forgotten when the limit is reached, so a message is put at the end when an eighth of the limit
        # has begun since it was last.
        if slot == self.newest or self.begun - self.messages[slot].placed < <uint32_t> self.limit >> 3:
            return
        self.unlink(slot)
        self.messages[slot].placed = self.begun
        self.messages[slot].older = self.newest
        self.messages[slot].newer = ABSENT
        self.messages[self.newest].newer = slot
        self.newest = slot

    cdef void release(self, int32_t slot) noexcept:
        cdef Message *message = &self.messages[slot]
        cdef int32_t *at = &self.buckets[message.hash & self.mask]
        while at[0] != slot:
            at = &self.messages[at[0]].chain
        at[0] = message.chain
        self.unlink(slot)
        message.chain = self.free_list
        self.free_list = slot
        self.open -= 1

    cdef int32_t own(self, Row *row, const char *line, int field) except -2:
        if row.text[field].start == 0:
            return ABSENT
        return self.symbols.intern(line + row.text[field].start, row.text[field].length)

    cdef int process(self, EventBatch batch, Py_ssize_t start, Py_ssize_t stop) except -1:
        """Fills in the origin's columns of rows [start, stop)."""
        cdef Py_ssize_t i
        cdef Row *row
        cdef const char *line
        cdef Py_ssize_t known = -1
        cdef const char *host = NULL
        batch.symbols = self.symbols
        batch.generation = self.symbols.generation
        for i in range(start, stop):
            row = &batch.rows[i]
            line = batch.base + row.line
            if known != row.text[HOST].length or not sentinel_same(host, line + row.text[HOST].start, known):
                if row.text[HOST].start == 0:
                    self.host = ABSENT
                    known = -1
                else:
                    self.host = self.symbols.intern(line + row.text[HOST].start, row.text[HOST].length)
                    host = line + row.text[HOST].start
                    known = row.text[HOST].length
            row.host = self.host
            self.row(row, line)
            if row.text[SASL_USERNAME].start and row.text[CLIENT_IP].start:
                row.known = self.clients.look(row, line)
        return 0

    cdef int row(self, Row *row, const char *line) except -1:
        cdef int32_t slot, other
        cdef Message *message
        cdef Message *parent
        cdef const char *queue_id = line + row.text[QUEUE_ID].start
        cdef Py_ssize_t n = row.text[QUEUE_ID].length if row.text[QUEUE_ID].start else 0
        if row.kind == ACCEPTED:
            row.inside = row.text[CLIENT_IP].start and self.networks.holds(line + row.text[CLIENT_IP].start, row.text[CLIENT_IP].length)
            row.account = self.own(row, line, SASL_USERNAME)
            row.ip = self.own(row, line, CLIENT_IP)
            if row.service == S_SENDMAIL and row.account < 0:
                row.account = self.session_account(row)
        if n == 0:
            if row.service == S_SENDMAIL and (row.kind == AUTH_SUCCESS or row.kind == CONNECT):
                self.session(row, line)
            return 0
        if row.kind == ACCEPTED:
            slot = self.obtain(row.host, queue_id, n, row.time)
            if slot < 0:
                return 0
            message = &self.messages[slot]
            self.reset(message, row.time)
            message.account = row.account
            message.ip = row.ip
            message.inside = row.inside
            message.origin = ORIGIN_LOGIN if row.account >= 0 else ORIGIN_CLIENT
            if row.text[LINKED_QUEUE_ID].start and row.account < 0:
                other = self.look_up(row.host, line + row.text[LINKED_QUEUE_ID].start, row.text[LINKED_QUEUE_ID].length)
                if other >= 0 and other != slot:
                    self.inherit(message, &self.messages[other])
                    row.account = message.account
                    row.ip = message.ip
                    row.inside = message.inside
                    row.again = 1
        elif row.kind == PICKED_UP:
            slot = self.obtain(row.host, queue_id, n, row.time)
            if slot < 0:
                return 0
            message = &self.messages[slot]
            self.reset(message, row.time)
            message.origin = ORIGIN_LOCAL
            message.sender = self.own(row, line, SENDER)
            if row.text[LINKED_QUEUE_ID].start:
                other = self.look_up(row.host, line + row.text[LINKED_QUEUE_ID].start, row.text[LINKED_QUEUE_ID].length)
                if other >= 0 and other != slot:
                    self.inherit(message, &self.messages[other])
                    self.release(other)
                    row.again = 1
        elif row.kind == MESSAGE_ID_LINE:
            slot = self.obtain(row.host, queue_id, n, row.time)
            if slot < 0:
                return 0
            message = &self.messages[slot]
            if message.queued:
                self.reset(message, row.time)
        elif row.kind == QUEUED_LINE:
            slot = self.obtain(row.host, queue_id, n, row.time)
            if slot < 0:
                return 0
            message = &self.messages[slot]
            message.sender = self.own(row, line, SENDER)
            row.again = message.queued or message.linked
            message.queued = 1
            if not row.again:
                # exim says how many only with "log_selector = +received_recipients": there is at least one.
                row.recipients = <int32_t> min(row.number[NRCPT], 2147483647) if row.number[NRCPT] >= 0 else 1
        else:
            slot = self.look_up(row.host, queue_id, n)
            if slot < 0:
                if row.kind == DELIVERY:
                    self.unattributed += 1
                elif row.kind == BOUNCE_NOTICE:
                    self.hand_on(row, line, ABSENT)
                return 0
            self.touch(slot)
            message = &self.messages[slot]
            if row.kind == DELIVERY:
                if message.origin == ORIGIN_UNKNOWN:
                    self.unattributed += 1
                self.hand_on(row, line, slot)
            elif row.kind == BOUNCE_NOTICE:
                self.hand_on(row, line, slot)
                message = &self.messages[slot]
        row.attributed = 1
        if row.account < 0 and not row.text[SASL_USERNAME].start:
            row.account = message.account
        if row.ip < 0 and not row.text[CLIENT_IP].start:
            row.ip = message.ip
            row.inside = message.inside
        if row.sender < 0 and (row.kind == QUEUED_LINE or not row.text[SENDER].start):
            row.sender = message.sender
        row.origin = message.origin
        row.forwarded = message.forwarded
        if row.kind == REMOVED:
            self.release(slot)
        return 0

    cdef int session(self, Row *row, const char *line) except -1:
        """A session of sendmail begins, or has logged in. It is kept as a message whose queue ID is a NUL and the process ID."""
        cdef char name[9]
        cdef int32_t slot
        cdef Message *message
        if row.number[PID] < 0:
            return 0
        name[0] = 0
        memcpy(name + 1, &row.number[PID], 8)
        if row.kind == CONNECT:
            slot = self.look_up(row.host, name, 9)
            if slot >= 0:
                self.release(slot)
            return 0
        slot = self.obtain(row.host, name, 9, row.time)
        message = &self.messages[slot]
        self.reset(message, row.time)
        message.account = self.own(row, line, SASL_USERNAME)
        message.ip = self.own(row, line, CLIENT_IP)
        return 0

    cdef int32_t session_account(self, Row *row) noexcept:
        """The login of the session that takes a message, or ABSENT. Process IDs come back: address and time must fit."""
        cdef char name[9]
        cdef int32_t slot
        cdef Message *message
        if row.number[PID] < 0:
            return ABSENT
        name[0] = 0
        memcpy(name + 1, &row.number[PID], 8)
        slot = self.look_up(row.host, name, 9)
        if slot < 0:
            return ABSENT
        message = &self.messages[slot]
        if message.ip != row.ip or not 0 <= row.time - message.since <= SESSION_GAP:
            return ABSENT
        message.since = row.time
        self.touch(slot)
        return message.account

    cdef void inherit(self, Message *child, Message *parent) noexcept:
        child.account = parent.account
        child.ip = parent.ip
        child.inside = parent.inside
        child.origin = parent.origin
        child.linked = 1
        child.forwarded = parent.forwarded

    cdef void hand_on(self, Row *row, const char *line, int32_t slot) noexcept:
        """Links the message that a delivery or a notification names to the one it came from."""
        cdef const char *reply = line + row.text[REPLY].start
        cdef Py_ssize_t n = row.text[REPLY].length if row.text[REPLY].start else 0, at, stop
        cdef int32_t other
        cdef Message *child
        if row.kind == BOUNCE_NOTICE:
            # Before 3.11 the notification has its lines already, from 3.11 on they follow.
            try:
                other = self.obtain(row.host, line + row.text[LINKED_QUEUE_ID].start, row.text[LINKED_QUEUE_ID].length, row.time)
            except MemoryError:
                other = ABSENT
            if other >= 0 and other != slot:
                self.messages[other].origin = ORIGIN_INTERNAL
            return
        if row.text[STATUS].length != 4 or memcmp(line + row.text[STATUS].start, b"sent", 4) != 0 or n < 12:
            return
        if row.service == S_LOCAL:
            if memcmp(reply, b"forwarded as ", 13 if n >= 13 else n) != 0:
                return
            at = 13
        elif (row.text[RELAY_IP].start and self.networks.holds(line + row.text[RELAY_IP].start, row.text[RELAY_IP].length)) or ((row.service == S_LMTP or row.service == S_PIPE) and not row.text[RELAY_IP].start):
            at = sentinel_rfind(reply, 0, n, b"queued as ", 10)
            if at < 0:
                return
            at += 10
        else:
            return
        stop = at
        while stop < n and (48 <= reply[stop] <= 57 or 65 <= reply[stop] <= 90 or 97 <= reply[stop] <= 122):
            stop += 1
        other = self.look_up(row.host, reply + at, stop - at)
        if other < 0 or other == slot:
            return
        child = &self.messages[other]
        if row.service == S_LOCAL:
            if child.origin == ORIGIN_UNKNOWN:
                self.inherit(child, &self.messages[slot])
                child.forwarded = 1
            row.hop = 1
        elif child.linked:
            row.hop = 1
        elif child.origin == ORIGIN_CLIENT and child.inside and child.account < 0:
            self.inherit(child, &self.messages[slot])
            row.hop = 1

    def open_ids(self, wanted):
        """Queue IDs of open messages: whose account and client ``wanted(account, client_ip)`` takes, with the time they were accepted
        (microseconds), and those of which it is known that they are somebody else's.

        ``wanted`` is called once for each pair, with bytes or None. An ID that two hosts use at once is told with the later time.
        """
        cdef dict mine = {}, verdicts = {}
        cdef set others = set()
        cdef int32_t slot = self.oldest
        cdef Message *message
        while slot >= 0:
            message = &self.messages[slot]
            slot = message.newer
            if message.origin == ORIGIN_UNKNOWN:
                continue
            pair = (message.account, message.ip)
            verdict = verdicts.get(pair)
            if verdict is None:
                verdict = verdicts[pair] = bool(wanted(
                    self.symbols.text(message.account) if message.account >= 0 else None,
                    self.symbols.text(message.ip) if message.ip >= 0 else None,
                ))
            queue_id = message.queue_id[: message.length].decode("ascii", "replace")
            if not verdict:
                others.add(queue_id)
            elif mine.get(queue_id, message.since) <= message.since:
                mine[queue_id] = message.since
        others.difference_update(mine)
        return mine, others

    cdef void mark(self) noexcept:
        cdef int32_t slot = self.oldest
        cdef Message *message
        self.symbols.mark(self.host)
        while slot >= 0:
            message = &self.messages[slot]
            self.symbols.mark(message.host)
            self.symbols.mark(message.account)
            self.symbols.mark(message.ip)
            self.symbols.mark(message.sender)
            slot = message.newer

    def snapshot(self):
        """All open messages, the one used longest ago first, after a header of counts."""
        cdef bytearray out = bytearray(self.open * sizeof(Message))
        cdef char *to = out
        cdef int32_t slot = self.oldest
        while slot >= 0:
            memcpy(to, &self.messages[slot], sizeof(Message))
            to += sizeof(Message)
            slot = self.messages[slot].newer
        return [FORMAT, sizeof(Message), self.evicted, self.unattributed, self.begun], bytes(out)

    def restore(self, head, bytes data not None):
        """The inverse of ``snapshot``; the texts' numbers must have been restored before."""
        cdef Py_ssize_t i, n = len(data) // sizeof(Message)
        cdef const char *source = data
        cdef Message message
        cdef int32_t slot
        if list(head[:2]) != [FORMAT, sizeof(Message)] or len(data) % sizeof(Message):
            raise ValueError("the snapshot of the open messages is of another version")
        while self.oldest >= 0:
            self.release(self.oldest)
        self.evicted, self.unattributed, begun = head[2:]
        self.host = ABSENT
        for i in range(n):
            memcpy(&message, source + i * sizeof(Message), sizeof(Message))
            if message.length > QUEUE_ID_LIMIT:
                raise ValueError("the snapshot of the open messages is damaged")
            # The hash is keyed anew in every process.
            slot = self.create(self.key(message.host, message.queue_id, message.length), message.host, message.queue_id, message.length, 0)
            message.hash = self.messages[slot].hash
            message.chain = self.messages[slot].chain
            message.older = self.messages[slot].older
            message.newer = self.messages[slot].newer
            self.messages[slot] = message
        self.begun = begun
