/* Runs an artifact with libedgec on a file of inputs.
 *
 * artifact_driver ARTIFACT SET THREADS INPUTS OUTPUTS RUNS: as driver.c. With one argument only: loads the artifacts whose paths
 * the standard input lists, and prints the code and the text of each. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "edgec.h"

#define LARGEST 16

static int load_all(void) {
  char line[4096];
  while (fgets(line, sizeof line, stdin)) {
    line[strcspn(line, "\n")] = 0;
    edgec_model *model;
    int failed = edgec_load(line, 0, &model);
    printf("%d %s\n", failed, failed ? edgec_last_error() : "");
    if (!failed) edgec_unload(model);
  }
  return 0;
}

/* A run whose outputs have sizes that are known only now. */
static int run_sized(edgec_session *session, const edgec_model *model, const void **inputs, FILE *out) {
  edgec_array given[LARGEST], made[LARGEST];
  for (int i = 0; i < edgec_inputs(model); i++) given[i] = (edgec_array){inputs[i], NULL};
  int failed = edgec_run_sized(session, given, made);
  for (int i = 0; i < edgec_outputs(model) && !failed; i++) {
    const edgec_tensor *info = edgec_output(model, i);
    size_t bytes = info->dtype == EDGEC_INT64 ? 8 : 4;
    for (int k = 0; k < info->rank; k++) bytes *= (size_t)made[i].shape[k];
    fwrite(made[i].data, 1, bytes, out);
  }
  return failed;
}

static void *place(size_t bytes) {
  void *made = NULL;
  if (posix_memalign(&made, 64, bytes + 64)) exit(2);
  return made;
}

int main(int count, char **values) {
  if (count < 3) return load_all();
  edgec_model *model;
  edgec_session *session;
  const void *inputs[LARGEST];
  void *outputs[LARGEST];
  if (edgec_load(values[1], atoi(values[2]), &model)) return fprintf(stderr, "%s\n", edgec_last_error()), 1;
  edgec_options options = {.threads = atoi(values[3])};
  if (edgec_open(model, &options, &session)) return fprintf(stderr, "%s\n", edgec_last_error()), 1;
  FILE *in = fopen(values[4], "rb"), *out = fopen(values[5], "wb");
  for (int i = 0; i < edgec_inputs(model); i++) inputs[i] = place(edgec_input(model, i)->bytes);
  for (int i = 0; i < edgec_outputs(model); i++) outputs[i] = place(edgec_output(model, i)->bytes);
  for (int k = 0; k < atoi(values[6]); k++) {
    for (int i = 0; i < edgec_inputs(model); i++)
      if (fread((void *)inputs[i], 1, edgec_input(model, i)->bytes, in) != edgec_input(model, i)->bytes) return 3;
    int sized = 0;
    for (int i = 0; i < edgec_outputs(model); i++) sized |= !edgec_output(model, i)->bytes;
    if (sized ? run_sized(session, model, inputs, out) : edgec_run(session, inputs, outputs)) return fprintf(stderr, "%s\n", edgec_last_error()), 1;
    for (int i = 0; i < edgec_outputs(model) && !sized; i++) fwrite(outputs[i], 1, edgec_output(model, i)->bytes, out);
  }
  printf("{\"layers\": %d, \"memory\": %zu, \"stack\": %zu, \"sets\": %d}\n", edgec_layers(model),
         edgec_memory_bytes(model, options.threads), edgec_stack_bytes(model), edgec_sets(model));
  for (int i = 0; i < edgec_inputs(model); i++) free((void *)inputs[i]);
  for (int i = 0; i < edgec_outputs(model); i++) free(outputs[i]);
  fclose(in);
  fclose(out);
  edgec_close(session);
  edgec_unload(model);
  return 0;
}
