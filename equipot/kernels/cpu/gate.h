// Activations with their first and second derivatives, and what a gate does to the columns of one node.
// Before this text come T, W, DX and DY (columns of x and y); after it the loops over nodes.
typedef Vec<T, W> V;
template <typename S> struct Bits;
template <> struct Bits<float> {
    typedef int32_t type;
    static constexpr float magic = 12582912.0f, log2e = 1.44269504088896341f, high = 0.693359375f, low = -2.12194440e-4f,
                           least = -87.0f;
    static constexpr type bias = 127, mantissa = 23;
    enum { exp_terms = 8, log_terms = 9 };
};
template <> struct Bits<double> {
    typedef int64_t type;
    static constexpr double magic = 6755399441055744.0, log2e = 1.4426950408889634074, high = 6.93145751953125e-1,
                            low = 1.42860682030941723212e-6, least = -708.0;
    static constexpr type bias = 1023, mantissa = 52;
    enum { exp_terms = 14, log_terms = 18 };
};
typedef Bits<T> B;
typedef Vec<typename B::type, W> I;

template <typename To, typename From>
static inline To cast(From x) {
    To y;
    std::memcpy(&y, &x, sizeof y);
    return y;
}

static inline V all(T x) { return V{} + x; }

// exp(x) = 2^n (1 + p) for x <= 0: Cody and Waite's reduction, then p = exp(r) - 1 by its series, |r| <= log(2)/2.
static inline void exponential(V x, V& power, V& p) {
    x = x < all(B::least) ? all(B::least) : x;
    const V shifted = x * B::log2e + all(B::magic);
    const V n = shifted - all(B::magic);
    const V r = (x - n * B::high) - n * B::low;
    power = cast<V>((cast<I>(shifted) - cast<I>(all(B::magic)) + B::bias) << B::mantissa);
    V sum = all(1);
    for (int k = B::exp_terms - 1; k >= 2; --k) sum = all(1) + r * sum * (T(1) / T(k));
    p = r * sum;
}

static inline V absolute(V x) { return x < V{} ? -x : x; }

// s = 1/(1 + exp(-x)) and c = 1 - s, both to the last digits
static inline void logistic(V x, V& s, V& c) {
    V power, p;
    exponential(-absolute(x), power, p);
    const V u = power + power * p, larger = T(1) / (T(1) + u), smaller = u * larger;
    s = x < V{} ? smaller : larger;
    c = x < V{} ? larger : smaller;
}

struct Silu {
    static inline void at(V x, V& f, V& d, V& dd) {
        V s, c;
        logistic(x, s, c);
        f = x * s;
        d = s + f * c;
        dd = s * c * (T(2) + x * (c - s));
    }
};

struct Sigmoid {
    static inline void at(V x, V& f, V& d, V& dd) {
        V c;
        logistic(x, f, c);
        d = f * c;
        dd = d * (c - f);
    }
};

// tanh |x| = -e / (2 + e) with e = exp(-2|x|) - 1
struct Tanh {
    static inline void at(V x, V& f, V& d, V& dd) {
        V power, p;
        exponential(T(-2) * absolute(x), power, p);
        const V e = power * p + (power - T(1)), t = -e / (T(2) + e);
        f = x < V{} ? -t : t;
        d = (T(1) - t) * (T(1) + t);
        dd = T(-2) * f * d;
    }
};

// log(1 + exp x) - log 2, with log(1 + u) = 2 artanh(u / (2 + u)); x - log 2 beyond 20, as torch defines it
struct Ssp {
    static inline void at(V x, V& f, V& d, V& dd) {
        V power, p, c;
        exponential(-absolute(x), power, p);
        const V u = power + power * p, z = u / (T(2) + u), zz = z * z;
        V sum = V{};
        for (int k = B::log_terms - 1; k >= 0; --k) sum = sum * zz + all(T(1) / T(2 * k + 1));
        const V half = all(T(0.693147180559945309417232));
        f = x > all(20) ? x - half : (x < V{} ? V{} : x) + (T(2) * z * sum - half);
        logistic(x, d, c);
        dd = d * c;
        d = x > all(20) ? all(1) : d;
    }
};

static inline V some(const T* p, int count) {
    if (count >= W) return load<V>(p);
    T t[W] = {};
    for (int j = 0; j < count; ++j) t[j] = p[j];
    return load<V>(t);
}

static inline void put(T* p, V v, int count) {
    if (count >= W) return store(p, v);
    T t[W];
    store(t, v);
    for (int j = 0; j < count; ++j) p[j] = t[j];
}

// y = c f(x)
template <typename F>
static inline void scalars(const T* x, T* y, int count, T constant) {
    for (int k = 0; k < count; k += W) {
        V f, d, dd;
        F::at(some(x + k, count - k), f, d, dd);
        put(y + k, constant * f, count - k);
    }
}

template <typename F>
static inline void gated(const T* x, const T* g, T* y, int dim, int mul, T constant) {
    for (int k = 0; k < mul; k += W) {
        V f, d, dd;
        F::at(some(g + k, mul - k), f, d, dd);
        f *= constant;
        for (int m = 0; m < dim; ++m) put(y + m * mul + k, f * some(x + m * mul + k, mul - k), mul - k);
    }
}

template <typename F>
static inline void scalars_back(const T* gy, const T* x, T* gx, int count, T constant) {
    for (int k = 0; k < count; k += W) {
        V f, d, dd;
        F::at(some(x + k, count - k), f, d, dd);
        put(gx + k, constant * d * some(gy + k, count - k), count - k);
    }
}

template <typename F>
static inline void gated_back(const T* gy, const T* x, const T* g, T* gx, T* gg, int dim, int mul, T constant) {
    for (int k = 0; k < mul; k += W) {
        V f, d, dd, sum = V{};
        F::at(some(g + k, mul - k), f, d, dd);
        f *= constant;
        for (int m = 0; m < dim; ++m) {
            const V y = some(gy + m * mul + k, mul - k);
            sum += y * some(x + m * mul + k, mul - k);
            put(gx + m * mul + k, f * y, mul - k);
        }
        put(gg + k, constant * d * sum, mul - k);
    }
}

// With h the cotangent of gx: oy that of gy, ox that of x
template <typename F>
static inline void scalars_twice(const T* h, const T* gy, const T* x, T* oy, T* ox, int count, T constant) {
    for (int k = 0; k < count; k += W) {
        V f, d, dd;
        F::at(some(x + k, count - k), f, d, dd);
        const V t = constant * some(h + k, count - k);
        if (oy) put(oy + k, d * t, count - k);
        if (ox) put(ox + k, dd * t * some(gy + k, count - k), count - k);
    }
}

template <typename F>
static inline void gated_twice(const T* h, const T* hg, const T* gy, const T* x, const T* g, T* oy, T* ox, T* og,
                               int dim, int mul, T constant) {
    for (int k = 0; k < mul; k += W) {
        const int count = mul - k;
        V f, d, dd, straight = V{}, across = V{};
        F::at(some(g + k, count), f, d, dd);
        f *= constant;
        const V t = some(hg + k, count), slope = constant * d * t;
        for (int m = 0; m < dim; ++m) {
            const int at = m * mul + k;
            const V y = some(gy + at, count), xm = some(x + at, count), hm = some(h + at, count);
            if (oy) put(oy + at, f * hm + slope * xm, count);
            if (ox) put(ox + at, slope * y, count);
            straight += y * xm;
            across += y * hm;
        }
        if (og) put(og + k, constant * (d * across + dd * t * straight), count);
    }
}
