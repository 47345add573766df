// Matrix products for linear maps per irrep. The text before this one defines the type T, its vectors' lanes W, and
// the tile that is held in registers: MR rows of NV vectors.
//
// A row of x, for one irrep, is one component m of one node: x + node * width + offset + m * K. Rows are copied side by
// side before they are used: their own distance is often a multiple of 4096 bytes, which puts them all in the same few
// sets of the cache. Matrices are used where they lie, or turned around into panels of NR columns.
#include <algorithm>

typedef Vec<T, W> V;
// Columns of a tile, values in a cache line, columns of x that are copied at a time, and their distance in the copy.
enum { NR = NV * W, LINE = 64 / sizeof(T), KC = 2048 / sizeof(T), PITCH = KC + LINE };

template <int... I>
using Indices = std::integer_sequence<int, I...>;
template <int N>
using Range = std::make_integer_sequence<int, N>;

// One irrep: where it lies in rows of x and of y, its channels in both, its components, where its matrix [K, N] lies.
struct Block {
    int64_t in, K, out, N, dim, weight;
};

// Layout of a map, as a flat list from Python: number of blocks, widths of x and y, weights of a group, number of
// spans of y that are zero, then the blocks and the spans.
struct Map {
    int64_t num_blocks, width_in, width_out, weights, num_spans;
    const Block* blocks() const { return reinterpret_cast<const Block*>(this + 1); }
    const int64_t* spans() const { return reinterpret_cast<const int64_t*>(blocks() + num_blocks); }
};

// Nodes by group; without an order they are one group.
struct Groups {
    const int64_t *order, *starts;
    int64_t num_groups, num_nodes;
    int64_t begin(int64_t g) const { return order ? starts[g] : 0; }
    int64_t size(int64_t g) const { return order ? starts[g + 1] - starts[g] : num_nodes; }
    int64_t node(int64_t n) const { return order ? order[n] : n; }
};

// Walks over the rows of one block and group in order.
struct Rows {
    const Groups& groups;
    int64_t n, m, dim;
    Rows(const Groups& groups, int64_t g, int64_t dim, int64_t row)
        : groups(groups), n(groups.begin(g) + row / dim), m(row % dim), dim(dim) {}
    int64_t node() const { return groups.node(n); }
    void next() { if (++m == dim) { m = 0; ++n; } }
};

// Memory of this thread that is kept between calls.
template <int Use>
static T* scratch(int64_t size) {
    static thread_local std::vector<T> memory;
    if (int64_t(memory.size()) < size + LINE) memory.resize(size + LINE);
    return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
}

// ---- the tile ----

// sums[r][v] = sum_k a[k * ka + r * RA] b[k * kb + v]
template <int R, int NVEC, int64_t RA, int... I>
static inline __attribute__((always_inline)) void accumulate(
    const T* a, int64_t ka, const T* b, int64_t kb, int64_t K, V* sums, Indices<I...>) {
    V c[R * NVEC] = {};
    for (int64_t k = 0; k < K; ++k) {
        V row[NVEC];
        for (int v = 0; v < NVEC; ++v) row[v] = load<V>(b + v * W);
        (void(c[I] += a[(I / NVEC) * RA] * row[I % NVEC]), ...);
        a += ka;
        b += kb;
    }
    (void(sums[I] = c[I]), ...);
}

// out[r][v] = scale * sum_k a[k * ka + r * RA] b[k * kb + v] for the first columns v, added to what is there where `add`.
struct Tile {
    const T* a;
    int64_t ka;
    const T* b;
    int64_t kb, K;
    T scale;
    bool add;
    int64_t columns;
};

template <int R, int NVEC, int64_t RA>
static void tile(const Tile& t, T* const* out) {
    V sums[R * NVEC];
    accumulate<R, NVEC, RA>(t.a, t.ka, t.b, t.kb, t.K, sums, Range<R * NVEC>());
    for (int r = 0; r < R; ++r) {
        if (t.columns == NVEC * W) {
            for (int v = 0; v < NVEC; ++v) {
                const V sum = sums[r * NVEC + v] * t.scale;
                store(out[r] + v * W, t.add ? V(load<V>(out[r] + v * W) + sum) : sum);
            }
        } else {
            const T* sum = reinterpret_cast<const T*>(sums + r * NVEC);
            for (int64_t j = 0; j < t.columns; ++j) out[r][j] = sum[j] * t.scale + (t.add ? out[r][j] : T(0));
        }
    }
}

typedef void (*TileCode)(const Tile&, T* const*);

template <int NVEC, int64_t RA, int... R>
static TileCode tile_of(int rows, Indices<R...>) {
    static const TileCode codes[] = {tile<R + 1, NVEC, RA>...};
    return codes[rows - 1];
}

