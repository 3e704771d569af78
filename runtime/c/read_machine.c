/* From JSON to a program of instructions. */
#include "loader.h"
#include "machine_code.h"

enum { MOST = 1 << 20, MOST_REGISTERS = 1 << 15, MOST_ARGUMENTS = 400, MOST_RANK = 32 };

struct reading {
  const struct json *json;
  const struct program *program;
  struct machine_code *code;
  struct function *functions;
  struct instruction *instructions;
  int64_t *arguments;
  const char *path;
};

static int wrong(const struct reading *from) {
  return fail(BAD_FILE, "%s: its program does not fit the rest of it", from->path);
}

static int number_at(const struct json *json, int64_t node, int64_t most, int64_t *number) {
  return json_integer(json, node, number) && *number >= 0 && *number <= most;
}

/* The fewest arguments of each operation. */
static const uint8_t least[OPERATIONS] = {[RETURN] = 1,     [GOTO] = 1,    [IF] = 2,      [KERNEL] = 1,          [CALL] = 1,
                                          [HEAP] = 1,       [MATCH_SHAPE] = 3, [MAKE_SHAPE] = 2, [STORAGE] = 1,  [TENSOR] = 4,
                                          [RESHAPE] = 2,    [TENSOR_TO_SHAPE] = 1, [SHAPE_OF] = 1, [ITEM] = 2,   [CONDITION] = 1,
                                          [KERNEL_WITH_SIZES] = 2, [MAKE_NUMBER] = 3, [MATCH_NUMBER] = 4};

static int is_number(int64_t argument, int64_t count) {
  return (argument & 3) == NUMBER && argument >> 2 >= 0 && argument >> 2 < count;
}

/* Where nothing is stored, there is no heap to store it in. */
static int may_lack_heap(int operation, uint32_t number) {
  if (operation == MATCH_SHAPE || operation == MATCH_NUMBER) return number == 1;
  return (operation == MAKE_SHAPE || operation == MAKE_NUMBER) && number == 0;
}

static int check(const struct reading *from, const struct function *function, const struct instruction *one) {
  const int64_t *arguments = from->arguments + one->first;
  if (one->count < least[one->operation] || one->count > MOST_ARGUMENTS) return 0;
  for (uint32_t i = 0; i < one->count; i++) {
    int64_t kind = arguments[i] & 3, value = arguments[i] >> 2;
    int absent = arguments[i] == 4 * NOWHERE; /* no register */
    if (absent && !may_lack_heap(one->operation, i)) return 0;
    if (kind == REGISTER && !absent && (value < 0 || value >= function->registers)) return 0;
    if (kind == CONSTANT && (value < 0 || value >= from->code->constants)) return 0;
    if (kind > CONSTANT || (kind == CONSTANT && (one->operation == CALL || one->operation == TUPLE || one->operation == ITEM))) return 0;
  }
  switch (one->operation) {
    case RETURN: return (arguments[0] & 3) == REGISTER;
    case GOTO: return is_number(arguments[0], function->count);
    case IF: return (arguments[0] & 3) == REGISTER && is_number(arguments[1], function->count);
    case KERNEL:
    case KERNEL_WITH_SIZES: return is_number(arguments[0], from->program->calls);
    case CALL:
      return is_number(arguments[0], from->code->functions) && one->count - 1 == from->functions[arguments[0] >> 2].inputs;
    case MATCH_SHAPE: return is_number(arguments[2], MOST_RANK + 1);
    case MAKE_SHAPE: return is_number(arguments[1], MOST_RANK + 1);
    default: return 1;
  }
}

static int read_constants(struct reading *from, int64_t list, struct keeper *keeper) {
  const struct json *json = from->json;
  uint32_t count = json_count(json, list), used = 0;
  int64_t at = list + 1, total = 0, number;
  for (uint32_t i = 0; i < count; i++, at = json->nodes[at].next) total += json_count(json, at);
  struct constant *constants = keep(keeper, count * sizeof *constants);
  int64_t *sizes = keep(keeper, (size_t)total * sizeof *sizes);
  if (!constants || !sizes) return NO_MEMORY;
  at = list + 1;
  for (uint32_t i = 0; i < count; i++, at = json->nodes[at].next) {
    if (!json_is(json, at, JSON_ARRAY) || json_count(json, at) > MOST_RANK) return wrong(from);
    constants[i] = (struct constant){used, json_count(json, at)};
    for (uint32_t k = 0; k < constants[i].count; k++) {
      if (!number_at(json, json_element(json, at, k), INT64_MAX, &number)) return wrong(from);
      sizes[used++] = number;
    }
  }
  from->code->constant = constants;
  from->code->size = sizes;
  from->code->constants = count;
  return OK;
}

