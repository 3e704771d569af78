/* From an artifact's JSON to a program: every number in it is checked against every other before anything is run. */
#include <string.h>

#include "loader.h"
#include "machine_code.h"

#define MOST_BYTES (1ll << 36)
enum { MOST_RANK = 32, MOST = 1 << 20 };

static const struct {
  const char *name;
  uint8_t code, bits;
  const char *stored; /* in safetensors */
} types[] = {{"bool", 6, 8, "BOOL"},     {"int8", 0, 8, "I8"},      {"uint8", 1, 8, "U8"},     {"int16", 0, 16, "I16"},
             {"uint16", 1, 16, "U16"},   {"int32", 0, 32, "I32"},   {"uint32", 1, 32, "U32"},  {"int64", 0, 64, "I64"},
             {"uint64", 1, 64, "U64"},   {"float16", 2, 16, "F16"}, {"bfloat16", 4, 16, "BF16"}, {"float32", 2, 32, "F32"},
             {"float64", 2, 64, "F64"}};

struct source {
  const char *path;
  struct keeper *keeper;
  const struct json *config, *table, *stored;
  int64_t shapes; /* the node of the set of input shapes in the config */
  struct span blob;
  size_t data; /* of the blob: behind its header */
};

static int wrong(const struct source *from, const char *what) {
  return fail(BAD_FILE, "%s: its %s does not fit the rest of it", from->path, what);
}

static int bounded(const struct json *json, int64_t node, int64_t most, int64_t *number) {
  return json_integer(json, node, number) && *number >= 0 && *number <= most;
}

/* Reads a shape into `sizes`; gives the bytes, or -1. */
static int64_t read_shape(const struct json *json, int64_t node, int type, int64_t *sizes) {
  int64_t bytes = types[type].bits / 8, at = node + 1;
  int empty = 0;
  for (uint32_t i = 0; i < json_count(json, node); i++) {
    if (!bounded(json, at, MOST_BYTES, &sizes[i])) return -1;
    if (!sizes[i]) empty = 1;
    if (sizes[i] && bytes > MOST_BYTES / sizes[i]) return -1;
    if (sizes[i]) bytes *= sizes[i];
    at = json->nodes[at].next;
  }
  return empty ? 0 : bytes;
}

static int type_of(const struct json *json, int64_t node) {
  for (size_t i = 0; i < sizeof types / sizeof *types; i++)
    if (json_equals(json, node, types[i].name)) return (int)i;
  return NOWHERE;
}

static int64_t of_set(const struct source *from, const char *key) { return json_member(from->config, from->shapes, key); }

static int varies(const struct source *from) { return json_member(from->table, 0, "machine") != NOWHERE; }

/* Whether a size is known only at run time: -1. */
static int is_open(const struct json *json, int64_t shape) {
  int64_t at = shape + 1, size;
  for (uint32_t i = 0; i < json_count(json, shape); i++, at = json->nodes[at].next)
    if (json_integer(json, at, &size) && size == -1) return 1;
  return 0;
}

static int64_t read_open(const struct json *json, int64_t shape, int64_t *sizes) {
  int64_t at = shape + 1;
  for (uint32_t i = 0; i < json_count(json, shape); i++, at = json->nodes[at].next)
    if (!json_integer(json, at, &sizes[i]) || sizes[i] < -1 || sizes[i] > MOST_BYTES) return -1;
  return 0;
}

static int read_bounds(const struct source *from, int64_t spec, struct port *port) {
  const struct json *json = from->config;
  int64_t list = json_member(json, spec, "bounds"), at = list + 1, low, high;
  if (!json_count(json, list)) return OK;
  int64_t *most = keep(from->keeper, (size_t)port->info.rank * sizeof *most);
  if (!most) return NO_MEMORY;
  if (!varies(from) || json_count(json, list) != (uint32_t)port->info.rank) return wrong(from, "inputs");
  for (int32_t i = 0; i < port->info.rank; i++, at = json->nodes[at].next) {
    if (!bounded(json, json_element(json, at, 0), MOST_BYTES, &low) || !bounded(json, json_element(json, at, 1), MOST_BYTES, &high) ||
        low != port->info.shape[i] || high < low)
      return wrong(from, "inputs");
    most[i] = high;
  }
  port->most = most;
  return OK;
}

