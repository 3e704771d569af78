/* Threads for parallel loops. They wait for work by spinning for some microseconds, then asleep. */
#include <limits.h>
#include <unistd.h>

#include "engine.h"

#define SPINS 500

static void pause_briefly(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

static void *member_main(void *argument) {
  struct member *me = argument;
  struct pool *pool = me->pool;
  uint32_t seen = 0;
  for (;;) {
    int spins = 0;
    while (__atomic_load_n(&pool->round, __ATOMIC_ACQUIRE) == seen) {
      if (++spins < SPINS) {
        pause_briefly();
        continue;
      }
      pthread_mutex_lock(&pool->lock);
      pool->sleeping++;
      while (__atomic_load_n(&pool->round, __ATOMIC_ACQUIRE) == seen) pthread_cond_wait(&pool->start, &pool->lock);
      pool->sleeping--;
      pthread_mutex_unlock(&pool->lock);
    }
    seen++;
    if (__atomic_load_n(&pool->stop, __ATOMIC_ACQUIRE)) return NULL;
    pool->run(pool->work, me->number);
    if (__atomic_sub_fetch(&pool->left, 1, __ATOMIC_ACQ_REL) == 0) {
      pthread_mutex_lock(&pool->lock);
      if (pool->waiting) pthread_cond_signal(&pool->done);
      pthread_mutex_unlock(&pool->lock);
    }
  }
}

static void begin_round(struct pool *pool) {
  pthread_mutex_lock(&pool->lock);
  __atomic_store_n(&pool->round, pool->round + 1, __ATOMIC_RELEASE);
  if (pool->sleeping) pthread_cond_broadcast(&pool->start);
  pthread_mutex_unlock(&pool->lock);
}

int pool_start(struct pool *pool, struct member *members, int threads, uint64_t stack) {
  pthread_attr_t attributes;
  uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), least = (uint64_t)sysconf(_SC_THREAD_STACK_MIN);
  pthread_mutex_init(&pool->lock, NULL);
  pthread_cond_init(&pool->start, NULL);
  pthread_cond_init(&pool->done, NULL);
  pool->threads = threads;
  stack = (stack + least + page - 1) / page * page; /* the least is for the C library's own needs */
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, stack);
  for (int i = 1; i < threads; i++) {
    members[i] = (struct member){.pool = pool, .number = i};
    if (pthread_create(&members[i].thread, &attributes, member_main, &members[i])) {
      pthread_attr_destroy(&attributes);
      pool_stop(pool, members, i);
      return fail(NO_MEMORY, "thread %d of %d cannot be started", i + 1, threads);
    }
  }
  pthread_attr_destroy(&attributes);
  return OK;
}

void pool_run(struct pool *pool, task run, void *work) {
  pool->run = run;
  pool->work = work;
  __atomic_store_n(&pool->left, pool->threads - 1, __ATOMIC_RELAXED);
  begin_round(pool);
  run(work, 0);
  for (int spins = 0; spins < SPINS; spins++) {
    if (!__atomic_load_n(&pool->left, __ATOMIC_ACQUIRE)) return;
    pause_briefly();
  }
  pthread_mutex_lock(&pool->lock);
  pool->waiting = 1;
  while (__atomic_load_n(&pool->left, __ATOMIC_ACQUIRE)) pthread_cond_wait(&pool->done, &pool->lock);
  pool->waiting = 0;
  pthread_mutex_unlock(&pool->lock);
}

void pool_stop(struct pool *pool, struct member *members, int threads) {
  __atomic_store_n(&pool->stop, 1, __ATOMIC_RELEASE);
  begin_round(pool);
  for (int i = 1; i < threads; i++) pthread_join(members[i].thread, NULL);
  pthread_cond_destroy(&pool->start);
  pthread_cond_destroy(&pool->done);
  pthread_mutex_destroy(&pool->lock);
}
