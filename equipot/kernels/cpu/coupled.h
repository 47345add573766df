// The functions of linear ACE. Atoms lie along the vector, W of one species at a time; what is to be done with them is a
// table (kernels/coupled.py). Slots lie one after the other, [slot][lane]; tables hold slot * W.
//
//     values      v[s] = sum_k c v_a v_b                     tangents     t[s] = sum_k c (t_a v_b + v_a t_b)
//     adjoints    u_a += c u_s v_b, u_b += c u_s v_a, from the last slot to the first
//
// Before this text come T and W.
typedef Vec<T, W> V;

struct Program {
    int64_t dim, slots, pairs, heads, functions;
    const int32_t* starts;       // first term of each slot behind those of A, and the end
    const int32_t *a, *b;        // its operands
    const T* c;                  // its coefficient
    const int32_t *head, *first; // slot and first pair of each group of pairs that have the first slot in common
    const int32_t* mate;         // second slot of each pair
    const int32_t* rows;         // first entry of each function, and the end
    const int32_t *left, *right; // slots of each entry
    const T* value;
};

struct Atoms {                   // some atoms of one species
    int64_t species, begin, end;
};

// The work of one thread: vectors that stay until it ends.
static T* own_memory(int64_t vectors) {
    static thread_local std::vector<T> memory;
    if (int64_t(memory.size()) < vectors * W + 64) memory.resize(vectors * W + 64);
    return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
}

struct Lanes {
    const int64_t* order;
    Atoms atoms;
    int64_t count() const { return atoms.end - atoms.begin; }
    int64_t node(int64_t lane) const { return order ? order[atoms.begin + lane] : atoms.begin + lane; }

    // Rows of so many values, one of each atom, to [value][lane]; zeros for lanes without atom.
    void read(const T* from, int64_t values, T* to) const {
        if (count() < W) std::memset(to, 0, values * W * sizeof(T));
        for (int64_t k = 0; k < values; k += W) {
            const int64_t columns = values - k < W ? values - k : W;
            for (int64_t r = 0; r < count(); ++r) {
                const T* row = from + node(r) * values + k;
                for (int64_t j = 0; j < columns; ++j) to[(k + j) * W + r] = row[j];
            }
        }
    }

    void write(const T* from, int64_t values, T* to) const {
        for (int64_t k = 0; k < values; k += W) {
            const int64_t columns = values - k < W ? values - k : W;
            for (int64_t r = 0; r < count(); ++r) {
                T* row = to + node(r) * values + k;
                for (int64_t j = 0; j < columns; ++j) row[j] = from[(k + j) * W + r];
            }
        }
    }
};

static void values(const Program& p, T* __restrict v) {
    for (int64_t s = 0; s < p.slots - p.dim; ++s) {
        V sum = {};
        for (int32_t k = p.starts[s]; k < p.starts[s + 1]; ++k) sum += p.c[k] * (load<V>(v + p.a[k]) * load<V>(v + p.b[k]));
        store(v + (p.dim + s) * W, sum);
    }
}

static void tangents(const Program& p, const T* __restrict v, T* __restrict t) {
    for (int64_t s = 0; s < p.slots - p.dim; ++s) {
        V sum = {};
        for (int32_t k = p.starts[s]; k < p.starts[s + 1]; ++k) {
            const V va = load<V>(v + p.a[k]), vb = load<V>(v + p.b[k]);
            sum += p.c[k] * (load<V>(t + p.a[k]) * vb + va * load<V>(t + p.b[k]));
        }
        store(t + (p.dim + s) * W, sum);
    }
}

static void adjoints(const Program& p, const T* __restrict v, T* __restrict u) {
    for (int64_t s = p.slots - p.dim - 1; s >= 0; --s) {
        const V g = load<V>(u + (p.dim + s) * W);
        for (int32_t k = p.starts[s]; k < p.starts[s + 1]; ++k) {
            const V cg = p.c[k] * g;
            add(u + p.a[k], V(cg * load<V>(v + p.b[k])));
            add(u + p.b[k], V(cg * load<V>(v + p.a[k])));
        }
    }
}

