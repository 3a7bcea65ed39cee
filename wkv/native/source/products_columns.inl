// Products with weights stored input after input, in panels of 128 outputs.
//
// With few rows of activations, only the weights of inputs that are nonzero in one of them are read: after
// a squared ReLU most inputs are zero. With more rows, all weights are read, as in the other layouts.
//
//   fp32, fp16, bf16   for each input: 128 numbers
//   int8               for each input: 128 bytes, the first 64 for outputs 0..63
//   int4               for each input: 64 bytes, outputs 0..63 in the low nibbles, 64..127 in the high
//   scales             for int8 and int4, after all inputs, for each group: 128 bf16 numbers
//
// A row gives the same bits alone and together with others: each output has one sum, to which the inputs
// are added in their order, and the products of inputs that are zero add nothing.

static inline int panel_outputs(const Matrix& m, int panel) {
    const int left = m.outputs - panel * PANEL;
    return left < PANEL ? left : PANEL;
}

static inline void write_panel(const float* sums, int outputs, float* y, bool accumulate) {
    for (int o = 0; o < outputs; o++) y[o] = accumulate ? y[o] + sums[o] : sums[o];
}

static inline void prefetch_range(const uint8_t* p, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64) prefetch(p + i);
}

// The inputs that a product reads: those of a list, or all from one on.
struct Listed {
    static constexpr bool LISTS_ALL = false;
    const int32_t* list;
    int operator()(int i) const { return list[i]; }
};
struct Every {
    static constexpr bool LISTS_ALL = true;
    int first;  // an even number
    int operator()(int i) const { return first + i; }
};

// Rows and vectors per tile, chosen so that the sums fill the registers.
constexpr int COLUMNS_WIDE = LANES == 8 ? 4 : 8;
template <int C> constexpr int COLUMNS_VECTORS = LANES == 8 ? (C <= 3 ? 4 : 2) : C <= 3 ? 8 : C <= 6 ? 4 : 2;

// Adds the products of inputs [0, n) to the sums of C rows, PANEL floats apart, or begins them, for one part
// of the outputs. The parts share the work of prefetching the weights of the `ahead` inputs that follow.
template <class P, int V, int C, class Index>
static inline void columns_tile(const typename P::Weight* panel, int part, const typename P::Input* x, size_t next_row,
                                Index input, int n, int ahead, float* y, bool accumulate) {
    constexpr int PARTS = PANEL / (V * LANES);
    const auto* w = panel + part * V * LANES;
    Floats sums[C][V];
    for (int c = 0; c < C; c++)
        for (int v = 0; v < V; v++) sums[c][v] = accumulate ? load(y + c * PANEL + v * LANES) : zero();
    for (int i = 0; i < n; i++) {
        const int k = input(i);
        if (i < ahead && i % PARTS == part)
            prefetch_range((const uint8_t*)(panel + (size_t)input(n + i) * PANEL), PANEL * sizeof(*w));
        Floats at[C];
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) at[c] = splat(P::activation(x[c * next_row + k]));
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) {
            const Floats weights = P::floats(w + (size_t)k * PANEL + v * LANES);
#pragma GCC unroll 8
            for (int c = 0; c < C; c++) sums[c][v] = multiply_add(weights, at[c], sums[c][v]);
        }
    }
    for (int c = 0; c < C; c++)
        for (int v = 0; v < V; v++) store(y + c * PANEL + v * LANES, sums[c][v]);
}

#ifdef WKV_BF16_PAIRS
template <int C> constexpr int PAIRED_VECTORS = C <= 3 ? 4 : C <= 6 ? 2 : 1;

// The same with pairs of neighboring inputs 2 i and 2 i + 1. If one of them is not listed, zeros replace its
// weights. The sums are in the order of `interleave_pairs`.
template <int V, int C, class Index>
static inline void pairs_tile(const uint16_t* panel, int part, const uint16_t* x, size_t next_row, Index input, int n,
                              int ahead, float* y, bool accumulate) {
    static const uint16_t NOTHING[PANEL] = {0};
    constexpr int PARTS = PANEL / (V * PAIRED_LANES);
    const auto* w = panel + part * V * PAIRED_LANES;
    Floats low[C][V], high[C][V];
    for (int c = 0; c < C; c++)
        for (int v = 0; v < V; v++) {
            low[c][v] = accumulate ? load(y + c * PANEL + v * PAIRED_LANES) : zero();
            high[c][v] = accumulate ? load(y + c * PANEL + v * PAIRED_LANES + LANES) : zero();
        }
    const auto add_pair = [&](int even, const uint16_t* first, const uint16_t* second) {
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) {
            Pairs a, b;
            interleave_pairs(first + v * PAIRED_LANES, second + v * PAIRED_LANES, a, b);
#pragma GCC unroll 8
            for (int c = 0; c < C; c++) {
                const Pairs at = splat_pair(x + c * next_row + even);  // rows are padded with a zero
                low[c][v] = fma_pairs(a, at, low[c][v]);
                high[c][v] = fma_pairs(b, at, high[c][v]);
            }
        }
    };
    if constexpr (Index::LISTS_ALL) {
        for (int i = 0; i < n; i += 2) {
            const uint16_t* first = w + (size_t)input(i) * PANEL;
            add_pair(input(i), first, i + 1 < n ? first + PANEL : NOTHING);
        }
    } else {
        for (int i = 0; i < n;) {
            const int even = input(i) & ~1, odd = even + 1;
            const bool has_even = input(i) == even, has_odd = !has_even || (i + 1 < n && input(i + 1) == odd);
            add_pair(even, has_even ? w + (size_t)even * PANEL : NOTHING, has_odd ? w + (size_t)odd * PANEL : NOTHING);
            for (const int next = i + has_even + has_odd; i < next; i++)
                if (i < ahead && i % PARTS == part)
                    prefetch_range((const uint8_t*)(panel + (size_t)input(n + i) * PANEL), PANEL * sizeof(*w));
        }
    }
    for (int c = 0; c < C; c++)
        for (int v = 0; v < V; v++) {
            store(y + c * PANEL + v * PAIRED_LANES, low[c][v]);
            store(y + c * PANEL + v * PAIRED_LANES + LANES, high[c][v]);
        }
}
#endif

