// 64-bit ARM with products of unsigned and signed bytes: servers since 2021, Apple since M2.
#define WKV_NAME "neon_i8mm"
#define WKV_TABLE KERNELS_NEON_I8MM
#define WKV_SIMD "simd_neon.h"
#include "../kernels.inl"
