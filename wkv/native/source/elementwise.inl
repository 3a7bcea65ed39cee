// Elementwise operations: norms, mixes, and conversions to the forms that products read.

// y may be x.
static inline void layer_norm(const float* x, const float* weight, const float* bias, float eps, int n, float* y) {
    float total = 0, squares = 0;
#pragma omp simd reduction(+ : total)
    for (int i = 0; i < n; i++) total += x[i];
    const float mean = total / (float)n;
#pragma omp simd reduction(+ : squares)
    for (int i = 0; i < n; i++) squares += (x[i] - mean) * (x[i] - mean);
    // If the sum of squares overflows, the result must be NaN, not zero.
    const float scale = squares < 3e38f ? 1.0f / sqrtf(squares / (float)n + eps) : NAN;
#pragma omp simd
    for (int i = 0; i < n; i++) y[i] = (x[i] - mean) * scale * weight[i] + bias[i];
}

// y = x + difference (share + change); `change` may be null.
static void mix(const float* x, const float* difference, const float* share, const float* change, int n, float* y) {
    if (change) {
#pragma omp simd
        for (int i = 0; i < n; i++) y[i] = x[i] + difference[i] * (share[i] + change[i]);
    } else {
#pragma omp simd
        for (int i = 0; i < n; i++) y[i] = x[i] + difference[i] * share[i];
    }
}

static void squared_relu(const float* x, int n, float* y) {
#pragma omp simd
    for (int i = 0; i < n; i++) {
        const float positive = x[i] < 0 ? 0 : x[i];  // keeps NaN
        y[i] = positive * positive;
    }
}

static void sigmoid(const float* x, int n, float* y) {
#pragma omp simd
    for (int i = 0; i < n; i++) y[i] = logistic(x[i]);
}

// y += sigmoid(gate) x.
static void add_gated(const float* gate, const float* x, int n, float* y) {
#pragma omp simd
    for (int i = 0; i < n; i++) y[i] += logistic(gate[i]) * x[i];
}

// Quantizes a group of 32 activations to int8; the largest magnitude becomes 127. If a value is not
// finite, the scale is NaN and so are the products.
static inline void quantize_group(const float* x, int8_t* q, float* scale, int32_t* total) {
    float largest = 0, poison = 0;
#pragma omp simd reduction(max : largest) reduction(+ : poison)
    for (int i = 0; i < GROUP; i++) {
        const float size = fabsf(x[i]);
        largest = largest > size ? largest : size;
        poison += x[i] * 0.0f;
    }
    *total = 0;
    *scale = largest / 127.0f + poison;
    if (!(poison == 0) || !(largest > 1e-36f)) {
        memset(q, 0, GROUP);
        return;
    }
    const float inverse = 127.0f / largest;
    int32_t added = 0;
#pragma omp simd reduction(+ : added)
    for (int i = 0; i < GROUP; i++) {
        // Adding 1.5 * 2^23 instead could be fused with the multiplication, and CPUs would differ.
        const int32_t rounded = (int32_t)rintf(x[i] * inverse);
        q[i] = (int8_t)rounded;
        added += rounded;
    }
    *total = added;
}

// Returns a bit mask of the nonzero activations in a group of 32 of a row, in the form that products
// read. Values that are not finite count as nonzero.
static inline uint32_t nonzero_of_group(const Inputs& in, int row, int group) {
    const int begin = group * GROUP, n = in.width - begin < GROUP ? in.width - begin : GROUP;
    const uint32_t valid = n == GROUP ? ~0u : (1u << n) - 1;
    const size_t at = (size_t)row * in.padded + begin;
    if (in.forms & AS_INT8) return in.scale[at / GROUP] < 3e38f ? nonzero(in.int8 + at) & valid : valid;
    uint32_t found = 0;
    if (in.forms & AS_BF16) {
#pragma omp simd reduction(| : found)
        for (int i = 0; i < n; i++) found |= (uint32_t)(in.bf16[at + i] != 0) << i;
    } else {
#pragma omp simd reduction(| : found)
        for (int i = 0; i < n; i++) found |= (uint32_t)(in.fp32[at + i] != 0) << i;
    }
    return found;
}

static inline void list_all(Inputs& in) {
    for (int i = 0; i < in.width; i++) in.nonzero[i] = i;
    in.n_nonzero = in.width;
}

// Sequential reads are much faster: if more than a third of the inputs is nonzero in one of the rows, all
// inputs are listed.
static void list_nonzero(Inputs& in, int rows) {
    int n = 0;
    for (int group = 0; group < in.padded / GROUP; group++) {
        uint32_t left = 0;
        for (int row = 0; row < rows; row++) left |= nonzero_of_group(in, row, group);
        for (; left; left &= left - 1) in.nonzero[n++] = group * GROUP + __builtin_ctz(left);
        if (n > in.width / 3) return list_all(in);
    }
    in.n_nonzero = n;
}

// Converts a row of floats to the forms that products read.
static void prepare(const float* x, Inputs& in, int row) {
    const size_t at = (size_t)row * in.padded;
    const int whole = in.width / GROUP * GROUP;
    float last[GROUP] = {0};  // the last group, padded
    for (int i = whole; i < in.width; i++) last[i - whole] = x[i];
    if (in.forms & AS_FP32) {
        float* to = in.fp32 + at;
        if (to != x) memcpy(to, x, whole * sizeof(float));
        if (in.padded > whole) memcpy(to + whole, last, sizeof last);
    }
    if (in.forms & AS_BF16) {
        uint16_t* to = in.bf16 + at;
#ifdef WKV_BF16_PAIRS
        for (int i = 0; i < whole; i += 16) to_bf16(x + i, to + i);
#else
        for (int i = 0; i < whole; i++) to[i] = float_to_bf16(x[i]);
#endif
        for (int i = whole; i < in.padded; i++) to[i] = float_to_bf16(last[i - whole]);
    }
    if (in.forms & AS_INT8) {
        const size_t group = at / GROUP;
        for (int g = 0; g < in.padded / GROUP; g++)
            quantize_group(g * GROUP < whole ? x + g * GROUP : last, in.int8 + at + (size_t)g * GROUP,
                           in.scale + group + g, in.sum + group + g);
    }
}
