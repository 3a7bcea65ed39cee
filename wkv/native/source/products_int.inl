// Products with int8 and int4 weights, in blocks of 16 outputs, with int8 activations.
//
//   y[o] = sum over groups g of  scale[g, o] x_scale[g] sum over i in g of (w[i, o] - ZERO) x[i]
//
// A block stores all its weights, then all its scales:
//   int8   for each 4 inputs: 64 bytes, the 4 of output 0, the 4 of output 1, ...; w in 1..255
//   int4   for each 8 inputs: 64 bytes as above, the first 4 inputs in the low nibbles; w in 0..15
//   scales for each group: 16 bf16 numbers

template <Format F> constexpr int ZERO_POINT = F == INT8 ? 128 : 8;
template <Format F> constexpr size_t GROUP_BYTES = F == INT8 ? GROUP * BLOCK : GROUP * BLOCK / 2;

static inline int padded_to_groups(int inputs) { return (inputs + GROUP - 1) / GROUP * GROUP; }

// Rows of int8 activations, starting at a group.
struct Int8Rows {
    const int8_t* x;
    const float* scale;
    const int32_t* sum;
    size_t next_row, next_groups;

    Int8Rows(const Inputs& in, int row, int group)
        : x(in.int8 + (size_t)row * in.padded + (size_t)group * GROUP),
          scale(in.scale + (size_t)row * (in.padded / GROUP) + group),
          sum(in.sum + (size_t)row * (in.padded / GROUP) + group),
          next_row((size_t)in.padded), next_groups((size_t)in.padded / GROUP) {}
};

// A block, starting at a group. `ahead` points at the block that is needed next: each tile prefetches
// every `turns`-th of its groups, so that the tiles of a block share this work.
struct Block {
    const uint8_t* weights;
    const uint16_t* scales;
    size_t next_scales;
    int groups;
    int zero_point;
    const uint8_t* ahead = nullptr;
    int turn = 0, turns = 1;
    // Distance to the next block, of the weights and of the scales.
    size_t to_next = 0, to_next_scales = 0;

    void go(int blocks) {
        weights += blocks * to_next;
        scales += blocks * to_next_scales;
        if (ahead) ahead += blocks * to_next;
    }
};

// Sums of a group with an initial value.
template <Format F> static inline auto group_sums(int32_t start) {
    if constexpr (F == INT8) return integers(start);
    else return narrow_sums(start);
}

// Rows and blocks per tile, chosen so that the integer and float sums fill the registers. The last rows
// are one tile: up to INT_LAST rows, so that weights are unpacked once.
constexpr int INT_WIDE = LANES == 16 ? 6 : 4, INT_TALL = LANES == 16 ? 2 : 1, INT_LAST = LANES == 16 ? 8 : 4;

template <Format F, int B> static inline void prefetch_group(const Block& block, int group) {
    const ptrdiff_t distance = block.ahead - block.weights;
    for (int b = 0; b < B; b++) {
        const size_t next = b * block.to_next;
        for (size_t i = 0; i < GROUP_BYTES<F>; i += 64) prefetch(block.ahead + next + group * GROUP_BYTES<F> + i);
        prefetch((const uint8_t*)(block.scales + group * block.next_scales) + next + distance);
    }
}

// Multiplies B blocks by C rows.
template <Format F, int B, int C>
static inline void block_tile(const Block& block, const Int8Rows& in, Outputs out, int outputs) {
    Sixteen sums[B][C];
    for (auto& row : sums)
        for (Sixteen& sum : row) sum = sixteen_zero();
    const uint8_t* w = block.weights;
    for (int g = 0; g < block.groups; g++, w += GROUP_BYTES<F>) {
        if (block.ahead && g % block.turns == block.turn) prefetch_group<F, B>(block, g);
        const int8_t* x = in.x + g * GROUP;
        decltype(group_sums<F>(0)) parts[B][C];
        int32_t start[C];
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) {
            start[c] = ((F == INT8 ? WEIGHT_OFFSET : 0) - block.zero_point) * in.sum[c * in.next_groups + g];
#pragma GCC unroll 2
            for (int b = 0; b < B; b++) parts[b][c] = group_sums<F>(start[c]);
        }
#pragma GCC unroll 8
        for (int q = 0; q < (int)(GROUP_BYTES<F> / 64); q++) {
            Bytes v[B];
#pragma GCC unroll 2
            for (int b = 0; b < B; b++) v[b] = load_block(w + b * block.to_next + 64 * q);
            if constexpr (F == INT8) {
#pragma GCC unroll 8
                for (int c = 0; c < C; c++)
#pragma GCC unroll 2
                    for (int b = 0; b < B; b++)
                        parts[b][c] = dot(parts[b][c], v[b], x + c * in.next_row + 4 * q);
            } else {
                Bytes low[B], high[B];
#pragma GCC unroll 2
                for (int b = 0; b < B; b++) low[b] = low_halves(v[b]), high[b] = high_halves(v[b]);
#pragma GCC unroll 8
                for (int c = 0; c < C; c++)
#pragma GCC unroll 2
                    for (int b = 0; b < B; b++) {
                        parts[b][c] = dot_narrow(parts[b][c], low[b], x + c * in.next_row + 8 * q);
                        parts[b][c] = dot_narrow(parts[b][c], high[b], x + c * in.next_row + 8 * q + 4);
                    }
            }
        }
#pragma GCC unroll 2
        for (int b = 0; b < B; b++) {
            const Sixteen scale = sixteen_bf16(block.scales + b * block.to_next_scales + g * block.next_scales);
#pragma GCC unroll 8
            for (int c = 0; c < C; c++)
                sums[b][c] = sixteen_fma(to_integers(parts[b][c], start[c]), scale,
                                         in.scale[c * in.next_groups + g], sums[b][c]);
        }
    }
    for (int c = 0; c < C; c++)
        for (int b = 0; b < B; b++) {
            float* y = out.y + c * out.stride + b * BLOCK;
            const int n = outputs - b * BLOCK;
            if (n >= BLOCK) {
                sixteen_store(y, sums[b][c], out.add);
            } else {
                float all[BLOCK];
                sixteen_store(all, sums[b][c], false);
                for (int o = 0; o < n; o++) y[o] = out.add ? y[o] + all[o] : all[o];
            }
        }
}

