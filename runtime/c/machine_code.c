/* Runs programs with branches, loops and sizes known only at run time: functions of instructions over registers.
 *
 * What the loader cannot check (kinds of values, sizes) is checked when it is used. */
#include <stdlib.h>
#include <string.h>

#include "heap.h"
#include "machine_code.h"

enum { MOST_REGISTERS = 1 << 16, MOST_DEPTH = 600, MOST_ARGUMENTS = 512, INT = 1, TENSOR_POINTER = 7, MOST_RANK = 32 };

struct run {
  struct instance *one;
  const struct machine_code *code;
  struct heap *heap;
  struct layer_time *times;
};

static int malformed(const struct run *run) {
  return fail(RUN_FAILED, "the program of %s is malformed", run->one->program->name);
}

static void set(struct heap *heap, struct value *place, struct value value) {
  heap_retain(value.object);
  heap_release(heap, place->object);
  *place = value;
}

/* Takes over the reference of a new object. */
static int set_new(struct heap *heap, struct value *place, struct object *made) {
  if (!made) return NO_MEMORY;
  heap_release(heap, place->object);
  *place = (struct value){made, 0};
  return OK;
}

static struct value value_of(const struct value *registers, int64_t argument) {
  if (argument % 4 == REGISTER && argument >= 0) return registers[argument / 4];
  return (struct value){NULL, argument >> 2};
}

static struct object *object_of(const struct value *registers, int64_t argument, enum object_kind kind) {
  struct object *found = value_of(registers, argument).object;
  return found && found->kind == kind ? found : NULL;
}

/* A shape that is a constant, or in a register, or that of a tensor there. */
static const int64_t *shape_of(const struct run *run, const struct value *registers, int64_t argument, uint32_t *rank) {
  if ((argument & 3) == CONSTANT) {
    const struct constant *constant = &run->code->constant[argument / 4];
    *rank = constant->count;
    return run->code->size + constant->first;
  }
  struct object *found = value_of(registers, argument).object;
  if (!found || (found->kind != A_SHAPE && found->kind != A_TENSOR)) return NULL;
  *rank = found->count;
  return found->kind == A_SHAPE ? sizes_of(found) : found->tensor.shape;
}

static int call_kernel(struct run *run, const struct value *registers, const int64_t *arguments, uint32_t count, int sizes) {
  const struct program *program = run->one->program;
  const struct call *call = &program->call[arguments[0] >> 2];
  struct ffi_value *passed = run->heap->arguments, result = {0};
  uint32_t used = 0, rank = 0;
  const int64_t *further = sizes ? shape_of(run, registers, arguments[count - 1], &rank) : NULL;
  if (sizes && !further) return malformed(run);
  if (count + rank > MOST_ARGUMENTS) return malformed(run);
  for (uint32_t i = 1; i < count - (uint32_t)sizes; i++) {
    struct value value = value_of(registers, arguments[i]);
    if (value.object && value.object->kind != A_TENSOR) return malformed(run);
    passed[used] = (struct ffi_value){.kind = value.object ? TENSOR_POINTER : INT};
    if (value.object)
      passed[used++].value.pointer = &value.object->tensor;
    else
      passed[used++].value.number = value.number;
  }
  for (uint32_t i = 0; i < rank; i++) {
    passed[used] = (struct ffi_value){.kind = INT};
    passed[used++].value.number = further[i];
  }
  double begin = run->times ? engine_now() : 0;
  int failed = call->run(NULL, passed, (int32_t)used, &result);
  if (run->times) run->times[arguments[0] >> 2].seconds += engine_now() - begin;
  return failed ? kernel_failed(call->symbol) : OK;
}

/* heap, count, then for each size: what to do with it (0: compare with a number, 1: store, 2: nothing, 3: compare with one
 * that was stored), and the number or its place. */
