/* The thread pool of compiled models: loops of kernels spread over threads.
 *
 * A library of its own in each artifact; a process loads it once and points the kernels' launch function here. One pool
 * serves one calling thread. A launch is an epoch: the caller withdraws the tickets of the one before, writes the job,
 * then tickets of (epoch, next task), then the epoch itself, and takes part in the work. Each thread begins with a
 * share of its own, so that consecutive kernels find their data in its cache, as large as its core is fast where speeds
 * were told, and then helps with the shares of the others: a worker that the system does not run delays nothing but the
 * task that it has begun. All wait for a short time in a loop and then in the kernel: a thread that only yields gives
 * its core to any other process for a whole slice of time.
 */

typedef unsigned int u32;
typedef unsigned long long u64;

extern long syscall(long number, ...);
extern int pthread_create(unsigned long *thread, const void *attributes, void *(*start)(void *), void *argument);
extern int pthread_join(unsigned long thread, void **result);
extern int posix_memalign(void **memory, unsigned long alignment, unsigned long size);
extern void free(void *memory);

#if defined(__x86_64__)
enum { FUTEX = 202, SET_AFFINITY = 203 };
static void pause_a_moment(void) { __builtin_ia32_pause(); }
#elif defined(__aarch64__)
enum { FUTEX = 98, SET_AFFINITY = 122 };
static void pause_a_moment(void) { __asm__ volatile("isb" ::: "memory"); }
#endif
enum { WAIT = 128, WAKE = 129 }; /* private futexes */

enum {
  SHARES = 4,          /* tasks a thread, where the kernel leaves the number open */
  WORKER_SPINS = 4000, /* about 0.1 ms: kernels follow each other faster */
  CALLER_SPINS = 1000,
  MOST = 256,
  CORES = 1024,
};
static const u64 WITHDRAWN = 0xffffffffu; /* a ticket beyond the end of every share */

typedef struct {
  void *sync_handle;
  int tasks;
} Group;
typedef int (*Lambda)(int task, Group *group, void *data);

typedef struct {
  _Alignas(64) u64 next; /* epoch, and the next task of this share */
} Ticket;

typedef struct Pool Pool;
typedef struct {
  Pool *pool;
  unsigned long thread;
  int number, core;
} Worker;

struct Pool {
  _Alignas(64) u32 epoch; /* what workers wait for */
  _Alignas(64) u32 sleepers;
  _Alignas(64) u32 pending; /* tasks that are not finished: what the caller waits for */
  u32 caller_sleeps;
  _Alignas(64) Lambda function;
  void *data;
  int tasks, failure;
  int threads, busy, ended;
  u64 before[MOST + 1]; /* speeds of the threads before each one, and of all */
  Ticket tickets[MOST];
  Worker workers[MOST];
};

static __thread Pool *current;

#define LOAD(place) __atomic_load_n(&(place), __ATOMIC_SEQ_CST)
#define STORE(place, value) __atomic_store_n(&(place), (value), __ATOMIC_SEQ_CST)
#define RELEASE(place, value) __atomic_store_n(&(place), (value), __ATOMIC_RELEASE)
#define ADD(place, value) __atomic_fetch_add(&(place), (value), __ATOMIC_SEQ_CST)

static void sleep_while(u32 *place, u32 value) { syscall(FUTEX, place, WAIT, value, (void *)0, (void *)0, 0); }
static void wake(u32 *place, int threads) { syscall(FUTEX, place, WAKE, threads, (void *)0, (void *)0, 0); }

/* The first task of a thread's share. */
static u32 first_of(const Pool *pool, int share, int tasks) {
  return (u32)(pool->before[share] * (u64)tasks / pool->before[pool->threads]);
}

/* Take tasks of an epoch until none is left. A thread may come late, when the next job is being written: it has read
 * the job before it looks for tickets, and those of the epoch are withdrawn before the next job is written. So the job
 * belongs to the epoch if a ticket can be taken. */