// Multiplies B blocks by C rows, one block after the other if the sums of all would not fit the registers.
template <Format F, int B, int C>
static inline void block_tiles(Block block, const Int8Rows& in, Outputs out, int outputs) {
    if constexpr (B * C <= INT_TALL * INT_WIDE) {
        block_tile<F, B, C>(block, in, out, outputs);
    } else {
        for (int b = 0; b < B; b++, block.go(1))
            block_tile<F, 1, C>(block, in, {out.y + b * BLOCK, out.stride, out.add}, outputs - b * BLOCK);
    }
}

// Multiplies B blocks by rows [begin, end).
template <Format F, int B>
static inline void block_rows(Block block, const Inputs& in, int group, int begin, int end, Outputs out, int outputs) {
    int c = begin;
#define WKV_TILE(C)                                                                               \
    block_tiles<F, B, C>(block, Int8Rows(in, c, group), {out.y + c * out.stride, out.stride, out.add}, outputs)
#define WKV_LAST(C)                                                                               \
    case C:                                                                                       \
        if constexpr (C <= INT_LAST) WKV_TILE(C);                                                 \
        break;
    for (; end - c > INT_LAST; c += INT_WIDE, block.turn++) WKV_TILE(INT_WIDE);
    switch (end - c) {
        WKV_LAST(1)
        WKV_LAST(2)
        WKV_LAST(3)
        WKV_LAST(4)
        WKV_LAST(5)
        WKV_LAST(6)
        WKV_LAST(7)
        WKV_LAST(8)
    }
#undef WKV_LAST
#undef WKV_TILE
}
static inline int block_turns(int rows) {
    return rows <= INT_LAST ? 1 : 1 + (rows - INT_LAST + INT_WIDE - 1) / INT_WIDE;
}

// Multiplies consecutive blocks, INT_TALL at a time; the last may have fewer outputs.
template <Format F>
static inline void blocks_rows(Block block, const Inputs& in, int group, int begin, int end, Outputs out, int outputs) {
    for (; outputs > 0; outputs -= INT_TALL * BLOCK, out.y += INT_TALL * BLOCK) {
        outputs > BLOCK ? block_rows<F, INT_TALL>(block, in, group, begin, end, out, outputs)
                        : block_rows<F, 1>(block, in, group, begin, end, out, outputs);
        block.go(INT_TALL);
    }
}

// Outputs whose weights fit a core's cache while many rows are multiplied.
constexpr int OUTPUTS_AT_ONCE = 4 * BLOCK, MANY_ROWS = 64;

template <Format F>
static void block_product(const Matrix& m, const Inputs& in, int rows, int first, int last, Outputs out) {
    const int groups = padded_to_groups(m.inputs) / GROUP;
    const size_t weights = groups * GROUP_BYTES<F>, bytes = weights + (size_t)groups * BLOCK * 2;
    const bool many = rows > MANY_ROWS;
    const int step = many ? INT_WIDE : rows;
    for (int from = first; from < last; from += OUTPUTS_AT_ONCE) {
        const int outputs = last - from < OUTPUTS_AT_ONCE ? last - from : OUTPUTS_AT_ONCE;
        const uint8_t* w = m.weights + from / BLOCK * bytes;
        Block block{w, (const uint16_t*)(w + weights), BLOCK, groups, ZERO_POINT<F>};
        block.to_next = bytes;
        block.to_next_scales = bytes / 2;
        if (!many && from + OUTPUTS_AT_ONCE < last) {  // outputs beyond this task belong to the next
            block.ahead = w + INT_TALL * bytes;
            block.turns = block_turns(rows);
        }
        for (int c = 0; c < rows; c += step)
            blocks_rows<F>(block, in, 0, c, c + step < rows ? c + step : rows,
                           {out.y + from, out.stride, out.add}, outputs);
    }
}
