/* Instances: their memory, and runs. */
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine.h"

enum { CPU = 1, TENSOR_POINTER = 7 };

/* Cuts the parts of an instance from its block, in one order for measuring and for laying out. */
struct cutter {
  uint8_t *block; /* NULL when it only measures */
  uint64_t used;
};

static void *cut(struct cutter *from, uint64_t bytes) {
  void *place = from->block ? from->block + from->used : NULL;
  from->used += ROUND(bytes);
  return place;
}

static uint64_t arguments_of(const struct program *program) {
  const struct call *last = program->calls ? &program->call[program->calls - 1] : NULL;
  return last ? (uint64_t)last->first + last->count : 0;
}

/* The instance in `from`; with no block, only `from->used` is of use. */
static void lay_out(struct cutter *from, const struct program *program, int threads, struct instance *one) {
  struct instance unused;
  void *place = cut(from, sizeof *one);
  one = place ? place : one ? one : &unused;
  one->tensors = cut(from, program->operands * sizeof *one->tensors);
  one->arguments = cut(from, arguments_of(program) * sizeof *one->arguments);
  one->moving = cut(from, program->operands * sizeof *one->moving);
  one->input_at = cut(from, program->inputs * sizeof *one->input_at);
  one->result_at = cut(from, program->results * sizeof *one->result_at);
  one->input_copy = cut(from, program->inputs * sizeof *one->input_copy);
  one->result_copy = cut(from, program->results * sizeof *one->result_copy);
  one->present = cut(from, program->states * sizeof *one->present);
  one->next = cut(from, program->states * sizeof *one->next);
  one->workers = cut(from, (uint64_t)threads * sizeof *one->workers);
  unsigned long long *before = cut(from, ((uint64_t)threads + 1) * sizeof *before);
  struct pool_ticket *tickets = cut(from, (uint64_t)threads * sizeof *tickets);
  struct pool_member *members = cut(from, (uint64_t)threads * sizeof *members);
  if (from->block) pool_init(&one->pool, threads, before, tickets, members);
  one->given = cut(from, program->runner ? program->outside_inputs * sizeof *one->given : 0);
  for (uint32_t i = 0; i < program->inputs; i++) {
    void *copy = cut(from, program->input[i].state == NOWHERE ? program->input[i].info.bytes : 0);
    if (from->block) one->input_copy[i] = copy;
  }
  for (uint32_t i = 0; i < program->results; i++) {
    void *copy = cut(from, program->result_bytes[i]);
    if (from->block) one->result_copy[i] = copy;
  }
  for (uint32_t i = 0; i < program->states; i++) {
    void *present = cut(from, program->input[program->state[i].input].info.bytes);
    void *next = cut(from, program->input[program->state[i].input].info.bytes);
    if (from->block) one->present[i] = present, one->next[i] = next;
  }
  one->arena = cut(from, program->arena);
  for (int i = 0; i < threads; i++) {
    uint8_t *workspace = cut(from, program->workspace);
    if (from->block) one->workers[i] = (struct worker){one, workspace, 0};
  }
}

uint64_t engine_bytes(const struct program *program, int threads) {
  struct cutter measure = {NULL, 0};
  struct instance unused;
  lay_out(&measure, program, threads < 1 ? 1 : threads, &unused);
  return measure.used;
}

static void *fixed_place(const struct instance *one, const struct operand *operand) {
  if (operand->place == WEIGHT) return (void *)(uintptr_t)(one->weights + one->program->weight[operand->number]);
  return operand->place == ARENA ? one->arena + operand->offset : NULL;
}

static void bind(struct instance *one) {
  const struct program *program = one->program;
  for (uint32_t i = 0; i < program->operands; i++) {
    const struct operand *operand = &program->operand[i];
    one->tensors[i] = (struct dl_tensor){.data = fixed_place(one, operand),
                                         .device_type = CPU,
                                         .rank = operand->rank,
                                         .code = operand->code,
                                         .bits = operand->bits,
                                         .lanes = 1,
                                         .shape = program->size + operand->sizes};
    if (!one->tensors[i].data) one->moving[one->moving_count++] = i;
  }
  for (uint64_t i = 0; i < arguments_of(program); i++) {
    one->arguments[i] = (struct ffi_value){.kind = TENSOR_POINTER};
    one->arguments[i].value.pointer = &one->tensors[program->argument[i]];
  }
}