static void work(Pool *pool, u32 epoch, int self) {
  Lambda function = LOAD(pool->function);
  void *data = LOAD(pool->data);
  Group group = {(void *)0, LOAD(pool->tasks)};
  int threads = pool->threads;
  for (int k = 0; k < threads; k++) {
    int share = self + k < threads ? self + k : self + k - threads;
    u32 end = first_of(pool, share + 1, group.tasks);
    u64 *next = &pool->tickets[share].next;
    u64 ticket = LOAD(*next);
    u32 done = 0;
    for (;;) {
      if ((u32)(ticket >> 32) != epoch) return; /* over: nothing that this thread did is uncounted */
      if ((u32)ticket >= end) break;
      if (!__atomic_compare_exchange_n(next, &ticket, ticket + 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) continue;
      int failure = function((int)(u32)ticket, &group, data);
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
  Worker *worker = argument;
  Pool *pool = worker->pool;
  u32 seen = 0, epoch;
  pin(worker->core);
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
    work(pool, epoch, worker->number);
  }
}

/* The launch function of TVM's kernels. */
int edgec_pool_launch(Lambda function, void *data, int tasks) {
  Pool *pool = current;
  if (!pool || pool->threads == 1 || pool->busy) {
    Group alone = {(void *)0, tasks ? tasks : 1};
    int failure = 0;
    for (int task = 0; task < alone.tasks && !failure; task++) failure = function(task, &alone, data);
    return failure;
  }
  int threads = pool->threads;
  if (!tasks) tasks = threads * SHARES;
  pool->busy = 1;
  u32 epoch = LOAD(pool->epoch) + 1;
  for (int share = 0; share < threads; share++) RELEASE(pool->tickets[share].next, (u64)epoch << 32 | WITHDRAWN);
  RELEASE(pool->function, function);
  RELEASE(pool->data, data);
  RELEASE(pool->tasks, tasks);
  RELEASE(pool->failure, 0);
  RELEASE(pool->pending, (u32)tasks);
  for (int share = 0; share < threads; share++)
    RELEASE(pool->tickets[share].next, (u64)epoch << 32 | first_of(pool, share, tasks));
  STORE(pool->epoch, epoch);
  if (LOAD(pool->sleepers)) wake(&pool->epoch, threads - 1);
  work(pool, epoch, 0);
  for (int spins = 0; spins < CALLER_SPINS && LOAD(pool->pending); spins++) pause_a_moment();
  if (LOAD(pool->pending)) {
    u32 left;
    STORE(pool->caller_sleeps, 1);
    while ((left = LOAD(pool->pending))) sleep_while(&pool->pending, left);
    STORE(pool->caller_sleeps, 0);
  }
  pool->busy = 0;
  return LOAD(pool->failure);
}

/* Let the calling thread's kernels run on this pool; on the calling thread alone without one. */
void edgec_pool_use(Pool *pool) { current = pool; }

/* End the workers. The pool must not be in use. */
void edgec_pool_free(Pool *pool) {
  if (current == pool) current = (Pool *)0;
  STORE(pool->ended, 1);
  ADD(pool->epoch, 1);
  wake(&pool->epoch, pool->threads);
  for (int number = 1; number < pool->threads; number++) pthread_join(pool->workers[number].thread, (void **)0);
  free(pool);
}

/* A pool of so many threads, the caller among them. Worker `i` is pinned to `cores[i]`; without `cores`, it may run where
 * the calling thread may. Where the system refuses a thread, the pool is smaller; null where it has no memory. */
Pool *edgec_pool_new(int threads, const int *cores) {
  void *memory = (void *)0;
  if (threads > MOST) threads = MOST;
  if (posix_memalign(&memory, 64, sizeof(Pool))) return (Pool *)0;
  for (unsigned long i = 0; i < sizeof(Pool) / sizeof(u64); i++) ((volatile u64 *)memory)[i] = 0;
  Pool *pool = memory;
  pool->threads = threads;
  int number = 1;
  for (; number < threads; number++) {
    Worker *worker = &pool->workers[number];
    worker->pool = pool;
    worker->number = number;
    worker->core = cores ? cores[number] : -1;
    if (pthread_create(&worker->thread, (void *)0, run_worker, worker)) break;
  }
  pool->threads = number; /* no worker reads it before the first epoch */
  for (int thread = 0; thread <= MOST; thread++) pool->before[thread] = (u64)thread;
  return pool;
}

/* Cut kernels by the speeds of the threads' cores, in any unit, instead of into equal shares. Before the first launch. */
void edgec_pool_speeds(Pool *pool, const u32 *speeds) {
  for (int thread = 0; thread < pool->threads; thread++)
    pool->before[thread + 1] = pool->before[thread] + (speeds[thread] ? speeds[thread] : 1);
}

int edgec_pool_version(void) { return 1; }
