/* Runs a generated C library on a file of inputs, and tells what it took.
 *
 * driver THREADS SKEW INPUTS OUTPUTS RUNS [WEIGHTS]: inputs are the arrays of RUNS runs one after the other, and so are the
 * outputs. SKEW bytes are between an aligned address and each array. With SIZED, each input's sizes (int64) are before its
 * elements, and each output's before its. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include HEADER

#define JOINED(a, b) a##_##b
#define JOIN(a, b) JOINED(a, b)
#define API(name) JOIN(NAME, name)
#define LARGEST 16

static unsigned allocations;

#ifdef COUNT
static unsigned char heap[64 << 20] __attribute__((aligned(64)));
static size_t used;

/* All of the process's allocations, so that one during a run is seen wherever it comes from. */
static void *take(size_t size, size_t alignment) {
  size_t at = (__atomic_fetch_add(&used, size + alignment + 64, __ATOMIC_RELAXED) + 32 + alignment - 1) / alignment * alignment;
  __atomic_fetch_add(&allocations, 1, __ATOMIC_RELAXED);
  if (at + size > sizeof heap) return NULL;
  *(size_t *)(heap + at - 16) = size;
  return heap + at;
}
void *malloc(size_t size) { return take(size, 16); }
void *calloc(size_t count, size_t size) { return take(count * size, 16); }
void free(void *memory) { (void)memory; }
void *realloc(void *memory, size_t size) {
  void *made = take(size, 16);
  if (memory && made) {
    size_t before = *(size_t *)((unsigned char *)memory - 16);
    memcpy(made, memory, before < size ? before : size);
  }
  return made;
}
int posix_memalign(void **made, size_t alignment, size_t size) {
  *made = take(size, alignment);
  return *made ? 0 : 12;
}
#endif

static int fail(const char *what) {
  fprintf(stderr, "%s: %s\n", what, API(last_error)());
  exit(1);
}

struct work {
  NAME *model;
  const void *inputs[LARGEST];
  void *outputs[LARGEST];
  unsigned char *bottom;
  size_t stack;
};

#ifdef SIZED
static int64_t sizes[LARGEST][32];
static API(array) made[LARGEST];

static size_t elements(const API(tensor) *info, const int64_t *shape) {
  static const size_t bytes[] = {1, 1, 1, 2, 2, 4, 4, 8, 8, 2, 2, 4, 8};
  size_t total = bytes[info->dtype];
  for (int i = 0; i < info->rank; i++) total *= (size_t)shape[i];
  return total;
}
#endif

static int once(struct work *work) {
#ifdef SIZED
  API(array) given[LARGEST];
  for (int i = 0; i < API(inputs)(); i++) given[i] = (API(array)){work->inputs[i], sizes[i]};
  return API(run_sized)(work->model, given, made);
#else
  return API(run)(work->model, work->inputs, work->outputs);
#endif
}

static void *run(void *argument) {
  struct work *work = argument;
  unsigned char *here = __builtin_frame_address(0);
  if (once(work)) fail("run");
  unsigned char *low = work->bottom;
  while (low < here && *low == 0xa5) low++;
  if ((size_t)(here - low) > work->stack) work->stack = (size_t)(here - low);
  return NULL;
}

static void *place(size_t bytes, size_t skew) {
  void *made = NULL;
  if (posix_memalign(&made, 64, bytes + 64 + skew)) exit(2);
  return (char *)made + skew;
}

int main(int count, char **values) {
  struct work work = {0};
  size_t skew = (size_t)atoi(values[2]), size = 1 << 20;
  int runs = atoi(values[5]);
  API(options) options = {.threads = atoi(values[1]), .weights_path = count > 6 ? values[6] : NULL};
  size_t memory = MEMORY(options.threads);
#ifdef OWN_MEMORY
  options.memory = place(memory, 0);
  options.memory_bytes = memory;
#endif
  if (API(init)(&work.model, &options)) fail("init");
  FILE *in = fopen(values[3], "rb"), *out = fopen(values[4], "wb");
#ifdef SIZED
  for (int i = 0; i < API(inputs)(); i++) work.inputs[i] = place(elements(API(input)(i), API(input_most)(i)), skew);
#else
  for (int i = 0; i < API(inputs)(); i++) work.inputs[i] = place(API(input)(i)->bytes, skew);
#endif
  for (int i = 0; i < API(outputs)(); i++) work.outputs[i] = place(API(output)(i)->bytes, skew);
  work.bottom = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  unsigned during = 0;
  for (int k = 0; k < runs; k++) {
    for (int i = 0; i < API(inputs)(); i++) {
      size_t bytes = API(input)(i)->bytes;
#ifdef SIZED
      size_t rank = (size_t)API(input)(i)->rank;
      if (fread(sizes[i], 8, rank, in) != rank) exit(3);
      bytes = elements(API(input)(i), sizes[i]);
#endif
      if (fread((void *)work.inputs[i], 1, bytes, in) != bytes) exit(3);
    }
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    memset(work.bottom, 0xa5, size);
    pthread_attr_setstack(&attributes, work.bottom, size);
    unsigned before = allocations;
    if (k) {
      if (pthread_create(&thread, &attributes, run, &work)) exit(4);
      pthread_join(thread, NULL);
    } else {
      /* in this thread, where nothing but the run can allocate */
      before = allocations;
      if (once(&work)) fail("run");
      during += allocations - before;
    }
#ifdef SIZED
    for (int i = 0; i < API(outputs)(); i++) {
      fwrite(made[i].shape, 8, (size_t)API(output)(i)->rank, out);
      fwrite(made[i].data, 1, elements(API(output)(i), made[i].shape), out);
    }
#else
    for (int i = 0; i < API(outputs)(); i++) fwrite(work.outputs[i], 1, API(output)(i)->bytes, out);
#endif
  }
  fclose(in);
  fclose(out);
  printf("{\"stack\": %zu, \"allocations\": %u, \"memory\": %zu, \"stated\": %zu}\n", work.stack, during, memory, (size_t)STACK);
  API(free)(work.model);
  for (int i = 0; i < API(inputs)(); i++) free((char *)work.inputs[i] - skew);
  for (int i = 0; i < API(outputs)(); i++) free((char *)work.outputs[i] - skew);
  return 0;
}
