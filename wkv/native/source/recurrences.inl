// The recurrences of wkv/ops for one head; a head's state has the axes (value, key).

static inline float dot_product(const float* a, const float* b, const float* c, int n) {
    float total = 0;
#pragma omp simd reduction(+ : total)
    for (int i = 0; i < n; i++) total += a[i] * b[i] * c[i];
    return total;
}

// Advances channels [first, last).
static void wkv4(const Wkv4& task, int first, int last) {
    const Wkv4 s = task;  // a local copy, which cannot alias the outputs
    const int width = s.width;
    float *a = s.new_state, *b = a + width, *p = b + width;
    for (int part = 0; part < WKV4_STATE_ROWS; part++)
        memcpy(s.new_state + (size_t)part * width + first, s.state + (size_t)part * width + first,
               (last - first) * sizeof(float));
    for (int t = 0; t < s.tokens; t++) {
        const float *r = s.receptance + (size_t)t * width, *k = s.key + (size_t)t * width,
                    *v = s.value + (size_t)t * width;
        float* y = s.y + (size_t)t * width;
#pragma omp simd
        for (int i = first; i < last; i++) {
            const float now = s.bonus[i] + k[i], top = p[i] > now ? p[i] : now;
            const float old = exponential(p[i] - top), fresh = exponential(now - top);
            y[i] = logistic(r[i]) * (old * a[i] + fresh * v[i]) / (old * b[i] + fresh);
            const float kept = p[i] + s.log_decay[i], next = kept > k[i] ? kept : k[i];
            const float keep = exponential(kept - next), take = exponential(k[i] - next);
            a[i] = keep * a[i] + take * v[i];
            b[i] = keep * b[i] + take;
            p[i] = next;
        }
        for (int part = 0; s.kept && part < WKV4_STATE_ROWS; part++)
            memcpy(s.kept + ((size_t)t * WKV4_STATE_ROWS + part) * width + first,
                   s.new_state + (size_t)part * width + first, (last - first) * sizeof(float));
    }
}

// Prefetches the vectors of one head of a later token; hardware prefetchers miss this stride.
static inline void prefetch_token(std::initializer_list<const float*> rows, size_t at, int size) {
    for (const float* row : rows)
        for (int i = 0; row && i < size; i += 16) prefetch(row + at + i);
}
constexpr int TOKENS_AHEAD = 2;

// Returns whether a state should be written with streaming stores, which bypass the caches. After a
// single token, all weights pass through the caches before the state is read again.
static inline bool should_stream(int tokens, const float* state) {
    return tokens == 1 && reinterpret_cast<uintptr_t>(state) % 64 == 0;
}

// Copies vectors of one head to those that a run keeps of a token; `to` has `width` floats per vector.
static inline void keep(std::initializer_list<const float*> vectors, float* to, int width, int size) {
    for (const float* vector : vectors) {
        memcpy(to, vector, size * sizeof(float));
        to += width;
    }
}

// Updates four rows (values) of the state: y = S r ;  S <- S diag(w) + v k^T. Without OUTPUT, y and r are unused.
template <int SIZE, bool STREAMING, bool OUTPUT = true>
static inline void four_rows6(const float* old, float* S, int size, const float* w, const float* k,
                              const float* r, const float* v, float* y) {
    const int N = SIZE ? SIZE : size;
    Floats sums[4] = {zero(), zero(), zero(), zero()};
    for (int n = 0; n < N; n += LANES) {
        const Floats wn = load(w + n), kn = load(k + n), rn = OUTPUT ? load(r + n) : zero();
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            const Floats here = load(old + j * N + n);
            if (OUTPUT) sums[j] = multiply_add(here, rn, sums[j]);
            const Floats next = multiply_add(here, wn, multiply(splat(v[j]), kn));
            STREAMING ? store_streaming(S + j * N + n, next) : store(S + j * N + n, next);
        }
    }
    if (OUTPUT) sum4(sums[0], sums[1], sums[2], sums[3], y);
}

