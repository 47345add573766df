// The threads of all compiled operations. A job is one function that every thread calls; it shares out its work itself,
// in pieces. The caller begins at once and never waits for a thread that has not come yet: when there is nothing left to
// take, it closes the job, and waits only for those that are in the middle of a piece. A thread that the system runs
// late, because another program has its core, thus costs nothing.

#include <condition_variable>
#include <mutex>
#include <new>
#include <pthread.h>
#include <system_error>
#include <thread>

namespace {

typedef void (*Work)(void*, int);

constexpr int64_t CLOSED = int64_t(1) << 32;
constexpr int SPINS = 1000;  // some ten microseconds

inline void rest() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

struct Pool {
    std::mutex one_job, sleep;
    std::condition_variable wake;
    std::atomic<int64_t> inside{CLOSED};  // threads in the job, and whether it is closed
    std::atomic<uint64_t> jobs{0};
    std::atomic<int> asleep{0}, seats{0};
    Work work = nullptr;
    void* context = nullptr;
    int threads = 0;  // that there are

    void live() {
        for (uint64_t seen = 0;;) {
            seen = next_job(seen);
            if (!(inside.fetch_add(1) & CLOSED)) {
                const int seat = seats.fetch_sub(1);
                if (seat > 0) work(context, seat);
            }
            inside.fetch_sub(1);
        }
    }

    uint64_t next_job(uint64_t seen) {
        for (int n = 0; n < SPINS; ++n, rest())
            if (jobs.load() != seen) return jobs.load();
        std::unique_lock<std::mutex> lock(sleep);
        asleep.fetch_add(1);
        while (jobs.load() == seen) wake.wait(lock);
        asleep.fetch_sub(1);
        return jobs.load();
    }

    void run(Work what, void* with, int wanted) {
        std::unique_lock<std::mutex> alone(one_job, std::try_to_lock);
        if (!alone.owns_lock()) return what(with, 0);
        work = what, context = with;
        try {
            for (; threads < wanted - 1; ++threads) std::thread([this] { live(); }).detach();
        } catch (const std::system_error&) {  // the system grants no more: those that there are do the work
        }
        seats.store(wanted - 1);
        inside.fetch_and(~CLOSED);
        jobs.fetch_add(1);
        if (asleep.load() > 0) {
            { std::lock_guard<std::mutex> lock(sleep); }
            wake.notify_all();
        }
        what(with, 0);
        inside.fetch_or(CLOSED);
        for (int n = 0; inside.load() != CLOSED; ++n)
            if (n < SPINS) rest(); else sched_yield();
    }
};

// Never destroyed: its threads use it until the process is gone.
Pool* pool = new Pool;

// A forked process has only the thread that forked.
void forget() { pool = new Pool; }

const int registered = pthread_atfork(nullptr, nullptr, forget);

}  // namespace

extern "C" void run(Work what, void* with, int wanted) { pool->run(what, with, wanted); }