// The code for so many rows and columns; RA is the distance of the rows' values in a.
template <int64_t RA, int... N>
static TileCode tile_for(int rows, int64_t columns, Indices<N...>) {
    const int vectors = int((columns + W - 1) / W);
    TileCode code = nullptr;
    (void(vectors == N + 1 ? code = tile_of<N + 1, RA>(rows, Range<MR>()) : nullptr), ...);
    return code;
}

// ---- matrices as panels ----

// The panels of a matrix [K, N]: columns p * NR and on, at base + p * panel, rows `row` apart; an incomplete last
// panel lies elsewhere.
struct Panels {
    const T *base, *last;
    int64_t panel, row, last_row, K, N;
    int64_t count() const { return (N + NR - 1) / NR; }
    int64_t columns(int64_t p) const { return std::min<int64_t>(NR, N - p * NR); }
    const T* at(int64_t p) const { return columns(p) == NR ? base + p * panel : last; }
    int64_t distance(int64_t p) const { return columns(p) == NR ? row : last_row; }
};

static int64_t packed_size(int64_t K, int64_t N) { return K * ((N + W - 1) / W * W); }

template <int H, int... L>
static inline __attribute__((always_inline)) void exchange(V& a, V& b, Indices<L...>) {
    const V low = __builtin_shufflevector(a, b, ((L & H) ? W + L - H : L)...);
    b = __builtin_shufflevector(a, b, ((L & H) ? W + L : L + H)...);
    a = low;
}

template <int H>
static inline __attribute__((always_inline)) void transpose(V* rows) {
    if constexpr (H > 0) {
        for (int i = 0; i < W; ++i)
            if (!(i & H)) exchange<H>(rows[i], rows[i + H], Range<W>());
        transpose<H / 2>(rows);
    }
}

// Panel p of the transposed of M [N, K] (rows `ld` apart).
static void pack_transposed(const T* M, int64_t K, int64_t columns, T* out) {
    const int64_t width = (columns + W - 1) / W * W;
    for (int64_t j = 0; j < columns; j += W) {
        const int64_t rows = std::min<int64_t>(W, columns - j);
        int64_t k = 0;
        if (rows == W)
            for (; k + W <= K; k += W) {
                V square[W];
                for (int i = 0; i < W; ++i) square[i] = load<V>(M + (j + i) * K + k);
                transpose<W / 2>(square);
                for (int i = 0; i < W; ++i) store(out + (k + i) * width + j, square[i]);
            }
        for (; k < K; ++k)
            for (int i = 0; i < W; ++i) out[k * width + j + i] = i < rows ? M[(j + i) * K + k] : T(0);
    }
}

// The last columns of a matrix [K, N].
static void pack_columns(const T* M, int64_t K, int64_t N, int64_t first, T* out) {
    const int64_t columns = N - first, width = (columns + W - 1) / W * W;
    for (int64_t k = 0; k < K; ++k)
        for (int64_t j = 0; j < width; ++j) out[k * width + j] = j < columns ? M[k * N + first + j] : T(0);
}

// ---- shares of the work ----

// Units of one job that fall to `part`, where `before` is the cost of the jobs before it.
static int64_t share(int64_t part, int64_t parts, int64_t total, int64_t before, int64_t cost, int64_t units) {
    const int64_t ahead = part * total - before * parts;
    return ahead <= 0 ? 0 : std::min(units, (ahead + cost * parts - 1) / (cost * parts));
}

// Calls job(b, g, rows, first unit, last unit) for every block and group that has units for this part.
template <typename Units, typename Cost, typename Job>
static void each(const Map& map, const Groups& groups, int part, int parts, Units units, Cost cost, Job job) {
    int64_t total = 0, before = 0;
    if (parts > 1)
        for (int64_t b = 0; b < map.num_blocks; ++b)
            for (int64_t g = 0; g < groups.num_groups; ++g) {
                const int64_t rows = groups.size(g) * map.blocks()[b].dim;
                total += units(map.blocks()[b], rows) * cost(map.blocks()[b], rows);
            }
    for (int64_t b = 0; b < map.num_blocks; ++b)
        for (int64_t g = 0; g < groups.num_groups; ++g) {
            const Block& block = map.blocks()[b];
            const int64_t rows = groups.size(g) * block.dim, n = units(block, rows), c = cost(block, rows);
            const int64_t first = parts == 1 ? 0 : share(part, parts, total, before, c, n);
            const int64_t last = parts == 1 ? n : share(part + 1, parts, total, before, c, n);
            if (first < last) job(b, g, rows, first, last);
            before += n * c;
        }
}

