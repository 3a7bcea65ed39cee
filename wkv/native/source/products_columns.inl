// Products with weights stored input after input, in panels of 128 outputs.
//
// With a single row of activations, only the weights of nonzero inputs are read: after a squared ReLU
// most inputs are zero. With several rows, all weights are read, as in the other layouts.
//
//   fp32, fp16, bf16   for each input: 128 numbers
//   int8               for each input: 128 bytes, the first 64 for outputs 0..63
//   int4               for each input: 64 bytes, outputs 0..63 in the low nibbles, 64..127 in the high
//   scales             for int8 and int4, after all inputs, for each group: 128 bf16 numbers
//
// In 64 outputs, byte 16 l + 4 j + i is output 16 j + 4 l + i: interleaving the bytes of four inputs
// within each 128-bit lane yields the order that `dot` reads.

static inline int panel_outputs(const Matrix& m, int panel) {
    const int left = m.outputs - panel * PANEL;
    return left < PANEL ? left : PANEL;
}

static inline void write_panel(const float* sums, int outputs, float* y, bool accumulate) {
    for (int o = 0; o < outputs; o++) y[o] = accumulate ? y[o] + sums[o] : sums[o];
}

// Prefetch distances, in inputs and in groups of scales.
constexpr int AHEAD = 12, AHEAD_INT = 24, AHEAD_SCALES = 2;

static inline void prefetch_range(const uint8_t* p, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64) prefetch(p + i);
}

// ---- One row of activations, floating-point weights.
template <class P, class Input>
static void columns_row(const typename P::Weight* w, const Input* x, const int32_t* nonzero, int n, float* sums) {
    constexpr int PART = 8 * LANES < PANEL ? 8 * LANES : PANEL, N = PART / LANES;
    for (int part = 0; part < PANEL; part += PART) {
        Floats all[N];
        for (int v = 0; v < N; v++) all[v] = zero();
        for (int i = 0; i < n; i++) {
            const auto* row = w + (size_t)nonzero[i] * PANEL + part;
            if (i + AHEAD < n)
                prefetch_range((const uint8_t*)(w + (size_t)nonzero[i + AHEAD] * PANEL + part), PART * sizeof(*w));
            const Floats at = splat(P::activation(x[nonzero[i]]));
#pragma GCC unroll 8
            for (int v = 0; v < N; v++) all[v] = multiply_add(P::floats(row + v * LANES), at, all[v]);
        }
        for (int v = 0; v < N; v++) store(sums + part + v * LANES, all[v]);
    }
}

#ifdef WKV_BF16_PAIRS
// The same with pairs of consecutive nonzero inputs.
static void columns_row_pairs(const uint16_t* w, const uint16_t* x, const int32_t* nonzero, int n, float* sums) {
    constexpr int N = PANEL / PAIRED_LANES;
    Floats low[N], high[N];
    for (int v = 0; v < N; v++) low[v] = high[v] = zero();
    for (int i = 0; i < n; i += 2) {
        const int first = nonzero[i], second = i + 1 < n ? nonzero[i + 1] : first;
        for (int ahead = i + AHEAD; ahead < i + AHEAD + 2 && ahead < n; ahead++)
            prefetch_range((const uint8_t*)(w + (size_t)nonzero[ahead] * PANEL), PANEL * sizeof(*w));
        const uint16_t two[2] = {x[first], i + 1 < n ? x[second] : (uint16_t)0};
        const Pairs at = splat_pair(two);
#pragma GCC unroll 4
        for (int v = 0; v < N; v++) {
            Pairs a, b;
            interleave_pairs(w + (size_t)first * PANEL + v * PAIRED_LANES,
                             w + (size_t)second * PANEL + v * PAIRED_LANES, a, b);
            low[v] = fma_pairs(a, at, low[v]);
            high[v] = fma_pairs(b, at, high[v]);
        }
    }
    for (int v = 0; v < N; v++) store_paired(sums + v * PAIRED_LANES, low[v], high[v], false);
}
#endif

// ---- Integer weights: four inputs at a time are converted to the blocks that `dot` reads.
constexpr int HALF_PANEL = 64, HALF_BLOCKS = HALF_PANEL / BLOCK;

// Converts 64 outputs of four inputs to 4 blocks.
template <Format F>
static inline void four_inputs(const uint8_t* const rows[4], int half, Bytes blocks[HALF_BLOCKS]) {
    Bytes four[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        if (F == INT8)
            four[i] = load_block(rows[i] + half * HALF_PANEL);
        else
            four[i] = half ? high_halves(load_block(rows[i])) : low_halves(load_block(rows[i]));
    }
    interleave(four[0], four[1], four[2], four[3], blocks);
}

constexpr int GROUPS_AT_ONCE = 32;