static int read_ports(const struct source *from, const char *key, const struct port **made, uint32_t *count) {
  const struct json *json = from->config;
  int64_t list = of_set(from, key), at = list + 1;
  *count = json_count(json, list);
  if (!json_is(json, list, JSON_ARRAY) || *count > MOST) return wrong(from, key);
  struct port *ports = keep(from->keeper, *count * sizeof *ports);
  if (!ports) return NO_MEMORY;
  for (uint32_t i = 0; i < *count; i++, at = json->nodes[at].next) {
    int64_t shape = json_member(json, at, "shape");
    int type = type_of(json, json_member(json, at, "dtype"));
    if (type == NOWHERE || !json_is(json, shape, JSON_ARRAY) || json_count(json, shape) > MOST_RANK) return wrong(from, key);
    int64_t *sizes = keep(from->keeper, json_count(json, shape) * sizeof *sizes);
    char *name = json_text(json, json_member(json, at, "name"), from->keeper);
    if (!sizes) return NO_MEMORY;
    int64_t bytes = varies(from) && is_open(json, shape) ? read_open(json, shape, sizes) : read_shape(json, shape, type, sizes);
    if (!name || bytes < 0) return wrong(from, key);
    ports[i] = (struct port){{name, type, (int32_t)json_count(json, shape), sizes, (size_t)bytes}, NOWHERE, NOWHERE, NULL};
    int failed = read_bounds(from, at, &ports[i]);
    if (failed) return failed;
  }
  *made = ports;
  return OK;
}

/* A stored array: where it begins in the blob, and its bytes. */
static int find_array(const struct source *from, int64_t name, uint64_t *begin, uint64_t *size) {
  int64_t ends[2], entry = NOWHERE;
  char *text = json_text(from->config, name, from->keeper);
  const struct json *json = from->stored;
  if (!text) return wrong(from, "weights");
  if (json->count) {
    int64_t at = 1;
    char *found;
    for (uint32_t i = 0; i < json->nodes[0].count && entry == NOWHERE; i += 2) {
      int64_t value = json->nodes[at].next;
      size_t length = json->nodes[at].end - json->nodes[at].start;
      if (memchr(json->text.at + json->nodes[at].start, '\\', length)) {
        if ((found = json_text(json, at, from->keeper)) && !strcmp(found, text)) entry = value;
      } else if (length == strlen(text) && !memcmp(json->text.at + json->nodes[at].start, text, length)) {
        entry = value;
      }
      at = json->nodes[value].next;
    }
  }
  int64_t offsets = json_member(json, entry, "data_offsets");
  if (entry == NOWHERE) return fail(BAD_FILE, "%s: its weights lack '%s'", from->path, text);
  for (uint32_t i = 0; i < 2; i++)
    if (!bounded(json, json_element(json, offsets, i), MOST_BYTES, &ends[i])) return wrong(from, "weights");
  if (ends[0] > ends[1] || (uint64_t)ends[1] > from->blob.size - from->data || (from->data + (uint64_t)ends[0]) % ALIGNMENT)
    return wrong(from, "weights");
  *begin = from->data + (uint64_t)ends[0];
  *size = (uint64_t)(ends[1] - ends[0]);
  return OK;
}

static uint32_t port_named(const struct json *json, int64_t name, const struct port *ports, uint32_t count, struct keeper *keeper) {
  char *text = json_text(json, name, keeper);
  for (uint32_t i = 0; text && i < count; i++)
    if (!strcmp(ports[i].info.name, text)) return i;
  return count;
}

static int read_states(const struct source *from, struct program *program) {
  const struct json *json = from->config;
  int64_t list = of_set(from, "states"), at = list + 1;
  uint32_t count = json_count(json, list);
  struct state *states = keep(from->keeper, count * sizeof *states);
  struct port *inputs = (struct port *)(uintptr_t)program->input, *outputs = (struct port *)(uintptr_t)program->output;
  if (!states) return NO_MEMORY;
  for (uint32_t i = 0; i < count; i++, at = json->nodes[at].next) {
    uint32_t input = port_named(json, json_member(json, at, "input"), inputs, program->inputs, from->keeper);
    uint32_t output = port_named(json, json_member(json, at, "output"), outputs, program->outputs, from->keeper);
    int64_t initial = json_member(json, at, "initial");
    uint64_t begin = 0, size = 0;
    if (input == program->inputs || output == program->outputs || inputs[input].state != NOWHERE ||
        outputs[output].state != NOWHERE || inputs[input].info.bytes != outputs[output].info.bytes)
      return wrong(from, "states");
    if (json_is(json, initial, JSON_STRING)) {
      int failed = find_array(from, initial, &begin, &size);
      if (failed) return failed;
      if (size != inputs[input].info.bytes) return wrong(from, "states");
    }
    inputs[input].state = outputs[output].state = (int32_t)i;
    states[i] = (struct state){input, output, size || json_is(json, initial, JSON_STRING) ? (int64_t)begin : NOWHERE};
  }
  for (uint32_t i = 0; i < program->inputs; i++)
    if (inputs[i].state == NOWHERE) inputs[i].outside = (int32_t)program->outside_inputs++;
  for (uint32_t i = 0; i < program->outputs; i++)
    if (outputs[i].state == NOWHERE) outputs[i].outside = (int32_t)program->outside_outputs++;
  program->state = states;
  program->states = count;
  return OK;
}

