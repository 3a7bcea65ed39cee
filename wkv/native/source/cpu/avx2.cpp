// x86-64 CPUs since 2013.
#define WKV_NAME "avx2"
#define WKV_TABLE KERNELS_AVX2
#define WKV_SIMD "simd_avx2.h"
#include "../kernels.inl"
