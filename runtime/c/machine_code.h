/* Programs with branches, loops and sizes known only at run time. */
#ifndef EDGEC_MACHINE_CODE_H
#define EDGEC_MACHINE_CODE_H

#include "engine.h"

#define STACK_OF_CALLS 262144 /* of as many calls within calls as may be */

/* In the order of compiler/c_library/machine.py. */
enum operation {
  RETURN, GOTO, IF, KERNEL, CALL, HEAP, MATCH_SHAPE, MAKE_SHAPE, STORAGE, TENSOR, RESHAPE, TENSOR_TO_SHAPE, SHAPE_OF, COPY,
  TUPLE, ITEM, CONDITION, KERNEL_WITH_SIZES, MAKE_NUMBER, MATCH_NUMBER, OPERATIONS
};
enum argument_kind { REGISTER, NUMBER, CONSTANT };

struct instruction {
  int32_t operation, result; /* a register, or NOWHERE */
  uint32_t first, count;     /* arguments: 4 times a value, plus its kind */
};

struct function {
  uint32_t registers, inputs, first, count; /* instructions */
};

struct constant {
  uint32_t first, count; /* of its sizes */
};

struct machine_code {
  struct runner runner;
  const struct function *function;
  const struct instruction *instruction;
  const int64_t *argument, *size;
  const struct constant *constant;
  uint32_t functions, constants, main;
};

int machine_start(struct instance *one);
int machine_run(struct instance *one, const struct array *inputs, void *const *outputs, struct array *left, struct layer_time *times);
void machine_stop(struct instance *one);
#define MACHINE_RUNNER {machine_start, machine_run, machine_stop}

/* read_machine.c. From the artifact's table; every register, jump and number is checked. */
struct json;
struct keeper;
int read_machine(const struct json *json, int64_t node, struct program *program, struct keeper *keeper, const char *path);

#endif
