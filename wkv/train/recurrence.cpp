// The RWKV-7 recurrence and its gradient for one batch, in float32, on the CPU.
//
//     S <- S diag(exp(log_decay)) + (S a) b^T + v k^T ;   y = S r          S has axes (value, key)
//
// Inside this file S is kept transposed, key by key (S[n * N + m], key n, value m): then every
// inner loop runs over contiguous values m, in vectors of 16 (a GCC and clang extension that works
// on every processor: where 512 bits are too wide, the compiler splits them).
// The backward pass keeps S only at the start of every CHUNK tokens and recomputes it in between.
// Tensors are contiguous: r, log_decay, k, v, a, b, y are (B, T, H, N), states are (B, H, N, N).

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int CHUNK = 16;

constexpr int WIDTH = 16;
typedef float Vector __attribute__((vector_size(WIDTH * sizeof(float))));

inline Vector load(const float *from) {
    Vector x;
    std::memcpy(&x, from, sizeof x);
    return x;
}

inline void store(float *to, Vector x) { std::memcpy(to, &x, sizeof x); }

// Halving keeps the sum in vectors; a loop over the lanes would be done one by one.
inline float sum(Vector x) {
    typedef float Half __attribute__((vector_size(WIDTH * sizeof(float) / 2)));
    typedef float Quarter __attribute__((vector_size(WIDTH * sizeof(float) / 4)));
    Half halves[2];
    std::memcpy(halves, &x, sizeof x);
    const Half half = halves[0] + halves[1];
    Quarter quarters[2];
    std::memcpy(quarters, &half, sizeof half);
    const Quarter quarter = quarters[0] + quarters[1];
    return (quarter[0] + quarter[1]) + (quarter[2] + quarter[3]);
}

struct Shape {
    int64_t batch, tokens, heads;
    int64_t chunks() const { return (tokens + CHUNK - 1) / CHUNK; }
    // Offset of head `head` (counted over the batch) at token t.
    int64_t at(int64_t head, int64_t t, int N) const {
        return (((head / heads) * tokens + t) * heads + head % heads) * N;
    }
};

struct Inputs {
    const float *r, *log_decay, *k, *v, *a, *b;
};

struct Gradients {
    float *r, *log_decay, *k, *v, *a, *b, *state;
};

template <int N>
void transpose(const float *from, float *to) {
    for (int n = 0; n < N; n++)
        for (int m = 0; m < N; m++) to[n * N + m] = from[m * N + n];
}

// sa = S a: how much of the old state the replacement rule reads.
template <int N>
inline void read_state(const float *S, const float *a, float *sa) {
    constexpr int L = N / WIDTH;
    Vector total[L] = {};
    for (int n = 0; n < N; n++)
        for (int l = 0; l < L; l++) total[l] += load(S + n * N + l * WIDTH) * a[n];
    for (int l = 0; l < L; l++) store(sa + l * WIDTH, total[l]);
}

// One token: `to` = the state after it (may be `from` itself). y = S r when y is given.
template <int N>
inline void advance(const float *from, float *to, const Inputs &in, int64_t o, const float *sa, float *y) {
    constexpr int L = N / WIDTH;
    Vector old[L], v[L], read[L] = {};
    for (int l = 0; l < L; l++) {
        old[l] = load(sa + l * WIDTH);
        v[l] = load(in.v + o + l * WIDTH);
    }
    float decay[N];
    for (int n = 0; n < N; n++) decay[n] = std::exp(in.log_decay[o + n]);
    for (int n = 0; n < N; n++) {
        const float w = decay[n], k = in.k[o + n], b = in.b[o + n], r = in.r[o + n];
        for (int l = 0; l < L; l++) {
            const Vector s = load(from + n * N + l * WIDTH) * w + old[l] * b + v[l] * k;
            store(to + n * N + l * WIDTH, s);
            read[l] += s * r;
        }
    }
    if (y)
        for (int l = 0; l < L; l++) store(y + l * WIDTH, read[l]);
}

template <int N>
void forward_head(const Shape &shape, int64_t head, const Inputs &in, const float *state, float *y,
                  float *sa, float *checkpoints, float *last) {
    alignas(64) float S[N * N];
    transpose<N>(state + head * N * N, S);
    for (int64_t t = 0; t < shape.tokens; t++) {
        const int64_t o = shape.at(head, t, N);
        if (t % CHUNK == 0)
            std::memcpy(checkpoints + (head * shape.chunks() + t / CHUNK) * N * N, S, sizeof S);
        read_state<N>(S, in.a + o, sa + o);
        advance<N>(S, S, in, o, sa + o, y + o);
    }
    transpose<N>(S, last + head * N * N);
}