// One row of activations. The sums are added to y after every GROUPS_AT_ONCE groups, as with several rows,
// so that both give the same bits.
template <Format F>
static void columns_row_int(const uint8_t* w, const uint16_t* scales, const Inputs& in, float* sums, float* y,
                            int outputs, bool accumulate) {
    constexpr size_t BYTES = F == INT8 ? PANEL : PANEL / 2;
    const int n = in.n_nonzero;
    const int32_t* nonzero = in.nonzero;
    Sixteen all[2][HALF_BLOCKS];
    for (auto& half : all)
        for (auto& block : half) block = sixteen_zero();
    int at_once = 0;
    const auto add_to_y = [&] {
        for (int half = 0; half < 2; half++)
            for (int b = 0; b < HALF_BLOCKS; b++) {
                sixteen_store(sums + half * HALF_PANEL + b * BLOCK, all[half][b], false);
                all[half][b] = sixteen_zero();
            }
        write_panel(sums, outputs, y, accumulate);
        accumulate = true;
    };
    for (int i = 0; i < n;) {
        const int group = nonzero[i] / GROUP, end = (group + 1) * GROUP, begin = i;
        if (group / GROUPS_AT_ONCE != at_once) {
            add_to_y();
            at_once = group / GROUPS_AT_ONCE;
        }
        while (i < n && nonzero[i] < end) i++;
        for (int ahead = begin; ahead < i; ahead++)
            if (ahead + AHEAD_INT < n) prefetch_range(w + (size_t)nonzero[ahead + AHEAD_INT] * BYTES, BYTES);
        const uint16_t* scale = scales + (size_t)group * PANEL;
        prefetch_range((const uint8_t*)(scale + AHEAD_SCALES * PANEL), PANEL * 2);
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            Integers parts[HALF_BLOCKS];
            for (auto& part : parts) part = integers((WEIGHT_OFFSET - ZERO_POINT<F>) * in.sum[group]);
            for (int at = begin; at < i; at += 4) {
                const uint8_t* rows[4];
                int8_t x[4];
#pragma GCC unroll 4
                for (int k = 0; k < 4; k++) {  // missing inputs of the last four are zero
                    const int input = nonzero[at + k < i ? at + k : begin];
                    rows[k] = w + (size_t)input * BYTES;
                    x[k] = at + k < i ? in.int8[input] : (int8_t)0;
                }
                Bytes blocks[HALF_BLOCKS];
                four_inputs<F>(rows, half, blocks);
#pragma GCC unroll 4
                for (int b = 0; b < HALF_BLOCKS; b++) parts[b] = dot(parts[b], blocks[b], x);
            }
#pragma GCC unroll 4
            for (int b = 0; b < HALF_BLOCKS; b++)
                all[half][b] = sixteen_fma(parts[b], sixteen_bf16(scale + half * HALF_PANEL + b * BLOCK),
                                           in.scale[group], all[half][b]);
        }
    }
    add_to_y();
}

// ---- Several rows of activations, floating-point weights.
template <class P, int V, int C>
static inline void columns_tile(const typename P::Weight* w, const typename P::Input* x, size_t next_row,
                                int n, float* y, size_t stride, bool accumulate) {
    Floats sums[C][V];
    for (int c = 0; c < C; c++)
        for (int v = 0; v < V; v++) sums[c][v] = accumulate ? load(y + c * stride + v * LANES) : zero();
    for (int k = 0; k < n; k++) {
        Floats weights[V];
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) weights[v] = P::floats(w + (size_t)k * PANEL + v * LANES);
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) {
            const Floats at = splat(P::activation(x[c * next_row + k]));
#pragma GCC unroll 8
            for (int v = 0; v < V; v++) sums[c][v] = multiply_add(weights[v], at, sums[c][v]);
        }
    }
    for (int c = 0; c < C; c++)
        for (int v = 0; v < V; v++) store(y + c * stride + v * LANES, sums[c][v]);
}

#ifdef WKV_BF16_PAIRS
// The same with pairs of inputs; a last single input is paired with zero.
template <int C>
static inline void columns_pairs(const uint16_t* w, const uint16_t* x, size_t next_row, int n,
                                 float* y, size_t stride, bool accumulate) {
    static const uint16_t NOTHING[PAIRED_LANES] = {0};
    Floats low[C], high[C];
    for (int c = 0; c < C; c++) low[c] = high[c] = zero();
    for (int k = 0; k < n; k += 2) {
        Pairs a, b;
        interleave_pairs(w + (size_t)k * PANEL, k + 1 < n ? w + (size_t)(k + 1) * PANEL : NOTHING, a, b);
#pragma GCC unroll 16
        for (int c = 0; c < C; c++) {
            const Pairs at = splat_pair(x + c * next_row + k);  // rows are padded with a zero
            low[c] = fma_pairs(a, at, low[c]);
            high[c] = fma_pairs(b, at, high[c]);
        }
    }
    for (int c = 0; c < C; c++) store_paired(y + c * stride, low[c], high[c], accumulate);
}
#endif