static int match_shape(struct run *run, const struct value *registers, const int64_t *arguments, uint32_t count) {
  uint32_t rank;
  const int64_t *shape = shape_of(run, registers, arguments[0], &rank);
  struct object *heap = object_of(registers, arguments[1], A_TENSOR);
  if (!shape || rank != (uint32_t)(arguments[2] >> 2) || count != 3 + 2 * rank)
    return fail(RUN_FAILED, "a tensor of %s has %u dimensions, not as many as its program expects", run->one->program->name,
                shape ? rank : 0);
  for (uint32_t i = 0; i < rank; i++) {
    int64_t what = arguments[3 + 2 * i] >> 2, number = arguments[4 + 2 * i] >> 2;
    if (what == 2) continue;
    if (what && (!heap || number < 0 || (uint64_t)number >= heap->bytes / 8)) return malformed(run);
    int64_t *stored = heap ? heap->tensor.data : NULL;
    if (what == 1)
      stored[number] = shape[i];
    else if (shape[i] != (what ? stored[number] : number))
      return fail(RUN_FAILED, "sizes of %s do not fit together: a dimension is %lld and has to be %lld", run->one->program->name,
                  (long long)shape[i], (long long)(what ? stored[number] : number));
  }
  return OK;
}

static int make_shape(struct run *run, struct value *registers, const int64_t *arguments, uint32_t count, struct value *place) {
  struct object *heap = object_of(registers, arguments[0], A_TENSOR);
  uint32_t rank = (uint32_t)(arguments[1] >> 2);
  if (rank > MOST_RANK || count != 2 + 2 * rank) return malformed(run);
  struct object *made = heap_take(run->heap, A_SHAPE, rank, rank * sizeof(int64_t));
  if (!made) return NO_MEMORY;
  for (uint32_t i = 0; i < rank; i++) {
    int64_t stored = arguments[2 + 2 * i] >> 2, number = arguments[3 + 2 * i] >> 2;
    if (stored && (!heap || number < 0 || (uint64_t)number >= heap->bytes / 8)) {
      heap_release(run->heap, made);
      return malformed(run);
    }
    sizes_of(made)[i] = stored ? ((int64_t *)heap->tensor.data)[number] : number;
  }
  return set_new(run->heap, place, made);
}

/* As make_shape and match_shape, of one number. */
static int make_number(struct run *run, const struct value *registers, const int64_t *arguments, struct value *place) {
  struct object *heap = object_of(registers, arguments[0], A_TENSOR);
  int64_t number = arguments[2] >> 2;
  if (arguments[1] >> 2) {
    if (!heap || number < 0 || (uint64_t)number >= heap->bytes / 8) return malformed(run);
    number = ((int64_t *)heap->tensor.data)[number];
  }
  set(run->heap, place, (struct value){NULL, number});
  return OK;
}

static int match_number(struct run *run, const struct value *registers, const int64_t *arguments) {
  struct value given = value_of(registers, arguments[0]);
  struct object *heap = object_of(registers, arguments[1], A_TENSOR);
  int64_t what = arguments[2] >> 2, number = arguments[3] >> 2;
  if (given.object) return malformed(run);
  if (what == 2) return OK;
  if (what && (!heap || number < 0 || (uint64_t)number >= heap->bytes / 8)) return malformed(run);
  int64_t *stored = heap ? heap->tensor.data : NULL;
  if (what == 1) return stored[number] = given.number, OK;
  if (given.number == (what ? stored[number] : number)) return OK;
  return fail(RUN_FAILED, "sizes of %s do not fit together: one is %lld and has to be %lld", run->one->program->name,
              (long long)given.number, (long long)(what ? stored[number] : number));
}

static struct object *own_memory(struct heap *heap, uint64_t bytes) {
  struct object *made = heap_take(heap, A_STORAGE, 0, bytes);
  return made;
}

static int make_heap(struct run *run, int64_t count, struct value *place) {
  if (count < 0 || count > MOST_REGISTERS) return malformed(run);
  struct object *made = heap_tensor(run->heap, 1, &count, 0, 64);
  if (!made) return NO_MEMORY;
  if (!(made->storage = own_memory(run->heap, made->bytes))) {
    heap_release(run->heap, made);
    return NO_MEMORY;
  }
  made->tensor.data = memset(made->storage->content, 0, made->bytes);
  return set_new(run->heap, place, made);
}

