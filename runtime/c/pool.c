/* The thread pool of compiled models: loops of kernels spread over threads.
 *
 * One pool serves one calling thread. A launch is an epoch: the caller withdraws the tickets of the one before, writes the
 * job, then tickets of (epoch, next task), then the epoch itself, and takes part in the work. Each thread begins with a
 * share of its own, so that consecutive kernels find their data in its cache, as large as its core is fast where speeds
 * were told, and then helps with the shares of the others: a worker that the system does not run delays nothing but the
 * task that it has begun. All wait for a short time in a loop and then in the kernel: a thread that only yields gives
 * its core to any other process for a whole slice of time.
 */
#include "pool.h"

typedef unsigned int u32;
typedef unsigned long long u64;

extern long syscall(long number, ...);
extern int pthread_create(unsigned long *thread, const void *attributes, void *(*start)(void *), void *argument);
extern int pthread_join(unsigned long thread, void **result);

#if defined(__x86_64__)
enum { FUTEX = 202, SET_AFFINITY = 203 };
static void pause_a_moment(void) { __builtin_ia32_pause(); }
#elif defined(__aarch64__)
enum { FUTEX = 98, SET_AFFINITY = 122 };
static void pause_a_moment(void) { __asm__ volatile("isb" ::: "memory"); }
#else /* another processor refuses every artifact, but programs for it can be linked */
#include <sys/syscall.h>
enum { FUTEX = SYS_futex, SET_AFFINITY = SYS_sched_setaffinity };
static void pause_a_moment(void) {}
#endif
enum { WAIT = 128, WAKE = 129 }; /* private futexes */

enum {
  WORKER_SPINS = 4000, /* about 0.1 ms: kernels follow each other faster */
  CALLER_SPINS = 1000,
  CORES = 1024,
};
static const u64 WITHDRAWN = 0xffffffffu; /* a ticket beyond the end of every share */

#define LOAD(place) __atomic_load_n(&(place), __ATOMIC_SEQ_CST)
#define STORE(place, value) __atomic_store_n(&(place), (value), __ATOMIC_SEQ_CST)
#define RELEASE(place, value) __atomic_store_n(&(place), (value), __ATOMIC_RELEASE)
#define ADD(place, value) __atomic_fetch_add(&(place), (value), __ATOMIC_SEQ_CST)

static void sleep_while(u32 *place, u32 value) { syscall(FUTEX, place, WAIT, value, (void *)0, (void *)0, 0); }
static void wake(u32 *place, int threads) { syscall(FUTEX, place, WAKE, threads, (void *)0, (void *)0, 0); }

/* The first task of a thread's share. */
static u32 first_of(const struct pool *pool, int share, int tasks) {
  return (u32)(pool->before[share] * (u64)tasks / pool->before[pool->threads]);
}

/* Take tasks of an epoch until none is left. A thread may come late, when the next job is being written: it has read
 * the job before it looks for tickets, and those of the epoch are withdrawn before the next job is written. So the job
 * belongs to the epoch if a ticket can be taken. */