// One token backwards. D holds dL/dS after the token on entry and before it on return.
template <int N>
inline void retreat(const float *before, const float *after, float *D, const Inputs &in, int64_t o,
                    const float *saved_sa, const float *dy_at, const Gradients &g) {
    constexpr int L = N / WIDTH;
    Vector dy[L], v[L], sa[L], dv[L] = {}, dsa[L] = {};
    for (int l = 0; l < L; l++) {
        dy[l] = load(dy_at + o + l * WIDTH);
        v[l] = load(in.v + o + l * WIDTH);
        sa[l] = load(saved_sa + o + l * WIDTH);
    }
    for (int n = 0; n < N; n++) {
        const float r = in.r[o + n], k = in.k[o + n], b = in.b[o + n];
        Vector dr = {}, dk = {}, db = {}, dw = {};
        for (int l = 0; l < L; l++) {
            const int at = n * N + l * WIDTH;
            const Vector d = load(D + at) + dy[l] * r;
            store(D + at, d);
            dr += load(after + at) * dy[l];
            dk += d * v[l];
            db += d * sa[l];
            dw += d * load(before + at);
            dv[l] += d * k;
            dsa[l] += d * b;
        }
        g.r[o + n] = sum(dr);
        g.k[o + n] = sum(dk);
        g.b[o + n] = sum(db);
        g.log_decay[o + n] = sum(dw);
    }
    float decay[N];
    for (int n = 0; n < N; n++) decay[n] = std::exp(in.log_decay[o + n]);
    for (int n = 0; n < N; n++) g.log_decay[o + n] *= decay[n];
    for (int n = 0; n < N; n++) {
        const float w = decay[n], a = in.a[o + n];
        Vector da = {};
        for (int l = 0; l < L; l++) {
            const int at = n * N + l * WIDTH;
            da += load(before + at) * dsa[l];
            store(D + at, load(D + at) * w + dsa[l] * a);
        }
        g.a[o + n] = sum(da);
    }
    for (int l = 0; l < L; l++) store(g.v + o + l * WIDTH, dv[l]);
}

template <int N>
void backward_head(const Shape &shape, int64_t head, const Inputs &in, const float *sa,
                   const float *checkpoints, const float *dy, const float *dlast, const Gradients &g) {
    alignas(64) float D[N * N];
    std::vector<float> states((CHUNK + 1) * N * N);
    transpose<N>(dlast + head * N * N, D);
    for (int64_t c = shape.chunks() - 1; c >= 0; c--) {
        const int64_t first = c * CHUNK;
        const int64_t count = shape.tokens - first < CHUNK ? shape.tokens - first : CHUNK;
        std::memcpy(states.data(), checkpoints + (head * shape.chunks() + c) * N * N, sizeof D);
        for (int64_t j = 0; j < count; j++) {
            const int64_t o = shape.at(head, first + j, N);
            advance<N>(&states[j * N * N], &states[(j + 1) * N * N], in, o, sa + o, nullptr);
        }
        for (int64_t j = count - 1; j >= 0; j--)
            retreat<N>(&states[j * N * N], &states[(j + 1) * N * N], D, in,
                       shape.at(head, first + j, N), sa, dy, g);
    }
    transpose<N>(D, g.state + head * N * N);
}

template <int N>
void forward(const Shape &shape, const Inputs &in, const float *state, float *y, float *sa,
             float *checkpoints, float *last, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t head = 0; head < shape.batch * shape.heads; head++)
        forward_head<N>(shape, head, in, state, y, sa, checkpoints, last);
}

template <int N>
void backward(const Shape &shape, const Inputs &in, const float *sa, const float *checkpoints,
              const float *dy, const float *dlast, const Gradients &g, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t head = 0; head < shape.batch * shape.heads; head++)
        backward_head<N>(shape, head, in, sa, checkpoints, dy, dlast, g);
}

}  // namespace

extern "C" {

int chunk_length() { return CHUNK; }

// Both return 0, or 1 when the head size is not one this file was compiled for.
int wkv7_forward(int64_t B, int64_t T, int64_t H, int64_t N, int threads, const float *r,
                 const float *log_decay, const float *k, const float *v, const float *a,
                 const float *b, const float *state, float *y, float *sa, float *checkpoints,
                 float *last) {
    const Shape shape{B, T, H};
    const Inputs in{r, log_decay, k, v, a, b};
    switch (N) {
        case 16: forward<16>(shape, in, state, y, sa, checkpoints, last, threads); return 0;
        case 32: forward<32>(shape, in, state, y, sa, checkpoints, last, threads); return 0;
        case 64: forward<64>(shape, in, state, y, sa, checkpoints, last, threads); return 0;
        case 128: forward<128>(shape, in, state, y, sa, checkpoints, last, threads); return 0;
        default: return 1;
    }
}

int wkv7_backward(int64_t B, int64_t T, int64_t H, int64_t N, int threads, const float *r,
                  const float *log_decay, const float *k, const float *v, const float *a,
                  const float *b, const float *sa, const float *checkpoints, const float *dy,
                  const float *dlast, float *dr, float *dlog_decay, float *dk, float *dv, float *da,
                  float *db, float *dstate) {
    const Shape shape{B, T, H};
    const Inputs in{r, log_decay, k, v, a, b};
    const Gradients g{dr, dlog_decay, dk, dv, da, db, dstate};
    switch (N) {
        case 16: backward<16>(shape, in, sa, checkpoints, dy, dlast, g, threads); return 0;
        case 32: backward<32>(shape, in, sa, checkpoints, dy, dlast, g, threads); return 0;
        case 64: backward<64>(shape, in, sa, checkpoints, dy, dlast, g, threads); return 0;
        case 128: backward<128>(shape, in, sa, checkpoints, dy, dlast, g, threads); return 0;
        default: return 1;
    }
}
}
