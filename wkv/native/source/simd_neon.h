// 64-bit ARM NEON: vectors of 4 floats, and 16 integer dot products of bytes.
//
// Tested only in an emulator (`make test-long`: qemu-aarch64 7.2, g++ 12), with every format, layout and size of
// tests/native/compare_kernels.cpp. Tile sizes are not tuned.
#pragma once
#include <arm_neon.h>

constexpr int LANES = 4;
typedef float32x4_t Floats;

static inline Floats zero() { return vdupq_n_f32(0); }
static inline Floats splat(float x) { return vdupq_n_f32(x); }
static inline Floats load(const float* p) { return vld1q_f32(p); }
static inline void store(float* p, Floats v) { vst1q_f32(p, v); }
// There are no streaming stores here.
static inline void store_streaming(float* p, Floats v) { vst1q_f32(p, v); }
static inline void streaming_fence() {}
static inline Floats add(Floats a, Floats b) { return vaddq_f32(a, b); }
static inline Floats multiply(Floats a, Floats b) { return vmulq_f32(a, b); }
static inline Floats multiply_add(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }
static inline float sum(Floats v) { return vaddvq_f32(v); }

static inline Floats load_fp16(const uint16_t* p) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}
static inline Floats load_bf16(const uint16_t* p) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
}
// Sums each of four vectors.
static inline void sum4(Floats a, Floats b, Floats c, Floats d, float out[4]) {
    vst1q_f32(out, vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d)));
}

// 16 int32 sums; each accumulates products of 4 unsigned weight bytes and 4 signed activation bytes.
struct Integers { int32x4_t at[4]; };
struct Bytes { uint8x16_t at[4]; };  // 64 weights: 4 inputs of 16 outputs

static inline Bytes load_block(const uint8_t* p) {
    return {{vld1q_u8(p), vld1q_u8(p + 16), vld1q_u8(p + 32), vld1q_u8(p + 48)}};
}
static inline Bytes low_halves(Bytes v) {
    for (auto& part : v.at) part = vandq_u8(part, vdupq_n_u8(15));
    return v;
}
static inline Bytes high_halves(Bytes v) {
    for (auto& part : v.at) part = vshrq_n_u8(part, 4);
    return v;
}
// Interleaves 64 bytes of each of four inputs to 4 blocks; see products_columns.inl for the order.
static inline void interleave(Bytes a, Bytes b, Bytes c, Bytes d, Bytes blocks[4]) {
    for (int i = 0; i < 4; i++) {
        const uint8x16x2_t ab = vzipq_u8(a.at[i], b.at[i]), cd = vzipq_u8(c.at[i], d.at[i]);
        for (int half = 0; half < 2; half++) {
            const uint16x8x2_t all =
                vzipq_u16(vreinterpretq_u16_u8(ab.val[half]), vreinterpretq_u16_u8(cd.val[half]));
            blocks[2 * half].at[i] = vreinterpretq_u8_u16(all.val[0]);
            blocks[2 * half + 1].at[i] = vreinterpretq_u8_u16(all.val[1]);
        }
    }
}
static inline void store_block(uint8_t* p, Bytes v) {
    for (int i = 0; i < 4; i++) vst1q_u8(p + 16 * i, v.at[i]);
}
static inline Integers integers(int32_t x) {
    const int32x4_t all = vdupq_n_s32(x);
    return {{all, all, all, all}};
}

