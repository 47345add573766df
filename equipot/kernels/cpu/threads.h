// Work shared among threads. The threads themselves live in one library (threads.cpp), whose function Python hands to
// every other library as it is loaded. Where there are none, everything runs in the calling thread.

#include <atomic>
#include <cstdint>
#include <sched.h>
#include <vector>

extern "C" {
// Calls work(context, 0) in the calling thread and work(context, seat) in up to `threads` - 1 others, in those that
// come before the caller is through; returns when all are.
typedef void (*RunOnThreads)(void (*work)(void*, int), void* context, int threads);
RunOnThreads run_on_threads = nullptr;
}

template <typename F>
static void side_by_side(int threads, const F& work) {
    if (threads <= 1 || !run_on_threads) return work(0);
    run_on_threads([](void* context, int seat) { (*static_cast<const F*>(context))(seat); }, const_cast<F*>(&work), threads);
}

// Calls share(first, last) for pieces of 0 .. count, of `step` each, taken by whoever is free.
template <typename F>
static void in_pieces(int threads, int64_t count, int64_t step, const F& share) {
    if (threads <= 1 || count <= step) {
        if (count > 0) share(int64_t(0), count);
        return;
    }
    std::atomic<int64_t> next(0);
    side_by_side(threads, [&](int) {
        for (int64_t n; (n = next.fetch_add(step, std::memory_order_relaxed)) < count;)
            share(n, n + step < count ? n + step : count);
    });
}

// The same with several pieces for every thread, of multiples of `unit`.
template <typename F>
static void in_even_pieces(int threads, int64_t count, int64_t unit, const F& share) {
    const int64_t pieces = 4 * unit * int64_t(threads);
    in_pieces(threads, count, (count + pieces - 1) / pieces * unit, share);
}

// Calls share(row, n) for n = 0 ... length(row) - 1, in this order, for every row: what the pieces of a row add up does
// not depend on who worked on it. One thread at a time works on a row, but not the same one to its end: where the system
// has put a thread aside, another goes on with its row once the piece that it was at is done.
template <typename Length, typename F>
static void in_rows(int threads, int rows, const Length& length, const F& share) {
    struct Row { std::atomic<bool> taken{false}; std::atomic<int64_t> next{0}; int64_t length = 0; };
    std::vector<Row> all(rows);
    std::atomic<int> left(0);
    for (int r = 0; r < rows; ++r) left += (all[r].length = length(r)) > 0;
    side_by_side(threads, [&](int seat) {
        for (int idle = 0; left.load(std::memory_order_acquire) > 0;) {
            bool worked = false;
            for (int k = 0; k < rows; ++k) {
                Row& row = all[(seat + k) % rows];
                while (row.next.load(std::memory_order_relaxed) < row.length && !row.taken.exchange(true, std::memory_order_acquire)) {
                    const int64_t n = row.next.load(std::memory_order_relaxed);
                    if (n < row.length) {
                        share((seat + k) % rows, n);
                        row.next.store(n + 1, std::memory_order_relaxed);
                        if (n + 1 == row.length) left.fetch_sub(1, std::memory_order_release);
                        worked = true;
                    }
                    row.taken.store(false, std::memory_order_release);
                }
            }
            if (worked) idle = 0;
            else if (seat > 0) return;
            else if (++idle > 100) sched_yield();
        }
    });
}
