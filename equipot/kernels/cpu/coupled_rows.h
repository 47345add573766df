// The design matrix of linear ACE: the derivatives of every function by every edge vector, added to rows of forces and of
// the virial. Of one atom at a time, its functions are linearised,
//
//     m[k] = sum c v_other,    dv_s = sum_k m[k] dv_src        (B_f is a slot like any other)
//
// and applied to the derivatives of A, of which those by neighbours of one species are not zero in that species' block
// alone: lanes are (component, edge) of one species, and what does not depend on it is left out.
// Before this text comes W.
typedef double T;
typedef Vec<T, W> V;
enum { RUN = 64, VECTORS = 2 };  // most functions that are added to rows at a time, and most vectors of lanes: with
                                 // more of them the derivatives of large programs leave the second cache

struct Part {                    // what depends on neighbours of one species: sparse rows of intermediates, then functions
    int64_t intermediates;
    const int32_t* rows;         // first entry of each row, and the end
    const int32_t* k;            // coefficient of each entry
    const int32_t* source;       // its slot, counted among those that depend on the species
};

struct Runs {                    // functions of one centre that depend on neighbours of one species
    int64_t count;
    const int64_t* column;       // where consecutive columns begin
    const int32_t *size, *first; // how many, and where their functions begin in
    const int32_t* row;          // the rows of the part
};

struct Program {
    int64_t dim, slots, entries, num_species, num_lm, num_n;
    const int32_t *starts, *a, *b;   // terms of the slots behind those of A
    const T* c;
    const int32_t *first, *other;    // summands of the coefficients
    const T* scale;
    const Part* parts;               // of each species of neighbours
    const Runs* runs;                // [centre][species of neighbours]
};

struct Edges {
    const T *R, *dR, *Y, *dY, *vectors;
    const int64_t *senders, *starts, *species;
};

struct Rows {
    T *forces, *virial;              // [node][3][column], [system][6][column]; or null
    const int64_t* system;
    int64_t width;
};

template <int B, int... I>
static inline __attribute__((always_inline)) void swap_blocks(V& x, V& y, std::integer_sequence<int, I...>) {
    const V low = __builtin_shufflevector(x, y, ((I & B) ? W + (I ^ B) : I)...);
    y = __builtin_shufflevector(x, y, ((I & B) ? W + I : (I ^ B))...);
    x = low;
}

// Transposes W vectors.
template <int B = W / 2>
static inline __attribute__((always_inline)) void transpose(V* x) {
    if constexpr (B > 0) {
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i)
            if (!(i & B)) swap_blocks<B>(x[i], x[i + B], std::make_integer_sequence<int, W>());
        transpose<B / 2>(x);
    }
}

// Memory of one thread that stays until it ends.
struct Memory {
    std::vector<T> values;
    std::vector<int64_t> edges;

    T* take(int64_t count) {
        if (int64_t(values.size()) < count + 8) values.resize(count + 8);
        return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(values.data()) + 63) / 64 * 64);
    }
};

struct Lane {
    int component;
    T r[3];
    T* row;                          // of the sender's force
};

struct Atom {
    const Program& p;
    const Edges& edges;
    const Rows& out;
    int64_t node;
    T *m, *memory;

    // Values and coefficients, so many that vectors behind them lie on whole lines of the cache.
    static int64_t scalars(const Program& p) { return (p.slots + p.entries + 7) / 8 * 8; }

    static int64_t size(const Program& p) {
        const int64_t lanes = VECTORS * W;
        return scalars(p) + (p.slots + 2 * p.num_lm + 2 * p.num_n + RUN + W) * lanes + 4 * RUN;
    }

    // The values of all slots, and the coefficients.
    void linearise(const T* A, T* v) const {
        std::memcpy(v, A + node * p.dim, p.dim * sizeof(T));
        for (int64_t s = 0; s < p.slots - p.dim; ++s) {
            T sum = 0;
            for (int32_t k = p.starts[s]; k < p.starts[s + 1]; ++k) sum += p.c[k] * (v[p.a[k]] * v[p.b[k]]);
            v[p.dim + s] = sum;
        }
        for (int64_t k = 0; k < p.entries; ++k) {
            T sum = 0;
            for (int32_t n = p.first[k]; n < p.first[k + 1]; ++n) sum += p.scale[n] * v[p.other[n]];
            m[k] = sum;
        }
    }