// Computes all outputs of a panel for C rows.
template <class P, int C, class Index>
static inline void columns_rows(const typename P::Weight* w, const typename P::Input* x, size_t next_row,
                                Index input, int n, int ahead, float* y, bool accumulate) {
#ifdef WKV_BF16_PAIRS
    if constexpr (__is_same(P, Bf16Pairs)) {
        constexpr int V = PAIRED_VECTORS<C>;
        for (int part = 0; part * V * PAIRED_LANES < PANEL; part++)
            pairs_tile<V, C>(w, part, x, next_row, input, n, ahead, y + part * V * PAIRED_LANES, accumulate);
        return;
    } else
#endif
    {
        constexpr int V = COLUMNS_VECTORS<C>;
        for (int part = 0; part * V * LANES < PANEL; part++)
            columns_tile<P, V, C>(w, part, x, next_row, input, n, ahead, y + part * V * LANES, accumulate);
    }
}

// Computes a panel for any number of rows; the sums of a row are PANEL floats.
template <class P, class Index>
static inline void columns_panel(const typename P::Weight* w, const typename P::Input* x, size_t next_row,
                                 Index input, int n, int ahead, int rows, float* sums, bool accumulate) {
    int c = 0;
#define WKV_TILE(C)                                                                               \
    columns_rows<P, C>(w, x + c * next_row, next_row, input, n, c ? 0 : ahead, sums + c * PANEL, accumulate)
#define WKV_LAST(C)                                                                               \
    case C:                                                                                       \
        if constexpr (C < COLUMNS_WIDE) WKV_TILE(C);                                              \
        break;
    for (; c + COLUMNS_WIDE <= rows; c += COLUMNS_WIDE) WKV_TILE(COLUMNS_WIDE);
    switch (rows - c) {
        WKV_LAST(1)
        WKV_LAST(2)
        WKV_LAST(3)
        WKV_LAST(4)
        WKV_LAST(5)
        WKV_LAST(6)
        WKV_LAST(7)
    }
#undef WKV_LAST
#undef WKV_TILE
}

// Writes the sums of a panel; those of pairs are brought in order.
template <class P>
static inline void finish_panel(float* sums, int rows, int outputs, Outputs out) {
    for (int c = 0; c < rows; c++) {
        float* row = sums + c * PANEL;
#ifdef WKV_BF16_PAIRS
        if constexpr (__is_same(P, Bf16Pairs))
            for (int o = 0; o < PANEL; o += PAIRED_LANES)
                store_paired(row + o, load(row + o), load(row + o + LANES));
#endif
        write_panel(row, outputs, out.y + c * out.stride, out.add);
    }
}

// Inputs at a time: few rows reuse them in the nearest cache, many rows in the next.
constexpr int LISTED_AT_ONCE = 32, PANEL_INPUTS = 512;

// A pair of inputs is not divided, because its two products are added in one instruction.
static inline int listed_at_once(const Inputs& in, int k) {
    const int n = in.n_nonzero - k < LISTED_AT_ONCE ? in.n_nonzero - k : LISTED_AT_ONCE;
    const int last = in.nonzero[k + n - 1];
    return n + (last % 2 == 0 && k + n < in.n_nonzero && in.nonzero[k + n] == last + 1);
}

template <class P>
static void columns_product(const Matrix& m, const typename P::Input* x, size_t next_row,
                            const Inputs& in, int rows, int first, int last, Outputs out, float* scratch) {
    for (int panel = first / PANEL; panel * PANEL < last; panel++) {
        const auto* w = (const typename P::Weight*)m.weights + (size_t)panel * m.inputs * PANEL;
        const int outputs = panel_outputs(m, panel);
        float* y = out.y + panel * PANEL;
        if (rows <= FEW_ROWS) {
            if (in.n_nonzero == 0) memset(scratch, 0, rows * PANEL * sizeof(float));
            for (int k = 0, n; k < in.n_nonzero; k += n) {
                n = listed_at_once(in, k);
                const int left = in.n_nonzero - k - n;
                columns_panel<P>(w, x, next_row, Listed{in.nonzero + k}, n, left < n ? left : n, rows, scratch, k > 0);
            }
            finish_panel<P>(scratch, rows, outputs, {y, out.stride, out.add});
            continue;
        }
        for (int begin = 0; begin < rows; begin += ROWS_AT_ONCE) {  // the sums of 64 rows take 32 KiB
            const int count = rows - begin < ROWS_AT_ONCE ? rows - begin : ROWS_AT_ONCE;
            for (int k = 0; k < m.inputs; k += PANEL_INPUTS) {
                const int n = m.inputs - k < PANEL_INPUTS ? m.inputs - k : PANEL_INPUTS;
                columns_panel<P>(w, x + begin * next_row, next_row, Every{k}, n, 0, count, scratch, k > 0);
            }
            finish_panel<P>(scratch, count, outputs, {y + begin * out.stride, out.stride, out.add});
        }
    }
}
