// The recurrence of one head for training, forward and backward; see training.h.
//
// In this file a state S is transposed: S[n * N + m] belongs to key n and value m, so every inner loop
// runs over contiguous values m.

template <int N>
static void transpose(const float* from, float* to) {
    for (int n = 0; n < N; n++)
        for (int m = 0; m < N; m++) to[n * N + m] = from[m * N + n];
}

template <int N>
static inline void decay_of(const float* log_decay, float* decay) {
#pragma omp simd
    for (int n = 0; n < N; n++) decay[n] = exponential(log_decay[n]);
}

// sa = S a.
template <int N>
static inline void read_state(const float* S, const float* a, float* sa) {
    constexpr int L = N / LANES;
    Floats total[L];
    for (int l = 0; l < L; l++) total[l] = zero();
    for (int n = 0; n < N; n++) {
        const Floats an = splat(a[n]);
        for (int l = 0; l < L; l++) total[l] = multiply_add(load(S + n * N + l * LANES), an, total[l]);
    }
    for (int l = 0; l < L; l++) store(sa + l * LANES, total[l]);
}

// Advance by the token at offset `o`, from state `from` to state `to`, which may be the same memory.
// If y is given, y = S r.
template <int N>
static inline void advance(const float* from, float* to, const TrainingInputs& in, int64_t o, const float* sa, float* y) {
    constexpr int L = N / LANES;
    Floats removed[L], v[L], read[L];
    for (int l = 0; l < L; l++) {
        removed[l] = load(sa + l * LANES);
        v[l] = load(in.v + o + l * LANES);
        read[l] = zero();
    }
    float decay[N];
    decay_of<N>(in.log_decay + o, decay);
    for (int n = 0; n < N; n++) {
        const Floats w = splat(decay[n]), k = splat(in.k[o + n]), b = splat(in.b[o + n]), r = splat(in.r[o + n]);
        for (int l = 0; l < L; l++) {
            const Floats decayed = multiply(load(from + n * N + l * LANES), w);
            const Floats s = multiply_add(v[l], k, multiply_add(removed[l], b, decayed));
            store(to + n * N + l * LANES, s);
            read[l] = multiply_add(s, r, read[l]);
        }
    }
    if (y)
        for (int l = 0; l < L; l++) store(y + l * LANES, read[l]);
}

template <int N>
static void forward_head(const TrainingForward& task, int64_t head, float* S) {
    const TrainingShape shape = task.shape;
    transpose<N>(task.state + head * N * N, S);
    for (int64_t t = 0; t < shape.tokens; t++) {
        const int64_t o = shape.offset(head, t);
        if (t % CHUNK == 0)
            memcpy(task.checkpoints + (head * shape.chunks() + t / CHUNK) * N * N, S, N * N * sizeof(float));
        read_state<N>(S, task.in.a + o, task.sa + o);
        advance<N>(S, S, task.in, o, task.sa + o, task.y + o);
    }
    transpose<N>(S, task.last + head * N * N);
}

// Go back by one token. D is dL/dS after the token on entry, before the token on return.
template <int N>
static inline void retreat(const float* before, const float* after, float* D, const TrainingBackward& g, int64_t o) {
    constexpr int L = N / LANES;
    const TrainingInputs& in = g.in;
    Floats dy[L], v[L], sa[L], dv[L], dsa[L];
    for (int l = 0; l < L; l++) {
        dy[l] = load(g.dy + o + l * LANES);
        v[l] = load(in.v + o + l * LANES);
        sa[l] = load(g.sa + o + l * LANES);
        dv[l] = dsa[l] = zero();
    }
    float decay[N];
    decay_of<N>(in.log_decay + o, decay);
    for (int n = 0; n < N; n++) {
        const Floats r = splat(in.r[o + n]), k = splat(in.k[o + n]), b = splat(in.b[o + n]);
        Floats dr = zero(), dk = zero(), db = zero(), dw = zero();
        for (int l = 0; l < L; l++) {
            const int at = n * N + l * LANES;
            const Floats d = multiply_add(dy[l], r, load(D + at));
            store(D + at, d);
            dr = multiply_add(load(after + at), dy[l], dr);
            dk = multiply_add(d, v[l], dk);
            db = multiply_add(d, sa[l], db);
            dw = multiply_add(d, load(before + at), dw);
            dv[l] = multiply_add(d, k, dv[l]);
            dsa[l] = multiply_add(d, b, dsa[l]);
        }
        float sums[4];
        sum4(dr, dk, db, dw, sums);
        g.dr[o + n] = sums[0];
        g.dk[o + n] = sums[1];
        g.db[o + n] = sums[2];
        g.dlog_decay[o + n] = sums[3] * decay[n];
    }
    for (int n = 0; n < N; n++) {
        const Floats w = splat(decay[n]), a = splat(in.a[o + n]);
        Floats da = zero();
        for (int l = 0; l < L; l++) {
            const int at = n * N + l * LANES;
            da = multiply_add(load(before + at), dsa[l], da);
            store(D + at, multiply_add(dsa[l], a, multiply(load(D + at), w)));
        }
        g.da[o + n] = sum(da);
    }
    for (int l = 0; l < L; l++) store(g.dv + o + l * LANES, dv[l]);
}

template <int N>
static void backward_head(const TrainingBackward& task, int64_t head, float* scratch) {
    const TrainingShape shape = task.shape;
    float *D = scratch, *states = D + N * N;
    transpose<N>(task.dlast + head * N * N, D);
    for (int64_t c = shape.chunks() - 1; c >= 0; c--) {
        const int64_t first = c * CHUNK;
        const int64_t count = shape.tokens - first < CHUNK ? shape.tokens - first : CHUNK;
        memcpy(states, task.checkpoints + (head * shape.chunks() + c) * N * N, N * N * sizeof(float));
        for (int64_t j = 0; j < count; j++) {
            const int64_t o = shape.offset(head, first + j);
            advance<N>(states + j * N * N, states + (j + 1) * N * N, task.in, o, task.sa + o, nullptr);
        }
        for (int64_t j = count - 1; j >= 0; j--)
            retreat<N>(states + j * N * N, states + (j + 1) * N * N, D, task, shape.offset(head, first + j));
    }
    transpose<N>(D, task.dstate + head * N * N);
}

static void train_forward(const TrainingForward& task, int64_t head, float* scratch) {
    switch (task.shape.head_size) {
        case 16: return forward_head<16>(task, head, scratch);
        case 32: return forward_head<32>(task, head, scratch);
        case 64: return forward_head<64>(task, head, scratch);
        case 128: return forward_head<128>(task, head, scratch);
    }
}

static void train_backward(const TrainingBackward& task, int64_t head, float* scratch) {
    switch (task.shape.head_size) {
        case 16: return backward_head<16>(task, head, scratch);
        case 32: return backward_head<32>(task, head, scratch);
        case 64: return backward_head<64>(task, head, scratch);
        case 128: return backward_head<128>(task, head, scratch);
    }
}
