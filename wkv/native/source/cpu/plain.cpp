// Every CPU.
#define WKV_NAME "plain"
#define WKV_TABLE KERNELS_PLAIN
#define WKV_SIMD "simd_plain.h"
#include "../kernels.inl"
