"""Texts as small numbers.

The join and the windows compare and count accounts, addresses and senders millions of times; each text is stored once and is a number
from then on. Numbers are given back by mark and sweep: whoever holds numbers marks them (``mark``), then ``sweep`` frees the rest and
packs the texts together. ``generation`` tells a holder that it has missed a sweep. No output depends on which number a text has.
"""

import os

from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

cdef class Symbols:
    def __cinit__(self):
        cdef bytes key = os.urandom(16)
        self.k0 = int.from_bytes(key[:8], "little")
        self.k1 = int.from_bytes(key[8:], "little")
        self.capacity = 1024
        self.mask = 2047
        self.symbols = <Symbol *> malloc(self.capacity * sizeof(Symbol))
        self.buckets = <int32_t *> malloc((self.mask + 1) * sizeof(int32_t))
        self.arena_size = 1 << 16
        self.arena = <char *> malloc(self.arena_size)
        if self.symbols == NULL or self.buckets == NULL or self.arena == NULL:
            raise MemoryError
        memset(self.buckets, 0xFF, (self.mask + 1) * sizeof(int32_t))
        self.free_list = ABSENT

    def __dealloc__(self):
        free(self.symbols)
        free(self.buckets)
        free(self.arena)

    cdef int32_t intern(self, const char *text, Py_ssize_t n) except -2:
        cdef uint64_t h = sentinel_hash(text, n, self.k0, self.k1)
        cdef int32_t s = self.buckets[h & self.mask]
        cdef Symbol *symbol
        while s >= 0:
            symbol = &self.symbols[s]
            if symbol.hash == h and symbol.length == n and sentinel_same(self.pointer(s), text, n):
                return s
            s = symbol.next
        if self.free_list >= 0:
            s = self.free_list
            self.free_list = self.symbols[s].next
        else:
            if self.top == self.capacity:
                self.grow()
            s = self.top
            self.top += 1
        cdef char *bigger
        cdef uint64_t size = self.arena_size
        if n > INLINE and self.arena_used + n > size:
            while self.arena_used + n > size:
                size *= 2
            bigger = <char *> realloc(self.arena, size)
            if bigger == NULL:
                raise MemoryError
            self.arena = bigger
            self.arena_size = size
        symbol = &self.symbols[s]
        symbol.hash = h
        symbol.offset = self.arena_used
        symbol.length = <int32_t> n
        symbol.folded = ABSENT
        symbol.marks = 0
        symbol.used = 1
        if n <= INLINE:
            memcpy(symbol.short_text, text, n)
        else:
            memcpy(self.arena + self.arena_used, text, n)
            self.arena_used += n
        symbol.next = self.buckets[h & self.mask]
        self.buckets[h & self.mask] = s
        self.live += 1
        return s

    cdef int grow(self) except -1:
        cdef int32_t capacity = self.capacity * 2
        cdef Symbol *bigger = <Symbol *> realloc(self.symbols, capacity * sizeof(Symbol))
        if bigger == NULL:
            raise MemoryError
        self.symbols = bigger
        self.capacity = capacity
        self.rebuild()
        return 0

    cdef int rebuild(self) except -1:
        cdef uint32_t size = <uint32_t> self.capacity * 2
        cdef int32_t s
        if size != self.mask + 1:
            free(self.buckets)
            self.buckets = <int32_t *> malloc(size * sizeof(int32_t))
            if self.buckets == NULL:
                raise MemoryError
            self.mask = size - 1
        memset(self.buckets, 0xFF, size * sizeof(int32_t))
        for s in range(self.top):
            if self.symbols[s].used:
                self.symbols[s].next = self.buckets[self.symbols[s].hash & self.mask]
                self.buckets[self.symbols[s].hash & self.mask] = s
        return 0

    cdef int32_t fold(self, int32_t symbol) except -2:
        """The number of the same text in lower case (ASCII): logins and domains differ in case and mean one thing."""
        if symbol < 0:
            return symbol
        cdef int32_t known = self.symbols[symbol].folded
        if known >= 0:
            return known
        cdef const char *text = self.pointer(symbol)
        cdef Py_ssize_t n = self.length(symbol), i
        cdef bint upper = False
        for i in range(n):
            if 65 <= text[i] <= 90:
                upper = True
                break
        cdef int32_t folded = symbol
        cdef bytes lower
        if upper:
            lower = text[:n].lower()
            folded = self.intern(lower, n)
        self.symbols[symbol].folded = folded
        return folded

    cdef bytes text(self, int32_t symbol):
        if not 0 <= symbol < self.top or not self.symbols[symbol].used:
            raise IndexError(f"no symbol {symbol}")
        return self.pointer(symbol)[:self.length(symbol)]

    def sweep(self):
        """Frees every number that was not marked, and forgets the marks."""
        cdef char *packed = <char *> malloc(self.arena_size)
        if packed == NULL:
            raise MemoryError
        cdef uint64_t used = 0
        cdef int32_t s, folded
        cdef Symbol *symbol
        for s in range(self.top):
            symbol = &self.symbols[s]
            if symbol.used and symbol.marks and symbol.folded >= 0:
                self.symbols[symbol.folded].marks |= 2
        self.free_list = ABSENT
        self.live = 0
        for s in range(self.top):
            symbol = &self.symbols[s]
            if symbol.used and symbol.marks:
                if symbol.length > INLINE:
                    memcpy(packed + used, self.arena + symbol.offset, symbol.length)
                    symbol.offset = used
                    used += symbol.length
                symbol.marks = 0
                self.live += 1
            else:
                symbol.used = 0
                symbol.marks = 0
                symbol.next = self.free_list
                self.free_list = s
        free(self.arena)
        self.arena = packed
        self.arena_used = used
        self.generation += 1
        self.rebuild()

    def snapshot(self):
        """All texts in the order of their numbers: count, lengths (-1 where a number is free), then the texts."""
        cdef int32_t s
        cdef bytes lengths = bytes(self.top * sizeof(int32_t))
        cdef int32_t *out = <int32_t *> <char *> lengths
        cdef list texts = []
        for s in range(self.top):
            if self.symbols[s].used:
                out[s] = self.symbols[s].length
                texts.append(self.text(s))
            else:
                out[s] = ABSENT
        return int(self.top).to_bytes(8, "little") + lengths + b"".join(texts)

    def restore(self, bytes data not None):
        """The inverse of ``snapshot``, on a fresh table."""
        if self.top:
            raise ValueError("restore() needs an empty table")
        cdef Py_ssize_t n = int.from_bytes(data[:8], "little"), at = 8 + n * sizeof(int32_t), i
        if at > len(data):
            raise ValueError("the snapshot of the texts is cut short")
        cdef const char *base = data
        cdef int32_t length
        for i in range(n):
            memcpy(&length, base + 8 + i * sizeof(int32_t), sizeof(int32_t))
            if length < 0:
                if self.top == self.capacity:
                    self.grow()
                self.symbols[self.top].used = 0
                self.symbols[self.top].marks = 0
                self.top += 1
            elif at + length > len(data) or self.intern(base + at, length) != i:
                raise ValueError("the snapshot of the texts is damaged")
            else:
                at += length
        for i in range(n - 1, -1, -1):
            if not self.symbols[i].used:
                self.symbols[i].next = self.free_list
                self.free_list = <int32_t> i
