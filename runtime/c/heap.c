/* Memory of values, by size: four classes to each power of two. */
#include <stdlib.h>
#include <string.h>

#include "heap.h"

#define MOST_BYTES (1ll << 36)

static uint32_t class_of(uint64_t bytes, uint64_t *rounded) {
  uint32_t exponent = 6;
  while (exponent < 47 && ((uint64_t)2 << exponent) <= bytes) exponent++;
  uint64_t step = (uint64_t)1 << (exponent - 2);
  uint64_t steps = bytes <= ((uint64_t)1 << exponent) ? 4 : (bytes + step - 1) / step;
  *rounded = steps * step;
  return 4 * exponent + (uint32_t)(steps - 4) < CLASSES ? 4 * exponent + (uint32_t)(steps - 4) : CLASSES - 1;
}

struct object *heap_take(struct heap *heap, enum object_kind kind, uint32_t count, uint64_t bytes) {
  uint64_t rounded;
  uint32_t class = class_of(bytes, &rounded);
  struct object *made = heap->idle[class];
  if (made) {
    heap->idle[class] = made->later;
  } else {
    void *memory = NULL;
    if (bytes > MOST_BYTES || posix_memalign(&memory, ALIGNMENT, sizeof *made + rounded)) {
      fail(NO_MEMORY, "there is no memory for %llu bytes of a run", (unsigned long long)bytes);
      return NULL;
    }
    made = memory;
    made->next = heap->all;
    heap->all = made;
  }
  made->later = NULL;
  made->references = 1;
  made->kind = kind;
  made->count = count;
  made->class = class;
  made->bytes = bytes;
  made->storage = NULL;
  if (kind == A_TUPLE) memset(made->content, 0, bytes);
  return made;
}

void heap_retain(struct object *object) {
  if (object) object->references++;
}

void heap_release(struct heap *heap, struct object *object) {
  if (!object || --object->references) return;
  if (object->kind == A_TENSOR) heap_release(heap, object->storage);
  if (object->kind == A_TUPLE)
    for (uint32_t i = 0; i < object->count; i++) heap_release(heap, values_of(object)[i].object);
  object->later = heap->idle[object->class];
  heap->idle[object->class] = object;
}

void heap_free(struct heap *heap) {
  for (struct object *at = heap->all, *next; at; at = next) {
    next = at->next;
    free(at);
  }
  heap->all = NULL;
}

int64_t heap_bytes(uint32_t rank, const int64_t *sizes, uint8_t bits) {
  int64_t bytes = bits / 8;
  for (uint32_t i = 0; i < rank; i++) {
    if (sizes[i] < 0 || sizes[i] > MOST_BYTES) return -1;
    if (sizes[i] && bytes > MOST_BYTES / sizes[i]) return -1;
    bytes *= sizes[i];
  }
  return bytes;
}

struct object *heap_tensor(struct heap *heap, uint32_t rank, const int64_t *sizes, uint8_t code, uint8_t bits) {
  int64_t bytes = heap_bytes(rank, sizes, bits);
  if (bytes < 0) return fail(RUN_FAILED, "a tensor of this run would have sizes that cannot be"), NULL;
  struct object *made = heap_take(heap, A_TENSOR, rank, rank * sizeof *sizes);
  if (!made) return NULL;
  memcpy(made->content, sizes, rank * sizeof *sizes);
  made->bytes = (uint64_t)bytes;
  made->tensor = (struct dl_tensor){.device_type = 1, .rank = (int32_t)rank, .code = code, .bits = bits, .lanes = 1, .shape = sizes_of(made)};
  return made;
}