// y = S r + v (r . u k) ;  S <- S diag(w) + v k^T ;  also RWKV-5, with constant w. SIZE is the head
// size, or 0 for a size known only at run time.
template <int SIZE>
static void wkv6_sized(const Wkv6& task, int head, float* work) {
    const Wkv6 s = task;
    const int N = SIZE ? SIZE : s.size, from = head * N;
    float* w = work;
    const float* state = s.state + (size_t)from * N;
    float* S = s.new_state + (size_t)from * N;
    if (!s.decay_change) memcpy(w, s.decay + from, N * sizeof(float));
    const bool streaming = should_stream(s.tokens, S);
    for (int t = 0; t < s.tokens; t++, state = S) {
        const size_t at = (size_t)t * s.width + from;
        const float *r = s.receptance + at, *k = s.key + at, *v = s.value + at;
        float* y = s.y + at;
        if (t + TOKENS_AHEAD < s.tokens)
            prefetch_token({s.receptance, s.key, s.value, s.gate, s.decay_change, s.y},
                        at + (size_t)TOKENS_AHEAD * s.width, N);
        if (s.decay_change) {
#pragma omp simd
            for (int i = 0; i < N; i++)
                w[i] = exponential(-exponential(s.decay[from + i] + s.decay_change[at + i]));
        }
        if (s.kept && s.decay_change)
            keep({k, v, w}, s.kept + (size_t)t * KEPT6 * s.width + from, s.width, N);
        else if (s.kept)
            keep({k, v}, s.kept + (size_t)t * KEPT5 * s.width + from, s.width, N);
        const float now = dot_product(r, s.bonus + from, k, N);
        for (int i = 0; i < N; i += 4)
            streaming ? four_rows6<SIZE, true>(state + i * N, S + i * N, N, w, k, r, v + i, y + i)
                 : four_rows6<SIZE, false>(state + i * N, S + i * N, N, w, k, r, v + i, y + i);
#pragma omp simd
        for (int i = 0; i < N; i++) y[i] += v[i] * now;
        layer_norm(y, s.norm_weight + from, s.norm_bias + from, s.eps, N, y);
        if (!s.gate) continue;
        const float* g = s.gate + at;
#pragma omp simd
        for (int i = 0; i < N; i++) y[i] *= g[i] * logistic(g[i]);
    }
}

static void wkv6(const Wkv6& task, int head, float* work) {
    task.size == 64 && LANES > 1 ? wkv6_sized<64>(task, head, work) : wkv6_sized<0>(task, head, work);
    streaming_fence();
}

template <int SIZE>
static void replay6_sized(const Replay& s, int head) {
    const int N = SIZE ? SIZE : s.size, from = head * N, kept = s.decay ? KEPT5 : KEPT6;
    const float* state = s.state + (size_t)from * N;
    float* S = s.new_state + (size_t)from * N;
    for (int t = 0; t < s.tokens; t++, state = S) {
        const float *k = s.kept + (size_t)t * kept * s.width + from, *v = k + s.width;
        const float* w = s.decay ? s.decay + from : v + s.width;
        for (int i = 0; i < N; i += 4)
            four_rows6<SIZE, false, false>(state + i * N, S + i * N, N, w, k, nullptr, v + i, nullptr);
    }
}

static void replay6(const Replay& task, int head) {
    task.size == 64 && LANES > 1 ? replay6_sized<64>(task, head) : replay6_sized<0>(task, head);
}

// Updates four rows (values) of the state, in registers: S <- S diag(w) + (S kappa) b^T + v k^T ;  y = S r.
// Without OUTPUT, y and r are unused.
template <int SIZE, bool STREAMING, bool OUTPUT = true>
static inline void four_rows7(const float* old, float* S, int size, const float* w, const float* kappa,
                              const float* b, const float* k, const float* r, const float* v, float* y) {
    constexpr int VECTORS = (SIZE ? SIZE : LANES) / LANES;  // per row
    const int N = SIZE ? SIZE : size;
    Floats sums[4] = {zero(), zero(), zero(), zero()}, cached[4][VECTORS];
    float removed[4];
    for (int n = 0; n < N; n += LANES)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            const Floats here = load(old + j * N + n);
            if (SIZE) cached[j][SIZE ? n / LANES : 0] = here;
            sums[j] = multiply_add(here, load(kappa + n), sums[j]);
        }
    sum4(sums[0], sums[1], sums[2], sums[3], removed);
    for (auto& sum : sums) sum = zero();
    for (int n = 0; n < N; n += LANES) {
        const Floats wn = load(w + n), bn = load(b + n), kn = load(k + n), rn = OUTPUT ? load(r + n) : zero();
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            Floats next = multiply(SIZE ? cached[j][SIZE ? n / LANES : 0] : load(old + j * N + n), wn);
            next = multiply_add(splat(removed[j]), bn, multiply_add(splat(v[j]), kn, next));
            STREAMING ? store_streaming(S + j * N + n, next) : store(S + j * N + n, next);
            if (OUTPUT) sums[j] = multiply_add(next, rn, sums[j]);
        }
    }
    if (OUTPUT) sum4(sums[0], sums[1], sums[2], sums[3], y);
}