// y as adjoints of v, x as those of the derivative along t.
static void second_adjoints(const Program& p, const T* __restrict v, const T* __restrict t, T* __restrict y, T* __restrict x) {
    for (int64_t s = p.slots - p.dim - 1; s >= 0; --s) {
        const V g = load<V>(y + (p.dim + s) * W), h = load<V>(x + (p.dim + s) * W);
        for (int32_t k = p.starts[s]; k < p.starts[s + 1]; ++k) {
            const V cg = p.c[k] * g, ch = p.c[k] * h;
            const V va = load<V>(v + p.a[k]), vb = load<V>(v + p.b[k]);
            add(y + p.a[k], V(cg * vb));
            add(y + p.b[k], V(cg * va));
            add(x + p.a[k], V(ch * vb + cg * load<V>(t + p.b[k])));
            add(x + p.b[k], V(ch * va + cg * load<V>(t + p.a[k])));
        }
    }
}

// The weighted sum of pairs; adjoints of their slots are added to u.
template <bool Gradient>
static V weigh(const Program& p, const T* __restrict w, const T* __restrict v, T* __restrict u) {
    V e = {};
    for (int64_t g = 0; g < p.heads; ++g) {
        const V head = load<V>(v + p.head[g]);
        V even = {}, odd = {};
        int32_t k = p.first[g];
        const int32_t end = p.first[g + 1];
        for (; k + 1 < end; k += 2) {
            even += w[k] * load<V>(v + p.mate[k]);
            odd += w[k + 1] * load<V>(v + p.mate[k + 1]);
            if (Gradient) {
                add(u + p.mate[k], V(w[k] * head));
                add(u + p.mate[k + 1], V(w[k + 1] * head));
            }
        }
        if (k < end) {
            even += w[k] * load<V>(v + p.mate[k]);
            if (Gradient) add(u + p.mate[k], V(w[k] * head));
        }
        even += odd;
        e += head * even;
        if (Gradient) add(u + p.head[g], even);
    }
    return e;
}

static std::vector<Atoms> tiles_of(const int64_t* starts, int64_t groups, int64_t nodes) {
    std::vector<Atoms> tiles;
    for (int64_t s = 0; s < groups; ++s) {
        const int64_t end = starts ? starts[s + 1] : nodes;
        for (int64_t i = starts ? starts[s] : 0; i < end; i += W) tiles.push_back({s, i, i + W < end ? i + W : end});
    }
    return tiles;
}

// Calls work(lanes of a tile) for all of them.
template <typename F>
static void for_tiles(const int64_t* order, const int64_t* starts, int64_t groups, int64_t nodes, int threads, const F& work) {
    const std::vector<Atoms> tiles = tiles_of(starts, groups, nodes);
    in_pieces(threads, int64_t(tiles.size()), 1, [&](int64_t n, int64_t end) {
        for (; n < end; ++n) work(Lanes{order, tiles[n]});
    });
}

extern "C" void energy(const Program* program, const T* A, const T* weights, T* e, T* D, const int64_t* order,
                       const int64_t* starts, int64_t groups, int64_t nodes, int threads) {
    const Program& p = *program;
    for_tiles(order, starts, groups, nodes, threads, [&](const Lanes& lanes) {
        T *v = own_memory((D ? 2 : 1) * p.slots), *u = v + p.slots * W, sums[W];
        const T* w = weights + lanes.atoms.species * p.pairs;
        lanes.read(A, p.dim, v);
        values(p, v);
        if (D) {
            std::memset(u, 0, p.slots * W * sizeof(T));
            store(sums, weigh<true>(p, w, v, u));
            adjoints(p, v, u);
            lanes.write(u, p.dim, D);
        } else {
            store(sums, weigh<false>(p, w, v, u));
        }
        lanes.write(sums, 1, e);
    });
}

extern "C" void hessian(const Program* program, const T* h, const T* A, const T* weights, T* out, const int64_t* order,
                        const int64_t* starts, int64_t groups, int64_t nodes, int threads) {
    const Program& p = *program;
    for_tiles(order, starts, groups, nodes, threads, [&](const Lanes& lanes) {
        T *v = own_memory(4 * p.slots), *t = v + p.slots * W, *y = t + p.slots * W, *x = y + p.slots * W;
        const T* w = weights + lanes.atoms.species * p.pairs;
        lanes.read(A, p.dim, v);
        lanes.read(h, p.dim, t);
        values(p, v);
        tangents(p, v, t);
        std::memset(y, 0, 2 * p.slots * W * sizeof(T));
        weigh<true>(p, w, v, y);
        weigh<true>(p, w, t, x);  // pairs are bilinear: the derivative along t of the adjoints of v
        second_adjoints(p, v, t, y, x);
        lanes.write(x, p.dim, out);
    });
}

