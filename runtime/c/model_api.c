/* The functions of NAME.h over the table of one model. The generated source includes this file after it has defined NAME,
 * its macros and `model`, the description of the model. */
#include <pthread.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* What kernels refer to. */
void *__TVMBackendParallelLaunch = (void *)launch_parallel;
void *__TVMBackendAllocWorkspace = (void *)workspace_alloc;
void *__TVMBackendFreeWorkspace = (void *)workspace_free;

void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
  raised_from_parts(kind, parts, count);
}

#define JOINED(a, b) a##_##b
#define JOIN(a, b) JOINED(a, b)
#define API(name) __attribute__((visibility("default"))) JOIN(NAME, name)

_Static_assert(sizeof(struct instance) <= 512, "NAME_MEMORY_BYTES counts 512 for it");
_Static_assert(sizeof(struct dl_tensor) == 48 && sizeof(struct ffi_value) == 16, "the layouts of DLPack and tvm-ffi");
#ifdef VARIES
_Static_assert(STACK_OF_CALLS == 262144, "NAME_STACK_BYTES counts it");
#endif
_Static_assert(sizeof(struct worker) + sizeof(struct pool_member) + sizeof(struct pool_ticket) + 8 <= 128,
               "NAME_MEMORY_BYTES counts 128 for what a thread has of the pool");

struct options {
  void *memory;
  size_t memory_bytes;
  int threads;
  pool_lender parallel;
  void *pool;
  const char *weights_path;
  const void *weights;
  size_t weights_bytes;
};

/* Weights from a file: mapped once and for all, whatever the number of instances. */
static pthread_mutex_t mapping = PTHREAD_MUTEX_INITIALIZER;
static const void *mapped;

static int check_weights(const void *bytes, size_t size, const char *from) {
  uint8_t digest[32];
  if (size != model.weights_bytes)
    return fail(BAD_FILE, "%s has %zu bytes, and the weights of %s have %zu", from, size, model.program.name,
                model.weights_bytes);
  if ((uintptr_t)bytes % ALIGNMENT) return fail(BAD_ARGUMENT, "weights have to be aligned to %u bytes", ALIGNMENT);
  sha256(bytes, size, digest);
  if (memcmp(digest, model.weights_digest, sizeof digest))
    return fail(BAD_FILE, "%s does not hold the weights of %s %s, or was altered: its digest differs", from,
                model.program.name, model.program.version);
  return OK;
}

static int map_weights(const char *path) {
  struct stat about;
  int file = open(path, O_RDONLY | O_CLOEXEC), failed = OK;
  if (file < 0 || fstat(file, &about)) {
    if (file >= 0) close(file);
    return fail(BAD_FILE, "%s: the weights of %s cannot be read", path, model.program.name);
  }
  void *bytes = about.st_size > 0 ? mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_PRIVATE, file, 0) : MAP_FAILED;
  close(file);
  if (bytes == MAP_FAILED) return fail(BAD_FILE, "%s: the weights of %s cannot be mapped", path, model.program.name);
  failed = check_weights(bytes, (size_t)about.st_size, path);
  if (failed)
    munmap(bytes, (size_t)about.st_size);
  else
    mapped = bytes;
  return failed;
}

static int find_weights(const struct options *options, const void **found) {
  int failed = OK;
  *found = model.linked;
  if (*found || !model.weights_bytes) return OK;
  if (options->weights) {
    *found = options->weights;
    return check_weights(options->weights, options->weights_bytes, "the memory at options.weights");
  }
  pthread_mutex_lock(&mapping);
  if (!mapped)
    failed = options->weights_path ? map_weights(options->weights_path)
                                   : fail(BAD_ARGUMENT, "%s needs the file of its weights: set options.weights_path",
                                          model.program.name);
  *found = mapped;
  pthread_mutex_unlock(&mapping);
  return failed;
}

int API(init)(struct instance **instance, const struct options *given) {
  static const struct options none;
  const struct options *options = given ? given : &none;
  const void *weights;
  if (!instance) return fail(BAD_ARGUMENT, "there is no place for the instance");
  *instance = NULL;
  int failed = machine_check(model.what, model.arch, model.features, model.feature_count, NULL);
  if (!failed) failed = find_weights(options, &weights);
  if (failed) return failed;
  return engine_start(instance, &model.program, weights, options->memory, options->memory_bytes, options->threads,
                      options->parallel, options->pool);
}

static int no_instance(void) { return fail(BAD_ARGUMENT, "there is no instance of %s: its init failed, or was not called", model.program.name); }

int API(run)(struct instance *instance, const void *const *inputs, void *const *outputs) {
  if (!instance) return no_instance();
  if (!inputs || !outputs) return fail(BAD_ARGUMENT, "a run of %s takes inputs and outputs", model.program.name);
  return engine_run(instance, inputs, outputs, NULL);
}

#ifdef VARIES
int API(run_sized)(struct instance *instance, const struct array *inputs, struct array *outputs) {
  if (!instance) return no_instance();
  if (!inputs || !outputs) return fail(BAD_ARGUMENT, "a run of %s takes inputs and outputs", model.program.name);
  return run_sized(instance, inputs, outputs);
}

const int64_t *API(input_most)(int number) {
  for (uint32_t i = 0; i < model.program.inputs; i++) {
    const struct port *port = &model.program.input[i];
    if (number >= 0 && port->outside == number) return port->most ? port->most : port->info.shape;
  }
  return NULL;
}
#endif

void API(free)(struct instance *instance) { engine_stop(instance); }

int API(inputs)(void) { return (int)model.program.outside_inputs; }

int API(outputs)(void) { return (int)model.program.outside_outputs; }

static const struct tensor_info *info_of(const struct port *ports, uint32_t count, int number) {
  for (uint32_t i = 0; i < count; i++)
    if (number >= 0 && ports[i].outside == number) return &ports[i].info;
  return NULL;
}

const struct tensor_info *API(input)(int number) { return info_of(model.program.input, model.program.inputs, number); }

const struct tensor_info *API(output)(int number) { return info_of(model.program.output, model.program.outputs, number); }

int API(reset)(struct instance *instance) {
  if (!instance) return no_instance();
  state_reset(instance);
  return OK;
}

int API(snapshot)(struct instance *instance, void *bytes, size_t size) {
  if (!instance) return no_instance();
  if (!bytes) return fail(BAD_ARGUMENT, "there is no place for the snapshot");
  return state_save(instance, bytes, size);
}

int API(restore)(struct instance *instance, const void *bytes, size_t size) {
  if (!instance) return no_instance();
  if (!bytes) return fail(BAD_ARGUMENT, "there is no snapshot");
  return state_restore(instance, bytes, size);
}

int API(profile)(struct instance *instance, const void *const *inputs, void *const *outputs, int runs,
                 struct layer_time *layers, int count) {
  if (!instance) return no_instance();
  if (!inputs || !outputs) return fail(BAD_ARGUMENT, "a run of %s takes inputs and outputs", model.program.name);
  return engine_profile(instance, inputs, outputs, runs, layers, count);
}

const char *API(last_error)(void) { return last_error(); }
