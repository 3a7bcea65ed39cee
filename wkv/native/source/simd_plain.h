// Portable scalar versions of the same operations, for every CPU.
#pragma once
#include <string.h>

constexpr int LANES = 1;
typedef float Floats;

static inline Floats zero() { return 0; }
static inline Floats splat(float x) { return x; }
static inline Floats load(const float* p) { return *p; }
static inline void store(float* p, Floats v) { *p = v; }
// There are no streaming stores here.
static inline void store_streaming(float* p, Floats v) { *p = v; }
static inline void streaming_fence() {}
static inline Floats add(Floats a, Floats b) { return a + b; }
static inline Floats multiply(Floats a, Floats b) { return a * b; }
static inline Floats multiply_add(Floats a, Floats b, Floats c) { return a * b + c; }
static inline float sum(Floats v) { return v; }
static inline Floats load_fp16(const uint16_t* p) { return fp16_to_float(*p); }
static inline Floats load_bf16(const uint16_t* p) { return bf16_to_float(*p); }
static inline void sum4(Floats a, Floats b, Floats c, Floats d, float out[4]) {
    out[0] = a, out[1] = b, out[2] = c, out[3] = d;
}

struct Integers { int32_t at[16]; };
struct Bytes { uint8_t at[64]; };
struct Sixteen { float at[16]; };

static inline Bytes load_block(const uint8_t* p) {
    Bytes v;
    memcpy(v.at, p, 64);
    return v;
}
static inline Bytes low_halves(Bytes v) {
    for (uint8_t& x : v.at) x &= 15;
    return v;
}
static inline Bytes high_halves(Bytes v) {
    for (uint8_t& x : v.at) x >>= 4;
    return v;
}
static inline void interleave(const Bytes& a, const Bytes& b, const Bytes& c, const Bytes& d, Bytes blocks[4]) {
    for (int l = 0; l < 4; l++)
        for (int j = 0; j < 4; j++)
            for (int i = 0; i < 4; i++) {
                const int from = 16 * l + 4 * j + i, to = 16 * l + 4 * i;
                blocks[j].at[to] = a.at[from];
                blocks[j].at[to + 1] = b.at[from];
                blocks[j].at[to + 2] = c.at[from];
                blocks[j].at[to + 3] = d.at[from];
            }
}
static inline void store_block(uint8_t* p, const Bytes& v) { memcpy(p, v.at, 64); }
static inline Integers integers(int32_t x) {
    Integers v;
    for (int32_t& at : v.at) at = x;
    return v;
}
static inline Integers dot(Integers sums, const Bytes& weights, const int8_t* x) {
    for (int o = 0; o < 16; o++)
        for (int i = 0; i < 4; i++) sums.at[o] += weights.at[4 * o + i] * x[i];
    return sums;
}
constexpr int WEIGHT_OFFSET = 0;  // `dot` multiplies stored weights without an offset
static inline Integers to_integers(const Integers& sums, int32_t) { return sums; }

// 4-bit weights use the same sums.
static inline Integers narrow_sums(int32_t start) { return integers(start); }
static inline Integers dot_narrow(const Integers& sums, const Bytes& weights, const int8_t* x) {
    return dot(sums, weights, x);
}

static inline Sixteen sixteen_zero() { return Sixteen{}; }
static inline Sixteen sixteen_load(const float* p) {
    Sixteen v;
    memcpy(v.at, p, sizeof v.at);
    return v;
}
static inline Sixteen sixteen_bf16(const uint16_t* p) {
    Sixteen v;
    for (int o = 0; o < 16; o++) v.at[o] = bf16_to_float(p[o]);
    return v;
}
static inline Sixteen sixteen_fma(const Integers& i, const Sixteen& scale, float x, Sixteen c) {
    for (int o = 0; o < 16; o++) c.at[o] += (float)i.at[o] * (scale.at[o] * x);
    return c;
}
static inline void sixteen_store(float* y, const Sixteen& v, bool accumulate) {
    for (int o = 0; o < 16; o++) y[o] = accumulate ? y[o] + v.at[o] : v.at[o];
}
// Returns a bit mask of the nonzero bytes among 32.
static inline uint32_t nonzero(const int8_t* p) {
    uint32_t found = 0;
    for (int i = 0; i < 32; i++) found |= (uint32_t)(p[i] != 0) << i;
    return found;
}
static inline void prefetch(const void*) {}
static inline uint64_t stream64(const uint8_t* p, size_t n) {
    uint64_t all = 0, word;
    for (size_t i = 0; i + 8 <= n; i += 8) {
        memcpy(&word, p + i, 8);
        all ^= word;
    }
    return all;
}