static void take_tasks(struct pool *pool, u32 epoch, int self) {
  pool_task run = LOAD(pool->run);
  void *work = LOAD(pool->work);
  int tasks = LOAD(pool->tasks), threads = pool->threads;
  for (int k = 0; k < threads; k++) {
    int share = self + k < threads ? self + k : self + k - threads;
    u32 end = first_of(pool, share + 1, tasks);
    u64 *next = &pool->tickets[share].next;
    u64 ticket = LOAD(*next);
    u32 done = 0;
    for (;;) {
      if ((u32)(ticket >> 32) != epoch) return; /* over: nothing that this thread did is uncounted */
      if ((u32)ticket >= end) break;
      if (!__atomic_compare_exchange_n(next, &ticket, ticket + 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) continue;
      int failure = run(work, (int)(u32)ticket, self);
      if (failure) STORE(pool->failure, failure);
      done++;
      ticket = LOAD(*next);
    }
    /* Counted a share at a time: threads that count each task take the count out of each other's cache. */
    if (done && ADD(pool->pending, -done) == done && LOAD(pool->caller_sleeps)) wake(&pool->pending, 1);
  }
}

static void pin(int core) {
  u64 mask[CORES / 64] = {0};
  if (core < 0 || core >= CORES) return;
  mask[core / 64] = 1ull << (core % 64);
  syscall(SET_AFFINITY, 0, sizeof mask, mask);
}

static void *run_worker(void *argument) {
  struct pool_member *me = argument;
  struct pool *pool = me->pool;
  u32 seen = 0, epoch;
  pin(me->core);
  for (;;) {
    int spins = 0;
    while ((epoch = LOAD(pool->epoch)) == seen) {
      if (++spins < WORKER_SPINS) {
        pause_a_moment();
        continue;
      }
      ADD(pool->sleepers, 1);
      if (LOAD(pool->epoch) == seen) sleep_while(&pool->epoch, seen);
      ADD(pool->sleepers, -1u);
      spins = 0;
    }
    seen = epoch;
    if (LOAD(pool->ended)) return (void *)0;
    take_tasks(pool, epoch, me->number);
  }
}

/* What a lent thread runs. */
static void run_lent(void *work, int number) {
  struct pool *pool = work;
  if (number >= 0 && number < pool->threads) take_tasks(pool, LOAD(pool->epoch), number);
}

static void wait_for_all(struct pool *pool) {
  for (int spins = 0; spins < CALLER_SPINS && LOAD(pool->pending); spins++) pause_a_moment();
  if (!LOAD(pool->pending)) return;
  u32 left;
  STORE(pool->caller_sleeps, 1);
  while ((left = LOAD(pool->pending))) sleep_while(&pool->pending, left);
  STORE(pool->caller_sleeps, 0);
}

static int run_alone(pool_task run, void *work, int tasks) {
  int failure = 0;
  for (int task = 0; task < tasks && !failure; task++) failure = run(work, task, SAME_THREAD);
  return failure;
}

int pool_launch(struct pool *pool, pool_task run, void *work, int tasks) {
  if (!pool || pool->threads == 1 || pool->busy) return run_alone(run, work, tasks);
  int threads = pool->threads;
  pool->busy = 1;
  u32 epoch = LOAD(pool->epoch) + 1;
  for (int share = 0; share < threads; share++) RELEASE(pool->tickets[share].next, (u64)epoch << 32 | WITHDRAWN);
  RELEASE(pool->run, run);
  RELEASE(pool->work, work);
  RELEASE(pool->tasks, tasks);
  RELEASE(pool->failure, 0);
  RELEASE(pool->pending, (u32)tasks);
  for (int share = 0; share < threads; share++)
    RELEASE(pool->tickets[share].next, (u64)epoch << 32 | first_of(pool, share, tasks));
  STORE(pool->epoch, epoch);
  int refused = 0;
  if (pool->lend)
    refused = pool->lend(pool->lent, threads, run_lent, pool);
  else if (LOAD(pool->sleepers))
    wake(&pool->epoch, threads - 1);
  if (!refused) {
    take_tasks(pool, epoch, 0); /* lent threads have left nothing, unless they were not called */
    wait_for_all(pool);
  }
  pool->busy = 0;
  return refused ? -1 : LOAD(pool->failure);
}

void pool_init(struct pool *pool, int threads, u64 *before, struct pool_ticket *tickets, struct pool_member *members) {
  pool->threads = threads;
  pool->before = before;
  pool->tickets = tickets;
  pool->members = members;
  for (int thread = 0; thread <= threads; thread++) before[thread] = (u64)thread;
}

int pool_start(struct pool *pool, const int *cores, const void *attributes) {
  int number = 1;
  for (; number < pool->threads; number++) {
    struct pool_member *member = &pool->members[number];
    member->pool = pool;
    member->number = number;
    member->core = cores ? cores[number] : -1;
    if (pthread_create(&member->thread, attributes, run_worker, member)) break;
  }
  pool->threads = number; /* no worker reads it before the first epoch */
  return number;
}

void pool_stop(struct pool *pool) {
  STORE(pool->ended, 1);
  ADD(pool->epoch, 1);
  wake(&pool->epoch, pool->threads);
  for (int number = 1; number < pool->threads; number++) pthread_join(pool->members[number].thread, (void **)0);
}
