// The one-particle basis: small matrix products for the neighbours of each species of every owned node. W divides the
// padded length of the rows that lie along the vector: n, or lm where gY is made.
// Before this text come T and W.
typedef Vec<T, W> V;

static int64_t padded(int64_t n) { return (n + W - 1) / W * W; }

static void copy(const T* from, int64_t count, int64_t room, T* to) {
    for (int64_t n = 0; n < count; ++n) to[n] = from[n];
    for (int64_t n = count; n < room; ++n) to[n] = T(0);
}

// out_r = sum_k x(r, k) B[k] for some rows r; B has `width` values in each row, whole vectors.
template <int Rows, typename X, typename Out>
static inline __attribute__((always_inline)) void multiply(int64_t row, const X& x, int64_t inner, const T* B, int64_t width,
                                                           const Out& out) {
    for (int64_t n = 0; n < width; n += W) {
        V sum[Rows] = {};
        for (int64_t k = 0; k < inner; ++k) {
            const V b = load<V>(B + k * width + n);
#pragma GCC unroll 8
            for (int r = 0; r < Rows; ++r) sum[r] += x(row + r, k) * b;
        }
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r) out(row + r, n, sum[r]);
    }
}

template <typename X, typename Out>
static void multiply(int64_t rows, const X& x, int64_t inner, const T* B, int64_t width, const Out& out) {
    int64_t r = 0;
    for (; r + 8 <= rows; r += 8) multiply<8>(r, x, inner, B, width, out);
    for (; r + 4 <= rows; r += 4) multiply<4>(r, x, inner, B, width, out);
    for (; r + 2 <= rows; r += 2) multiply<2>(r, x, inner, B, width, out);
    for (; r < rows; ++r) multiply<1>(r, x, inner, B, width, out);
}

// Writes a vector of a row of so many values.
static inline void put(T* row, int64_t n, int64_t count, V v) {
    if (n + W <= count) return store(row + n, v);
    T lanes[W];
    store(lanes, v);
    for (int64_t j = 0; n + j < count; ++j) row[n + j] = lanes[j];
}

struct Memory {
    std::vector<T> values;
    std::vector<int64_t> edges;

    T* take(int64_t count) {
        if (int64_t(values.size()) < count + 64) values.resize(count + 64);
        return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(values.data()) + 63) / 64 * 64);
    }
};

struct Shape {
    int64_t num_species, num_lm, num_n;
    int64_t block() const { return num_lm * num_n; }
};

// Calls work(node, species, its edges, memory) for every species, and for nodes without edges of it if `all`.
template <typename F>
static void for_species(const int64_t* species, const int64_t* starts, int64_t nodes, const Shape& s, int threads, const F& work) {
    in_even_pieces(threads, nodes, 1, [&](int64_t first, int64_t last) {
        static thread_local Memory own;
        for (int64_t i = first; i < last; ++i)
            for (int64_t z = 0; z < s.num_species; ++z) {
                own.edges.clear();
                for (int64_t e = starts[i]; e < starts[i + 1]; ++e)
                    if (species[e] == z) own.edges.push_back(e);
                work(i, z, own);
            }
    });
}

extern "C" void basis(const T* R, const T* Y, const int64_t* species, const int64_t* starts, T* A, int64_t nodes,
                      int64_t num_species, int64_t num_lm, int64_t num_n, int threads) {
    const Shape s = {num_species, num_lm, num_n};
    const int64_t P = padded(num_n);
    for_species(species, starts, nodes, s, threads, [&](int64_t i, int64_t z, Memory& own) {
        T* block = A + (i * num_species + z) * s.block();
        const int64_t count = own.edges.size(), *e = own.edges.data();
        if (count == 0) return void(std::memset(block, 0, s.block() * sizeof(T)));
        T* rows = own.take(count * P);
        for (int64_t k = 0; k < count; ++k) copy(R + e[k] * num_n, num_n, P, rows + k * P);
        multiply(num_lm, [&](int64_t lm, int64_t k) { return Y[e[k] * num_lm + lm]; }, count, rows, P,
                 [&](int64_t lm, int64_t n, V v) { put(block + lm * num_n, n, num_n, v); });
    });
}

extern "C" void radial(const T* gA, const T* Y, const int64_t* species, const int64_t* starts, T* gR, int64_t nodes,
                       int64_t num_species, int64_t num_lm, int64_t num_n, int threads) {
    const Shape s = {num_species, num_lm, num_n};
    const int64_t P = padded(num_n);
    for_species(species, starts, nodes, s, threads, [&](int64_t i, int64_t z, Memory& own) {
        const int64_t count = own.edges.size(), *e = own.edges.data();
        if (count == 0) return;
        const T* block = gA + (i * num_species + z) * s.block();
        T* rows = own.take(num_lm * P);
        for (int64_t lm = 0; lm < num_lm; ++lm) copy(block + lm * num_n, num_n, P, rows + lm * P);
        multiply(count, [&](int64_t r, int64_t lm) { return Y[e[r] * num_lm + lm]; }, num_lm, rows, P,
                 [&](int64_t r, int64_t n, V v) { put(gR + e[r] * num_n, n, num_n, v); });
    });
}

extern "C" void angular(const T* gA, const T* R, const int64_t* species, const int64_t* starts, T* gY, int64_t nodes,
                        int64_t num_species, int64_t num_lm, int64_t num_n, int threads) {
    const Shape s = {num_species, num_lm, num_n};
    const int64_t P = padded(num_lm);
    for_species(species, starts, nodes, s, threads, [&](int64_t i, int64_t z, Memory& own) {
        const int64_t count = own.edges.size(), *e = own.edges.data();
        if (count == 0) return;
        const T* block = gA + (i * num_species + z) * s.block();
        T* columns = own.take(num_n * P);
        for (int64_t n = 0; n < num_n; ++n)
            for (int64_t lm = 0; lm < P; ++lm) columns[n * P + lm] = lm < num_lm ? block[lm * num_n + n] : T(0);
        multiply(count, [&](int64_t r, int64_t n) { return R[e[r] * num_n + n]; }, num_n, columns, P,
                 [&](int64_t r, int64_t lm, V v) { put(gY + e[r] * num_lm, lm, num_lm, v); });
    });
}
