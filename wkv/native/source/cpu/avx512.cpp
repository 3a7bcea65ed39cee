// x86 with vectors of 512 bits.
#define WKV_NAME "avx512"
#define WKV_TABLE KERNELS_AVX512
#define WKV_SIMD "simd_avx512.h"
#include "../kernels.inl"
