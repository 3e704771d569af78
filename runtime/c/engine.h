/* What runs a compiled model: a table of kernel calls over one block of memory.
 *
 * Kernels are functions as TVM compiles them; the few symbols of its runtime that they call are in kernels_abi.c. Nothing
 * here allocates: all memory of an instance is one block, whose size engine_bytes() tells. */
#ifndef EDGEC_ENGINE_H
#define EDGEC_ENGINE_H

#include <stddef.h>
#include <stdint.h>

#include "pool.h"

#define ALIGNMENT 64u
#define MOST_THREADS 64
#define STACK_OF_RUN 12288 /* of what surrounds a kernel, of C's mathematical functions, and to write the text of an error */
#define ROUND(size) (((uint64_t)(size) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT)

enum status { OK, BAD_ARGUMENT, NO_MEMORY, BAD_FILE, INCOMPATIBLE, RUN_FAILED, BAD_SNAPSHOT };
enum place { INPUT, WEIGHT, ARENA, RESULT };
enum { NOWHERE = -1 };

/* The layouts of the public headers: a tensor, a layer of a profile. */
struct tensor_info {
  const char *name;
  int32_t dtype, rank;
  const int64_t *shape;
  size_t bytes;
};

struct layer_time {
  const char *kernel, *nodes;
  double seconds;
};

/* DLPack and tvm-ffi, as kernels take them. */
struct dl_tensor {
  void *data;
  int32_t device_type, device_id, rank;
  uint8_t code, bits;
  uint16_t lanes;
  const int64_t *shape, *strides;
  uint64_t byte_offset;
};

struct ffi_value {
  int32_t kind;
  uint32_t zero;
  union {
    int64_t number;
    void *pointer;
  } value;
};

typedef int (*kernel)(void *self, const struct ffi_value *arguments, int32_t count, struct ffi_value *result);

struct operand {
  uint8_t place, code, bits, rank;
  uint32_t number, sizes; /* of the inputs, weights or results; of the first size */
  uint64_t offset, bytes;
};

struct call {
  kernel run;
  const char *symbol, *nodes;
  uint32_t first, count; /* arguments */
};

struct port {
  struct tensor_info info;
  int32_t state;   /* number of the state that it is, or NOWHERE */
  int32_t outside; /* number among those that the caller passes, or NOWHERE */
  const int64_t *most; /* the largest sizes, where they are chosen for each run; NULL where they are fixed */
};

struct state {
  uint32_t input, output;
  int64_t initial; /* bytes from the start of the weights, or NOWHERE for zeros */
};

struct instance;

/* An array of the caller's, or, of an output, of the instance's. */
struct array {
  const void *data;
  const int64_t *shape; /* NULL for fixed sizes */
};

/* How a program runs that is more than a sequence of calls: NULL pointers for outputs leave them in the instance. */
struct runner {
  int (*start)(struct instance *one);
  int (*run)(struct instance *one, const struct array *inputs, void *const *outputs, struct array *left, struct layer_time *times);
  void (*stop)(struct instance *one);
};

struct program {
  const char *name, *version, *target;
  uint32_t operands, calls, inputs, outputs, outside_inputs, outside_outputs, results, states;
  const struct operand *operand;
  const struct call *call;
  const uint32_t *argument, *output_operand;
  const int64_t *size;
  const struct port *input, *output;
  const struct state *state;
  const uint64_t *result_bytes, *weight; /* a weight's bytes from the start of the weights */
  uint64_t arena, workspace, stack;
  const char *snapshot;        /* its header */
  const struct runner *runner; /* NULL for a sequence of calls */
};

struct worker {
  struct instance *instance;
  uint8_t *workspace;
  uint64_t used;
};

struct instance {
  const struct program *program;
  const uint8_t *weights;
  int threads, owned, running;
  struct dl_tensor *tensors;
  struct ffi_value *arguments;
  uint32_t *moving, moving_count;
  void **input_at, **result_at, **input_copy, **result_copy;
  uint8_t **present, **next; /* of each state */
  uint8_t *arena;
  struct worker *workers;
  struct pool pool;
  void *heap; /* the runner's, and room for what it is given */
  struct array *given;
};

/* engine.c */
uint64_t engine_bytes(const struct program *program, int threads);
int engine_start(struct instance **made, const struct program *program, const void *weights, void *memory,
                 size_t memory_bytes, int threads, pool_lender lend, void *lent);
int engine_run(struct instance *one, const void *const *inputs, void *const *outputs, struct layer_time *times);
int engine_profile(struct instance *one, const void *const *inputs, void *const *outputs, int runs,
                   struct layer_time *layers, int count);
void engine_stop(struct instance *one);
int engine_begin(struct instance *one); /* of a run in this thread; gives the error that another thread is in one */
void engine_end(struct instance *one, struct worker *before);
int kernel_failed(const char *symbol); /* with the text of the last error */
double engine_now(void);

/* sized.c */
int run_sized(struct instance *one, const struct array *inputs, struct array *outputs);

/* state.c */
void state_reset(struct instance *one);
size_t state_bytes(const struct program *program);
int state_save(struct instance *one, void *bytes, size_t size);
int state_restore(struct instance *one, const void *bytes, size_t size);

/* kernels_abi.c */
extern _Thread_local struct worker *current_worker;
typedef int (*parallel_body)(int number, void *environment, void *data);
int launch_parallel(parallel_body body, void *data, int tasks);
void *workspace_alloc(int device_type, int device, uint64_t bytes, int code, int bits);
int workspace_free(int device_type, int device, void *memory);
void raised_from_parts(const char *kind, const char **parts, int32_t count);

/* errors.c: the last error of this thread */
int fail(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));
const char *last_error(void);
void forget_error(void);

/* machine.c */
int machine_check(const char *what, const char *arch, const char *const *features, int count, const char *glibc);

/* sha256.c */
extern const uint32_t sha256_constants[64];
int sha256_blocks(uint32_t h[8], const uint8_t *bytes, size_t count); /* 0: this processor has no instructions for it */
void sha256(const void *bytes, size_t size, uint8_t digest[32]);

#endif