static int make_storage(struct run *run, const struct value *registers, int64_t shape, struct value *place) {
  uint32_t rank;
  const int64_t *sizes = shape_of(run, registers, shape, &rank);
  int64_t bytes = sizes ? heap_bytes(rank, sizes, 8) : -1;
  if (bytes < 0) return malformed(run);
  return set_new(run->heap, place, own_memory(run->heap, (uint64_t)bytes));
}

static const struct {
  uint8_t code, bits;
} types[] = {{6, 8}, {0, 8}, {1, 8}, {0, 16}, {1, 16}, {0, 32}, {1, 32}, {0, 64}, {1, 64}, {2, 16}, {4, 16}, {2, 32}, {2, 64}};

static int make_tensor(struct run *run, const struct value *registers, const int64_t *arguments, struct value *place) {
  struct object *storage = object_of(registers, arguments[0], A_STORAGE);
  int64_t offset = arguments[1] >> 2, type = arguments[3] >> 2;
  uint32_t rank;
  const int64_t *sizes = shape_of(run, registers, arguments[2], &rank);
  if (!storage || !sizes || type < 0 || type >= (int64_t)(sizeof types / sizeof *types)) return malformed(run);
  struct object *made = heap_tensor(run->heap, rank, sizes, types[type].code, types[type].bits);
  if (!made) return RUN_FAILED;
  if (offset < 0 || offset % ALIGNMENT || (uint64_t)offset > storage->bytes || made->bytes > storage->bytes - (uint64_t)offset) {
    heap_release(run->heap, made);
    return malformed(run);
  }
  heap_retain(made->storage = storage);
  made->tensor.data = storage->content + offset;
  return set_new(run->heap, place, made);
}

static int reshape(struct run *run, const struct value *registers, const int64_t *arguments, struct value *place) {
  struct object *tensor = object_of(registers, arguments[0], A_TENSOR);
  uint32_t rank;
  const int64_t *sizes = shape_of(run, registers, arguments[1], &rank);
  if (!tensor || !sizes) return malformed(run);
  struct object *made = heap_tensor(run->heap, rank, sizes, tensor->tensor.code, tensor->tensor.bits);
  if (!made) return RUN_FAILED;
  if (made->bytes != tensor->bytes) {
    heap_release(run->heap, made);
    return fail(RUN_FAILED, "sizes of %s do not fit together: a tensor cannot be reshaped", run->one->program->name);
  }
  heap_retain(made->storage = tensor->storage);
  made->tensor.data = tensor->tensor.data;
  return set_new(run->heap, place, made);
}

static int tensor_to_shape(struct run *run, const struct value *registers, int64_t argument, struct value *place) {
  struct object *tensor = object_of(registers, argument, A_TENSOR);
  if (!tensor || tensor->count > 1 || tensor->tensor.code || (tensor->tensor.bits != 64 && tensor->tensor.bits != 32)) return malformed(run);
  uint64_t count = tensor->bytes / (tensor->tensor.bits / 8);
  if (count > MOST_RANK) return malformed(run);
  struct object *made = heap_take(run->heap, A_SHAPE, (uint32_t)count, count * sizeof(int64_t));
  if (!made) return NO_MEMORY;
  for (uint64_t i = 0; i < count; i++)
    sizes_of(made)[i] = tensor->tensor.bits == 64 ? ((int64_t *)tensor->tensor.data)[i] : ((int32_t *)tensor->tensor.data)[i];
  return set_new(run->heap, place, made);
}

static int copy_shape(struct run *run, const struct value *registers, int64_t argument, struct value *place) {
  uint32_t rank;
  const int64_t *sizes = shape_of(run, registers, argument, &rank);
  struct object *made = sizes ? heap_take(run->heap, A_SHAPE, rank, rank * sizeof *sizes) : NULL;
  if (!sizes) return malformed(run);
  if (made) memcpy(made->content, sizes, rank * sizeof *sizes);
  return set_new(run->heap, place, made);
}

