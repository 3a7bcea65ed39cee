// Products with int8 and int4 weights, in blocks of 16 outputs, with int8 activations.
//
//   y[o] = sum over groups g of  scale[g, o] x_scale[g] sum over i in g of (w[i, o] - ZERO) x[i]
//
// A block holds all its weights, then all its scales:
//   int8   for each 4 inputs: 64 bytes, the 4 of output 0, the 4 of output 1, ...; w in 1..255
//   int4   for each 8 inputs: 64 bytes as above, the first 4 inputs in the low halves; w in 0..15
//   scales for each group: 16 numbers of bf16

template <Format F> constexpr int ZERO_POINT = F == INT8 ? 128 : 8;
template <Format F> constexpr size_t GROUP_BYTES = F == INT8 ? GROUP * BLOCK : GROUP * BLOCK / 2;

static inline int padded_to_groups(int inputs) { return (inputs + GROUP - 1) / GROUP * GROUP; }

// Rows of int8 activations, from some group on.
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

// A block, from some group on. `ahead` is memory that is needed next: every `turns`-th of its
// groups is fetched, so that the tiles of a block share the fetching of the next one.
struct Block {
    const uint8_t* weights;
    const uint16_t* scales;
    size_t next_scales;
    int groups;
    int zero_point;
    const uint8_t* ahead = nullptr;
    int turn = 0, turns = 1;
};

// The sums of a group, from a start on.
template <Format F> static inline auto group_sums(int32_t start) {
    if constexpr (F == INT8) return integers(start);
    else return small(start);
}

template <Format F> static inline void fetch_group(const Block& block, int group) {
    const ptrdiff_t away = block.ahead - block.weights;
    for (size_t i = 0; i < GROUP_BYTES<F>; i += 64) prefetch(block.ahead + group * GROUP_BYTES<F> + i);
    prefetch((const uint8_t*)(block.scales + group * block.next_scales) + away);
}

template <Format F, int C>
static inline void block_tile(const Block& block, const Int8Rows& in, Outputs out, int outputs) {
    Sixteen sums[C];
    for (int c = 0; c < C; c++) sums[c] = sixteen_zero();
    const uint8_t* w = block.weights;
    for (int g = 0; g < block.groups; g++, w += GROUP_BYTES<F>) {
        if (block.ahead && g % block.turns == block.turn)
            fetch_group<F>(block, g);
        const int8_t* x = in.x + g * GROUP;
        decltype(group_sums<F>(0)) parts[C];
        int32_t start[C];
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) {
            start[c] = ((F == INT8 ? TAKEN_OFF : 0) - block.zero_point) * in.sum[c * in.next_groups + g];
            parts[c] = group_sums<F>(start[c]);
        }
#pragma GCC unroll 8
        for (int q = 0; q < (int)(GROUP_BYTES<F> / 64); q++) {
            const Bytes v = load_block(w + 64 * q);
            if constexpr (F == INT8) {
#pragma GCC unroll 8
                for (int c = 0; c < C; c++) parts[c] = dot(parts[c], v, x + c * in.next_row + 4 * q);
            } else {
                const Bytes low = low_halves(v), high = high_halves(v);
#pragma GCC unroll 8
                for (int c = 0; c < C; c++) {
                    parts[c] = dot_small(parts[c], low, x + c * in.next_row + 8 * q);
                    parts[c] = dot_small(parts[c], high, x + c * in.next_row + 8 * q + 4);
                }
            }
        }
        const Sixteen scale = sixteen_bf16(block.scales + g * block.next_scales);
#pragma GCC unroll 8
        for (int c = 0; c < C; c++)
            sums[c] = sixteen_fma(whole(parts[c], start[c]), scale, in.scale[c * in.next_groups + g], sums[c]);
    }
    for (int c = 0; c < C; c++) {
        float* y = out.y + c * out.stride;
        if (outputs == BLOCK) {
            sixteen_store(y, sums[c], out.add);
        } else {
            float all[BLOCK];
            sixteen_store(all, sums[c], false);
            for (int o = 0; o < outputs; o++) y[o] = out.add ? y[o] + all[o] : all[o];
        }
    }
}

constexpr int INT_WIDE = LANES == 16 ? 8 : 4;

// Rows [begin, end) through a block; fewer than INT_WIDE remain in tiles of 4, 2 and 1.
template <Format F>
static inline void block_rows(Block block, const Inputs& in, int group, int begin, int end, Outputs out, int outputs) {
    int c = begin;
#define WKV_TILES(C)                                                                              \
    for (; c + C <= end; c += C)                                                                  \
        block_tile<F, C>(block, Int8Rows(in, c, group),                                           \
                         {out.y + c * out.stride, out.stride, out.add}, outputs),                 \
            block.turn++;
    WKV_TILES(INT_WIDE)
    if (INT_WIDE > 4) { WKV_TILES(4) }
    if (INT_WIDE > 2) { WKV_TILES(2) }
    WKV_TILES(1)
#undef WKV_TILES
}

// So many blocks stay in a core's cache while many rows pass.
constexpr int BLOCKS_AT_ONCE = 4, MANY_ROWS = 64;

template <Format F>
static void block_product(const Matrix& m, const Inputs& in, int rows, int first, int last, Outputs out) {
    const int padded = padded_to_groups(m.inputs), groups = padded / GROUP;
    const size_t weights = groups * GROUP_BYTES<F>, bytes = weights + (size_t)groups * BLOCK * 2;
    const int end = (last + BLOCK - 1) / BLOCK;
    const bool many = rows > MANY_ROWS;
    const int blocks = many ? BLOCKS_AT_ONCE : 1, step = many ? INT_WIDE : rows;
    for (int from = first / BLOCK; from < end; from += blocks)
        for (int c = 0; c < rows; c += step)
            for (int b = from; b < from + blocks && b < end; b++) {
                const uint8_t* w = m.weights + b * bytes;
                const int outputs = m.outputs - b * BLOCK < BLOCK ? m.outputs - b * BLOCK : BLOCK;
                Block block{w, (const uint16_t*)(w + weights), BLOCK, groups, ZERO_POINT<F>};
                // What lies after the last block of a task is the next task's, or nobody's.
                if (!many && b + 1 < end) {
                    block.ahead = w + bytes;
                    block.turns = (rows + INT_WIDE - 1) / INT_WIDE;
                }
                block_rows<F>(block, in, 0, c, c + step < rows ? c + step : rows,
                              {out.y + b * BLOCK, out.stride, out.add}, outputs);
            }
}