// Calls part(n) for n = 0 ... parts - 1.
template <typename Part>
static void in_parts(int threads, int parts, const Part& part) {
    in_pieces(threads, parts, 1, [&](int64_t n, int64_t last) {
        for (; n < last; ++n) part(int(n));
    });
}

// Threads that are worth their while for so many multiplications.
static int useful_threads(int threads, const Map& map, int64_t num_nodes) {
    int64_t products = 0;
    for (int64_t b = 0; b < map.num_blocks; ++b) {
        const Block& block = map.blocks()[b];
        products += block.K * block.N * block.dim * num_nodes;
    }
    return int(std::max<int64_t>(1, std::min<int64_t>(threads, products / 500000)));
}

// ---- y = scale x W, and with the transposed matrices ----

template <bool Transposed>
static Panels make_panels(const T* M, const Block& block, T* memory) {
    const int64_t K = block.K, N = block.N, full = N / NR, rest = N - full * NR;
    T* last = memory + (Transposed ? full * NR * K : 0);
    if (Transposed) {
        for (int64_t p = 0; p < full; ++p) pack_transposed(M + p * NR * K, K, NR, memory + p * NR * K);
        if (rest) pack_transposed(M + full * NR * K, K, rest, last);
    } else if (rest) {
        pack_columns(M, K, N, full * NR, last);
    }
    const int64_t width = (rest + W - 1) / W * W;
    return Transposed ? Panels{memory, last, NR * K, NR, width, K, N} : Panels{M, last, NR, N, width, K, N};
}

// The panels of all matrices that have rows, made side by side in memory of the calling thread.
template <bool Transposed>
static std::vector<Panels> all_panels(const T* weights, const Map& map, const Groups& groups, int threads) {
    std::vector<Panels> panels(map.num_blocks * groups.num_groups);
    std::vector<int64_t> offsets(1, 0);
    for (int64_t b = 0; b < map.num_blocks; ++b)
        for (int64_t g = 0; g < groups.num_groups; ++g) {
            const Block& block = map.blocks()[b];
            offsets.push_back(offsets.back() + (groups.size(g) > 0 ? packed_size(block.K, block.N) : 0));
        }
    T* memory = scratch<0>(offsets.back());
    in_parts(threads, int(panels.size()), [&](int n) {
        const Block& block = map.blocks()[n / groups.num_groups];
        const T* M = weights + n % groups.num_groups * map.weights + block.weight;
        if (offsets[n + 1] > offsets[n]) panels[n] = make_panels<Transposed>(M, block, memory + offsets[n]);
    });
    return panels;
}

// Rows first ... last of one group, times the matrix.
static void multiply_rows(const T* x, const Panels& panels, T scale, const Map& map, const Block& block,
                          const Groups& groups, int64_t g, int64_t first, int64_t last, T* y) {
    alignas(64) T a[MR * PITCH];
    T* out[MR];
    T* at[MR];
    for (int64_t row = first; row < last; row += MR) {
        const int count = int(std::min<int64_t>(MR, last - row));
        for (int64_t k = 0; k < block.K; k += KC) {
            const int64_t K = std::min<int64_t>(KC, block.K - k);
            Rows rows(groups, g, block.dim, row);
            for (int r = 0; r < count; ++r, rows.next()) {
                const int64_t node = rows.node();
                std::memcpy(a + r * PITCH, x + node * map.width_in + block.in + rows.m * block.K + k, K * sizeof(T));
                out[r] = y + node * map.width_out + block.out + rows.m * block.N;
            }
            for (int64_t p = 0; p < panels.count(); ++p) {
                const int64_t columns = panels.columns(p), distance = panels.distance(p);
                const Tile t{a, 1, panels.at(p) + k * distance, distance, K, scale, k > 0, columns};
                for (int r = 0; r < count; ++r) at[r] = out[r] + p * NR;
                tile_for<PITCH>(count, columns, Range<NV>())(t, at);
            }
        }
    }
}

template <bool Transposed>
static void multiply(const T* x, const T* weights, T* y, const Map& map, const double* scales, const Groups& groups,
                     int threads) {
    threads = useful_threads(threads, map, groups.num_nodes);
    auto tiles = [](const Block&, int64_t rows) { return (rows + MR - 1) / MR; };
    auto cost = [](const Block& b, int64_t) { return b.K * b.N; };
    std::vector<Panels> shared;
    if (threads > 1) shared = all_panels<Transposed>(weights, map, groups, Transposed ? threads : 1);
    const int parts = threads > 1 ? 4 * threads : 1;
    in_parts(threads, parts, [&](int part) {
        each(map, groups, part, parts, tiles, cost, [&](int64_t b, int64_t g, int64_t rows, int64_t first, int64_t last) {
            const Block& block = map.blocks()[b];
            const T* M = weights + g * map.weights + block.weight;
            const Panels panels = threads > 1 ? shared[b * groups.num_groups + g]
                                : make_panels<Transposed>(M, block, scratch<0>(packed_size(block.K, block.N)));
            multiply_rows(x, panels, T(scales[b]), map, block, groups, g, first * MR, std::min(last * MR, rows), y);
        });
    });
    for (int64_t s = 0; s < map.num_spans; ++s)
        for (int64_t n = 0; n < groups.num_nodes; ++n)
            std::memset(y + n * map.width_out + map.spans()[2 * s], 0, map.spans()[2 * s + 1] * sizeof(T));
}

