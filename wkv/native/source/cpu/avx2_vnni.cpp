// x86 with AVX2 and products of bytes: Intel's laptops since 2021.
#define WKV_NAME "avx2_vnni"
#define WKV_TABLE KERNELS_AVX2_VNNI
#define WKV_SIMD "simd_avx2.h"
#include "../kernels.inl"