static int make_tuple(struct run *run, const struct value *registers, const int64_t *arguments, uint32_t count, struct value *place) {
  struct object *made = heap_take(run->heap, A_TUPLE, count, count * sizeof(struct value));
  if (!made) return NO_MEMORY;
  for (uint32_t i = 0; i < count; i++) set(run->heap, &values_of(made)[i], value_of(registers, arguments[i]));
  return set_new(run->heap, place, made);
}

static int is_true(struct run *run, const struct value *registers, int64_t argument, int64_t *truth) {
  struct object *tensor = object_of(registers, argument, A_TENSOR);
  int64_t number = 0;
  if (!tensor || tensor->bytes != tensor->tensor.bits / 8 || tensor->bytes > sizeof number) return malformed(run);
  memcpy(&number, tensor->tensor.data, tensor->bytes);
  *truth = number != 0;
  return OK;
}

static int run_function(struct run *run, uint32_t number, const struct value *given, const int64_t *arguments, struct value *result);

static int call_function(struct run *run, const struct value *registers, const int64_t *arguments, struct value *place) {
  struct value made = {0};
  int failed = run_function(run, (uint32_t)(arguments[0] >> 2), registers, arguments + 1, &made);
  heap_release(run->heap, place->object);
  *place = made;
  return failed;
}

static int step(struct run *run, const struct instruction *at, struct value *registers, const int64_t *arguments) {
  struct value none = {0}, *place = at->result == NOWHERE ? &none : &registers[at->result];
  int failed = OK;
  struct object *object;
  int64_t truth = 0;
  switch (at->operation) {
    case KERNEL: failed = call_kernel(run, registers, arguments, at->count, 0); break;
    case KERNEL_WITH_SIZES: failed = call_kernel(run, registers, arguments, at->count, 1); break;
    case CALL: failed = call_function(run, registers, arguments, place); break;
    case HEAP: failed = make_heap(run, arguments[0] >> 2, place); break;
    case MATCH_SHAPE: failed = match_shape(run, registers, arguments, at->count); break;
    case MAKE_SHAPE: failed = make_shape(run, registers, arguments, at->count, place); break;
    case STORAGE: failed = make_storage(run, registers, arguments[0], place); break;
    case TENSOR: failed = make_tensor(run, registers, arguments, place); break;
    case RESHAPE: failed = reshape(run, registers, arguments, place); break;
    case TENSOR_TO_SHAPE: failed = tensor_to_shape(run, registers, arguments[0], place); break;
    case SHAPE_OF: failed = copy_shape(run, registers, arguments[0], place); break;
    case COPY:
      if (at->count && (arguments[0] & 3) == CONSTANT)
        failed = copy_shape(run, registers, arguments[0], place);
      else
        set(run->heap, place, at->count ? value_of(registers, arguments[0]) : (struct value){0});
      break;
    case MAKE_NUMBER: failed = make_number(run, registers, arguments, place); break;
    case MATCH_NUMBER: failed = match_number(run, registers, arguments); break;
    case TUPLE: failed = make_tuple(run, registers, arguments, at->count, place); break;
    case ITEM:
      object = object_of(registers, arguments[0], A_TUPLE);
      if (!object || arguments[1] < 0 || (arguments[1] >> 2) >= object->count) return malformed(run);
      set(run->heap, place, values_of(object)[arguments[1] >> 2]);
      break;
    default: /* CONDITION */
      if (!(failed = is_true(run, registers, arguments[0], &truth))) set(run->heap, place, (struct value){NULL, truth});
  }
  heap_release(run->heap, none.object);
  return failed;
}

static int run_function(struct run *run, uint32_t number, const struct value *given, const int64_t *arguments, struct value *result) {
  const struct function *function = &run->code->function[number];
  struct heap *heap = run->heap;
  if (heap->used + function->registers > MOST_REGISTERS || heap->depth == MOST_DEPTH)
    return fail(RUN_FAILED, "calls within calls of %s go too deep", run->one->program->name);
  struct value *registers = heap->registers + heap->used;
  heap->used += function->registers;
  heap->depth++;
  for (uint32_t i = 0; i < function->inputs; i++) set(heap, &registers[i], value_of(given, arguments ? arguments[i] : (int64_t)i * 4));
  int failed = OK;
  for (uint32_t next = 0; !failed;) {
    const struct instruction *at = &run->code->instruction[function->first + next];
    const int64_t *values = run->code->argument + at->first;
    next++;
    if (at->operation == RETURN) {
      set(heap, result, value_of(registers, values[0]));
      break;
    }
    if (at->operation == GOTO)
      next = (uint32_t)(values[0] >> 2);
    else if (at->operation == IF)
      next = value_of(registers, values[0]).number ? next : (uint32_t)(values[1] >> 2);
    else
      failed = step(run, at, registers, values);
  }
  for (uint32_t i = 0; i < function->registers; i++) set(heap, &registers[i], (struct value){0});
  heap->used -= function->registers;
  heap->depth--;
  return failed;
}

