/* The public functions of libedgec. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "edgec.h"
#include "loader.h"

#define API __attribute__((visibility("default")))
#ifndef EDGEC_RUNTIME_ABI
#error "compile with -DEDGEC_RUNTIME_ABI: the calling convention of compiled code"
#endif
enum { FORMAT_VERSION = 1, MOST_FEATURES = 64 };

_Static_assert(sizeof(edgec_tensor) == sizeof(struct tensor_info) && sizeof(edgec_layer) == sizeof(struct layer_time) &&
               sizeof(edgec_array) == sizeof(struct array), "");

struct edgec_model {
  struct artifact artifact;
  struct code code;
  struct model_parts parts;
  int sets;
};

static int names_of_nodes(const struct json *json, int64_t segments, char *text, size_t size) {
  int64_t nodes = json_member(json, json_element(json, segments, 0), "nodes"), first = json_element(json, nodes, 0);
  if (!json_is(json, first, JSON_STRING)) return snprintf(text, size, "part of it");
  return snprintf(text, size, "node %.*s", (int)(json->nodes[first].end - json->nodes[first].start),
                  json->text.at + json->nodes[first].start);
}

/* What needs more than libedgec: told before anything of the artifact is loaded. */
static int check_kind(struct edgec_model *model, int64_t shapes, const char *what) {
  const struct json *json = &model->artifact.config;
  int64_t segments = json_member(json, shapes, "segments"), kind = json_member(json, 0, "device_kind");
  char nodes[128];
  if (kind != NOWHERE && !json_equals(json, kind, "cpu"))
    return fail(INCOMPATIBLE, "%s is for another device than a processor; libedgec drives processors only", what);
  if (json_count(json, segments)) {
    names_of_nodes(json, segments, nodes, sizeof nodes);
    return fail(INCOMPATIBLE, "%s needs ONNX Runtime for %s: run it with edgec in Python, or compile with --no-fallback", what, nodes);
  }
  return OK;
}

static int check_machine(struct edgec_model *model, const char *what) {
  const struct json *json = &model->artifact.config;
  struct keeper *keeper = &model->artifact.keeper;
  int64_t list = json_member(json, 0, "required_features"), at = list + 1;
  const char *features[MOST_FEATURES], *arch = json_text(json, json_member(json, 0, "arch"), keeper);
  uint32_t count = json_count(json, list);
  if (!arch || count > MOST_FEATURES) return fail(BAD_FILE, "%s: its config is not valid", model->artifact.path);
  for (uint32_t i = 0; i < count; i++, at = json->nodes[at].next)
    if (!(features[i] = json_text(json, at, keeper))) return fail(BAD_FILE, "%s: its config is not valid", model->artifact.path);
  return machine_check(what, arch, features, (int)count, json_text(json, json_member(json, 0, "min_glibc"), keeper));
}

static int check_version(struct edgec_model *model, const char *what) {
  const struct json *json = &model->artifact.config;
  int64_t version;
  if (!json_integer(json, json_member(json, 0, "format_version"), &version))
    return fail(BAD_FILE, "%s: its config is malformed", model->artifact.path);
  if (version != FORMAT_VERSION)
    return fail(INCOMPATIBLE, "%s has format version %lld; this libedgec reads version %d", what, (long long)version, FORMAT_VERSION);
  if (!json_equals(json, json_member(json, 0, "runtime_abi"), EDGEC_RUNTIME_ABI))
    return fail(INCOMPATIBLE, "%s has another runtime ABI than this libedgec (%s): compile the model again", what, EDGEC_RUNTIME_ABI);
  return OK;
}

static int load_code(struct edgec_model *model, struct span layer) {
  int failed = code_load(&model->code, layer);
  char symbol[512];
  for (uint32_t i = 0; i < model->parts.program.calls && !failed; i++) {
    struct call *call = &model->parts.calls[i];
    int length = snprintf(symbol, sizeof symbol, "__tvm_ffi_%s", call->symbol);
    void *found = length < (int)sizeof symbol ? code_symbol(&model->code, symbol) : NULL;
    if (!found) return fail(BAD_FILE, "%s: its code has no kernel %.100s", model->artifact.path, call->symbol);
    call->run = (kernel)found;
  }
  return failed;
}

