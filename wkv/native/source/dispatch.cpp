// Selects among the compiled kernels those that this CPU can run.
#include <string.h>

#include <string>

#include "plan.h"

#if defined(__x86_64__) || defined(_M_X64)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace wkv {

#define WKV_KERNELS(NAME) extern const Kernels NAME;
WKV_KERNELS(KERNELS_PLAIN)
WKV_KERNELS(KERNELS_AVX2)
WKV_KERNELS(KERNELS_AVX2_VNNI)
WKV_KERNELS(KERNELS_AVX512)
WKV_KERNELS(KERNELS_AVX512_VNNI)
WKV_KERNELS(KERNELS_AVX512_BF16)
WKV_KERNELS(KERNELS_NEON)
WKV_KERNELS(KERNELS_NEON_I8MM)
#undef WKV_KERNELS

namespace {

#if defined(__x86_64__) || defined(_M_X64)
// CPU features that the operating system also supports.
struct Features {
    bool avx2 = false, avx_vnni = false, avx512 = false, vnni = false, bf16 = false;

    Features() {
        unsigned a, b, c, d;
        if (!__get_cpuid(1, &a, &b, &c, &d)) return;
        const bool fma = c & (1u << 12), f16c = c & (1u << 29), xsave = c & (1u << 27), avx = c & (1u << 28);
        if (!xsave || !avx) return;
        const unsigned saved = enabled();
        if ((saved & 0x6) != 0x6) return;
        if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
        avx2 = fma && f16c && (b & (1u << 5));
        avx512 = avx2 && (saved & 0xe0) == 0xe0 && (b & (1u << 16)) && (b & (1u << 17)) && (b & (1u << 30)) &&
                 (b & (1u << 31));
        vnni = avx512 && (c & (1u << 11));
        const unsigned more = a;
        if (more < 1 || !__get_cpuid_count(7, 1, &a, &b, &c, &d)) return;
        avx_vnni = avx2 && (a & (1u << 4));
        bf16 = vnni && (a & (1u << 5));
    }

    static unsigned enabled() {  // register sets that the operating system saves on context switches
        unsigned low, high;
        __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        return low;
    }
};
#endif

#ifdef WKV_HAS_NEON_I8MM
// Whether the CPU multiplies unsigned with signed bytes.
bool has_i8mm() { return getauxval(AT_HWCAP2) & (1ul << 13); }
#endif

#ifdef WKV_HAS_NEON
// Whether the CPU has byte dot products: ARMv8.0 lacks them, every Apple CPU has them.
bool has_dot_products() {
#if defined(__linux__)
    return getauxval(AT_HWCAP) & (1ul << 20);
#else
    return true;
#endif
}
#endif

struct Candidate {
    const Kernels* kernels;
    bool supported;
};

// Fastest first.
std::vector<Candidate> list_candidates() {
    std::vector<Candidate> all;
#if defined(__x86_64__) || defined(_M_X64)
    const Features cpu;
#ifdef WKV_HAS_AVX512_BF16
    all.push_back({&KERNELS_AVX512_BF16, cpu.bf16});
#endif
#ifdef WKV_HAS_AVX512_VNNI
    all.push_back({&KERNELS_AVX512_VNNI, cpu.vnni});
#endif
#ifdef WKV_HAS_AVX512
    all.push_back({&KERNELS_AVX512, cpu.avx512});
#endif
#ifdef WKV_HAS_AVX2_VNNI
    all.push_back({&KERNELS_AVX2_VNNI, cpu.avx_vnni});
#endif
#ifdef WKV_HAS_AVX2
    all.push_back({&KERNELS_AVX2, cpu.avx2});
#endif
#endif
#ifdef WKV_HAS_NEON_I8MM
    all.push_back({&KERNELS_NEON_I8MM, has_dot_products() && has_i8mm()});
#endif
#ifdef WKV_HAS_NEON
    all.push_back({&KERNELS_NEON, has_dot_products()});
#endif
    all.push_back({&KERNELS_PLAIN, true});
    return all;
}

const std::vector<Candidate>& candidates() {
    static const std::vector<Candidate> all = list_candidates();
    return all;
}

}  // namespace

const Kernels* find_kernels(const char* name) {
    for (const auto& candidate : candidates())
        if (candidate.supported && (!*name || strcmp(name, candidate.kernels->name) == 0)) return candidate.kernels;
    return nullptr;
}

const char* available_kernels() {
    static const std::string names = [] {
        std::string all;
        for (const auto& candidate : candidates())
            if (candidate.supported) all += std::string(all.empty() ? "" : " ") + candidate.kernels->name;
        return all;
    }();
    return names.c_str();
}

}  // namespace wkv
