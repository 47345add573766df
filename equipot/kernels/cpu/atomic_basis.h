// The one-particle basis: for every owned node, its edges one after the other; n lies along the vector.
// Before this text come T and W, the values in one vector.
typedef Vec<T, W> V;

struct Shape {
    int64_t num_species, num_lm, num_n;
    int64_t padded() const { return (num_n + W - 1) / W * W; }
    int64_t rows() const { return num_species * num_lm; }
};

// Rows of num_n values with room for whole vectors, of which the rest is zero.
static void pad(const T* from, int64_t rows, const Shape& s, T* to) {
    const int64_t P = s.padded();
    for (int64_t r = 0; r < rows; ++r) {
        for (int64_t n = 0; n < s.num_n; ++n) to[r * P + n] = from[r * s.num_n + n];
        for (int64_t n = s.num_n; n < P; ++n) to[r * P + n] = T(0);
    }
}

static void unpad(const T* from, int64_t rows, const Shape& s, T* to) {
    const int64_t P = s.padded();
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t n = 0; n < s.num_n; ++n) to[r * s.num_n + n] = from[r * P + n];
}

static T* own_memory(int64_t values) {
    static thread_local std::vector<T> memory;
    if (int64_t(memory.size()) < values) memory.resize(values);
    return memory.data();
}

extern "C" void basis(const T* R, const T* Y, const int64_t* species, const int64_t* starts, T* A, int64_t nodes,
                      int64_t num_species, int64_t num_lm, int64_t num_n, int threads) {
    const Shape s = {num_species, num_lm, num_n};
    const int64_t P = s.padded(), size = s.rows() * P;
    in_even_pieces(threads, nodes, 1, [&](int64_t first, int64_t last) {
        T* sum = own_memory(size + P);
        T* radial = sum + size;
        for (int64_t i = first; i < last; ++i) {
            std::memset(sum, 0, size * sizeof(T));
            for (int64_t e = starts[i]; e < starts[i + 1]; ++e) {
                pad(R + e * num_n, 1, s, radial);
                T* block = sum + species[e] * num_lm * P;
                const T* y = Y + e * num_lm;
                for (int64_t n = 0; n < P; n += W) {
                    const V r = load<V>(radial + n);
                    for (int64_t lm = 0; lm < num_lm; ++lm) add(block + lm * P + n, V(y[lm] * r));
                }
            }
            unpad(sum, s.rows(), s, A + i * s.rows() * num_n);
        }
    });
}

extern "C" void radial(const T* gA, const T* Y, const int64_t* species, const int64_t* starts, T* gR, int64_t nodes,
                       int64_t num_species, int64_t num_lm, int64_t num_n, int threads) {
    const Shape s = {num_species, num_lm, num_n};
    const int64_t P = s.padded(), size = s.rows() * P;
    in_even_pieces(threads, nodes, 1, [&](int64_t first, int64_t last) {
        T* g = own_memory(size + P);
        T* sum = g + size;
        for (int64_t i = first; i < last; ++i) {
            if (starts[i] == starts[i + 1]) continue;
            pad(gA + i * s.rows() * num_n, s.rows(), s, g);
            for (int64_t e = starts[i]; e < starts[i + 1]; ++e) {
                const T* block = g + species[e] * num_lm * P;
                const T* y = Y + e * num_lm;
                for (int64_t n = 0; n < P; n += W) {
                    V total = {};
                    for (int64_t lm = 0; lm < num_lm; ++lm) total += y[lm] * load<V>(block + lm * P + n);
                    store(sum + n, total);
                }
                unpad(sum, 1, s, gR + e * num_n);
            }
        }
    });
}

extern "C" void angular(const T* gA, const T* R, const int64_t* species, const int64_t* starts, T* gY, int64_t nodes,
                        int64_t num_species, int64_t num_lm, int64_t num_n, int threads) {
    const Shape s = {num_species, num_lm, num_n};
    const int64_t P = s.padded(), size = s.rows() * P, products = (num_lm + W - 1) / W * W * W;
    in_even_pieces(threads, nodes, 1, [&](int64_t first, int64_t last) {
        T* g = own_memory(size + P + products);
        T *r = g + size, *rows = r + P;
        std::memset(rows, 0, products * sizeof(T));
        for (int64_t i = first; i < last; ++i) {
            if (starts[i] == starts[i + 1]) continue;
            pad(gA + i * s.rows() * num_n, s.rows(), s, g);
            for (int64_t e = starts[i]; e < starts[i + 1]; ++e) {
                const T* block = g + species[e] * num_lm * P;
                pad(R + e * num_n, 1, s, r);
                for (int64_t lm = 0; lm < num_lm; ++lm) {
                    V total = {};
                    for (int64_t n = 0; n < P; n += W) total += load<V>(r + n) * load<V>(block + lm * P + n);
                    store(rows + lm * W, total);
                }
                sum_rows<T, W>(rows, num_lm, gY + e * num_lm);
            }
        }
    });
}