static void forget_outputs(struct instance *one) {
  struct heap *heap = one->heap;
  for (uint32_t k = 0; k < one->program->outputs; k++) {
    heap_release(heap, heap->kept[k]);
    heap->kept[k] = NULL;
  }
}

int machine_start(struct instance *one) {
  const struct program *program = one->program;
  struct heap *heap = one->heap = calloc(1, sizeof *heap);
  if (!heap) return fail(NO_MEMORY, "there is no memory for a session");
  heap->registers = calloc(MOST_REGISTERS, sizeof *heap->registers);
  heap->arguments = calloc(MOST_ARGUMENTS, sizeof *heap->arguments);
  heap->parameter = calloc(program->operands + 1, sizeof *heap->parameter);
  heap->kept = calloc(program->outputs + 1, sizeof *heap->kept);
  int failed = heap->registers && heap->arguments && heap->parameter && heap->kept ? OK : NO_MEMORY;
  for (uint32_t i = 0; i < program->operands && !failed; i++) {
    const struct dl_tensor *tensor = &one->tensors[i];
    struct object *made = heap_tensor(heap, (uint32_t)tensor->rank, tensor->shape, tensor->code, tensor->bits);
    if (!made) failed = NO_MEMORY;
    if (made) made->tensor.data = tensor->data;
    heap->parameter[i] = made;
  }
  if (failed) {
    machine_stop(one);
    return fail(NO_MEMORY, "there is no memory for a session");
  }
  return OK;
}

void machine_stop(struct instance *one) {
  struct heap *heap = one->heap;
  if (!heap) return;
  heap_free(heap);
  free(heap->registers);
  free(heap->arguments);
  free(heap->parameter);
  free(heap->kept);
  free(heap);
  one->heap = NULL;
}

/* The sizes of an input that the caller gave, and its bytes. */
static int check_sizes(const struct instance *one, const struct port *port, const int64_t *given, int64_t *sizes, uint64_t *bytes, uint8_t bits) {
  const struct tensor_info *info = &port->info;
  for (int32_t i = 0; i < info->rank; i++) {
    int64_t least = info->shape[i], most = port->most ? port->most[i] : least;
    sizes[i] = given ? given[i] : least;
    if (sizes[i] >= least && sizes[i] <= most) continue;
    return fail(BAD_ARGUMENT, "dimension %d of input '%s' of %s is %lld; it is from %lld to %lld", i, info->name, one->program->name,
                (long long)sizes[i], (long long)least, (long long)most);
  }
  int64_t found = heap_bytes((uint32_t)info->rank, sizes, bits);
  if (found < 0) return fail(BAD_ARGUMENT, "input '%s' of %s is too large", info->name, one->program->name);
  *bytes = (uint64_t)found;
  return OK;
}

static int place_input(struct run *run, struct object **place, const struct operand *operand, const struct array *inputs) {
  struct instance *one = run->one;
  const struct port *port = &one->program->input[operand->number];
  struct array given = port->state == NOWHERE ? inputs[port->outside] : (struct array){one->present[port->state], NULL};
  int64_t sizes[MOST_RANK];
  uint64_t bytes = 0;
  if (!given.data) return fail(BAD_ARGUMENT, "input '%s' of %s is NULL", port->info.name, one->program->name);
  int failed = check_sizes(one, port, given.shape, sizes, &bytes, operand->bits);
  if (failed) return failed;
  struct object *made = heap_tensor(run->heap, (uint32_t)port->info.rank, sizes, operand->code, operand->bits);
  if (!made) return NO_MEMORY;
  made->tensor.data = (void *)(uintptr_t)given.data;
  if ((uintptr_t)given.data % ALIGNMENT) {
    if (!(made->storage = own_memory(run->heap, bytes))) {
      heap_release(run->heap, made);
      return NO_MEMORY;
    }
    made->tensor.data = memcpy(made->storage->content, given.data, bytes);
  }
  heap_release(run->heap, *place);
  *place = made;
  return OK;
}

