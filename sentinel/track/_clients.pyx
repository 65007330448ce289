"""Which account has logged in from which address before.

A failed login from an address from which its account has logged in within the last 30 days is its owner's own program, with an old password
or on a day when the server can't check any. Everything else may be a guess. So for each pair of account and address the time of the
last login is kept: smtpd took a message under a login (``accepted``), or Dovecot or sendmail let somebody in (``auth_success``).

Letter case of accounts does not matter. An IPv6 address counts as its /64: programs change the rest by themselves, every day. An account of
more than ``LONGEST`` bytes is never known. ``Row.known`` tells what was known *before* the row.

A keyed 64-bit hash stands for the pair: nobody can find two that share one. The key is in the snapshot, so that pairs outlive a restart.

Limits: at most ``limit`` pairs; the one that has not logged in for longest is forgotten and counted. Pairs that are too old go two at each
new one, so that one line with a wrong date does not take them all away. Whoever has stolen one account can push others out only by
logging in from as many networks.
"""

import os

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

from sentinel.maillog._scan cimport ACCEPTED, AUTH_SUCCESS, CLIENT_IP, Row, SASL_USERNAME
from sentinel.maillog._symbols cimport ABSENT, sentinel_chr, sentinel_hash

cdef extern from "arpa/inet.h" nogil:
    int inet_pton(int family, const char *text, void *address)

cdef extern from "sys/socket.h" nogil:
    enum: AF_INET, AF_INET6

cdef int64_t NO_TIME = -(1 << 62)
cdef int64_t SPAN = <int64_t> 30 * 86400 * 1000000
cdef const char *MAPPED = b"\0\0\0\0\0\0\0\0\0\0\xff\xff"   # an IPv4 address in IPv6's clothes
FORMAT = 1

cdef enum:
    LONGEST = 320       # RFC 5321, 4.5.3.1: 64 before the "@", 255 behind it
    PAIR_BYTES = 16     # in the snapshot


cdef Py_ssize_t network(const char *text, Py_ssize_t n, char *out) noexcept:
    """The bytes that stand for an address: all of IPv4, the first half of IPv6; 0 for what is neither."""
    cdef char copy[64]
    cdef uint8_t address[16]
    if n >= 64:
        return 0
    memcpy(copy, text, n)
    copy[n] = 0
    if sentinel_chr(text, 58, n) == NULL:
        return 4 if inet_pton(AF_INET, copy, out) == 1 else 0
    if inet_pton(AF_INET6, copy, address) != 1:
        return 0
    if memcmp(address, MAPPED, 12) == 0:
        memcpy(out, address + 12, 4)
        return 4
    memcpy(out, address, 8)
    return 8


