// AVX-512 with VNNI byte dot products.
#define WKV_NAME "avx512_vnni"
#define WKV_TABLE KERNELS_AVX512_VNNI
#define WKV_SIMD "simd_avx512.h"
#include "../kernels.inl"
