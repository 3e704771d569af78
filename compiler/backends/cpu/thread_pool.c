/* The thread pool in artifacts: the runtime's (`pool.c`) behind the launch function of TVM's kernels.
 *
 * A library of its own in each artifact; a process loads it once and points the kernels' launch function here. One pool
 * serves one calling thread.
 */
#include "pool.h"

enum { MOST = 256 };

extern int posix_memalign(void **memory, unsigned long alignment, unsigned long size);
extern void free(void *memory);

typedef struct {
  void *sync_handle;
  int tasks;
} Group;
typedef int (*Lambda)(int task, Group *group, void *data);

typedef struct {
  struct pool pool;
  unsigned long long before[MOST + 1];
  struct pool_ticket tickets[MOST];
  struct pool_member members[MOST];
} Pool;

typedef struct {
  Lambda function;
  void *data;
  Group group;
} Launch;

static __thread struct pool *current;

static int run_lambda(void *work, int task, int thread) {
  Launch *launch = work;
  (void)thread;
  return launch->function(task, &launch->group, launch->data);
}

/* The launch function of TVM's kernels. */
int edgec_pool_launch(Lambda function, void *data, int tasks) {
  Launch launch = {function, data, {(void *)0, pool_tasks(current, tasks)}};
  return pool_launch(current, run_lambda, &launch, launch.group.tasks);
}

/* Let the calling thread's kernels run on this pool; on the calling thread alone without one. */
void edgec_pool_use(Pool *own) { current = own ? &own->pool : (struct pool *)0; }

/* End the workers. The pool must not be in use. */
void edgec_pool_free(Pool *own) {
  if (current == &own->pool) current = (struct pool *)0;
  pool_stop(&own->pool);
  free(own);
}

/* A pool of so many threads, the caller among them (see `pool_start`); null where the system has no memory. */
Pool *edgec_pool_new(int threads, const int *cores) {
  void *memory = (void *)0;
  if (threads > MOST) threads = MOST;
  if (posix_memalign(&memory, 64, sizeof(Pool))) return (Pool *)0;
  for (unsigned long i = 0; i < sizeof(Pool) / sizeof(long); i++) ((volatile long *)memory)[i] = 0;
  Pool *own = memory;
  pool_init(&own->pool, threads, own->before, own->tickets, own->members);
  pool_start(&own->pool, cores, (void *)0);
  return own;
}

/* Cut kernels by the speeds of the threads' cores, in any unit, instead of into equal shares. Before the first launch. */
void edgec_pool_speeds(Pool *own, const unsigned *speeds) {
  for (int thread = 0; thread < own->pool.threads; thread++)
    own->before[thread + 1] = own->before[thread] + (speeds[thread] ? speeds[thread] : 1);
}

int edgec_pool_version(void) { return 1; }
