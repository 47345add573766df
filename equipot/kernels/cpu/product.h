// The work around the generated `tile`: atoms grouped by species, in tiles; a block of W channels at a time, whose
// coefficients are packed and stay in the cache. Each coefficient's gradient is summed by one thread, in one order.
// Before this text come T, W, LM, M, TERMS, TILE, GRADIENT_OF_C, struct Tile and tile().
struct Work {
    const T *A, *H, *g, *C, *CC;
    T *b, *d, *gC;
    const int64_t *order, *starts;
    int64_t channels;

    int64_t node(int64_t n) const { return order ? order[n] : n; }

    static void pack(const T* from, int64_t stride, int width, int rows, T* to) {
        if (width == W) {
            for (int r = 0; r < rows; ++r) store(to + r * W, load<Vec<T, W>>(from + r * stride));
            return;
        }
        for (int r = 0; r < rows; ++r)
            for (int j = 0; j < W; ++j) to[r * W + j] = j < width ? from[r * stride + j] : T(0);
    }

    // Where rows of the atoms of a tile lie: in place for whole blocks, else in a padded copy.
    void place(const T* from, int rows, int64_t first, int atoms, int64_t k, int width, bool read, T* copy, T** at) const {
        if (!from) return;
        for (int i = 0; i < atoms; ++i) {
            const T* row = from + node(first + i) * rows * channels + k;
            at[i] = width == W ? const_cast<T*>(row) : copy + i * rows * W;
            if (read && width < W) pack(row, channels, width, rows, at[i]);
        }
    }

    void give_back(T* to, int rows, int64_t first, int atoms, int64_t k, int width, T* const* at) const {
        if (!to || width == W) return;
        for (int i = 0; i < atoms; ++i)
            for (int r = 0; r < rows; ++r)
                std::memcpy(to + (node(first + i) * rows + r) * channels + k, at[i] + r * W, width * sizeof(T));
    }

    // Atoms begin .. end of one species, channels from k on.
    void block(int64_t species, int64_t begin, int64_t end, int64_t k, T* memory) const {
        const int width = channels - k < W ? int(channels - k) : W;
        const int64_t at = species * TERMS * channels + k;
        Tile t;
        T* packed = memory;
        t.C = packed, packed += TERMS * W;
        t.CC = packed, packed += TERMS * W;
        t.gC = packed, packed += TERMS * W;
        pack(C + at, channels, width, TERMS, const_cast<T*>(t.C));
        if (CC) pack(CC + at, channels, width, TERMS, const_cast<T*>(t.CC));
        if (gC) std::memset(t.gC, 0, TERMS * W * sizeof(T));
        t.stride = width == W ? channels : W;
        t.atoms = int(end - begin);
        T *a = packed, *h = a + TILE * LM * W, *d_ = h + TILE * LM * W, *g_ = d_ + TILE * LM * W, *b_ = g_ + TILE * M * W;
        place(A, LM, begin, t.atoms, k, width, true, a, t.a);
        place(H, LM, begin, t.atoms, k, width, true, h, t.h);
        place(g, M, begin, t.atoms, k, width, true, g_, t.g);
        place(d, LM, begin, t.atoms, k, width, false, d_, t.d);
        place(b, M, begin, t.atoms, k, width, false, b_, t.b);
        tile(t);
        give_back(d, LM, begin, t.atoms, k, width, t.d);
        give_back(b, M, begin, t.atoms, k, width, t.b);
        for (int r = 0; gC && r < TERMS; ++r)
            for (int j = 0; j < width; ++j) gC[at + r * channels + j] += t.gC[r * W + j];
    }

    // Channels first .. last of the atoms begin .. end of one species, tile by tile.
    void share(int64_t species, int64_t begin, int64_t end, int64_t first, int64_t last, T* memory) const {
        for (; begin < end; begin += TILE)
            for (int64_t k = first; k < last; k += W)
                block(species, begin, end - begin < TILE ? end : begin + TILE, k, memory);
    }
};

// Memory of this thread that is kept between calls.
static T* own_memory() {
    static thread_local std::vector<T> memory;
    memory.resize((3 * TERMS + TILE * (3 * LM + 2 * M)) * W + 64 / sizeof(T));
    return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
}

extern "C" void run(const T* A, const T* H, const T* g, const T* C, const T* CC, T* b, T* d, T* gC,
                    const int64_t* order, const int64_t* starts, int64_t num_species, int64_t channels, int threads) {
    const Work work = {A, H, g, C, CC, b, d, gC, order, starts, channels};
    if (threads == 1) {
        T* own = own_memory();
        for (int64_t s = 0; s < num_species; ++s) work.share(s, starts[s], starts[s + 1], 0, channels, own);
        return;
    }
    // a share: some channels of all atoms of a species where gradients of C are summed, else a tile of atoms
    struct Share { int64_t species, begin, end, first, last; };
    std::vector<Share> shares;
    const int64_t blocks = (channels + W - 1) / W, step = (blocks + 4 * threads - 1) / (4 * threads) * W;
    for (int64_t s = 0; s < num_species; ++s)
        if (gC) {
            for (int64_t k = 0; k < channels; k += step)
                shares.push_back({s, starts[s], starts[s + 1], k, k + step < channels ? k + step : channels});
        } else {
            for (int64_t i = starts[s]; i < starts[s + 1]; i += TILE)
                shares.push_back({s, i, i + TILE < starts[s + 1] ? i + TILE : starts[s + 1], 0, channels});
        }
    in_pieces(threads, int64_t(shares.size()), 1, [&](int64_t n, int64_t end) {
        T* own = own_memory();
        for (; n < end; ++n) {
            const Share& x = shares[n];
            if (x.begin < x.end) work.share(x.species, x.begin, x.end, x.first, x.last, own);
        }
    });
}
