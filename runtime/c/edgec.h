/* libedgec: run any .edge artifact for processors from C, without Python and TVM.
 *
 * A model is loaded once; sessions are streams of runs of it, each with its own memory and state, and share code and weights.
 * Different sessions run in different threads at once; one session runs in one thread at a time. Nothing is allocated after
 * edgec_open, but by models with branches, loops or sizes known only at run time. Functions that return an int return EDGEC_OK or the code of an error, whose text is edgec_last_error(). */
#ifndef EDGEC_H
#define EDGEC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
  EDGEC_OK,
  EDGEC_BAD_ARGUMENT,
  EDGEC_NO_MEMORY,
  EDGEC_BAD_FILE,     /* no artifact, cut short, or altered */
  EDGEC_INCOMPATIBLE, /* this machine or this library cannot run it */
  EDGEC_RUN_FAILED,
  EDGEC_BAD_SNAPSHOT /* damaged, or of another model */
};

enum {
  EDGEC_BOOL,
  EDGEC_INT8,
  EDGEC_UINT8,
  EDGEC_INT16,
  EDGEC_UINT16,
  EDGEC_INT32,
  EDGEC_UINT32,
  EDGEC_INT64,
  EDGEC_UINT64,
  EDGEC_FLOAT16,
  EDGEC_BFLOAT16,
  EDGEC_FLOAT32,
  EDGEC_FLOAT64
};

typedef struct edgec_model edgec_model;
typedef struct edgec_session edgec_session;

typedef struct {
  const char *name;
  int32_t dtype, rank;
  const int64_t *shape;
  size_t bytes; /* C order, without padding */
} edgec_tensor;

typedef struct {
  const char *kernel, *nodes; /* nodes of the source model */
  double seconds;             /* of one run */
} edgec_layer;

/* An array with its sizes. */
typedef struct {
  const void *data;     /* C order, without padding */
  const int64_t *shape; /* of an input, NULL for those that edgec_input tells */
} edgec_array;

/* A pool of threads of the caller's: calls run(work, k) for all k below tasks, in any threads, and returns 0 once all of
 * them have returned. */
typedef int (*edgec_parallel)(void *pool, int tasks, void (*run)(void *work, int k), void *work);

/* All zeros is a good choice. */
typedef struct {
  void *memory; /* edgec_memory_bytes, aligned to 64 bytes; NULL: edgec_open allocates it */
  size_t memory_bytes;
  int threads;             /* 0 and 1: the caller's thread alone */
  edgec_parallel parallel; /* NULL: threads of the session's own */
  void *pool;
} edgec_options;

/* Checks sizes, digests and what the code needs of this machine, and only then loads code. `set` is the number of the set of
 * input shapes, 0 for the first: an artifact may take several. */
int edgec_load(const char *path, int set, edgec_model **model);
void edgec_unload(edgec_model *model); /* once its sessions are closed */

const char *edgec_name(const edgec_model *model);
const char *edgec_version(const edgec_model *model);
const char *edgec_target(const edgec_model *model);
int edgec_sets(const edgec_model *model);
int edgec_inputs(const edgec_model *model);
int edgec_outputs(const edgec_model *model);
/* NULL beyond the last. Of an input with sizes chosen for each run the smallest ones, and edgec_input_most has the largest; an
 * output has -1 for a size known only at run time, and then 0 bytes. */
const edgec_tensor *edgec_input(const edgec_model *model, int number);
const edgec_tensor *edgec_output(const edgec_model *model, int number);
const int64_t *edgec_input_most(const edgec_model *model, int number);
int edgec_layers(const edgec_model *model);
size_t edgec_memory_bytes(const edgec_model *model, int threads); /* of a session */
size_t edgec_stack_bytes(const edgec_model *model);               /* the most that a thread needs */
size_t edgec_snapshot_bytes(const edgec_model *model);            /* 0 without state */

int edgec_open(const edgec_model *model, const edgec_options *options, edgec_session **session);
int edgec_run(edgec_session *session, const void *const inputs[], void *const outputs[]);
/* For inputs and outputs whose sizes are known only at run time, which edgec_run refuses: outputs[k] tells where the output is
 * and its sizes, until the session's next run or its end. Such a model allocates while it runs; what it took is kept for the
 * next run. */
int edgec_run_sized(edgec_session *session, const edgec_array inputs[], edgec_array outputs[]);
int edgec_profile(edgec_session *session, const void *const inputs[], void *const outputs[], int runs, edgec_layer *layers,
                  int count);
/* The state of a streaming model; snapshots are the same bytes as those of sessions in Python. */
int edgec_reset(edgec_session *session);
int edgec_snapshot(edgec_session *session, void *bytes, size_t size);
int edgec_restore(edgec_session *session, const void *bytes, size_t size);
void edgec_close(edgec_session *session);

const char *edgec_last_error(void); /* of this thread */

#ifdef __cplusplus
}
#endif
#endif