static int load_set(struct edgec_model *model, int set) {
  struct artifact *artifact = &model->artifact;
  const struct json *json = &artifact->config;
  struct program *program = &model->parts.program;
  struct keeper *keeper = &artifact->keeper;
  int64_t buckets = json_member(json, 0, "buckets"), shapes = set ? json_element(json, buckets, (uint32_t)set - 1) : 0;
  struct json table;
  struct span layer, code;
  char what[256], title[64] = "program.json", *code_title = "model.so";
  int failed;
  program->name = json_text(json, json_member(json, 0, "name"), keeper);
  program->version = json_text(json, json_member(json, 0, "version"), keeper);
  program->target = json_text(json, json_member(json, 0, "target"), keeper);
  if (!program->name || !program->version || !program->target)
    return fail(BAD_FILE, "%s: its config is not valid", artifact->path);
  snprintf(what, sizeof what, "%.80s %.40s for %.60s", program->name, program->version, program->target);
  model->sets = 1 + (int)json_count(json, buckets);
  if (shapes == NOWHERE) return fail(BAD_ARGUMENT, "%s takes %d sets of input shapes; there is no number %d", what, model->sets, set);
  if ((failed = check_version(model, what)) || (failed = check_machine(model, what)) ||
      (failed = check_kind(model, shapes, what)) || (failed = artifact_check(artifact)))
    return failed;
  if (set) {
    snprintf(title, sizeof title, "program-%d.json", set);
    code_title = json_text(json, json_member(json, shapes, "layer"), keeper);
    if (!code_title) return fail(BAD_FILE, "%s: its config is not valid", artifact->path);
  }
  if ((failed = artifact_layer(artifact, "application/vnd.edgec.program.v1+json", title, &layer)) ||
      (failed = artifact_copy(artifact, "application/vnd.edgec.code.v1.elf", code_title, &code)))
    return failed;
  if (!layer.at && json_count(json, json_member(json, shapes, "calls")))
    return fail(INCOMPATIBLE, "%s has sequences of tensors whose length is known only at run time: run it with edgec in Python", what);
  if (!layer.at) return fail(INCOMPATIBLE, "%s has no table of its calls: compile the model again with this edgec", what);
  if (!code.at) return fail(BAD_FILE, "%s holds no %s", artifact->path, code_title);
  if ((failed = json_parse(&table, layer, keeper, "the artifact's table of calls")) ||
      (failed = read_program(&model->parts, artifact, &table, shapes)))
    return failed;
  return load_code(model, code);
}

API int edgec_load(const char *path, int set, edgec_model **made) {
  if (!path || !made || set < 0) return fail(BAD_ARGUMENT, "edgec_load takes a path, a set of shapes and a place for the model");
  *made = NULL;
  edgec_model *model = calloc(1, sizeof *model);
  if (!model) return fail(NO_MEMORY, "there is no memory for a model");
  int failed = artifact_open(&model->artifact, path);
  if (!failed) failed = load_set(model, set);
  model->artifact.path = NULL; /* the caller's */
  if (failed)
    edgec_unload(model);
  else
    *made = model;
  return failed;
}

API void edgec_unload(edgec_model *model) {
  if (!model) return;
  code_unload(&model->code);
  artifact_close(&model->artifact);
  free(model);
}

API const char *edgec_name(const edgec_model *model) { return model->parts.program.name; }
API const char *edgec_version(const edgec_model *model) { return model->parts.program.version; }
API const char *edgec_target(const edgec_model *model) { return model->parts.program.target; }
API int edgec_sets(const edgec_model *model) { return model->sets; }
API int edgec_inputs(const edgec_model *model) { return (int)model->parts.program.outside_inputs; }
API int edgec_outputs(const edgec_model *model) { return (int)model->parts.program.outside_outputs; }
API int edgec_layers(const edgec_model *model) { return (int)model->parts.program.calls; }

