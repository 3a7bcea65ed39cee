// AVX-512 with byte and bf16 dot products: AMD since Zen 4, Intel since Sapphire Rapids.
#define WKV_NAME "avx512_bf16"
#define WKV_TABLE KERNELS_AVX512_BF16
#define WKV_SIMD "simd_avx512.h"
#include "../kernels.inl"
