// AVX2: vectors of 8 floats, and 16 integer dot products of bytes.
#pragma once
#include <immintrin.h>

constexpr int LANES = 8;
typedef __m256 Floats;

static inline Floats zero() { return _mm256_setzero_ps(); }
static inline Floats splat(float x) { return _mm256_set1_ps(x); }
static inline Floats load(const float* p) { return _mm256_loadu_ps(p); }
static inline void store(float* p, Floats v) { _mm256_storeu_ps(p, v); }
// Bypasses the caches; `streaming_fence` makes the stores visible to other threads.
static inline void store_streaming(float* p, Floats v) { _mm256_stream_ps(p, v); }
static inline void streaming_fence() { _mm_sfence(); }
static inline Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
static inline Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
static inline Floats multiply_add(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }

static inline Floats load_fp16(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
}
static inline Floats load_bf16(const uint16_t* p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
static inline float sum(Floats v) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
// Sums each of four vectors.
static inline void sum4(Floats a, Floats b, Floats c, Floats d, float out[4]) {
    const __m256 all = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
}

// 16 int32 sums; each accumulates products of 4 unsigned weight bytes and 4 signed activation bytes.
struct Integers { __m256i low, high; };
struct Bytes { __m256i low, high; };  // 64 weights: 4 inputs of 16 outputs

static inline Bytes load_block(const uint8_t* p) {
    return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)(p + 32))};
}
static inline Bytes low_halves(Bytes v) {
    const __m256i mask = _mm256_set1_epi8(15);
    return {_mm256_and_si256(v.low, mask), _mm256_and_si256(v.high, mask)};
}
static inline Bytes high_halves(Bytes v) {
    return low_halves({_mm256_srli_epi16(v.low, 4), _mm256_srli_epi16(v.high, 4)});
}
static inline void interleave(__m256i a, __m256i b, __m256i c, __m256i d, __m256i blocks[4]) {
    const __m256i ab = _mm256_unpacklo_epi8(a, b), cd = _mm256_unpacklo_epi8(c, d);
    const __m256i AB = _mm256_unpackhi_epi8(a, b), CD = _mm256_unpackhi_epi8(c, d);
    blocks[0] = _mm256_unpacklo_epi16(ab, cd);
    blocks[1] = _mm256_unpackhi_epi16(ab, cd);
    blocks[2] = _mm256_unpacklo_epi16(AB, CD);
    blocks[3] = _mm256_unpackhi_epi16(AB, CD);
}
// Interleaves 64 bytes of each of four inputs to 4 blocks; see products_columns.inl for the order.
static inline void interleave(Bytes a, Bytes b, Bytes c, Bytes d, Bytes blocks[4]) {
    __m256i low[4], high[4];
    interleave(a.low, b.low, c.low, d.low, low);
    interleave(a.high, b.high, c.high, d.high, high);
    for (int i = 0; i < 4; i++) blocks[i] = {low[i], high[i]};
}
static inline void store_block(uint8_t* p, Bytes v) {
    _mm256_storeu_si256((__m256i*)p, v.low);
    _mm256_storeu_si256((__m256i*)(p + 32), v.high);
}
static inline Integers integers(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
static inline __m256i splat_four(const int8_t* x) {
    int32_t four;
    __builtin_memcpy(&four, x, 4);
    return _mm256_set1_epi32(four);
}

static inline Integers to_integers(Integers sums, int32_t) { return sums; }

// `dot` multiplies weights minus WEIGHT_OFFSET. `dot_narrow` multiplies 4-bit weights without an offset,
// and `to_integers` converts its sums over a group to integers, with the initial value `start`.
#ifdef __AVXVNNI__
constexpr int WEIGHT_OFFSET = 0;
typedef Integers NarrowSums;

static inline Integers dot(Integers sums, Bytes weights, const int8_t* x) {
    const __m256i four = splat_four(x);
    return {_mm256_dpbusd_avx_epi32(sums.low, weights.low, four),
            _mm256_dpbusd_avx_epi32(sums.high, weights.high, four)};
}
static inline NarrowSums narrow_sums(int32_t start) { return integers(start); }
static inline NarrowSums dot_narrow(NarrowSums sums, Bytes weights, const int8_t* x) { return dot(sums, weights, x); }
#else
// The instruction adds pairs of products into 16 bits. Weights minus 128 have magnitudes up to 128,
// activations up to 127, and 2 * 128 * 127 fits. One factor must be unsigned, so the sign of the weight
// is moved to the activation.
constexpr int WEIGHT_OFFSET = 128;

static inline __m256i add_products(__m256i sums, __m256i weights, __m256i x) {
    const __m256i centered = _mm256_xor_si256(weights, _mm256_set1_epi8(-128));
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(centered), _mm256_sign_epi8(x, centered));
    return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
static inline Integers dot(Integers sums, Bytes weights, const int8_t* x) {
    const __m256i four = splat_four(x);
    return {add_products(sums.low, weights.low, four), add_products(sums.high, weights.high, four)};
}

// The sum over a group of 4-bit weights fits into 16 bits: 16 * 15 * 127 in each half.
struct NarrowSums { __m256i low, high; };

static inline NarrowSums narrow_sums(int32_t) { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
static inline NarrowSums dot_narrow(NarrowSums sums, Bytes weights, const int8_t* x) {
    const __m256i four = splat_four(x);
    return {_mm256_add_epi16(sums.low, _mm256_maddubs_epi16(weights.low, four)),
            _mm256_add_epi16(sums.high, _mm256_maddubs_epi16(weights.high, four))};
}
static inline Integers to_integers(NarrowSums sums, int32_t start) {
    const __m256i ones = _mm256_set1_epi16(1), offset = _mm256_set1_epi32(start);
    return {_mm256_add_epi32(_mm256_madd_epi16(sums.low, ones), offset),
            _mm256_add_epi32(_mm256_madd_epi16(sums.high, ones), offset)};
}
#endif

// 16 floats, one per output of a block.
struct Sixteen { __m256 low, high; };

static inline Sixteen sixteen_zero() { return {zero(), zero()}; }
static inline Sixteen sixteen_load(const float* p) { return {load(p), load(p + 8)}; }
static inline Sixteen sixteen_bf16(const uint16_t* p) { return {load_bf16(p), load_bf16(p + 8)}; }
static inline Sixteen sixteen_fma(Integers i, Sixteen scale, float x, Sixteen c) {
    const Floats all = splat(x);
    return {_mm256_fmadd_ps(_mm256_cvtepi32_ps(i.low), _mm256_mul_ps(scale.low, all), c.low),
            _mm256_fmadd_ps(_mm256_cvtepi32_ps(i.high), _mm256_mul_ps(scale.high, all), c.high)};
}
static inline void sixteen_store(float* y, Sixteen v, bool accumulate) {
    store(y, accumulate ? add(load(y), v.low) : v.low);
    store(y + 8, accumulate ? add(load(y + 8), v.high) : v.high);
}

// Returns a bit mask of the nonzero bytes among 32.
static inline uint32_t nonzero(const int8_t* p) {
    const __m256i v = _mm256_loadu_si256((const __m256i*)p);
    return ~(uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(v, _mm256_setzero_si256()));
}
static inline void prefetch(const void* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }
static inline uint64_t stream64(const uint8_t* p, size_t n) {
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    for (size_t i = 0; i + 128 <= n; i += 128) {
        const auto* at = (const __m256i*)(p + i);
        a = _mm256_xor_si256(a, _mm256_loadu_si256(at));
        b = _mm256_xor_si256(b, _mm256_loadu_si256(at + 1));
        c = _mm256_xor_si256(c, _mm256_loadu_si256(at + 2));
        d = _mm256_xor_si256(d, _mm256_loadu_si256(at + 3));
    }
    uint64_t words[4];
    _mm256_storeu_si256((__m256i*)words, _mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d)));
    return words[0] + words[1] + words[2] + words[3];
}
