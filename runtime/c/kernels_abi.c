/* What compiled kernels call: the start of a parallel loop, workspace, and the text of an error.
 *
 * Kernels find the first three in variables of theirs, __TVMBackend…, which whoever loads the kernels sets. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"

_Thread_local struct worker *current_worker;

/* TVMParallelGroupEnv */
struct environment {
  void *sync;
  int32_t tasks;
};

struct loop {
  struct instance *instance;
  parallel_body body;
  void *data;
  struct environment environment;
};

static int run_task(void *work, int number, int thread) {
  struct loop *loop = work;
  struct worker *before = current_worker;
  if (thread != SAME_THREAD) current_worker = &loop->instance->workers[thread];
  int failed = loop->body(number, &loop->environment, loop->data);
  current_worker = before;
  return failed;
}

int launch_parallel(parallel_body body, void *data, int tasks) {
  struct instance *one = current_worker->instance;
  struct loop loop = {one, body, data, {NULL, pool_tasks(&one->pool, tasks)}};
  return pool_launch(&one->pool, run_task, &loop, loop.environment.tasks);
}

void *workspace_alloc(int device_type, int device, uint64_t bytes, int code, int bits) {
  (void)device_type, (void)device, (void)code, (void)bits;
  struct worker *own = current_worker;
  uint64_t size = ROUND(bytes);
  if (size < bytes) return NULL;
  if (size > own->instance->program->workspace - own->used) {
    void *apart = NULL; /* of a kernel whose sizes are known only now */
    return own->instance->program->runner && !posix_memalign(&apart, ALIGNMENT, size) ? apart : NULL;
  }
  void *place = own->workspace + own->used;
  own->used += size;
  return place;
}

int workspace_free(int device_type, int device, void *memory) {
  (void)device_type, (void)device;
  struct worker *own = current_worker;
  uint64_t at = (uint64_t)((uintptr_t)memory - (uintptr_t)own->workspace);
  if (at > own->used && own->instance->program->runner) return free(memory), 0;
  if (at > own->used) return -1;
  own->used = at; /* in the opposite order of allocation */
  return 0;
}

void raised_from_parts(const char *kind, const char **parts, int32_t count) {
  char text[384] = "";
  size_t used = 0;
  for (int32_t i = 0; i < count; i++)
    if (parts[i] && used < sizeof text) {
      int more = snprintf(text + used, sizeof text - used, "%s", parts[i]);
      used += more > 0 ? (size_t)more : 0;
    }
  fail(RUN_FAILED, "%s: %s", kind, text);
}