/* Sizes of everything, so that it can be kept in four arrays. */
static int measure(const struct reading *from, int64_t list, uint32_t *instructions, uint32_t *arguments) {
  const struct json *json = from->json;
  int64_t at = list + 1;
  for (uint32_t i = 0; i < json_count(json, list); i++, at = json->nodes[at].next) {
    int64_t body = json_element(json, at, 2), one = body + 1;
    if (!json_count(json, body)) return wrong(from);
    for (uint32_t k = 0; k < json_count(json, body); k++, one = json->nodes[one].next) {
      if (json_count(json, one) < 2) return wrong(from);
      *arguments += json_count(json, one) - 2;
      ++*instructions;
    }
  }
  return OK;
}

static int read_functions(struct reading *from, int64_t list, struct keeper *keeper) {
  const struct json *json = from->json;
  uint32_t count = json_count(json, list), instructions = 0, arguments = 0, used = 0;
  int failed = measure(from, list, &instructions, &arguments);
  if (failed) return failed;
  if (instructions > MOST || arguments > 8 * MOST || count > MOST) return wrong(from);
  from->functions = keep(keeper, count * sizeof *from->functions);
  from->instructions = keep(keeper, instructions * sizeof *from->instructions);
  from->arguments = keep(keeper, arguments * sizeof *from->arguments);
  if (!from->functions || !from->instructions || !from->arguments) return NO_MEMORY;
  int64_t at = list + 1, registers, inputs, operation, result;
  uint32_t first = 0;
  for (uint32_t i = 0; i < count; i++, at = json->nodes[at].next) {
    int64_t body = json_element(json, at, 2), one = body + 1;
    if (!number_at(json, json_element(json, at, 0), MOST_REGISTERS, &registers) ||
        !number_at(json, json_element(json, at, 1), registers, &inputs))
      return wrong(from);
    from->functions[i] = (struct function){(uint32_t)registers, (uint32_t)inputs, first, json_count(json, body)};
    for (uint32_t k = 0; k < json_count(json, body); k++, one = json->nodes[one].next) {
      int64_t argument = json->nodes[json->nodes[one + 1].next].next;
      if (!number_at(json, one + 1, OPERATIONS - 1, &operation) || !json_integer(json, json_element(json, one, 1), &result) ||
          result < NOWHERE || result >= registers)
        return wrong(from);
      from->instructions[first++] = (struct instruction){(int32_t)operation, (int32_t)result, used, json_count(json, one) - 2};
      for (uint32_t n = 2; n < json_count(json, one); n++, argument = json->nodes[argument].next)
        if (!json_integer(json, argument, &from->arguments[used++])) return wrong(from);
    }
  }
  from->code->functions = count;
  return OK;
}

static int check_functions(const struct reading *from) {
  for (uint32_t i = 0; i < from->code->functions; i++) {
    const struct function *function = &from->functions[i];
    const struct instruction *one = from->instructions + function->first;
    for (uint32_t k = 0; k < function->count; k++)
      if (!check(from, function, &one[k])) return wrong(from);
    int last = one[function->count - 1].operation;
    if (last != RETURN && last != GOTO) return wrong(from);
  }
  return OK;
}

int read_machine(const struct json *json, int64_t node, struct program *program, struct keeper *keeper, const char *path) {
  struct machine_code *code = keep(keeper, sizeof *code);
  struct reading from = {json, program, code, NULL, NULL, NULL, path};
  int64_t main, functions = json_member(json, node, "functions");
  if (!code) return NO_MEMORY;
  int failed = read_constants(&from, json_member(json, node, "constants"), keeper);
  if (!failed) failed = read_functions(&from, functions, keeper);
  if (!failed) failed = check_functions(&from);
  if (failed) return failed;
  if (!number_at(json, json_member(json, node, "main"), (int64_t)code->functions - 1, &main) ||
      from.functions[main].inputs != program->operands)
    return wrong(&from);
  code->runner = (struct runner)MACHINE_RUNNER;
  code->function = from.functions;
  code->instruction = from.instructions;
  code->argument = from.arguments;
  code->main = (uint32_t)main;
  program->runner = &code->runner;
  program->stack += STACK_OF_CALLS;
  return OK;
}
