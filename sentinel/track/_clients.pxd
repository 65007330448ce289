cimport cython
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from sentinel.maillog._scan cimport Row

cdef struct Pair:
    uint64_t hash           # of account and address
    int64_t last            # when this account last logged in from there, microseconds
    int32_t chain           # next in its bucket, or in the free list
    int32_t older, newer    # in the order of the last login

@cython.final
cdef class KnownClients:
    cdef Pair *pairs
    cdef int32_t *buckets
    cdef int32_t room, top, free_list, oldest, newest
    cdef uint32_t mask
    cdef uint64_t k0, k1
    cdef readonly int32_t size
    cdef readonly int32_t limit
    cdef readonly int64_t evicted
    cdef bint look(self, Row *row, const char *line) except -1
    cdef uint64_t hash(self, const char *account, Py_ssize_t n, const char *address, Py_ssize_t length) noexcept
    cdef int32_t find(self, uint64_t h) noexcept
    cdef int remember(self, uint64_t h, int32_t slot, int64_t time) except -1
    cdef int insert(self, uint64_t h, int64_t time) except -1
    cdef int rehash(self, uint32_t size) except -1
    cdef void attach(self, int32_t slot) noexcept
    cdef void detach(self, int32_t slot) noexcept
    cdef void release(self, int32_t slot) noexcept