static int start_threads(struct instance *one) {
  pthread_attr_t attributes;
  uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), least = (uint64_t)sysconf(_SC_THREAD_STACK_MIN);
  uint64_t stack = one->program->stack + least; /* the least is for the C library's own needs */
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, (stack + page - 1) / page * page);
  int started = pool_start(&one->pool, NULL, &attributes);
  pthread_attr_destroy(&attributes);
  if (started == one->threads) return OK;
  return fail(NO_MEMORY, "thread %d of %d cannot be started", started + 1, one->threads);
}

int engine_start(struct instance **made, const struct program *program, const void *weights, void *memory,
                 size_t memory_bytes, int threads, pool_lender lend, void *lent) {
  int wanted = threads < 1 ? 1 : threads;
  if (wanted > MOST_THREADS)
    return fail(BAD_ARGUMENT, "%s runs on at most %d threads, not %d", program->name, MOST_THREADS, threads);
  uint64_t needed = engine_bytes(program, wanted);
  if (memory && ((uintptr_t)memory % ALIGNMENT || memory_bytes < needed))
    return fail(BAD_ARGUMENT, "%s needs %llu bytes of memory for %d threads, aligned to %u; given are %zu at %p",
                program->name, (unsigned long long)needed, wanted, ALIGNMENT, memory_bytes, memory);
  void *block = memory;
  if (!block && posix_memalign(&block, ALIGNMENT, needed))
    return fail(NO_MEMORY, "%s needs %llu bytes of memory", program->name, (unsigned long long)needed);
  struct cutter from = {block, 0};
  memset(block, 0, needed); /* so that no run meets a page for the first time */
  lay_out(&from, program, wanted, NULL);
  struct instance *one = block;
  one->program = program;
  one->weights = weights;
  one->threads = wanted;
  one->owned = !memory;
  one->pool.lend = lend;
  one->pool.lent = lent;
  bind(one);
  state_reset(one);
  if (program->runner) {
    int failed = program->runner->start(one);
    if (failed) {
      if (one->owned) free(block);
      return failed;
    }
  }
  if (!lend) {
    int failed = start_threads(one);
    if (failed) {
      engine_stop(one);
      return failed;
    }
  }
  *made = one;
  return OK;
}

void engine_stop(struct instance *one) {
  if (!one) return;
  if (!one->pool.lend) pool_stop(&one->pool);
  if (one->program->runner)
    one->program->runner->stop(one);
  else
    free(one->heap);
  if (one->owned) free(one);
}

static int overlaps(const void *a, size_t a_bytes, const void *b, size_t b_bytes) {
  return (uintptr_t)a < (uintptr_t)b + b_bytes && (uintptr_t)b < (uintptr_t)a + a_bytes;
}

static int check_pointers(const struct instance *one, const void *const *inputs, void *const *outputs) {
  const struct program *program = one->program;
  for (uint32_t i = 0; i < program->inputs; i++)
    if (program->input[i].outside != NOWHERE && !inputs[program->input[i].outside])
      return fail(BAD_ARGUMENT, "input '%s' of %s is NULL", program->input[i].info.name, program->name);
  for (uint32_t k = 0; k < program->outputs; k++) {
    const struct port *out = &program->output[k];
    if (out->outside == NOWHERE) continue;
    if (!outputs[out->outside]) return fail(BAD_ARGUMENT, "output '%s' of %s is NULL", out->info.name, program->name);
    for (uint32_t i = 0; i < program->inputs; i++) {
      const struct port *in = &program->input[i];
      if (in->outside != NOWHERE &&
          overlaps(outputs[out->outside], out->info.bytes, inputs[in->outside], in->info.bytes))
        return fail(BAD_ARGUMENT, "output '%s' of %s overlaps input '%s'", out->info.name, program->name, in->info.name);
    }
  }
  return OK;
}

static void *outside_place(const struct instance *one, const struct port *port, void *const *outputs) {
  return port->state == NOWHERE ? outputs[port->outside] : one->next[port->state];
}

