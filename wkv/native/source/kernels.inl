// The code that is compiled once per CPU level. Each file in cpu/ selects a level and its SIMD header.
//
// Every function here has internal linkage. If two levels shared a function (such as a template of the
// standard library), the linker could keep the copy that does not run on older CPUs.
#include <math.h>
#include <string.h>

#include <initializer_list>

#include "engine.h"
#include "numbers.h"
#include "training.h"
#include WKV_SIMD

namespace wkv {
namespace {

#include "elementwise.inl"
#include "products_rows.inl"
#include "products_int.inl"
#include "products_columns.inl"
#include "products_columns_int.inl"
#include "recurrences.inl"
#include "training.inl"

// The inputs of products with bf16 weights: pairs of bf16 if the CPU multiplies them, else float32.
#ifdef WKV_BF16_PAIRS
typedef Bf16Pairs Bf16Product;
constexpr Form BF16_FORM = AS_BF16;
const uint16_t* bf16_inputs(const Inputs& in) { return in.bf16; }
#else
typedef Bf16 Bf16Product;
constexpr Form BF16_FORM = AS_FP32;
const float* bf16_inputs(const Inputs& in) { return in.fp32; }
#endif

// Selects the functions of a format and layout.
void product(const Matrix& m, const Inputs& in, int rows, int first, int last, Outputs out, void* scratch) {
    const size_t next = (size_t)in.padded;
    const bool columns = m.layout == COLUMNS;
    float* sums = (float*)scratch;
    switch (m.format) {
        case FP32:
            columns ? columns_product<Fp32>(m, in.fp32, next, in, rows, first, last, out, sums)
                    : rows_product<Fp32>(m, in.fp32, next, rows, first, last, out);
            break;
        case FP16:
            columns ? columns_product<Fp16>(m, in.fp32, next, in, rows, first, last, out, sums)
                    : rows_product<Fp16>(m, in.fp32, next, rows, first, last, out);
            break;
        case BF16:
            columns ? columns_product<Bf16Product>(m, bf16_inputs(in), next, in, rows, first, last, out, sums)
                    : rows_product<Bf16Product>(m, bf16_inputs(in), next, rows, first, last, out);
            break;
        case INT8:
            columns ? columns_product_int<INT8>(m, in, rows, first, last, out, (uint8_t*)scratch)
                    : block_product<INT8>(m, in, rows, first, last, out);
            break;
        case INT4:
            columns ? columns_product_int<INT4>(m, in, rows, first, last, out, (uint8_t*)scratch)
                    : block_product<INT4>(m, in, rows, first, last, out);
            break;
        case FORMATS: break;
    }
}

uint64_t stream(const uint8_t* memory, size_t bytes) { return stream64(memory, bytes); }

}  // namespace

extern const Kernels WKV_TABLE;
const Kernels WKV_TABLE = {
    WKV_NAME, LANES, {AS_FP32, AS_FP32, BF16_FORM, AS_INT8, AS_INT8},
    product,  prepare, list_nonzero, layer_norm, mix, squared_relu, sigmoid, add_gated, wkv4, wkv6, wkv7, replay6, replay7,
    train_forward, train_backward, stream,
};

}  // namespace wkv