    // Derivatives of A by the components of these edges' vectors.
    template <int N>
    void seed(const int64_t* of, int64_t count, int64_t begin, Lane* lanes, int valid, T* t, T* scratch) const {
        enum { L = N * W };
        T *Y = scratch, *dY = Y + p.num_lm * L, *R = dY + p.num_lm * L, *dR = R + p.num_n * L;
        std::memset(scratch, 0, 2 * (p.num_lm + p.num_n) * L * sizeof(T));
        for (int q = 0; q < valid; ++q) {
            const int c = int((begin + q) / count);
            const int64_t e = of[(begin + q) % count];
            const T* r = edges.vectors + 3 * e;
            const T along = r[c] / __builtin_sqrt(r[0] * r[0] + r[1] * r[1] + r[2] * r[2]);
            lanes[q] = {c, {r[0], r[1], r[2]}, out.forces ? out.forces + (edges.senders[e] * 3 + c) * out.width : nullptr};
            for (int64_t i = 0; i < p.num_lm; ++i) {
                Y[i * L + q] = edges.Y[e * p.num_lm + i];
                dY[i * L + q] = edges.dY[(e * p.num_lm + i) * 3 + c];
            }
            for (int64_t n = 0; n < p.num_n; ++n) {
                R[n * L + q] = edges.R[e * p.num_n + n];
                dR[n * L + q] = edges.dR[e * p.num_n + n] * along;
            }
        }
        for (int64_t i = 0; i < p.num_lm; ++i)
            for (int64_t n = 0; n < p.num_n; ++n, t += L)
                for (int x = 0; x < N; ++x)
                    store(t + x * W, V(load<V>(Y + i * L + x * W) * load<V>(dR + n * L + x * W)
                                     + load<V>(dY + i * L + x * W) * load<V>(R + n * L + x * W)));
    }

    template <int N>
    inline __attribute__((always_inline)) void row(const Part& part, int64_t n, const T* t, V (&sum)[N]) const {
#pragma GCC unroll 8
        for (int x = 0; x < N; ++x) sum[x] = V{};
        for (int32_t k = part.rows[n]; k < part.rows[n + 1]; ++k) {
            const T* from = t + int64_t(part.source[k]) * (N * W);
            const T c = m[part.k[k]];
#pragma GCC unroll 8
            for (int x = 0; x < N; ++x) sum[x] += c * load<V>(from + x * W);
        }
    }

    // Some lanes of one species of neighbours.
    template <int N>
    void lanes(int64_t species, const int64_t* of, int64_t count, int64_t begin, int valid) const {
        enum { L = N * W };
        const Part& part = p.parts[species];
        T *t = memory, *scratch = t + p.slots * L, *turned = scratch + 2 * (p.num_lm + p.num_n) * L, *sums = turned + (RUN + W) * L;
        Lane lane[L];
        seed<N>(of, count, begin, lane, valid, t, scratch);
        T* next = t + p.num_lm * p.num_n * L;
        for (int64_t n = 0; n < part.intermediates; ++n, next += L) {
            V sum[N];
            row<N>(part, n, t, sum);
#pragma GCC unroll 8
            for (int x = 0; x < N; ++x) store(next + x * W, sum[x]);
        }
        const Runs& runs = p.runs[edges.species[node] * p.num_species + species];
        for (int64_t n = 0; n < runs.count; ++n) {
            const int size = runs.size[n], padded = (size + W - 1) / W * W;
            for (int f = 0; f < size; f += W) {
                V block[N][W];
                for (int j = 0; j < W; ++j) {
                    V sum[N] = {};
                    if (f + j < size) row<N>(part, runs.row[runs.first[n] + f + j], t, sum);
#pragma GCC unroll 8
                    for (int x = 0; x < N; ++x) block[x][j] = sum[x];
                }
                for (int x = 0; x < N; ++x) {
                    transpose(block[x]);
                    for (int j = 0; j < W; ++j) store(turned + (x * W + j) * padded + f, block[x][j]);
                }
            }
            give(runs.column[n], size, padded, turned, lane, valid, sums);
        }
    }