static int place_of(const struct json *json, int64_t node) {
  static const char *const names[] = {"input", "weight", "arena", "result"};
  for (int i = 0; i < 4; i++)
    if (json_equals(json, node, names[i])) return i;
  return NOWHERE;
}

struct limits {
  uint32_t weights;
  const uint64_t *weight_bytes;
  uint64_t *result_bytes;
};

static int check_operand(const struct program *program, struct operand *one, struct limits *limits) {
  switch (one->place) {
    case INPUT:
      return one->number < program->inputs && one->bytes == program->input[one->number].info.bytes &&
             one->bits == types[program->input[one->number].info.dtype].bits;
    case WEIGHT: return one->number < limits->weights && one->bytes <= limits->weight_bytes[one->number];
    case ARENA: return one->offset % ALIGNMENT == 0 && one->offset <= program->arena && one->bytes <= program->arena - one->offset;
    default:
      if (one->number >= program->operands) return 0;
      if (one->bytes > limits->result_bytes[one->number]) limits->result_bytes[one->number] = one->bytes;
      return 1;
  }
}

static int read_operands(const struct source *from, struct program *program, struct limits *limits) {
  const struct json *json = from->table;
  int64_t list = json_member(json, 0, "operands"), at = list + 1, total = 0;
  program->operands = json_count(json, list);
  if (program->operands > MOST) return wrong(from, "table of calls");
  for (uint32_t i = 0; i < program->operands; i++, at = json->nodes[at].next)
    total += json_count(json, json_element(json, at, 4));
  struct operand *operands = keep(from->keeper, program->operands * sizeof *operands);
  int64_t *sizes = keep(from->keeper, (size_t)total * sizeof *sizes);
  limits->result_bytes = keep(from->keeper, program->operands * sizeof *limits->result_bytes);
  if (!operands || !sizes || !limits->result_bytes) return NO_MEMORY;
  uint32_t used = 0;
  at = list + 1;
  for (uint32_t i = 0; i < program->operands; i++, at = json->nodes[at].next) {
    int64_t shape = json_element(json, at, 4), number, offset;
    int place = place_of(json, json_element(json, at, 0)), type = type_of(json, json_element(json, at, 3));
    if (place == NOWHERE || type == NOWHERE || !json_is(json, shape, JSON_ARRAY) || json_count(json, shape) > MOST_RANK ||
        !bounded(json, json_element(json, at, 1), MOST, &number) ||
        !bounded(json, json_element(json, at, 2), MOST_BYTES, &offset))
      return wrong(from, "table of calls");
    int64_t bytes = read_shape(json, shape, type, sizes + used);
    operands[i] = (struct operand){(uint8_t)place, types[type].code, types[type].bits, (uint8_t)json_count(json, shape),
                                   (uint32_t)number, used, (uint64_t)offset, (uint64_t)bytes};
    used += json_count(json, shape);
    if (bytes < 0 || !check_operand(program, &operands[i], limits)) return wrong(from, "table of calls");
    if (place == RESULT && (uint32_t)number >= program->results) program->results = (uint32_t)number + 1;
  }
  program->operand = operands;
  program->size = sizes;
  program->result_bytes = limits->result_bytes;
  return OK;
}

static int read_calls(const struct source *from, struct program *program, struct call **made) {
  const struct json *json = from->table;
  int64_t list = json_member(json, 0, "calls"), at = list + 1, number, total = 0;
  program->calls = json_count(json, list);
  if (program->calls > MOST) return wrong(from, "table of calls");
  for (uint32_t i = 0; i < program->calls; i++, at = json->nodes[at].next)
    total += json_count(json, json_element(json, at, 1));
  struct call *calls = keep(from->keeper, program->calls * sizeof *calls);
  uint32_t *arguments = keep(from->keeper, (size_t)total * sizeof *arguments), used = 0;
  if (!calls || !arguments) return NO_MEMORY;
  at = list + 1;
  for (uint32_t i = 0; i < program->calls; i++, at = json->nodes[at].next) {
    int64_t operands = json_element(json, at, 1), argument = operands + 1;
    char *symbol = json_text(json, json_element(json, at, 0), from->keeper);
    char *nodes = json_text(json, json_element(json, at, 2), from->keeper);
    if (!symbol || !nodes || !json_is(json, operands, JSON_ARRAY)) return wrong(from, "table of calls");
    calls[i] = (struct call){NULL, symbol, nodes, used, json_count(json, operands)};
    for (uint32_t k = 0; k < calls[i].count; k++, argument = json->nodes[argument].next) {
      if (!bounded(json, argument, (int64_t)program->operands - 1, &number)) return wrong(from, "table of calls");
      arguments[used++] = (uint32_t)number;
    }
  }
  program->call = *made = calls;
  program->argument = arguments;
  return OK;
}

