// How functions of the C interface are declared.
#pragma once

#if defined(_WIN32)
#define WKV_PUBLIC extern "C" __declspec(dllexport)
#else
#define WKV_PUBLIC extern "C" __attribute__((visibility("default")))
#endif

namespace wkv {

constexpr int OK = 0, FAILED = -1;

}  // namespace wkv
