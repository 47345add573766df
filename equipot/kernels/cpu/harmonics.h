// The work around the generated polynomials: W edges at a time, geometry in double, harmonics in T.
// Before this text come T, W, LM, V and harmonics(), gradient(), tangent(), lower().
typedef Vec<double, W> D;

struct Edges {
    D n[3], inverse, length;
    V u[3];
};

static inline void read3(const double* p, int edges, D* v, double other) {
    double t[3 * W];
    for (int e = 0; e < W; ++e)
        for (int a = 0; a < 3; ++a) t[a * W + e] = e < edges ? p[3 * e + a] : other;
    for (int a = 0; a < 3; ++a) v[a] = load<D>(t + a * W);
}

static inline void write3(double* p, int edges, const D* v) {
    double t[3 * W];
    for (int a = 0; a < 3; ++a) store(t + a * W, v[a]);
    for (int e = 0; e < edges; ++e)
        for (int a = 0; a < 3; ++a) p[3 * e + a] = t[a * W + e];
}

static inline void read_rows(const T* p, int edges, V* rows) {
    T t[LM * W];
    for (int e = 0; e < W; ++e)
        for (int m = 0; m < LM; ++m) t[m * W + e] = e < edges ? p[e * LM + m] : T(0);
    for (int m = 0; m < LM; ++m) rows[m] = load<V>(t + m * W);
}

static inline void write_rows(T* p, int edges, const V* rows) {
    T t[LM * W];
    for (int m = 0; m < LM; ++m) store(t + m * W, rows[m]);
    for (int e = 0; e < edges; ++e)
        for (int m = 0; m < LM; ++m) p[e * LM + m] = t[m * W + e];
}

static inline D read1(const double* p, int edges) {
    double t[W];
    for (int e = 0; e < W; ++e) t[e] = e < edges ? p[e] : 0.0;
    return load<D>(t);
}

static inline void write1(double* p, int edges, D x) {
    double t[W];
    store(t, x);
    for (int e = 0; e < edges; ++e) p[e] = t[e];
}

static inline D dot(const D* a, const D* b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }

template <typename To, typename From>
static inline To convert(From x) {
    if constexpr (W == 1) return To(x);
    else return __builtin_convertvector(x, To);
}

static inline Edges geometry(const double* vectors, int edges, double sign) {
    Edges g;
    D v[3];
    read3(vectors, edges, v, 1.0);
    double t[W];
    store(t, dot(v, v));
    for (int e = 0; e < W; ++e) t[e] = __builtin_sqrt(t[e]);
    g.length = load<D>(t);
    g.inverse = 1.0 / g.length;
    for (int a = 0; a < 3; ++a) g.n[a] = v[a] / g.length, g.u[a] = convert<V>(D(sign * g.n[a]));
    return g;
}

// (x − n (n·x)) / r
static inline void project(const Edges& g, const D* x, D* out) {
    const D along = dot(g.n, x);
    for (int a = 0; a < 3; ++a) out[a] = (x[a] - g.n[a] * along) * g.inverse;
}

static inline void to_double(const V* x, D* out) {
    for (int a = 0; a < 3; ++a) out[a] = convert<D>(x[a]);
}

extern "C" void forward(const double* vectors, int64_t count, double sign, double* lengths, T* Y, int threads) {
    in_even_pieces(threads, count, W, [&](int64_t begin, int64_t end) {
    for (int64_t first = begin; first < end; first += W) {
        const int edges = count - first < W ? int(count - first) : W;
        const Edges g = geometry(vectors + 3 * first, edges, sign);
        V y[LM];
        harmonics(g.u, y);
        write_rows(Y + first * LM, edges, y);
        write1(lengths + first, edges, g.length);
    }
    });
}

// gv = gl n + s P gu / r,   gu = (∂Y/∂u)ᵀ gY,   P = 1 − n nᵀ,   s the sign
extern "C" void backward(const double* gl, const T* gY, const double* vectors, int64_t count, double sign, double* gv,
                         int threads) {
    in_even_pieces(threads, count, W, [&](int64_t begin, int64_t end) {
    for (int64_t first = begin; first < end; first += W) {
        const int edges = count - first < W ? int(count - first) : W;
        const Edges g = geometry(vectors + 3 * first, edges, sign);
        D out[3] = {};
        if (gY) {
            V y[LM], cotangent[LM], gu[3];
            D x[3];
            harmonics(g.u, y);
            read_rows(gY + first * LM, edges, cotangent);
            gradient(y, cotangent, gu);
            to_double(gu, x);
            project(g, x, out);
            for (int a = 0; a < 3; ++a) out[a] *= sign;
        }
        if (gl) {
            const D along = read1(gl + first, edges);
            for (int a = 0; a < 3; ++a) out[a] += along * g.n[a];
        }
        write3(gv + 3 * first, edges, out);
    }
    });
}

// S = v'·gv = gl (n·v') + w·gu with w = s P v' / r:   gl' = n·v',   gY' = (∂Y/∂u) w,   and with q = ∂(w·gu)/∂u
// v' += gl P v' / r + s P q / r − s [n (v'·P gu) + P v' (n·gu) + P gu (n·v')] / r²
extern "C" void double_backward(const double* vv, const double* gl, const T* gY, const double* vectors, int64_t count,
                                double sign, double* ol, T* oY, double* ov, int threads) {
    in_even_pieces(threads, count, W, [&](int64_t begin, int64_t end) {
    for (int64_t first = begin; first < end; first += W) {
        const int edges = count - first < W ? int(count - first) : W;
        const Edges g = geometry(vectors + 3 * first, edges, sign);
        D t[3], across[3];
        read3(vv + 3 * first, edges, t, 0.0);
        project(g, t, across);
        const D along = dot(g.n, t);
        if (ol) write1(ol + first, edges, along);
        if (!oY && !ov) continue;
        V y[LM], w[3];
        harmonics(g.u, y);
        for (int a = 0; a < 3; ++a) w[a] = convert<V>(D(sign * across[a]));
        if (oY) {
            V out[LM];
            tangent(y, w, out);
            write_rows(oY + first * LM, edges, out);
        }
        if (!ov) continue;
        D out[3] = {};
        if (gl) {
            const D weight = read1(gl + first, edges);
            for (int a = 0; a < 3; ++a) out[a] += weight * across[a];
        }
        if (gY) {
            V cotangent[LM], below[LM], gu_[3], q_[3];
            D gu[3], q[3], gu_across[3], q_across[3];
            read_rows(gY + first * LM, edges, cotangent);
            gradient(y, cotangent, gu_);
            lower(cotangent, w, below);
            gradient(y, below, q_);
            to_double(gu_, gu);
            to_double(q_, q);
            project(g, gu, gu_across);
            project(g, q, q_across);
            const D both = dot(t, gu_across), gu_along = dot(g.n, gu);
            for (int a = 0; a < 3; ++a)
                out[a] += sign * (q_across[a]
                    - (g.n[a] * both + across[a] * gu_along + gu_across[a] * along) * g.inverse);
        }
        write3(ov + 3 * first, edges, out);
    }
    });
}