static int read_outputs(const struct source *from, struct program *program) {
  const struct json *json = from->table;
  int64_t list = json_member(json, 0, "outputs"), at = list + 1, number;
  uint32_t *outputs = keep(from->keeper, program->outputs * sizeof *outputs);
  if (!outputs) return NO_MEMORY;
  if (json_count(json, list) != program->outputs) return wrong(from, "table of calls");
  for (uint32_t i = 0; i < program->outputs; i++, at = json->nodes[at].next) {
    if (!bounded(json, at, (int64_t)program->operands - 1, &number)) return wrong(from, "table of calls");
    const struct operand *operand = &program->operand[number];
    /* a result may be written where the output is, so that it must not be larger */
    if (operand->bytes != program->output[i].info.bytes ||
        (operand->place == RESULT && program->result_bytes[operand->number] != operand->bytes))
      return wrong(from, "table of calls");
    outputs[i] = (uint32_t)number;
  }
  program->output_operand = outputs;
  return OK;
}

static int read_weights(const struct source *from, struct program *program, struct limits *limits) {
  const struct json *json = from->config;
  int64_t list = of_set(from, "weights"), at = list + 1;
  limits->weights = json_count(json, list);
  uint64_t *begins = keep(from->keeper, limits->weights * sizeof *begins);
  uint64_t *sizes = keep(from->keeper, limits->weights * sizeof *sizes);
  if (!begins || !sizes) return NO_MEMORY;
  for (uint32_t i = 0; i < limits->weights; i++, at = json->nodes[at].next) {
    int failed = find_array(from, at, &begins[i], &sizes[i]);
    if (failed) return failed;
  }
  program->weight = begins;
  limits->weight_bytes = sizes;
  return OK;
}

/* The header of a blob of weights: safetensors. */
static int open_blob(struct source *from, struct artifact *artifact, struct json *stored, struct span *blob) {
  uint64_t length = 0;
  int failed = artifact_layer(artifact, "application/vnd.edgec.weights.v1.safetensors", NULL, blob);
  if (failed || !blob->at) return failed;
  if (blob->size < 8) return wrong(from, "weights");
  for (int i = 0; i < 8; i++) length |= (uint64_t)blob->at[i] << 8 * i;
  if (length > blob->size - 8) return wrong(from, "weights");
  from->data = 8 + (size_t)length;
  failed = json_parse(stored, (struct span){blob->at + 8, (size_t)length}, from->keeper, "the header of the artifact's weights");
  if (!failed && !json_is(stored, 0, JSON_OBJECT)) return wrong(from, "weights");
  return failed;
}

int read_program(struct model_parts *made, struct artifact *artifact, const struct json *table, int64_t shapes) {
  struct json stored = {0};
  struct source from = {artifact->path, &artifact->keeper, &artifact->config, table, &stored, shapes, {0}, 0};
  struct program *program = &made->program;
  struct limits limits = {0};
  int64_t arena, workspace, stack;
  int failed = open_blob(&from, artifact, &stored, &made->weights);
  from.blob = made->weights;
  if (failed) return failed;
  if (!bounded(table, json_member(table, 0, "arena"), MOST_BYTES, &arena) ||
      !bounded(table, json_member(table, 0, "workspace"), MOST_BYTES, &workspace) ||
      !bounded(table, json_member(table, 0, "stack"), MOST, &stack) ||
      !json_is(table, json_member(table, 0, "operands"), JSON_ARRAY) || !json_is(table, json_member(table, 0, "calls"), JSON_ARRAY))
    return wrong(&from, "table of calls");
  program->arena = (uint64_t)arena;
  program->workspace = (uint64_t)workspace;
  program->stack = (uint64_t)stack + STACK_OF_RUN;
  program->snapshot = json_text(table, json_member(table, 0, "snapshot"), from.keeper);
  if (!program->snapshot) return wrong(&from, "table of calls");
  failed = read_ports(&from, "inputs", &program->input, &program->inputs);
  if (!failed) failed = read_ports(&from, "outputs", &program->output, &program->outputs);
  if (!failed) failed = read_states(&from, program);
  if (!failed) failed = read_weights(&from, program, &limits);
  if (!failed) failed = read_operands(&from, program, &limits);
  if (!failed) failed = read_calls(&from, program, &made->calls);
  if (!failed && varies(&from)) return read_machine(table, json_member(table, 0, "machine"), program, from.keeper, from.path);
  return failed ? failed : read_outputs(&from, program);
}
