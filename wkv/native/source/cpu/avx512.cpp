// x86-64 with AVX-512.
#define WKV_NAME "avx512"
#define WKV_TABLE KERNELS_AVX512
#define WKV_SIMD "simd_avx512.h"
#include "../kernels.inl"
