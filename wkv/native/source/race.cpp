// Samples tokens: exponential noise E divided by the probability p; the smallest quotient wins.
#include <math.h>
#include <stdint.h>

#include "interface.h"

namespace {

constexpr uint32_t MULTIPLY_A = 0xD2511F53, MULTIPLY_C = 0xCD9E8D57;  // of Philox4x32
constexpr uint32_t WEYL_A = 0x9E3779B9, WEYL_B = 0xBB67AE85;
constexpr int ROUNDS = 10, BLOCK = 64;  // counters at a time, each of which gives the words of four ids

// The words of the counters (first + i, position, choice, 0), as Philox4x32-10 defines them.
// Source: Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3.
void philox(uint32_t first, uint32_t position, uint32_t choice, uint64_t seed, uint32_t words[4][BLOCK]) {
    for (int i = 0; i < BLOCK; i++) {
        uint32_t a = first + (uint32_t)i, b = position, c = choice, d = 0;
        uint32_t key_a = (uint32_t)seed, key_b = (uint32_t)(seed >> 32);
        for (int round = 0; round < ROUNDS; round++) {
            const uint64_t x = (uint64_t)a * MULTIPLY_A, y = (uint64_t)c * MULTIPLY_C;
            a = (uint32_t)(y >> 32) ^ b ^ key_a;
            b = (uint32_t)y;
            c = (uint32_t)(x >> 32) ^ d ^ key_b;
            d = (uint32_t)x;
            key_a += WEYL_A;
            key_b += WEYL_B;
        }
        words[0][i] = a;
        words[1][i] = b;
        words[2][i] = c;
        words[3][i] = d;
    }
}

struct Winner {
    double quotient = INFINITY;
    int64_t token = -1;
};

// Whether any of the first `size` weights is positive.
bool any_positive(const float* p, int64_t size) {
    int found = 0;
    for (int64_t i = 0; i < size; i++) found |= p[i] > 0;
    return found;
}

// Compare the ids of one block with the best so far. E = -log1p(-u) is at least u, so the logarithm is needed
// only if u alone is small enough.
void compare(const float* p, int64_t begin, int64_t end, const uint32_t words[4][BLOCK], Winner& best) {
    constexpr double SLACK = 1 + 1e-12;  // covers the rounding of log1p
    for (int64_t token = begin; token < end; token++) {
        const double weight = p[token];
        if (!(weight > 0)) continue;
        const double u = (words[token & 3][(token - begin) >> 2] + 0.5) * 0x1p-32;
        if (u > best.quotient * weight * SLACK) continue;
        const double quotient = -log1p(-u) / weight;
        if (quotient < best.quotient) best = {quotient, token};
    }
}

// The sampled token of one row, or -1 if no weight is positive. Ties go to the lowest id.
int64_t race(const float* p, int64_t vocab, uint64_t seed, uint32_t choice, uint32_t position) {
    Winner best;
    uint32_t words[4][BLOCK];
    for (int64_t begin = 0; begin < vocab; begin += 4 * BLOCK) {
        const int64_t end = begin + 4 * BLOCK < vocab ? begin + 4 * BLOCK : vocab;
        if (!any_positive(p + begin, end - begin)) continue;
        philox((uint32_t)(begin / 4), position, choice, seed, words);
        compare(p, begin, end, words, best);
    }
    return best.token;
}

}  // namespace

// Sample a token for each row of p (rows, vocab), which is not changed; see wkv/inference/noise.py.
WKV_PUBLIC void wkv_race(int64_t rows, int64_t vocab, const float* p, const uint64_t* seeds, const int64_t* choices,
                         const int64_t* positions, int64_t* tokens) {
    for (int64_t row = 0; row < rows; row++)
        tokens[row] = race(p + row * vocab, vocab, seeds[row], (uint32_t)choices[row], (uint32_t)positions[row]);
}
