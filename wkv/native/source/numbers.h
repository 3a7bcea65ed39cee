// Conversions of 16-bit floats, and an exponential that compilers can vectorize.
#pragma once
#include <stdint.h>

static inline float float_of_bits(uint32_t bits) {
    float x;
    __builtin_memcpy(&x, &bits, 4);
    return x;
}
static inline uint32_t bits_of_float(float x) {
    uint32_t bits;
    __builtin_memcpy(&bits, &x, 4);
    return bits;
}
static inline float bf16_to_float(uint16_t x) { return float_of_bits((uint32_t)x << 16); }

// Rounds to nearest, ties to even.
static inline uint16_t float_to_bf16(float x) {
    const uint32_t bits = bits_of_float(x);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 64);  // NaN
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
static inline float fp16_to_float(uint16_t x) {
    const uint32_t sign = (uint32_t)(x & 0x8000) << 16, rest = (uint32_t)(x & 0x7fff) << 13;
    if ((x & 0x7c00) == 0x7c00) return float_of_bits(sign | 0x7f800000 | rest);
    // The exponent biases of the two formats differ by 112. This also handles subnormal numbers.
    return float_of_bits(sign | bits_of_float(float_of_bits(rest) * 0x1p112f));
}

// Returns e^x with an error of about 2 ulp; results are clamped to the range 1e-38 to 1e38.
static inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    const float shift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    const float n = (x * 1.44269504f + shift) - shift;
    const float r = x - n * 0.693359375f + n * 2.12194440e-4f;  // ln 2 is split into two parts
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * float_of_bits((uint32_t)((int32_t)n + 127) << 23);
}
static inline float logistic(float x) { return 1.0f / (1.0f + exponential(-x)); }