    // Derivatives [lane][function] to the rows of senders, of this atom and of its system.
    void give(int64_t column, int size, int padded, const T* turned, const Lane* lane, int valid, T* sums) const {
        for (int q = 0; q < valid && out.forces; ++q) {
            const T* from = turned + q * padded;
            T* row = lane[q].row + column;
            int f = 0;
            for (; f + W <= size; f += W) store(row + f, V(load<V>(row + f) - load<V>(from + f)));
            for (; f < size; ++f) row[f] -= from[f];
        }
        // lanes of one component are neighbours: their sums stay in registers
        for (int begin = 0, end; begin < valid; begin = end) {
            const int c = lane[begin].component;
            for (end = begin + 1; end < valid && lane[end].component == c;) ++end;
            for (int f = 0; f < padded; f += W) {
                V sum = {}, own = {}, first = {}, second = {};
                for (int q = begin; q < end; ++q) {
                    const V t = load<V>(turned + q * padded + f);
                    const T* r = lane[q].r;
                    sum += t;
                    own += r[c] * t;
                    if (c > 0) first += r[0] * t;
                    if (c > 1) second += r[1] * t;
                }
                store(sums + f, sum);
                store(sums + padded + f, own);
                store(sums + 2 * padded + f, first);
                store(sums + 3 * padded + f, second);
            }
            if (out.forces) plus(out.forces + (node * 3 + c) * out.width + column, sums, size);
            if (!out.virial) continue;
            T* virial = out.virial + out.system[node] * 6 * out.width + column;
            plus(virial + c * out.width, sums + padded, size);
            if (c == 1) plus(virial + 5 * out.width, sums + 2 * padded, size);
            if (c == 2) {
                plus(virial + 3 * out.width, sums + 3 * padded, size);
                plus(virial + 4 * out.width, sums + 2 * padded, size);
            }
        }
    }

    static void plus(T* to, const T* from, int size) {
        int f = 0;
        for (; f + W <= size; f += W) add(to + f, load<V>(from + f));
        for (; f < size; ++f) to[f] += from[f];
    }

    void species(int64_t species, const int64_t* of, int64_t count) const {
        for (int64_t begin = 0; begin < 3 * count; begin += VECTORS * W) {
            const int valid = 3 * count - begin < VECTORS * W ? int(3 * count - begin) : VECTORS * W;
            if (valid > W) lanes<2>(species, of, count, begin, valid);
            else lanes<1>(species, of, count, begin, valid);
        }
    }
};

// Units are atoms, some of `order`, that may write to the same numbers: one thread works on them, in order.
extern "C" void rows(const Program* program, const T* A, const Edges* edges, const Rows* out, const int64_t* order,
                     const int64_t* units, int64_t num_units, int threads) {
    const Program& p = *program;
    in_pieces(threads, num_units, 1, [&](int64_t unit, int64_t end) {
        static thread_local Memory own;
        T* memory = own.take(Atom::size(p));
        for (; unit < end; ++unit)
            for (int64_t n = units[unit]; n < units[unit + 1]; ++n) {
                const int64_t i = order[n], first = edges->starts[i], last = edges->starts[i + 1];
                if (first == last) continue;
                const Atom atom = {p, *edges, *out, i, memory + p.slots, memory + Atom::scalars(p)};
                atom.linearise(A, memory);
                for (int64_t s = 0; s < p.num_species; ++s) {
                    own.edges.clear();
                    for (int64_t e = first; e < last; ++e)
                        if (edges->species[edges->senders[e]] == s) own.edges.push_back(e);
                    if (!own.edges.empty()) atom.species(s, own.edges.data(), int64_t(own.edges.size()));
                }
            }
    });
}