// ---- gW = scale x^T gy ----

// Copies columns first ... last of some rows side by side, `pitch` apart, with zeros behind them up to whole vectors.
static void gather(const T* x, int64_t width, int64_t distance, int64_t first, int64_t last, Rows rows, int64_t count,
                   T* out, int64_t pitch) {
    const int64_t size = last - first, padded = (size + W - 1) / W * W;
    for (int64_t r = 0; r < count; ++r, rows.next(), out += pitch) {
        std::memcpy(out, x + rows.node() * width + rows.m * distance + first, size * sizeof(T));
        for (int64_t j = size; j < padded; ++j) out[j] = T(0);
    }
}

// A distance of rows that is an odd number of cache lines.
static int64_t odd_pitch(int64_t size) { return (size / LINE / 2 * 2 + 1) * LINE + (size / LINE % 2 ? 2 * LINE : 0); }

static void outer_columns(const T* x, const T* gy, T scale, const Map& map, const Block& block, const Groups& groups,
                          int64_t g, int64_t rows, int64_t first, int64_t last, T* gW) {
    const int64_t px = odd_pitch(last - first), py = odd_pitch(block.N);
    const int64_t chunk = std::max<int64_t>(32, std::min<int64_t>(256, int64_t(400000 / sizeof(T)) / (px + py)));
    T* a = scratch<1>(chunk * px);
    T* b = scratch<2>(chunk * py);
    T* out[MR];
    for (int64_t row = 0; row < rows; row += chunk) {
        const int64_t count = std::min(chunk, rows - row);
        gather(x + block.in, map.width_in, block.K, first, last, Rows(groups, g, block.dim, row), count, a, px);
        gather(gy + block.out, map.width_out, block.N, 0, block.N, Rows(groups, g, block.dim, row), count, b, py);
        for (int64_t j = 0; j < block.N; j += NR)
            for (int64_t k = first; k < last; k += MR) {
                const int tall = int(std::min<int64_t>(MR, last - k));
                const int64_t columns = std::min<int64_t>(NR, block.N - j);
                for (int r = 0; r < tall; ++r) out[r] = gW + (k + r) * block.N + j;
                tile_for<1>(tall, columns, Range<NV>())(Tile{a + k - first, px, b + j, py, count, scale, row > 0, columns}, out);
            }
    }
    if (rows == 0) std::memset(gW + first * block.N, 0, (last - first) * block.N * sizeof(T));
}

extern "C" void forward(const T* x, const T* weights, T* y, const Map* map, const double* scales, const int64_t* order,
                        const int64_t* starts, int64_t num_groups, int64_t num_nodes, int threads) {
    multiply<false>(x, weights, y, *map, scales, Groups{order, starts, num_groups, num_nodes}, threads);
}

extern "C" void transposed(const T* gy, const T* weights, T* gx, const Map* map, const double* scales,
                           const int64_t* order, const int64_t* starts, int64_t num_groups, int64_t num_nodes, int threads) {
    multiply<true>(gy, weights, gx, *map, scales, Groups{order, starts, num_groups, num_nodes}, threads);
}

extern "C" void outer(const T* x, const T* gy, T* gW, const Map* map, const double* scales, const int64_t* order,
                      const int64_t* starts, int64_t num_groups, int64_t num_nodes, int threads) {
    const Groups groups{order, starts, num_groups, num_nodes};
    threads = useful_threads(threads, *map, num_nodes);
    auto panels = [](const Block& b, int64_t) { return (b.K + MR - 1) / MR; };
    auto cost = [](const Block& b, int64_t rows) { return (rows + 1) * b.N; };
    const int parts = threads > 1 ? 2 * threads : 1;
    in_parts(threads, parts, [&](int part) {
        each(*map, groups, part, parts, panels, cost, [&](int64_t b, int64_t g, int64_t rows, int64_t first, int64_t last) {
            const Block& block = map->blocks()[b];
            outer_columns(x, gy, T(scales[b]), *map, block, groups, g, rows, first * MR, std::min(last * MR, block.K),
                          gW + g * map->weights + block.weight);
        });
    });
}
