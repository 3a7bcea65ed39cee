// Products with fp32, fp16 and bf16 weights in the layout of checkpoints: output after output.
//
// A tile computes several outputs for several rows of activations; vectors run along the inputs.
//
// A row gives the same bits alone and together with others: each output of each row has one vector of
// sums, whatever the size of the tile, and its parts are added in the same order.

// How a format is multiplied: `weight` and `input` load STEP weights and activations, `accumulate`
// adds their products. `floats` loads LANES weights as floats.
struct Fp32 {
    typedef float Weight;
    typedef float Input;
    static constexpr int STEP = LANES;
    static inline Floats weight(const float* p) { return load(p); }
    static inline Floats input(const float* p) { return load(p); }
    static inline Floats accumulate(Floats w, Floats x, Floats c) { return multiply_add(w, x, c); }
    static inline Floats floats(const float* p) { return load(p); }
    static inline float number(float w) { return w; }
    static inline float activation(float x) { return x; }
};
struct Fp16 : Fp32 {
    typedef uint16_t Weight;
    static inline Floats weight(const uint16_t* p) { return load_fp16(p); }
    static inline Floats floats(const uint16_t* p) { return load_fp16(p); }
    static inline float number(uint16_t w) { return fp16_to_float(w); }
};
struct Bf16 : Fp32 {
    typedef uint16_t Weight;
    static inline Floats weight(const uint16_t* p) { return load_bf16(p); }
    static inline Floats floats(const uint16_t* p) { return load_bf16(p); }
    static inline float number(uint16_t w) { return bf16_to_float(w); }
};
#ifdef WKV_BF16_PAIRS
struct Bf16Pairs {
    typedef uint16_t Weight;
    typedef uint16_t Input;
    static constexpr int STEP = PAIRED_LANES;
    static inline Pairs weight(const uint16_t* p) { return load_pairs(p); }
    static inline Pairs input(const uint16_t* p) { return load_pairs(p); }
    static inline Floats accumulate(Pairs w, Pairs x, Floats c) { return fma_pairs(w, x, c); }
    static inline Floats floats(const uint16_t* p) { return load_bf16(p); }
    static inline float number(uint16_t w) { return bf16_to_float(w); }
    static inline float activation(uint16_t x) { return bf16_to_float(x); }
};
#endif

// Tile sizes, chosen so that the sums fill the registers. Up to LAST rows are one tile.
constexpr int TALL = LANES == 8 ? 3 : 6, WIDE = 4, LAST = LANES == 8 ? 4 : 8;
// Outputs per tile of C rows. One row of 16-bit weights is fastest with few outputs at once and prefetching,
// one row of fp32 weights with many outputs and without it (measured on AVX2).
template <class P> constexpr bool IS_WIDE = sizeof(typename P::Weight) == 4;
template <class P, int C> constexpr int HEIGHT =
    C == 1 ? (IS_WIDE<P> ? 8 : 4) : C == 2 ? 6 : C <= WIDE ? TALL : C <= 6 ? 4 : 3;
// Block sizes that keep the rows in a core's cache while a strip of outputs passes over them.
constexpr int ROWS_AT_ONCE = 64, INPUTS_AT_ONCE = 2048, STRIP = LANES == 8 ? 4 * TALL : TALL;

// With AHEAD, the outputs that follow are prefetched in memory order.
template <class P, int R, int C, bool AHEAD = false>
static inline void rows_tile(const typename P::Weight* w, size_t next_output,
                             const typename P::Input* x, size_t next_row, int n, Outputs out) {
    Floats sums[R][C];
    for (int r = 0; r < R; r++)
        for (int c = 0; c < C; c++) sums[r][c] = zero();
    int k = 0;
    const uint8_t* ahead = (const uint8_t*)(w + R * next_output);
    constexpr int LINES = R * P::STEP * (int)sizeof(*w) / 64;  // read per step
    for (; k + P::STEP <= n; k += P::STEP) {
        if (AHEAD) {
#pragma GCC unroll 8
            for (int i = 0; i < LINES; i++) prefetch(ahead + 64 * i);
            ahead += 64 * LINES;
        }
        decltype(P::input(x)) in[C];
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) in[c] = P::input(x + c * next_row + k);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            const auto v = P::weight(w + r * next_output + k);
#pragma GCC unroll 8
            for (int c = 0; c < C; c++) sums[r][c] = P::accumulate(v, in[c], sums[r][c]);
        }
    }
    float y[(R * C + 3) / 4 * 4];
    const Floats* all = &sums[0][0];
    const Floats none = zero();
    for (int i = 0; i < R * C; i += 4)
        sum4(all[i], i + 1 < R * C ? all[i + 1] : none, i + 2 < R * C ? all[i + 2] : none,
             i + 3 < R * C ? all[i + 3] : none, y + i);
    for (; k < n; k++)
        for (int r = 0; r < R; r++)
            for (int c = 0; c < C; c++)
                y[r * C + c] = fmaf(P::number(w[r * next_output + k]), P::activation(x[c * next_row + k]), y[r * C + c]);
    for (int c = 0; c < C; c++)
        for (int r = 0; r < R; r++) {
            float& to = out.y[c * out.stride + r];
            to = out.add ? to + y[r * C + c] : y[r * C + c];
        }
}

