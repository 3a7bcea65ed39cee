// AVX-512: vectors of 16 floats, and 16 integer dot products of bytes.
#pragma once
#include <immintrin.h>

constexpr int LANES = 16;
typedef __m512 Floats;

static inline Floats zero() { return _mm512_setzero_ps(); }
static inline Floats splat(float x) { return _mm512_set1_ps(x); }
static inline Floats load(const float* p) { return _mm512_loadu_ps(p); }
static inline void store(float* p, Floats v) { _mm512_storeu_ps(p, v); }
// Bypasses the caches; `streaming_fence` makes the stores visible to other threads.
static inline void store_streaming(float* p, Floats v) { _mm512_stream_ps(p, v); }
static inline void streaming_fence() { _mm_sfence(); }
static inline Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
static inline Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
static inline Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
static inline float sum(Floats v) { return _mm512_reduce_add_ps(v); }

static inline Floats load_fp16(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
}
static inline Floats load_bf16(const uint16_t* p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
// Sums each of four vectors.
static inline void sum4(Floats a, Floats b, Floats c, Floats d, float out[4]) {
    const __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
    const __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xEE));
    __m512 all = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xDD));
    all = _mm512_add_ps(all, _mm512_shuffle_ps(all, all, 0x4E));
    all = _mm512_add_ps(all, _mm512_shuffle_ps(all, all, 0xB1));
    // Each 128-bit lane contains one of the four sums, repeated four times.
    _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, all)));
}

// 16 int32 sums; each accumulates products of 4 unsigned weight bytes and 4 signed activation bytes.
typedef __m512i Integers;
typedef __m512i Bytes;  // 64 weights: 4 inputs of 16 outputs

static inline Bytes load_block(const uint8_t* p) { return _mm512_loadu_si512(p); }
static inline Bytes low_halves(Bytes v) { return _mm512_and_si512(v, _mm512_set1_epi8(15)); }
static inline Bytes high_halves(Bytes v) {
    return _mm512_and_si512(_mm512_srli_epi16(v, 4), _mm512_set1_epi8(15));
}
// Interleaves 64 bytes of each of four inputs to 4 blocks; see products_columns.inl for the order.
static inline void interleave(Bytes a, Bytes b, Bytes c, Bytes d, Bytes blocks[4]) {
    const __m512i ab = _mm512_unpacklo_epi8(a, b), cd = _mm512_unpacklo_epi8(c, d);
    const __m512i AB = _mm512_unpackhi_epi8(a, b), CD = _mm512_unpackhi_epi8(c, d);
    blocks[0] = _mm512_unpacklo_epi16(ab, cd);
    blocks[1] = _mm512_unpackhi_epi16(ab, cd);
    blocks[2] = _mm512_unpacklo_epi16(AB, CD);
    blocks[3] = _mm512_unpackhi_epi16(AB, CD);
}
static inline void store_block(uint8_t* p, Bytes v) { _mm512_storeu_si512(p, v); }
static inline Integers integers(int32_t x) { return _mm512_set1_epi32(x); }
static inline __m512i splat_four(const int8_t* x) {
    int32_t four;
    __builtin_memcpy(&four, x, 4);
    return _mm512_set1_epi32(four);
}
static inline Integers to_integers(Integers sums, int32_t) { return sums; }

#ifdef __AVX512VNNI__
constexpr int WEIGHT_OFFSET = 0;  // `dot` multiplies stored weights without an offset
typedef Integers NarrowSums;       // 4-bit weights use the same sums

static inline Integers dot(Integers sums, Bytes weights, const int8_t* x) {
    return _mm512_dpbusd_epi32(sums, weights, splat_four(x));
}
static inline NarrowSums narrow_sums(int32_t start) { return integers(start); }
static inline NarrowSums dot_narrow(NarrowSums sums, Bytes weights, const int8_t* x) { return dot(sums, weights, x); }
#else
// See simd_avx2.h for an explanation.
constexpr int WEIGHT_OFFSET = 128;

static inline Integers dot(Integers sums, Bytes weights, const int8_t* x) {
    const __m512i centered = _mm512_xor_si512(weights, _mm512_set1_epi8(-128)), four = splat_four(x);
    const __mmask64 negative = _mm512_movepi8_mask(centered);
    const __m512i turned = _mm512_mask_sub_epi8(four, negative, _mm512_setzero_si512(), four);
    const __m512i pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(centered), turned);
    return _mm512_add_epi32(sums, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}

