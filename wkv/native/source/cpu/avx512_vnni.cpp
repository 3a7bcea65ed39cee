// The same with products of bytes.
#define WKV_NAME "avx512_vnni"
#define WKV_TABLE KERNELS_AVX512_VNNI
#define WKV_SIMD "simd_avx512.h"
#include "../kernels.inl"
