// Coefficients of splines from values at the knots, and the transpose: substitutions with the two factors of a band matrix
// of D diagonals on either side. Before this text come T, LANES and DEGREE.
constexpr int D = DEGREE - 1, BEFORE = (DEGREE + 1) / 2, BEYOND = DEGREE + 1;

// x = factor (x - sum_k weights[k * apart] row_k), the rows `step` apart from `row` on.
template <typename V>
static inline void eliminate(T* x, const T* row, int64_t step, int count, const double* weights, int64_t apart,
                             double factor) {
    V sum = load<V>(x);
    for (int k = 0; k < count; ++k) sum -= T(weights[k * apart]) * load<V>(row + k * step);
    store(x, V(T(factor) * sum));
}

// The same for all columns; rows are `columns` wide, and the others lie above x (up = -1) or below it (1).
static inline void eliminate(T* x, int64_t columns, int up, int count, const double* weights, int64_t apart, double factor) {
    const int64_t step = up * columns;
    int64_t c = 0;
    for (; c + LANES <= columns; c += LANES)
        eliminate<Vec<T, LANES>>(x + c, x + step + c, step, count, weights, apart, factor);
    for (; c < columns; ++c) eliminate<Vec<T, 1>>(x + c, x + step + c, step, count, weights, apart, factor);
}

// In place, x <- A^-1 x = U^-1 L^-1 x, or the transpose, L^-T U^-T x.
template <bool Transposed>
static void substitute(T* x, int64_t size, int64_t columns, const double* below, const double* above) {
    for (int64_t i = 0; i < size; ++i) {
        const int count = i < D ? int(i) : D;
        const double* weights = Transposed ? above + (i - 1) * (D + 1) + 1 : below + i * D;
        const double factor = Transposed ? 1.0 / above[i * (D + 1)] : 1.0;
        eliminate(x + i * columns, columns, -1, count, weights, Transposed ? -D : 1, factor);
    }
    for (int64_t i = size - 1; i >= 0; --i) {
        const int count = size - 1 - i < D ? int(size - 1 - i) : D;
        const double* weights = Transposed ? below + (i + 1) * D : above + i * (D + 1) + 1;
        const double factor = Transposed ? 1.0 : 1.0 / above[i * (D + 1)];
        eliminate(x + i * columns, columns, 1, count, weights, Transposed ? D + 1 : 1, factor);
    }
}

// Columns first ... last of one table: from f to its coefficients, or back.
static void table(const T* from, int64_t knots, int64_t width, int64_t first, int64_t last, const double* below,
                  const double* above, T* to, int transposed) {
    static thread_local std::vector<T> memory;
    const int64_t columns = last - first, size = knots + DEGREE;
    memory.assign(size * columns, T(0));
    T* x = memory.data();
    const int64_t rows_in = transposed ? size : knots, begin = transposed ? 0 : BEFORE;
    for (int64_t i = 0; i < rows_in; ++i)
        std::memcpy(x + (begin + i) * columns, from + i * width + first, columns * sizeof(T));
    (transposed ? substitute<true> : substitute<false>)(x, size, columns, below, above);
    const int64_t rows_out = transposed ? knots : size, end = transposed ? knots : size + BEYOND;
    for (int64_t i = 0; i < rows_out; ++i)
        std::memcpy(to + i * width + first, x + ((transposed ? BEFORE : 0) + i) * columns, columns * sizeof(T));
    for (int64_t i = rows_out; i < end; ++i) std::memset(to + i * width + first, 0, columns * sizeof(T));
}

extern "C" void run(const T* from, int64_t tables, int64_t knots, int64_t width, const double* below,
                    const double* above, T* to, int transposed, int threads) {
    const int64_t rows = knots + DEGREE + BEYOND;
    for (int64_t n = 0; n < tables; ++n)
        in_even_pieces(threads, width, LANES, [&](int64_t first, int64_t last) {
            table(from + n * (transposed ? rows : knots) * width, knots, width, first, last, below, above,
                  to + n * (transposed ? knots : rows) * width, transposed);
        });
}
