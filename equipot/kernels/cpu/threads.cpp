// The threads of all compiled operations. A job is one function that every thread calls; it shares out its work itself,
// in pieces. The caller begins at once and never waits for a thread that has not come yet: when there is nothing left to
// take, it closes the job, and waits only for those that are in the middle of a piece. A thread that the system runs
// late, because another program has its core, thus costs nothing.
//
// POSIX threads instead of the standard library's, whose newer symbols an older libstdc++ in the process may lack.

#include <pthread.h>

namespace {

typedef void (*Work)(void*, int);

constexpr int64_t CLOSED = int64_t(1) << 32;
constexpr int SPINS = 1000;  // some ten microseconds
constexpr size_t STACK = size_t(8) << 20;

inline void rest() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

struct Pool {
    pthread_mutex_t one_job = PTHREAD_MUTEX_INITIALIZER, sleep = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
    std::atomic<int64_t> inside{CLOSED};  // threads in the job, and whether it is closed
    std::atomic<uint64_t> jobs{0};
    std::atomic<int> asleep{0}, seats{0};
    Work work = nullptr;
    void* context = nullptr;
    int threads = 0;  // that there are

    static void* live(void* pool) {
        for (uint64_t seen = 0;;) seen = static_cast<Pool*>(pool)->take_part(seen);
        return nullptr;
    }

    uint64_t take_part(uint64_t seen) {
        seen = next_job(seen);
        if (!(inside.fetch_add(1) & CLOSED)) {
            const int seat = seats.fetch_sub(1);
            if (seat > 0) work(context, seat);
        }
        inside.fetch_sub(1);
        return seen;
    }

    uint64_t next_job(uint64_t seen) {
        for (int n = 0; n < SPINS; ++n, rest())
            if (jobs.load() != seen) return jobs.load();
        pthread_mutex_lock(&sleep);
        asleep.fetch_add(1);
        while (jobs.load() == seen) pthread_cond_wait(&wake, &sleep);
        asleep.fetch_sub(1);
        pthread_mutex_unlock(&sleep);
        return jobs.load();
    }

    // Makes threads until there are so many, or until the system grants no more.
    void grow(int wanted) {
        pthread_attr_t attributes;
        pthread_attr_init(&attributes);
        pthread_attr_setstacksize(&attributes, STACK);
        pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        for (pthread_t thread; threads < wanted; ++threads)
            if (pthread_create(&thread, &attributes, live, this) != 0) break;
        pthread_attr_destroy(&attributes);
    }

    void run(Work what, void* with, int wanted) {
        work = what, context = with;
        if (threads < wanted - 1) grow(wanted - 1);
        seats.store(wanted - 1);
        inside.fetch_and(~CLOSED);
        jobs.fetch_add(1);
        if (asleep.load() > 0) {
            pthread_mutex_lock(&sleep);
            pthread_mutex_unlock(&sleep);
            pthread_cond_broadcast(&wake);
        }
        what(with, 0);
        inside.fetch_or(CLOSED);
        for (int n = 0; inside.load() != CLOSED; ++n)
            if (n < SPINS) rest(); else sched_yield();
    }
};

// Never destroyed: its threads use it until the process is gone.
Pool* pool = new Pool;
thread_local bool has_job = false;  // of this thread

// A forked process has only the thread that forked.
void forget() {
    pool = new Pool;
    has_job = false;
}

const int registered = pthread_atfork(nullptr, nullptr, forget);

}  // namespace

// One caller at a time has the threads; others, and callers within work, do theirs alone.
extern "C" void run(Work what, void* with, int wanted) {
    Pool* mine = pool;
    if (has_job || pthread_mutex_trylock(&mine->one_job) != 0) return what(with, 0);
    has_job = true;
    mine->run(what, with, wanted);
    has_job = false;
    pthread_mutex_unlock(&mine->one_job);
}