cdef class KnownClients:
    def __cinit__(self, int32_t limit=200_000):
        """``limit``: the number of pairs that are kept, at least 2."""
        if limit < 2:
            raise ValueError(f"at least 2 pairs of account and address must find room, not {limit}")
        cdef bytes key = os.urandom(16)
        self.k0 = int.from_bytes(key[:8], "little")
        self.k1 = int.from_bytes(key[8:], "little")
        self.limit = limit
        self.room = 256
        self.pairs = <Pair *> malloc(self.room * sizeof(Pair))
        if self.pairs == NULL:
            raise MemoryError
        self.free_list = self.oldest = self.newest = ABSENT
        self.rehash(512)

    def __dealloc__(self):
        free(self.pairs)
        free(self.buckets)

    cdef int rehash(self, uint32_t size) except -1:
        cdef int32_t slot = self.oldest
        free(self.buckets)
        self.buckets = <int32_t *> malloc(size * sizeof(int32_t))
        if self.buckets == NULL:
            raise MemoryError
        memset(self.buckets, 0xFF, size * sizeof(int32_t))
        self.mask = size - 1
        while slot >= 0:
            self.pairs[slot].chain = self.buckets[self.pairs[slot].hash & self.mask]
            self.buckets[self.pairs[slot].hash & self.mask] = slot
            slot = self.pairs[slot].newer
        return 0

    cdef bint look(self, Row *row, const char *line) except -1:
        """Whether the row's own account has logged in from the row's own address before; remembers it if it does so now."""
        cdef uint64_t h
        cdef int32_t slot
        cdef bint known
        if row.text[SASL_USERNAME].length > LONGEST or row.time == NO_TIME:
            return False
        h = self.hash(line + row.text[SASL_USERNAME].start, row.text[SASL_USERNAME].length,
                      line + row.text[CLIENT_IP].start, row.text[CLIENT_IP].length)
        slot = self.find(h)
        known = slot >= 0 and row.time - self.pairs[slot].last <= SPAN
        if row.kind == ACCEPTED or row.kind == AUTH_SUCCESS:
            self.remember(h, slot, row.time)
        return known

    cdef uint64_t hash(self, const char *account, Py_ssize_t n, const char *address, Py_ssize_t length) noexcept:
        cdef char folded[LONGEST]
        cdef char place[16]
        cdef Py_ssize_t i, size
        cdef uint64_t h
        for i in range(n):
            folded[i] = account[i] + 32 if 65 <= account[i] <= 90 else account[i]
        h = sentinel_hash(folded, n, self.k0, self.k1)
        size = network(address, length, place)
        return sentinel_hash(place, size, h, self.k1) if size else sentinel_hash(address, length, h, self.k0)

    cdef int32_t find(self, uint64_t h) noexcept:
        cdef int32_t slot = self.buckets[h & self.mask]
        while slot >= 0 and self.pairs[slot].hash != h:
            slot = self.pairs[slot].chain
        return slot

    cdef int remember(self, uint64_t h, int32_t slot, int64_t time) except -1:
        cdef int i
        if slot >= 0:
            self.pairs[slot].last = time
            if slot != self.newest:
                self.detach(slot)
                self.attach(slot)
            return 0
        for i in range(2):
            if self.oldest >= 0 and time - self.pairs[self.oldest].last > SPAN:
                self.release(self.oldest)
        return self.insert(h, time)

    cdef int insert(self, uint64_t h, int64_t time) except -1:
        cdef int32_t slot
        cdef Pair *bigger
        if self.size >= self.limit:
            self.release(self.oldest)
            self.evicted += 1
        if self.free_list >= 0:
            slot = self.free_list
            self.free_list = self.pairs[slot].chain
        else:
            if self.top == self.room:
                bigger = <Pair *> realloc(self.pairs, 2 * self.room * sizeof(Pair))
                if bigger == NULL:
                    raise MemoryError
                self.pairs = bigger
                self.room *= 2
                self.rehash(<uint32_t> self.room * 2)
            slot = self.top
            self.top += 1
        self.pairs[slot].hash = h
        self.pairs[slot].last = time
        self.pairs[slot].chain = self.buckets[h & self.mask]
        self.buckets[h & self.mask] = slot
        self.attach(slot)
        self.size += 1
        return 0

    cdef void attach(self, int32_t slot) noexcept:
        self.pairs[slot].older = self.newest
        self.pairs[slot].newer = ABSENT
        if self.newest >= 0:
            self.pairs[self.newest].newer = slot
        else:
            self.oldest = slot
        self.newest = slot

    cdef void detach(self, int32_t slot) noexcept:
        cdef Pair *pair = &self.pairs[slot]
        if pair.older >= 0:
            self.pairs[pair.older].newer = pair.newer
        else:
            self.oldest = pair.newer
        if pair.newer >= 0:
            self.pairs[pair.newer].older = pair.older
        else:
            self.newest = pair.older

    cdef void release(self, int32_t slot) noexcept:
        cdef int32_t *at = &self.buckets[self.pairs[slot].hash & self.mask]
        while at[0] != slot:
            at = &self.pairs[at[0]].chain
        at[0] = self.pairs[slot].chain
        self.detach(slot)
        self.pairs[slot].chain = self.free_list
        self.free_list = slot
        self.size -= 1

    def snapshot(self):
        """(head, hash and time of each pair, the one that has not logged in for longest first): a JSON-ready list, bytes."""
        cdef bytearray out = bytearray(self.size * PAIR_BYTES)
        cdef char *to = out
        cdef int32_t slot = self.oldest
        while slot >= 0:
            memcpy(to, &self.pairs[slot].hash, 8)
            memcpy(to + 8, &self.pairs[slot].last, 8)
            to += PAIR_BYTES
            slot = self.pairs[slot].newer
        return [FORMAT, int(self.k0), int(self.k1), self.evicted], bytes(out)

    def restore(self, head, bytes data not None):
        """The inverse of ``snapshot``. ValueError for what is none."""
        cdef const char *source = data
        cdef Py_ssize_t i
        cdef uint64_t h
        cdef int64_t last
        if head[0] != FORMAT or len(data) % PAIR_BYTES:
            raise ValueError("the snapshot of the known clients is of another version")
        while self.oldest >= 0:
            self.release(self.oldest)
        self.k0, self.k1 = head[1], head[2]
        for i in range(len(data) // PAIR_BYTES):
            memcpy(&h, source + i * PAIR_BYTES, 8)
            memcpy(&last, source + i * PAIR_BYTES + 8, 8)
            self.insert(h, last)
        self.evicted = head[3]
