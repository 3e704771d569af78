/* Threads for parallel loops: the one pool of compiled models, in artifacts as in C programs.
 *
 * Whoever makes a pool provides all of its memory. It includes no header, because the library that goes into artifacts is
 * compiled without any. */
#ifndef EDGEC_POOL_H
#define EDGEC_POOL_H

enum {
  POOL_SHARES = 4, /* tasks a thread, where the loop leaves the number open */
  SAME_THREAD = -1, /* a loop within a task: its tasks run in the thread that began it, one after the other */
};

/* A task of a loop, in a thread of the pool: 0, or the failure that the loop returns. */
typedef int (*pool_task)(void *work, int task, int thread);

/* Threads of the caller's: calls run(work, k) for all k below `threads`, and returns 0 once all of them have returned. */
typedef int (*pool_lender)(void *lent, int threads, void (*run)(void *work, int k), void *work);

struct pool;

struct pool_ticket {
  _Alignas(64) unsigned long long next; /* epoch, and the next task of this share */
};

struct pool_member {
  struct pool *pool;
  unsigned long thread;
  int number, core;
};

struct pool {
  _Alignas(64) unsigned epoch; /* what workers wait for */
  _Alignas(64) unsigned sleepers;
  _Alignas(64) unsigned pending; /* tasks that are not finished: what the caller waits for */
  unsigned caller_sleeps;
  _Alignas(64) pool_task run;
  void *work;
  int tasks, failure;
  int threads, busy, ended;
  pool_lender lend; /* NULL: threads of its own */
  void *lent;
  unsigned long long *before; /* speeds of the threads before each one, and of all: threads + 1 */
  struct pool_ticket *tickets;
  struct pool_member *members;
};

/* A pool without threads yet, with equal shares; its memory is all zeros. */
void pool_init(struct pool *pool, int threads, unsigned long long *before, struct pool_ticket *tickets,
               struct pool_member *members);
/* Starts its threads, the calling one being the first, with these pthread attributes or NULL. Worker `i` is pinned to
 * `cores[i]`; without `cores`, it may run where the calling thread may. Where the system refuses a thread, the pool is
 * smaller: returns its size. */
int pool_start(struct pool *pool, const int *cores, const void *attributes);
/* Ends them. The pool must not be in use. */
void pool_stop(struct pool *pool);
/* Runs run(work, task, thread) for all tasks. NULL, for a pool: in the calling thread. */
int pool_launch(struct pool *pool, pool_task run, void *work, int tasks);

/* How many tasks a loop has that asks for `tasks`, 0 for any number. */
static inline int pool_tasks(const struct pool *pool, int tasks) {
  return tasks ? tasks : !pool || pool->threads == 1 || pool->busy ? 1 : pool->threads * POOL_SHARES;
}

#endif