struct NarrowSums { __m512i pairs; };
static inline NarrowSums narrow_sums(int32_t) { return {_mm512_setzero_si512()}; }
static inline NarrowSums dot_narrow(NarrowSums sums, Bytes weights, const int8_t* x) {
    return {_mm512_add_epi16(sums.pairs, _mm512_maddubs_epi16(weights, splat_four(x)))};
}
static inline Integers to_integers(NarrowSums sums, int32_t start) {
    return _mm512_add_epi32(_mm512_madd_epi16(sums.pairs, _mm512_set1_epi16(1)), _mm512_set1_epi32(start));
}
#endif

// 16 floats, one per output of a block.
typedef __m512 Sixteen;
static inline Sixteen sixteen_zero() { return _mm512_setzero_ps(); }
static inline Sixteen sixteen_load(const float* p) { return _mm512_loadu_ps(p); }
static inline Sixteen sixteen_bf16(const uint16_t* p) { return load_bf16(p); }
static inline Sixteen sixteen_fma(Integers i, Sixteen scale, float x, Sixteen c) {
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(i), _mm512_mul_ps(scale, _mm512_set1_ps(x)), c);
}
static inline void sixteen_store(float* y, Sixteen v, bool accumulate) {
    _mm512_storeu_ps(y, accumulate ? _mm512_add_ps(_mm512_loadu_ps(y), v) : v);
}

// Returns a bit mask of the nonzero bytes among 32.
static inline uint32_t nonzero(const int8_t* p) {
    const __m256i v = _mm256_loadu_si256((const __m256i*)p);
    return _mm256_test_epi8_mask(v, v);
}
static inline void prefetch(const void* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }
static inline uint64_t stream64(const uint8_t* p, size_t n) {
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
    for (size_t i = 0; i + 256 <= n; i += 256) {
        a = _mm512_xor_si512(a, _mm512_loadu_si512(p + i));
        b = _mm512_xor_si512(b, _mm512_loadu_si512(p + i + 64));
        c = _mm512_xor_si512(c, _mm512_loadu_si512(p + i + 128));
        d = _mm512_xor_si512(d, _mm512_loadu_si512(p + i + 192));
    }
    return (uint64_t)_mm512_reduce_add_epi64(
        _mm512_xor_si512(_mm512_xor_si512(a, b), _mm512_xor_si512(c, d)));
}

#ifdef __AVX512BF16__
#define WKV_BF16_PAIRS 1
// 32 bf16 numbers; products of pairs are added to 16 floats.
typedef __m512bh Pairs;
constexpr int PAIRED_LANES = 32;
static inline Pairs load_pairs(const uint16_t* p) { return (__m512bh)_mm512_loadu_si512(p); }
static inline Pairs splat_pair(const uint16_t* p) {
    int32_t two;
    __builtin_memcpy(&two, p, 4);
    return (__m512bh)_mm512_set1_epi32(two);
}
static inline Floats fma_pairs(Pairs a, Pairs b, Floats c) { return _mm512_dpbf16_ps(c, a, b); }
// Pairs the numbers of two rows of 32; `store_paired` restores the order.
static inline void interleave_pairs(const uint16_t* first, const uint16_t* second, Pairs& low, Pairs& high) {
    const __m512i a = _mm512_loadu_si512(first), b = _mm512_loadu_si512(second);
    low = (__m512bh)_mm512_unpacklo_epi16(a, b);
    high = (__m512bh)_mm512_unpackhi_epi16(a, b);
}
static inline void store_paired(float* y, Floats low, Floats high) {
    const __m512i order = _mm512_set_epi32(23, 22, 21, 20, 7, 6, 5, 4, 19, 18, 17, 16, 3, 2, 1, 0);
    const __m512i rest = _mm512_set_epi32(31, 30, 29, 28, 15, 14, 13, 12, 27, 26, 25, 24, 11, 10, 9, 8);
    _mm512_storeu_ps(y, _mm512_permutex2var_ps(low, order, high));
    _mm512_storeu_ps(y + 16, _mm512_permutex2var_ps(low, rest, high));
}
static inline void to_bf16(const float* x, uint16_t* y) {
    _mm256_storeu_si256((__m256i*)y, (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(x)));
}
#endif
