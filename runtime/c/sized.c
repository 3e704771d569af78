/* Runs whose outputs stay in the instance. */
#include <stdlib.h>
#include <string.h>

#include "engine.h"

/* A sequence of calls has fixed sizes: its outputs get memory of their own at the first such run, and pointers for engine_run. */
static int run_fixed(struct instance *one, const struct array *inputs, struct array *outputs) {
  const struct program *program = one->program;
  uint64_t pointers = ROUND((program->outside_inputs + program->outside_outputs) * sizeof(void *)), total = pointers;
  for (uint32_t k = 0; k < program->outputs; k++) total += program->output[k].outside == NOWHERE ? 0 : ROUND(program->output[k].info.bytes + 1);
  if (!one->heap && posix_memalign(&one->heap, ALIGNMENT, total)) {
    one->heap = NULL;
    return fail(NO_MEMORY, "there is no memory for the outputs of %s", program->name);
  }
  const void **given = one->heap;
  void **made = (void **)one->heap + program->outside_inputs;
  uint8_t *place = (uint8_t *)one->heap + pointers;
  for (uint32_t i = 0; i < program->inputs; i++) {
    const struct port *port = &program->input[i];
    if (port->outside == NOWHERE) continue;
    const struct array *array = &inputs[port->outside];
    if (array->shape && memcmp(array->shape, port->info.shape, (size_t)port->info.rank * sizeof *array->shape))
      return fail(BAD_ARGUMENT, "input '%s' of %s has fixed sizes, and other ones were given", port->info.name, program->name);
    given[port->outside] = array->data;
  }
  for (uint32_t k = 0; k < program->outputs; k++) {
    const struct port *port = &program->output[k];
    if (port->outside == NOWHERE) continue;
    outputs[port->outside] = (struct array){place, port->info.shape};
    made[port->outside] = place;
    place += ROUND(port->info.bytes + 1);
  }
  return engine_run(one, given, made, NULL);
}

int run_sized(struct instance *one, const struct array *inputs, struct array *outputs) {
  if (!one->program->runner) return run_fixed(one, inputs, outputs);
  return one->program->runner->run(one, inputs, NULL, outputs, NULL);
}