template <class P, int C, bool AHEAD = false, int R = HEIGHT<P, C>>
static inline void rows_tiles(const typename P::Weight* w, size_t next_output,
                              const typename P::Input* x, size_t next_row, int n, int outputs, Outputs out) {
    int o = 0;
#define WKV_TILES(HERE)                                                                           \
    for (; o + HERE <= outputs; o += HERE)                                                        \
        rows_tile<P, HERE, C, AHEAD>(w + o * next_output, next_output, x, next_row, n,            \
                                     {out.y + o, out.stride, out.add});
    WKV_TILES(R)
    if constexpr (R > TALL) { WKV_TILES(TALL) }
    WKV_TILES(1)
#undef WKV_TILES
}

// Few rows need not be divided: the weights pass once, in the order of memory.
template <class P>
static inline void few_rows(const typename P::Weight* w, size_t next_output, const typename P::Input* x,
                            size_t next_row, int rows, int n, int outputs, Outputs out) {
#define WKV_LAST(C, AHEAD)                                                                        \
    case C:                                                                                       \
        if constexpr (C <= LAST) rows_tiles<P, C, AHEAD>(w, next_output, x, next_row, n, outputs, out); \
        break;
    switch (rows) {
        WKV_LAST(1, !IS_WIDE<P>)
        WKV_LAST(2, true)
        WKV_LAST(3, true)
        WKV_LAST(4, true)
        WKV_LAST(5, true)
        WKV_LAST(6, true)
        WKV_LAST(7, true)
        WKV_LAST(8, true)
    }
#undef WKV_LAST
}

template <class P>
static void rows_product(const Matrix& m, const typename P::Input* x, size_t next_row, int rows,
                         int first, int last, Outputs out) {
    const auto* weights = (const typename P::Weight*)m.weights;
    const size_t K = (size_t)m.inputs;
    const bool ahead = rows <= ROWS_AT_ONCE && m.inputs <= INPUTS_AT_ONCE;  // otherwise weights are reused
    for (int k = 0; k < m.inputs; k += INPUTS_AT_ONCE) {
        const int n = m.inputs - k < INPUTS_AT_ONCE ? m.inputs - k : INPUTS_AT_ONCE;
        if (rows <= LAST) {
            few_rows<P>(weights + first * K + k, K, x + k, next_row, rows, n, last - first,
                        {out.y + first, out.stride, out.add || k > 0});
            continue;
        }
        for (int begin = 0; begin < rows; begin += ROWS_AT_ONCE) {
            const int end = rows - begin < ROWS_AT_ONCE ? rows : begin + ROWS_AT_ONCE;
            for (int o = first; o < last; o += STRIP) {
                const int height = last - o < STRIP ? last - o : STRIP;
                const auto* w = weights + o * K + k;
                int c = begin;
                if (ahead && o + 2 * STRIP <= last) {
                    rows_tiles<P, WIDE, true>(w, K, x, next_row, n, height, {out.y + o, out.stride, out.add});
                    c = WIDE;
                }
#define WKV_TILES(C)                                                                              \
    for (; c + C <= end; c += C)                                                                  \
        rows_tiles<P, C>(w, K, x + c * next_row + k, next_row, n, height,                         \
                         {out.y + c * out.stride + o, out.stride, out.add || k > 0});
                WKV_TILES(WIDE)
                WKV_TILES(3)
                WKV_TILES(2)
                WKV_TILES(1)
#undef WKV_TILES
            }
        }
    }
}
