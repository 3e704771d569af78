/* Values of programs whose sizes are known only when they run. */
#ifndef EDGEC_HEAP_H
#define EDGEC_HEAP_H

#include "engine.h"

enum object_kind { A_TENSOR, A_SHAPE, A_STORAGE, A_TUPLE };

struct value {
  struct object *object; /* NULL: a number */
  int64_t number;
};

/* Counted references. What it consists of follows: sizes, values or bytes. */
struct object {
  struct object *next, *later; /* of all; of those that are free and of one size */
  uint32_t references, kind, count, class;
  uint64_t bytes;
  struct dl_tensor tensor;
  struct object *storage; /* of a tensor; NULL where the memory is somebody else's */
  _Alignas(ALIGNMENT) uint8_t content[];
};

enum { CLASSES = 4 * 48 };

/* Memory is taken when a run needs it and kept for the next. */
struct heap {
  struct object *all, *idle[CLASSES];
  struct object **parameter, **kept; /* of the main function; the outputs of the last run */
  struct value *registers;
  struct ffi_value *arguments;
  uint32_t used, depth;
};

struct object *heap_take(struct heap *heap, enum object_kind kind, uint32_t count, uint64_t bytes);
void heap_retain(struct object *object);
void heap_release(struct heap *heap, struct object *object);
void heap_free(struct heap *heap);
/* A tensor of `bytes` from `offset` of a storage on. */
struct object *heap_tensor(struct heap *heap, uint32_t rank, const int64_t *sizes, uint8_t code, uint8_t bits);
int64_t heap_bytes(uint32_t rank, const int64_t *sizes, uint8_t bits); /* -1 where it is no size */

static inline int64_t *sizes_of(struct object *object) { return (int64_t *)(void *)object->content; }
static inline struct value *values_of(struct object *object) { return (struct value *)(void *)object->content; }

#endif