/* Chooses where inputs are read and results are written: in place where that is aligned, else in the instance. */
static void place_arrays(struct instance *one, const void *const *inputs, void *const *outputs) {
  const struct program *program = one->program;
  for (uint32_t i = 0; i < program->inputs; i++) {
    const struct port *port = &program->input[i];
    if (port->state != NOWHERE) {
      one->input_at[i] = one->present[port->state];
    } else if ((uintptr_t)inputs[port->outside] % ALIGNMENT) {
      memcpy(one->input_copy[i], inputs[port->outside], port->info.bytes);
      one->input_at[i] = one->input_copy[i];
    } else {
      one->input_at[i] = (void *)(uintptr_t)inputs[port->outside];
    }
  }
  for (uint32_t i = 0; i < program->results; i++) one->result_at[i] = one->result_copy[i];
  for (uint32_t k = program->outputs; k-- > 0;) {
    const struct operand *operand = &program->operand[program->output_operand[k]];
    void *place = outside_place(one, &program->output[k], outputs);
    if (operand->place == RESULT && (uintptr_t)place % ALIGNMENT == 0) one->result_at[operand->number] = place;
  }
  for (uint32_t i = 0; i < one->moving_count; i++) {
    const struct operand *operand = &program->operand[one->moving[i]];
    void **places = operand->place == INPUT ? one->input_at : one->result_at;
    one->tensors[one->moving[i]].data = places[operand->number];
  }
}

static void give_outputs(struct instance *one, void *const *outputs) {
  const struct program *program = one->program;
  for (uint32_t k = 0; k < program->outputs; k++) {
    void *place = outside_place(one, &program->output[k], outputs);
    void *made = one->tensors[program->output_operand[k]].data;
    if (place != made && program->output[k].info.bytes) memcpy(place, made, program->output[k].info.bytes);
  }
  for (uint32_t i = 0; i < program->states; i++) {
    uint8_t *before = one->present[i];
    one->present[i] = one->next[i];
    one->next[i] = before;
  }
}

double engine_now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

int engine_begin(struct instance *one) {
  if (__atomic_exchange_n(&one->running, 1, __ATOMIC_ACQUIRE))
    return fail(BAD_ARGUMENT, "%s is running in another thread; each thread needs an instance of its own", one->program->name);
  for (int i = 0; i < one->threads; i++) one->workers[i].used = 0;
  forget_error();
  return OK;
}

void engine_end(struct instance *one, struct worker *before) {
  current_worker = before;
  __atomic_store_n(&one->running, 0, __ATOMIC_RELEASE);
}

int kernel_failed(const char *symbol) {
  char reason[256];
  const char *told = last_error();
  size_t length = strlen(told) < sizeof reason ? strlen(told) : sizeof reason - 1;
  memcpy(reason, told, length);
  reason[length] = 0;
  return fail(RUN_FAILED, "kernel %s failed: %s", symbol, reason);
}

static int run_apart(struct instance *one, const void *const *inputs, void *const *outputs, struct layer_time *times) {
  const struct program *program = one->program;
  struct array *arrays = one->given;
  for (uint32_t i = 0; i < program->outside_inputs; i++) arrays[i] = (struct array){inputs[i], NULL};
  return program->runner->run(one, arrays, outputs, NULL, times);
}

int engine_run(struct instance *one, const void *const *inputs, void *const *outputs, struct layer_time *times) {
  const struct program *program = one->program;
  int failed = check_pointers(one, inputs, outputs);
  if (failed) return failed;
  if (program->runner) return run_apart(one, inputs, outputs, times);
  struct worker *before = current_worker;
  if ((failed = engine_begin(one))) return failed;
  current_worker = &one->workers[0];
  place_arrays(one, inputs, outputs);
  for (uint32_t i = 0; i < program->calls && !failed; i++) {
    const struct call *call = &program->call[i];
    struct ffi_value result = {0};
    double begin = times ? engine_now() : 0;
    if (call->run(NULL, one->arguments + call->first, (int32_t)call->count, &result)) failed = kernel_failed(call->symbol);
    if (times) times[i].seconds += engine_now() - begin;
  }
  if (!failed) give_outputs(one, outputs);
  engine_end(one, before);
  return failed;
}

int engine_profile(struct instance *one, const void *const *inputs, void *const *outputs, int runs,
                   struct layer_time *layers, int count) {
  const struct program *program = one->program;
  if (runs < 1 || count < 0 || (uint32_t)count != program->calls || !layers)
    return fail(BAD_ARGUMENT, "a profile of %s has %u layers and at least one run", program->name, program->calls);
  for (uint32_t i = 0; i < program->calls; i++)
    layers[i] = (struct layer_time){program->call[i].symbol, program->call[i].nodes, 0};
  for (int run = 0; run < runs; run++) {
    int failed = engine_run(one, inputs, outputs, layers);
    if (failed) return failed;
  }
  for (uint32_t i = 0; i < program->calls; i++) layers[i].seconds /= runs;
  return OK;
}