// Gradients of the weights, summed in shares whose number does not depend on the threads, which are then added in order.
struct WeightSums {
    const Program& p;
    int64_t groups;
    std::vector<std::vector<T>> lanes, sums;
    std::vector<int64_t> species;

    WeightSums(const Program& p, int64_t groups, int shares)
        : p(p), groups(groups), lanes(shares), sums(shares), species(shares, -1) {}

    T* begin(int share, int64_t of) {
        if (species[share] == of) return lanes[share].data();
        finish(share);
        species[share] = of;
        lanes[share].assign((p.pairs + W) * W, T(0));
        return lanes[share].data();
    }

    void finish(int share) {
        if (species[share] < 0) return;
        if (sums[share].empty()) sums[share].assign(groups * p.pairs + W, T(0));
        sum_rows<T, W>(lanes[share].data(), int(p.pairs), sums[share].data() + species[share] * p.pairs);
        species[share] = -1;
    }

    void add_to(T* out) {
        for (int share = 0; share < int(sums.size()); ++share) {
            finish(share);
            for (int64_t n = 0; n < groups * p.pairs && !sums[share].empty(); ++n) out[n] += sums[share][n];
        }
    }
};

extern "C" void weights(const Program* program, const T* g, const T* h, const T* A, T* gW, const int64_t* order,
                        const int64_t* starts, int64_t groups, int64_t nodes, int threads) {
    const Program& p = *program;
    const std::vector<Atoms> tiles = tiles_of(starts, groups, nodes);
    const int64_t count = tiles.size(), shares = count < 8 ? (count + 1) / 2 : 8;
    WeightSums sums(p, groups, int(shares));
    in_rows(threads, int(shares), [&](int r) { return (r + 1) * count / shares - r * count / shares; }, [&](int r, int64_t n) {
        const Lanes lanes = {order, tiles[r * count / shares + n]};
        T *v = own_memory(2 * p.slots), *t = v + p.slots * W, scale[W] = {};
        T* sum = sums.begin(r, lanes.atoms.species);
        lanes.read(A, p.dim, v);
        values(p, v);
        if (g) lanes.read(g, 1, scale);
        const V along = load<V>(scale);
        if (h) {
            lanes.read(h, p.dim, t);
            tangents(p, v, t);
        }
        for (int64_t q = 0; q < p.heads; ++q) {
            const V head = load<V>(v + p.head[q]), scaled = along * head;
            for (int32_t k = p.first[q]; k < p.first[q + 1]; ++k) {
                V total = scaled * load<V>(v + p.mate[k]);
                if (h) total += load<V>(t + p.head[q]) * load<V>(v + p.mate[k]) + head * load<V>(t + p.mate[k]);
                add(sum + k * W, total);
            }
        }
    });
    sums.add_to(gW);
}

extern "C" void basis(const Program* program, const T* A, T* B, int64_t nodes, int threads) {
    const Program& p = *program;
    for_tiles(nullptr, nullptr, 1, nodes, threads, [&](const Lanes& lanes) {
        T *v = own_memory(p.slots + p.functions), *made = v + p.slots * W;
        lanes.read(A, p.dim, v);
        values(p, v);
        for (int64_t f = 0; f < p.functions; ++f) {
            V sum = {};
            for (int32_t k = p.rows[f]; k < p.rows[f + 1]; ++k)
                sum += p.value[k] * (load<V>(v + p.left[k]) * load<V>(v + p.right[k]));
            store(made + f * W, sum);
        }
        lanes.write(made, p.functions, B);
    });
}

extern "C" void basis_backward(const Program* program, const T* gB, const T* A, T* gA, int64_t nodes, int threads) {
    const Program& p = *program;
    for_tiles(nullptr, nullptr, 1, nodes, threads, [&](const Lanes& lanes) {
        T *v = own_memory(2 * p.slots + p.functions), *u = v + p.slots * W, *given = u + p.slots * W;
        lanes.read(A, p.dim, v);
        lanes.read(gB, p.functions, given);
        values(p, v);
        std::memset(u, 0, p.slots * W * sizeof(T));
        for (int64_t f = 0; f < p.functions; ++f) {
            const V g = load<V>(given + f * W);
            for (int32_t k = p.rows[f]; k < p.rows[f + 1]; ++k) {
                const V along = p.value[k] * g;
                add(u + p.left[k], V(along * load<V>(v + p.right[k])));
                add(u + p.right[k], V(along * load<V>(v + p.left[k])));
            }
        }
        adjoints(p, v, u);
        lanes.write(u, p.dim, gA);
    });
}