static int give_output(struct run *run, uint32_t number, struct object *made, void *const *outputs, struct array *left) {
  struct instance *one = run->one;
  const struct port *port = &one->program->output[number];
  if (!made || made->kind != A_TENSOR || made->count != (uint32_t)port->info.rank) return malformed(run);
  void *place = port->state == NOWHERE ? outputs ? outputs[port->outside] : NULL : one->next[port->state];
  if (place) {
    if (made->bytes != port->info.bytes)
      return fail(RUN_FAILED, "output '%s' of %s has %llu bytes in this run: run it with sizes, as run_sized does", port->info.name,
                  one->program->name, (unsigned long long)made->bytes);
    memcpy(place, made->tensor.data, made->bytes);
    return OK;
  }
  struct heap *heap = run->heap;
  if (!made->storage) { /* an input, a weight or a part of the arena, which the next run changes */
    struct object *copy = heap_tensor(heap, made->count, made->tensor.shape, made->tensor.code, made->tensor.bits);
    if (!copy || !(copy->storage = own_memory(heap, made->bytes))) return NO_MEMORY;
    copy->tensor.data = memcpy(copy->storage->content, made->tensor.data, made->bytes);
    heap->kept[number] = copy;
  } else {
    heap_retain(heap->kept[number] = made);
  }
  left[port->outside] = (struct array){heap->kept[number]->tensor.data, heap->kept[number]->tensor.shape};
  return OK;
}

static int give_outputs(struct run *run, struct value result, void *const *outputs, struct array *left) {
  const struct program *program = run->one->program;
  struct object *object = result.object;
  int several = object && object->kind == A_TUPLE;
  if (!object || (several ? object->count : 1) != program->outputs) return malformed(run);
  for (uint32_t k = 0; k < program->outputs; k++) {
    int failed = give_output(run, k, several ? values_of(object)[k].object : object, outputs, left);
    if (failed) return failed;
  }
  for (uint32_t i = 0; i < program->states; i++) {
    uint8_t *before = run->one->present[i];
    run->one->present[i] = run->one->next[i];
    run->one->next[i] = before;
  }
  return OK;
}

static int run_main(struct run *run, const struct array *inputs, void *const *outputs, struct array *left) {
  const struct program *program = run->one->program;
  struct heap *heap = run->heap;
  for (uint32_t i = 0; i < program->operands; i++)
    if (program->operand[i].place == INPUT) {
      int failed = place_input(run, &heap->parameter[i], &program->operand[i], inputs);
      if (failed) return failed;
    }
  /* the parameters are the first registers of a function that calls the main one */
  for (uint32_t i = 0; i < program->operands; i++) heap->registers[i] = (struct value){heap->parameter[i], 0};
  heap->used = program->operands;
  heap->depth = 0;
  struct value result = {0};
  int failed = run_function(run, run->code->main, heap->registers, NULL, &result);
  if (!failed) failed = give_outputs(run, result, outputs, left);
  heap_release(heap, result.object);
  memset(heap->registers, 0, program->operands * sizeof *heap->registers);
  return failed;
}

int machine_run(struct instance *one, const struct array *inputs, void *const *outputs, struct array *left, struct layer_time *times) {
  struct run run = {one, (const struct machine_code *)(const void *)one->program->runner, one->heap, times};
  struct worker *before = current_worker;
  int failed = engine_begin(one);
  if (failed) return failed;
  current_worker = &one->workers[0];
  forget_outputs(one);
  failed = run_main(&run, inputs, outputs, left);
  engine_end(one, before);
  return failed;
}
