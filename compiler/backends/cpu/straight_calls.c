/* Runs of a model that is a sequence of kernels, from a table that the runtime makes once.
 *
 * A part of the library with the thread pool. The virtual machine takes some 0.3 microseconds for each kernel that it
 * calls, which is most of the time of a wake word. Here a run sets the few addresses that change from run to run, calls
 * the kernels one after the other, and copies what is both a result and something else. The layouts are those of
 * edgec.runtime.execution.straight.
 */

typedef struct {
  int kind;
  unsigned int zero;
  long value;
} Value; /* TVMFFIAny */

typedef int (*Kernel)(void *self, const Value *arguments, int count, Value *result);

typedef struct {
  Kernel kernel;
  const Value *arguments;
  long count;
} Step;

typedef struct {
  char **address; /* of a tensor's elements */
  long base, offset;
} Place;

typedef struct {
  char *const *source;
  long base, offset, bytes;
} Copy;

typedef struct {
  const Step *steps;
  const Place *places;
  const Copy *copies;
  long step_count, place_count, copy_count;
} Straight;

extern void *memcpy(void *to, const void *from, unsigned long bytes);

/* Run once. `bases` are the addresses that the places and copies are relative to. A kernel's failure is returned. */
int edgec_straight_run(const Straight *table, char *const *bases) {
  for (long i = 0; i < table->place_count; i++)
    *table->places[i].address = bases[table->places[i].base] + table->places[i].offset;
  for (long i = 0; i < table->step_count; i++) {
    const Step *step = &table->steps[i];
    Value result = {0, 0, 0};
    int failure = step->kernel((void *)0, step->arguments, (int)step->count, &result);
    if (failure) return failure;
  }
  for (long i = 0; i < table->copy_count; i++) {
    const Copy *copy = &table->copies[i];
    memcpy(bases[copy->base] + copy->offset, *copy->source, (unsigned long)copy->bytes);
  }
  return 0;
}