static const edgec_tensor *info_of(const struct port *ports, uint32_t count, int number) {
  for (uint32_t i = 0; i < count; i++)
    if (number >= 0 && ports[i].outside == number) return (const edgec_tensor *)&ports[i].info;
  return NULL;
}

API const edgec_tensor *edgec_input(const edgec_model *model, int number) {
  return info_of(model->parts.program.input, model->parts.program.inputs, number);
}

API const edgec_tensor *edgec_output(const edgec_model *model, int number) {
  return info_of(model->parts.program.output, model->parts.program.outputs, number);
}

API const int64_t *edgec_input_most(const edgec_model *model, int number) {
  const struct program *program = &model->parts.program;
  for (uint32_t i = 0; i < program->inputs; i++)
    if (number >= 0 && program->input[i].outside == number) return program->input[i].most ? program->input[i].most : program->input[i].info.shape;
  return NULL;
}

API size_t edgec_memory_bytes(const edgec_model *model, int threads) { return engine_bytes(&model->parts.program, threads); }

API size_t edgec_stack_bytes(const edgec_model *model) { return model->parts.program.stack; }

API size_t edgec_snapshot_bytes(const edgec_model *model) {
  return model->parts.program.states ? state_bytes(&model->parts.program) : 0;
}

API int edgec_open(const edgec_model *model, const edgec_options *given, edgec_session **session) {
  static const edgec_options none;
  const edgec_options *options = given ? given : &none;
  struct instance *made = NULL;
  if (!model || !session) return fail(BAD_ARGUMENT, "edgec_open takes a model and a place for the session");
  *session = NULL;
  int failed = engine_start(&made, &model->parts.program, model->parts.weights.at, options->memory, options->memory_bytes,
                            options->threads, options->parallel, options->pool);
  *session = (edgec_session *)made;
  return failed;
}

static int no_session(void) { return fail(BAD_ARGUMENT, "there is no session: edgec_open failed, or was not called"); }

API int edgec_run(edgec_session *session, const void *const *inputs, void *const *outputs) {
  if (!session || !inputs || !outputs) return session ? fail(BAD_ARGUMENT, "a run takes inputs and outputs") : no_session();
  return engine_run((struct instance *)session, inputs, outputs, NULL);
}

API int edgec_run_sized(edgec_session *session, const edgec_array *inputs, edgec_array *outputs) {
  if (!session || !inputs || !outputs) return session ? fail(BAD_ARGUMENT, "a run takes inputs and outputs") : no_session();
  return run_sized((struct instance *)session, (const struct array *)inputs, (struct array *)outputs);
}

API int edgec_profile(edgec_session *session, const void *const *inputs, void *const *outputs, int runs, edgec_layer *layers,
                      int count) {
  if (!session || !inputs || !outputs) return session ? fail(BAD_ARGUMENT, "a run takes inputs and outputs") : no_session();
  return engine_profile((struct instance *)session, inputs, outputs, runs, (struct layer_time *)layers, count);
}

API int edgec_reset(edgec_session *session) {
  if (!session) return no_session();
  state_reset((struct instance *)session);
  return OK;
}

API int edgec_snapshot(edgec_session *session, void *bytes, size_t size) {
  if (!session || !bytes) return session ? fail(BAD_ARGUMENT, "there is no place for the snapshot") : no_session();
  return state_save((struct instance *)session, bytes, size);
}

API int edgec_restore(edgec_session *session, const void *bytes, size_t size) {
  if (!session || !bytes) return session ? fail(BAD_ARGUMENT, "there is no snapshot") : no_session();
  return state_restore((struct instance *)session, bytes, size);
}

API void edgec_close(edgec_session *session) { engine_stop((struct instance *)session); }

API const char *edgec_last_error(void) { return last_error(); }