// Computes outputs [0, 128) of a panel for C rows from inputs [0, n); sums have `stride` floats per row.
template <class P, int C>
static inline void columns_rows(const typename P::Weight* w, const typename P::Input* x, size_t next_row,
                                int n, float* y, size_t stride, bool accumulate) {
#ifdef WKV_BF16_PAIRS
    if constexpr (__is_same(P, Bf16Pairs)) {
        for (int o = 0; o < PANEL; o += PAIRED_LANES)
            columns_pairs<C>(w + o, x, next_row, n, y + o, stride, accumulate);
        return;
    } else
#endif
    {
        constexpr int V = C == 1 ? 4 : 2;
        for (int o = 0; o < PANEL; o += V * LANES)
            columns_tile<P, V, C>(w + o, x, next_row, n, y + o, stride, accumulate);
    }
}

constexpr int COLUMNS_WIDE = LANES == 8 ? 4 : 8, PANEL_INPUTS = 512;

template <class P>
static void columns_product(const Matrix& m, const typename P::Input* x, size_t next_row,
                            const Inputs& in, int rows, int first, int last, Outputs out, float* scratch) {
    for (int panel = first / PANEL; panel * PANEL < last; panel++) {
        const auto* w = (const typename P::Weight*)m.weights + (size_t)panel * m.inputs * PANEL;
        const int outputs = panel_outputs(m, panel);
        float* y = out.y + panel * PANEL;
        if (rows == 1) {
#ifdef WKV_BF16_PAIRS
            if constexpr (__is_same(P, Bf16Pairs))
                columns_row_pairs(w, x, in.nonzero, in.n_nonzero, scratch);
            else
#endif
                columns_row<P>(w, x, in.nonzero, in.n_nonzero, scratch);
            write_panel(scratch, outputs, y, out.add);
            continue;
        }
        for (int begin = 0; begin < rows; begin += ROWS_AT_ONCE) {  // the sums of 64 rows take 32 KiB
            const int end = rows - begin < ROWS_AT_ONCE ? rows : begin + ROWS_AT_ONCE;
            for (int k = 0; k < m.inputs; k += PANEL_INPUTS) {
                const int n = m.inputs - k < PANEL_INPUTS ? m.inputs - k : PANEL_INPUTS;
                const auto* from = w + (size_t)k * PANEL;
                int c = begin;
                for (; c + COLUMNS_WIDE <= end; c += COLUMNS_WIDE)
                    columns_rows<P, COLUMNS_WIDE>(from, x + c * next_row + k, next_row, n,
                                                  scratch + (c - begin) * PANEL, PANEL, k > 0);
                for (; c < end; c++)
                    columns_rows<P, 1>(from, x + c * next_row + k, next_row, n,
                                       scratch + (c - begin) * PANEL, PANEL, k > 0);
            }
            for (int c = begin; c < end; c++)
                write_panel(scratch + (c - begin) * PANEL, outputs, y + c * out.stride, out.add);
        }
    }
}

// ---- Several rows of activations, integer weights: groups are converted to blocks first.
template <Format F>
static void columns_product_int(const Matrix& m, const Inputs& in, int rows, int first, int last,
                                Outputs out, uint8_t* scratch) {
    constexpr size_t BYTES = F == INT8 ? PANEL : PANEL / 2;
    const int groups = padded_to_groups(m.inputs) / GROUP;
    const size_t weights = (size_t)groups * GROUP * BYTES, panel_bytes = weights + (size_t)groups * PANEL * 2;
    for (int panel = first / PANEL; panel * PANEL < last; panel++) {
        const uint8_t* w = m.weights + panel * panel_bytes;
        const auto* scales = (const uint16_t*)(w + weights);
        const int outputs = panel_outputs(m, panel);
        float* y = out.y + panel * PANEL;
        if (rows == 1) {
            columns_row_int<F>(w, scales, in, (float*)scratch, y, outputs, out.add);
            continue;
        }
        for (int group = 0; group < groups; group += GROUPS_AT_ONCE) {
            const int n = groups - group < GROUPS_AT_ONCE ? groups - group : GROUPS_AT_ONCE;
            const size_t next_block = (size_t)n * GROUP * BLOCK;
            for (int k = 0; k < n * GROUP; k += 4) {
                const uint8_t* from = w + ((size_t)group * GROUP + k) * BYTES;
                if (k + 16 < n * GROUP) prefetch_range(from + 16 * BYTES, 4 * BYTES);
                const uint8_t* const four[4] = {from, from + BYTES, from + 2 * BYTES, from + 3 * BYTES};
                for (int half = 0; half < 2; half++) {
                    Bytes blocks[HALF_BLOCKS];
                    four_inputs<F>(four, half, blocks);
                    for (int b = 0; b < HALF_BLOCKS; b++)
                        store_block(scratch + (half * HALF_BLOCKS + b) * next_block + (size_t)k * BLOCK, blocks[b]);
                }
            }
            Block block{scratch, scales + (size_t)group * PANEL, PANEL, n, ZERO_POINT<F>};
            block.to_next = next_block;
            block.to_next_scales = BLOCK;
            for (int c = 0; c < rows; c += INT_WIDE)
                blocks_rows<INT8>(block, in, group, c, c + INT_WIDE < rows ? c + INT_WIDE : rows,
                                  {y, out.stride, out.add || group > 0}, outputs);
        }
    }
}
