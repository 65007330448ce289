cimport cython
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from sentinel.maillog._scan cimport EventBatch, Row
from sentinel.maillog._symbols cimport Symbols
from sentinel.track._clients cimport KnownClients

cdef enum:
    QUEUE_ID_LIMIT = 24

cdef struct Message:
    uint64_t hash
    int64_t since           # accepted or first seen, microseconds
    int32_t host
    int32_t account
    int32_t ip
    int32_t sender
    int32_t chain           # next in its bucket, or in the free list
    int32_t older, newer    # in the order of last use
    uint32_t placed         # how many messages had begun when it was put at the end of that order
    uint8_t origin
    uint8_t inside
    uint8_t queued          # qmgr has printed it once
    uint8_t linked          # its recipients were counted at the message that it came from
    uint8_t forwarded
    uint8_t length
    char queue_id[24]

cdef struct Network:
    # In the order of the network, IPv4 as ::ffff:a.b.c.d.
    uint64_t high, low
    uint64_t high_mask, low_mask

@cython.final
cdef class Networks:
    cdef Network *items
    cdef int32_t size
    cdef list names
    cdef bint holds(self, const char *text, Py_ssize_t n) noexcept

@cython.final
cdef class Tracker:
    cdef Symbols symbols
    cdef Networks networks
    cdef readonly KnownClients clients
    cdef Message *messages
    cdef int32_t *buckets
    cdef int32_t room, top, free_list, oldest, newest
    cdef uint32_t mask
    cdef readonly int32_t open
    cdef int32_t limit
    cdef uint32_t begun
    cdef readonly int64_t evicted, unattributed
    cdef int32_t host
    cdef bytes host_text
    cdef int process(self, EventBatch batch, Py_ssize_t start, Py_ssize_t stop) except -1
    cdef void mark(self) noexcept
    cdef uint64_t key(self, int32_t host, const char *queue_id, Py_ssize_t n) noexcept
    cdef int32_t find(self, uint64_t h, int32_t host, const char *queue_id, Py_ssize_t n) noexcept
    cdef int32_t create(self, uint64_t h, int32_t host, const char *queue_id, Py_ssize_t n, int64_t time) except -2
    cdef int32_t look_up(self, int32_t host, const char *queue_id, Py_ssize_t n) noexcept
    cdef int32_t obtain(self, int32_t host, const char *queue_id, Py_ssize_t n, int64_t time) except -2
    cdef void reset(self, Message *message, int64_t time) noexcept
    cdef void release(self, int32_t slot) noexcept
    cdef void unlink(self, int32_t slot) noexcept
    cdef void touch(self, int32_t slot) noexcept
    cdef int grow(self) except -1
    cdef int rehash(self, uint32_t size) except -1
    cdef int32_t own(self, Row *row, const char *line, int field) except -2
    cdef int row(self, Row *row, const char *line) except -1
    cdef int session(self, Row *row, const char *line) except -1
    cdef int32_t session_account(self, Row *row) noexcept
    cdef void inherit(self, Message *child, Message *parent) noexcept
    cdef void hand_on(self, Row *row, const char *line, int32_t slot) noexcept
