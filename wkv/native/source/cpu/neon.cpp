// 64-bit ARM with byte dot products.
#define WKV_NAME "neon"
#define WKV_TABLE KERNELS_NEON
#define WKV_SIMD "simd_neon.h"
#include "../kernels.inl"
