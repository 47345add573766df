// Vectors of the compiler's own (GCC and Clang), and sums over their lanes.
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

template <typename T, int N>
struct VectorOf {
    typedef T type __attribute__((vector_size(N * sizeof(T)), aligned(sizeof(T)), may_alias));
};
template <typename T>
struct VectorOf<T, 1> {
    typedef T type;
};
template <typename T, int N>
using Vec = typename VectorOf<T, N>::type;

template <typename V, typename T>
static inline __attribute__((always_inline)) V load(const T* p) {
    return *reinterpret_cast<const V*>(p);
}
template <typename V, typename T>
static inline __attribute__((always_inline)) void store(T* p, V v) {
    *reinterpret_cast<V*>(p) = v;
}

template <typename V, typename T>
static inline __attribute__((always_inline)) void add(T* p, V v) {
    store(p, V(load<V>(p) + v));
}

// a and b interleaved and halved: lane 2i holds a[i] + a[i + N/2], lane 2i+1 the same of b.
template <typename T, int N, int... I>
static inline __attribute__((always_inline)) Vec<T, N> fold(Vec<T, N> a, Vec<T, N> b, std::integer_sequence<int, I...>) {
    return __builtin_shufflevector(a, b, ((I / 2) + (I % 2) * N)...)
         + __builtin_shufflevector(a, b, ((I / 2) + (I % 2) * N + N / 2)...);
}

// Sums over the lanes of `Rows` vectors that lie `Stride` vectors apart: lane j of the result belongs to row j modulo Rows.
template <typename T, int N, int Rows, int Stride>
static inline __attribute__((always_inline)) Vec<T, N> lane_sums(const T* rows) {
    if constexpr (Rows == 1) {
        return load<Vec<T, N>>(rows);
    } else {
        return fold<T, N>(lane_sums<T, N, Rows / 2, 2 * Stride>(rows),
                          lane_sums<T, N, Rows / 2, 2 * Stride>(rows + Stride * N),
                          std::make_integer_sequence<int, N>());
    }
}

// out[r] = sum over the lanes of row r, for rows of N lanes each; there must be memory for a multiple of N rows.
template <typename T, int N>
static inline __attribute__((always_inline)) void sum_rows(const T* rows, int count, T* out) {
    if constexpr (N == 1) {
        for (int r = 0; r < count; ++r) out[r] = rows[r];
    } else {
        for (int r = 0; r < count; r += N) {
            T sums[N];
            store(sums, lane_sums<T, N, N, 1>(rows + r * N));
            for (int j = 0; j < N && r + j < count; ++j) out[r + j] = sums[j];
        }
    }
}

// The six rows of a table of quintic B-splines around u, and their weights in the value and in the slope.
template <typename T>
struct Spline {
    const T* row;
    T value[6], slope[6];

    Spline(const T* table, int64_t rows, int64_t width, double u, const double (&pieces)[6][6]) {
        int64_t first = u > 0.0 ? int64_t(u) : 0;
        first = first > rows - 6 ? rows - 6 : first;
        const double t = u - double(first);
        row = table + first * width;
        for (int q = 0; q < 6; ++q) {
            double y = 0.0, d = 0.0;
            for (int k = 5; k >= 0; --k) {
                d = d * t + y;
                y = y * t + pieces[q][k];
            }
            value[q] = T(y);
            slope[q] = T(d);
        }
    }

    // out[k] = sum_q w[q] row[q * width + k]
    template <int W>
    void blend(const T (&w)[6], int64_t width, T* out) const {
        int64_t k = 0;
        for (; k + W <= width; k += W) store(out + k, blended<Vec<T, W>>(w, width, k));
        for (; k < width; ++k) out[k] = blended<T>(w, width, k);
    }

    // sum_k g[k] sum_q w[q] row[q * width + k], for weights that add up to zero: by parts, because differences of
    // neighbouring rows are small and nearly exact.
    template <int W>
    T dot(const T (&w)[6], int64_t width, const T* g) const {
        typedef Vec<T, W> V;
        const T v[5] = {-w[0], -w[0] - w[1], -w[0] - w[1] - w[2], w[4] + w[5], w[5]};
        V sum = {};
        int64_t k = 0;
        for (; k + W <= width; k += W) sum += load<V>(g + k) * differences<V>(v, width, k);
        T lanes[W], total = T(0);
        store(lanes, sum);
        for (int i = 0; i < W; ++i) total += lanes[i];
        for (; k < width; ++k) total += g[k] * differences<T>(v, width, k);
        return total;
    }

  private:
    template <typename V>
    inline __attribute__((always_inline)) V blended(const T (&w)[6], int64_t width, int64_t k) const {
        V y = w[0] * load<V>(row + k);
        for (int q = 1; q < 6; ++q) y += w[q] * load<V>(row + q * width + k);
        return y;
    }

    template <typename V>
    inline __attribute__((always_inline)) V differences(const T (&v)[5], int64_t width, int64_t k) const {
        V last = load<V>(row + k), y = {};
        for (int q = 0; q < 5; ++q) {
            const V next = load<V>(row + (q + 1) * width + k);
            y += v[q] * (next - last);
            last = next;
        }
        return y;
    }
};

// Receivers first .. last of one of `parts` shares of equal numbers of edges.
static inline int64_t share_begin(const int64_t* starts, int64_t num_nodes, int64_t part, int64_t parts) {
    if (part <= 0) return 0;
    if (part >= parts) return num_nodes;
    const int64_t wanted = starts[0] + (starts[num_nodes] - starts[0]) * part / parts;
    int64_t low = 0, high = num_nodes;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (starts[middle] < wanted) low = middle + 1; else high = middle;
    }
    return low;
}

// Rows that several parts of the work add to: the first in place, the others in memory of their own for the rows that
// they touch, added afterwards in a fixed order.
template <typename T>
struct Partial {
    std::vector<std::vector<T>> own;
    std::vector<T*> rows;
    std::vector<int64_t> first;
    int64_t width;

    Partial(int parts, int64_t width) : own(parts), rows(parts, nullptr), first(parts, 0), width(width) {}

    void make(int part, const int64_t* index, int64_t begin, int64_t end, T* shared) {
        rows[part] = shared;
        if (part == 0 || begin == end) return;
        int64_t low = index[begin], high = index[begin];
        for (int64_t e = begin; e < end; ++e) {
            low = index[e] < low ? index[e] : low;
            high = index[e] > high ? index[e] : high;
        }
        first[part] = low;
        own[part].assign((high - low + 1) * width, T(0));
        rows[part] = own[part].data();
    }

    void add_to(T* shared, int threads) {
        for (size_t part = 1; part < own.size(); ++part) {
            const int64_t size = own[part].size();
            T* target = shared + first[part] * width;
            const T* source = own[part].data();
            in_even_pieces(threads, size, 1024, [&](int64_t begin, int64_t end) {
                for (int64_t n = begin; n < end; ++n) target[n] += source[n];
            });
        }
    }
};
