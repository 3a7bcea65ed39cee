// Products with int8 and int4 weights in the layout of products_columns.inl.
//
// Four inputs at a time are converted to the blocks that `dot` reads. In 64 outputs, byte 16 l + 4 j + i is
// output 16 j + 4 l + i: interleaving the bytes of four inputs within each 128-bit lane yields their order.
//
// The sums are added to y after every GROUPS_AT_ONCE groups, whatever the number of rows, so that all give the
// same bits.

constexpr int HALF_PANEL = 64, HALF_BLOCKS = HALF_PANEL / BLOCK, GROUPS_AT_ONCE = 32;

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

// Prefetch distances, in inputs and in groups of scales.
constexpr int AHEAD_INT = 24, AHEAD_SCALES = 2;

// ---- One row: its sums stay in registers.
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

// ---- Few rows: the weights are multiplied as they are stored.

// The listed inputs of a group: their weights, and the activations of each row, padded with zeros.
struct ListedGroup {
    const uint8_t* weights[GROUP];
    int8_t x[FEW_ROWS][GROUP];
    int n;  // a multiple of 4
};

template <Format F>
static inline ListedGroup listed_group(const uint8_t* w, const Inputs& in, int rows, int begin, int end) {
    constexpr size_t BYTES = F == INT8 ? PANEL : PANEL / 2;
    ListedGroup listed;
    const int n = end - begin;
    const int32_t* list = in.nonzero + begin;
    listed.n = (n + 3) / 4 * 4;
    for (int i = 0; i < n; i++) listed.weights[i] = w + (size_t)list[i] * BYTES;
    for (int i = n; i < listed.n; i++) listed.weights[i] = listed.weights[0];
    for (int c = 0; c < rows; c++) {
        const int8_t* x = in.int8 + (size_t)c * in.padded;
        for (int i = 0; i < listed.n; i += 4) {
            uint32_t four = 0;  // one store, so that loading four bytes need not wait for four
            for (int k = 0; k < 4 && i + k < n; k++) four |= (uint32_t)(uint8_t)x[list[i + k]] << 8 * k;
            memcpy(listed.x[c] + i, &four, sizeof four);
        }
    }
    return listed;
}

// Adds the products of a group to the sums of C rows, PANEL floats apart.
template <Format F, int C>
static inline void group_tile(const ListedGroup& listed, const uint16_t* scale, const Inputs& in, int group, int row,
                              float* sums) {
    const int groups = in.padded / GROUP;
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        Integers parts[C][HALF_BLOCKS];
        for (int c = 0; c < C; c++)
            for (auto& part : parts[c])
                part = integers((WEIGHT_OFFSET - ZERO_POINT<F>) * in.sum[(row + c) * groups + group]);
        for (int i = 0; i < listed.n; i += 4) {
            Bytes blocks[HALF_BLOCKS];
            four_inputs<F>(listed.weights + i, half, blocks);
#pragma GCC unroll 8
            for (int c = 0; c < C; c++)
#pragma GCC unroll 4
                for (int b = 0; b < HALF_BLOCKS; b++) parts[c][b] = dot(parts[c][b], blocks[b], listed.x[row + c] + i);
        }
#pragma GCC unroll 4
        for (int b = 0; b < HALF_BLOCKS; b++) {
            const int at = half * HALF_PANEL + b * BLOCK;
            const Sixteen scales = sixteen_bf16(scale + at);
#pragma GCC unroll 8
            for (int c = 0; c < C; c++) {
                float* sum = sums + (row + c) * PANEL + at;
                const float x = in.scale[(row + c) * groups + group];
                sixteen_store(sum, sixteen_fma(parts[c][b], scales, x, sixteen_load(sum)), false);
            }
        }
    }
}

// Rows per tile, whose integer sums stay in registers.
constexpr int GROUP_WIDE = LANES == 16 ? 6 : 2;

template <Format F>
static inline void group_rows(const ListedGroup& listed, const uint16_t* scale, const Inputs& in, int group, int rows,
                              float* sums) {
    int row = 0;
#define WKV_TILE(C) group_tile<F, C>(listed, scale, in, group, row, sums)
#define WKV_LAST(C)                                                                               \
    case C:                                                                                       \
        if constexpr (C < GROUP_WIDE) WKV_TILE(C);                                                \
        break;
    for (; row + GROUP_WIDE <= rows; row += GROUP_WIDE) WKV_TILE(GROUP_WIDE);
    switch (rows - row) {
        WKV_LAST(1)
        WKV_LAST(2)
        WKV_LAST(3)
        WKV_LAST(4)
        WKV_LAST(5)
    }
#undef WKV_LAST
#undef WKV_TILE
}

template <Format F>
static void columns_few_int(const uint8_t* w, const uint16_t* scales, const Inputs& in, int rows, float* sums,
                            int outputs, Outputs out) {
    constexpr size_t BYTES = F == INT8 ? PANEL : PANEL / 2;
    const int n = in.n_nonzero;
    const size_t size = rows * PANEL * sizeof(float);
    int at_once = 0;
    const auto add_to_y = [&] {
        for (int c = 0; c < rows; c++) write_panel(sums + c * PANEL, outputs, out.y + c * out.stride, out.add);
        out.add = true;
        memset(sums, 0, size);
    };
    memset(sums, 0, size);
    for (int i = 0, end; i < n; i = end) {
        const int group = in.nonzero[i] / GROUP;
        for (end = i; end < n && in.nonzero[end] < (group + 1) * GROUP;) end++;
        if (group / GROUPS_AT_ONCE != at_once) add_to_y();
        at_once = group / GROUPS_AT_ONCE;
        for (int ahead = i + AHEAD_INT; ahead < end + AHEAD_INT && ahead < n; ahead++)
            prefetch_range(w + (size_t)in.nonzero[ahead] * BYTES, BYTES);
        const uint16_t* scale = scales + (size_t)group * PANEL;
        prefetch_range((const uint8_t*)(scale + AHEAD_SCALES * PANEL), PANEL * 2);
        group_rows<F>(listed_group<F>(w, in, rows, i, end), scale, in, group, rows, sums);
    }
    add_to_y();
}

// ---- More rows: groups are converted to blocks first.
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
        if (rows <= FEW_ROWS) {
            columns_few_int<F>(w, scales, in, rows, (float*)scratch, outputs, {y, out.stride, out.add});
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
