cimport cython
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

cdef extern from "_bytes.h" nogil:
    uint64_t sentinel_hash(const char *text, size_t n, uint64_t k0, uint64_t k1)
    uint64_t sentinel_short_hash(const char *text, size_t n, uint64_t key)
    const char *sentinel_chr(const char *text, int c, size_t n)
    bint sentinel_same(const char *a, const char *b, size_t n)
    Py_ssize_t sentinel_find(const char *text, Py_ssize_t start, Py_ssize_t end, const char *literal, Py_ssize_t n)
    Py_ssize_t sentinel_rfind(const char *text, Py_ssize_t start, Py_ssize_t end, const char *literal, Py_ssize_t n)

cdef enum:
    ABSENT = -1

cdef enum:
    INLINE = 32

cdef struct Symbol:
    uint64_t hash
    uint64_t offset         # into the arena, for texts that are longer than INLINE
    int32_t length
    int32_t folded
    int32_t next
    uint8_t marks
    uint8_t used
    char short_text[32]     # all of a text that fits: a look-up then touches one cache line

@cython.final
cdef class Symbols:
    cdef Symbol *symbols
    cdef int32_t *buckets
    cdef char *arena
    cdef uint64_t arena_used, arena_size
    cdef int32_t capacity, top, free_list
    cdef uint32_t mask
    cdef readonly int32_t live
    cdef readonly int generation
    cdef uint64_t k0, k1
    cdef int32_t intern(self, const char *text, Py_ssize_t n) except -2
    cdef int32_t fold(self, int32_t symbol) except -2
    cdef bytes text(self, int32_t symbol)
    cdef inline const char *pointer(self, int32_t symbol) noexcept:
        if self.symbols[symbol].length <= INLINE:
            return &self.symbols[symbol].short_text[0]
        return self.arena + self.symbols[symbol].offset
    cdef inline int32_t length(self, int32_t symbol) noexcept:
        return self.symbols[symbol].length
    cdef inline void mark(self, int32_t symbol) noexcept:
        if 0 <= symbol < self.top:
            self.symbols[symbol].marks |= 1
    cdef int grow(self) except -1
    cdef int rebuild(self) except -1
