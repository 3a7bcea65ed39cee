// x86-64 with AVX2 and VNNI byte dot products: Intel laptops since 2021.
#define WKV_NAME "avx2_vnni"
#define WKV_TABLE KERNELS_AVX2_VNNI
#define WKV_SIMD "simd_avx2.h"
#include "../kernels.inl"