// S <- S diag(w) - (S kappa) (kappa a)^T + v k^T ;  y = S r.  SIZE is the head size, or 0.
template <int SIZE>
static void wkv7_sized(const Wkv7& task, int head, float* work) {
    const Wkv7 s = task;
    const int N = SIZE ? SIZE : s.size, from = head * N;
    float *w = work, *kappa = w + N, *b = kappa + N, *k = b + N, *v = k + N;
    const float* state = s.state + (size_t)from * N;
    float* S = s.new_state + (size_t)from * N;
    const bool streaming = should_stream(s.tokens, S);
    for (int t = 0; t < s.tokens; t++, state = S) {
        const size_t at = (size_t)t * s.width + from;
        const float* r = s.receptance + at;
        float* y = s.y + at;
        if (t + TOKENS_AHEAD < s.tokens)
            prefetch_token({s.receptance, s.key, s.value, s.decay, s.rate, s.gate, s.mix, s.value_first, s.y},
                        at + (size_t)TOKENS_AHEAD * s.width, N);
#pragma omp simd
        for (int i = 0; i < N; i++)
            w[i] = exponential(-0.60653066f * logistic(s.w0[from + i] + s.decay[at + i]));
#pragma omp simd
        for (int i = 0; i < N; i++) {
            const float a = logistic(s.a0[from + i] + s.rate[at + i]), key = s.key[at + i];
            kappa[i] = key * s.k_k[from + i];
            k[i] = key * (1.0f + (a - 1.0f) * s.k_a[from + i]);
            b[i] = a;
        }
        float length = 0;
#pragma omp simd reduction(+ : length)
        for (int i = 0; i < N; i++) length += kappa[i] * kappa[i];
        length = sqrtf(length);
        const float unit = -1.0f / (length > 1e-12f ? length : 1e-12f);
#pragma omp simd
        for (int i = 0; i < N; i++) {
            kappa[i] *= unit;
            b[i] *= -kappa[i];
        }
        if (s.mix) {
#pragma omp simd
            for (int i = 0; i < N; i++) {
                const float own = s.value[at + i];
                v[i] = own + (s.value_first[at + i] - own) * logistic(s.v0[from + i] + s.mix[at + i]);
            }
        } else {
            memcpy(v, s.value + at, N * sizeof(float));
            memcpy(s.value_first + at, v, N * sizeof(float));
        }
        if (s.kept) keep({k, v, w, kappa, b}, s.kept + (size_t)t * KEPT7 * s.width + from, s.width, N);
        for (int i = 0; i < N; i += 4)
            streaming ? four_rows7<SIZE, true>(state + i * N, S + i * N, N, w, kappa, b, k, r, v + i, y + i)
                 : four_rows7<SIZE, false>(state + i * N, S + i * N, N, w, kappa, b, k, r, v + i, y + i);
        layer_norm(y, s.norm_weight + from, s.norm_bias + from, s.eps, N, y);
        const float bonus = dot_product(r, s.r_k + from, k, N);
        const float* g = s.gate + at;
#pragma omp simd
        for (int i = 0; i < N; i++) y[i] = (y[i] + bonus * v[i]) * g[i];
    }
}

static void wkv7(const Wkv7& task, int head, float* work) {
    task.size == 64 && LANES > 1 ? wkv7_sized<64>(task, head, work) : wkv7_sized<0>(task, head, work);
    streaming_fence();
}

template <int SIZE>
static void replay7_sized(const Replay& s, int head) {
    const int N = SIZE ? SIZE : s.size, from = head * N;
    const float* state = s.state + (size_t)from * N;
    float* S = s.new_state + (size_t)from * N;
    for (int t = 0; t < s.tokens; t++, state = S) {
        const float *k = s.kept + (size_t)t * KEPT7 * s.width + from, *v = k + s.width, *w = v + s.width,
                    *kappa = w + s.width, *b = kappa + s.width;
        for (int i = 0; i < N; i += 4)
            four_rows7<SIZE, false, false>(state + i * N, S + i * N, N, w, kappa, b, k, nullptr, v + i, nullptr);
    }
}

static void replay7(const Replay& task, int head) {
    task.size == 64 && LANES > 1 ? replay7_sized<64>(task, head) : replay7_sized<0>(task, head);
}
