/* Keyed hashing of short byte strings.
 *
 * SipHash-1-3 (J.-P. Aumasson and D. J. Bernstein, "SipHash: a fast short-input PRF", 2012), as CPython and Rust use it for their hash
 * tables: names in a log are chosen by attackers, and a hash they can't predict keeps every table lookup short. No result depends on the
 * key: tables are never walked in hash order.
 */
#ifndef SENTINEL_BYTES_H
#define SENTINEL_BYTES_H
/* memrchr: glibc, musl and the BSDs have it. Python.h, which comes first, asks for it. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

static inline uint64_t sentinel_load(const unsigned char *p, size_t n) {
    uint64_t v = 0;
    memcpy(&v, p, n);
    return v;
}

/* Hash of a queue ID of at most 24 bytes, which Postfix makes and nobody chooses: one folded multiplication a pair of words. */
static inline uint64_t sentinel_short_hash(const char *text, size_t n, uint64_t key) {
    uint64_t a = 0, b = 0, c = 0;
    if (n >= 8) {
        memcpy(&a, text, 8);
        memcpy(&b, text + n - 8, 8);
        if (n > 16) memcpy(&c, text + 8, 8);
    } else {
        memcpy(&a, text, n);
    }
    __uint128_t m = (__uint128_t)(a ^ key ^ c) * (b ^ 0x9E3779B97F4A7C15ULL ^ (n << 56));
    uint64_t h = (uint64_t)m ^ (uint64_t)(m >> 64);
    return (h ^ (h >> 29)) * 0xBF58476D1CE4E5B9ULL >> 1;
}

#define SENTINEL_ROTL(x, b) (((x) << (b)) | ((x) >> (64 - (b))))
#define SENTINEL_ROUND                                                                                                                     \
    do {                                                                                                                                   \
        v0 += v1; v1 = SENTINEL_ROTL(v1, 13); v1 ^= v0; v0 = SENTINEL_ROTL(v0, 32);                                                        \
        v2 += v3; v3 = SENTINEL_ROTL(v3, 16); v3 ^= v2;                                                                                    \
        v0 += v3; v3 = SENTINEL_ROTL(v3, 21); v3 ^= v0;                                                                                    \
        v2 += v1; v1 = SENTINEL_ROTL(v1, 17); v1 ^= v2; v2 = SENTINEL_ROTL(v2, 32);                                                        \
    } while (0)

static inline uint64_t sentinel_hash(const char *text, size_t n, uint64_t k0, uint64_t k1) {
    const unsigned char *p = (const unsigned char *)text;
    uint64_t v0 = k0 ^ 0x736f6d6570736575ULL, v1 = k1 ^ 0x646f72616e646f6dULL;
    uint64_t v2 = k0 ^ 0x6c7967656e657261ULL, v3 = k1 ^ 0x7465646279746573ULL;
    size_t left = n;
    for (; left >= 8; left -= 8, p += 8) {
        uint64_t m = sentinel_load(p, 8);
        v3 ^= m;
        SENTINEL_ROUND;
        v0 ^= m;
    }
    uint64_t m = sentinel_load(p, left) | ((uint64_t)n << 56);
    v3 ^= m;
    SENTINEL_ROUND;
    v0 ^= m;
    v2 ^= 0xff;
    SENTINEL_ROUND;
    SENTINEL_ROUND;
    SENTINEL_ROUND;
    return v0 ^ v1 ^ v2 ^ v3;
}

/* Whether two runs of n bytes are equal: inline, since most are shorter than a call of memcmp takes. */
static inline int sentinel_same(const char *a, const char *b, size_t n) {
    uint64_t x, y;
    if (n >= 8) {
        for (size_t i = 0; i + 8 < n; i += 8) {
            memcpy(&x, a + i, 8);
            memcpy(&y, b + i, 8);
            if (x != y) return 0;
        }
        memcpy(&x, a + n - 8, 8);
        memcpy(&y, b + n - 8, 8);
        return x == y;
    }
    if (n >= 4) {
        uint32_t v, w;
        memcpy(&v, a, 4);
        memcpy(&w, b, 4);
        if (v != w) return 0;
        memcpy(&v, a + n - 4, 4);
        memcpy(&w, b + n - 4, 4);
        return v == w;
    }
    for (size_t i = 0; i < n; i++)
        if (a[i] != b[i]) return 0;
    return 1;
}

/* memchr: what is looked for in a log line is mostly so near that the call would take longer than the search. */
static inline const char *sentinel_chr(const char *text, int c, size_t n) {
#ifdef __SSE2__
    if (n >= 32) {
        const __m128i wanted = _mm_set1_epi8((char)c);
        int hits = _mm_movemask_epi8(_mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)text), wanted));
        if (hits) return text + __builtin_ctz((unsigned)hits);
        hits = _mm_movemask_epi8(_mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)(text + 16)), wanted));
        if (hits) return text + 16 + __builtin_ctz((unsigned)hits);
        text += 32;
        n -= 32;
    }
#endif
    return (const char *)memchr(text, c, n);
}

/* Place of the first occurrence of a literal in text[from, end), or -1. The literal is not empty. */
static inline ptrdiff_t sentinel_find(const char *text, ptrdiff_t from, ptrdiff_t end, const char *literal, ptrdiff_t n) {
    while (end - from >= n) {
        const char *hit = sentinel_chr(text + from, literal[0], (size_t)(end - from - n + 1));
        if (!hit) return -1;
        if (sentinel_same(hit, literal, (size_t)n)) return hit - text;
        from = hit - text + 1;
    }
    return -1;
}

/* Place of the last occurrence of a literal in text[from, end), or -1. */
static inline ptrdiff_t sentinel_rfind(const char *text, ptrdiff_t from, ptrdiff_t end, const char *literal, ptrdiff_t n) {
    while (end - from >= n) {
        const char *hit = (const char *)memrchr(text + from, literal[0], (size_t)(end - from - n + 1));
        if (!hit) return -1;
        if (sentinel_same(hit, literal, (size_t)n)) return hit - text;
        end = hit - text + n - 1;
    }
    return -1;
}
#endif