static inline int8x16_t splat_four(const int8_t* x) {
    int32_t four;
    __builtin_memcpy(&four, x, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
}
static inline Integers to_integers(Integers sums, int32_t) { return sums; }
typedef Integers NarrowSums;  // 4-bit weights use the same sums
static inline NarrowSums narrow_sums(int32_t start) { return integers(start); }

#ifdef __ARM_FEATURE_MATMUL_INT8
constexpr int WEIGHT_OFFSET = 0;  // `dot` multiplies stored weights without an offset

static inline Integers dot(Integers sums, Bytes weights, const int8_t* x) {
    const int8x16_t four = splat_four(x);
    for (int i = 0; i < 4; i++) sums.at[i] = vusdotq_s32(sums.at[i], weights.at[i], four);
    return sums;
}
static inline NarrowSums dot_narrow(NarrowSums sums, Bytes weights, const int8_t* x) { return dot(sums, weights, x); }
#else
// The instruction multiplies signed bytes, so 128 is subtracted from the weights.
constexpr int WEIGHT_OFFSET = 128;

static inline int32x4_t add_products(int32x4_t sums, int8x16_t weights, int8x16_t x) {
#ifdef __ARM_FEATURE_DOTPROD
    return vdotq_s32(sums, weights, x);
#else
    const int16x8_t low = vmull_s8(vget_low_s8(weights), vget_low_s8(x));
    const int16x8_t high = vmull_high_s8(weights, x);
    return vaddq_s32(sums, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
#endif
}
static inline Integers dot(Integers sums, Bytes weights, const int8_t* x) {
    const int8x16_t four = splat_four(x);
    for (int i = 0; i < 4; i++) {
        const uint8x16_t centered = veorq_u8(weights.at[i], vdupq_n_u8(128));
        sums.at[i] = add_products(sums.at[i], vreinterpretq_s8_u8(centered), four);
    }
    return sums;
}
// 4-bit weights fit signed bytes without an offset.
static inline NarrowSums dot_narrow(NarrowSums sums, Bytes weights, const int8_t* x) {
    const int8x16_t four = splat_four(x);
    for (int i = 0; i < 4; i++) sums.at[i] = add_products(sums.at[i], vreinterpretq_s8_u8(weights.at[i]), four);
    return sums;
}
#endif

// 16 floats, one per output of a block.
struct Sixteen { float32x4_t at[4]; };

static inline Sixteen sixteen_zero() { return {{zero(), zero(), zero(), zero()}}; }
static inline Sixteen sixteen_load(const float* p) { return {{load(p), load(p + 4), load(p + 8), load(p + 12)}}; }
static inline Sixteen sixteen_bf16(const uint16_t* p) {
    return {{load_bf16(p), load_bf16(p + 4), load_bf16(p + 8), load_bf16(p + 12)}};
}
static inline Sixteen sixteen_fma(Integers i, Sixteen scale, float x, Sixteen c) {
    for (int v = 0; v < 4; v++)
        c.at[v] = vfmaq_f32(c.at[v], vcvtq_f32_s32(i.at[v]), vmulq_n_f32(scale.at[v], x));
    return c;
}
static inline void sixteen_store(float* y, Sixteen v, bool accumulate) {
    for (int i = 0; i < 4; i++) store(y + 4 * i, accumulate ? add(load(y + 4 * i), v.at[i]) : v.at[i]);
}

// Returns a bit mask of the nonzero bytes among 32.
static inline uint32_t nonzero(const int8_t* p) {
    uint32_t found = 0;
    for (int i = 0; i < 32; i++) found |= (uint32_t)(p[i] != 0) << i;
    return found;
}
static inline void prefetch(const void* p) { __builtin_prefetch(p); }
static inline uint64_t stream64(const uint8_t* p, size_t n) {
    uint8x16_t a = vdupq_n_u8(0), b = a, c = a, d = a;
    for (size_t i = 0; i + 64 <= n; i += 64) {
        a = veorq_u8(a, vld1q_u8(p + i));
        b = veorq_u8(b, vld1q_u8(p + i + 16));
        c = veorq_u8(c, vld1q_u8(p + i + 32));
        d = veorq_u8(d, vld1q_u8(p + i + 48));
    }
    const uint64x2_t all = vreinterpretq_u64_u8(veorq_u8(veorq_u8(a, b), veorq_u8(c, d)));
    return vgetq_lane_u64(all, 0) + vgetq_lane_u64(all, 1);
}
