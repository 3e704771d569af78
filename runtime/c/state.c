/* What a model remembers from run to run: its start, and the same bytes as edgec.runtime's snapshots. */
#include <string.h>

#include "engine.h"

static const char magic[] = {'e', 'd', 'g', 'e', 'c', 'S', 'T', '1'};
enum { DIGEST = 32, LENGTH = 8, BEGIN = sizeof magic + DIGEST };

static size_t bytes_of(const struct program *program, uint32_t number) {
  return program->input[program->state[number].input].info.bytes;
}

void state_reset(struct instance *one) {
  const struct program *program = one->program;
  for (uint32_t i = 0; i < program->states; i++) {
    int64_t initial = program->state[i].initial;
    if (initial == NOWHERE)
      memset(one->present[i], 0, bytes_of(program, i));
    else
      memcpy(one->present[i], one->weights + initial, bytes_of(program, i));
  }
}

size_t state_bytes(const struct program *program) {
  size_t total = BEGIN + LENGTH + strlen(program->snapshot);
  for (uint32_t i = 0; i < program->states; i++) total += bytes_of(program, i);
  return total;
}

int state_save(struct instance *one, void *bytes, size_t size) {
  const struct program *program = one->program;
  size_t header = strlen(program->snapshot), whole = state_bytes(program);
  uint8_t *content = (uint8_t *)bytes + BEGIN, *at = content + LENGTH;
  if (size < whole) return fail(BAD_ARGUMENT, "a snapshot of %s takes %zu bytes, not %zu", program->name, whole, size);
  memcpy(bytes, magic, sizeof magic);
  for (int i = 0; i < LENGTH; i++) content[i] = (uint8_t)((uint64_t)header >> 8 * i);
  memcpy(at, program->snapshot, header);
  at += header;
  for (uint32_t i = 0; i < program->states; i++) {
    memcpy(at, one->present[i], bytes_of(program, i));
    at += bytes_of(program, i);
  }
  sha256(content, whole - BEGIN, (uint8_t *)bytes + sizeof magic);
  return OK;
}

int state_restore(struct instance *one, const void *bytes, size_t size) {
  const struct program *program = one->program;
  size_t header = strlen(program->snapshot), whole = state_bytes(program);
  const uint8_t *content = (const uint8_t *)bytes + BEGIN, *at = content + LENGTH;
  uint8_t digest[DIGEST];
  uint64_t length = 0;
  if (size < BEGIN + LENGTH || memcmp(bytes, magic, sizeof magic))
    return fail(BAD_SNAPSHOT, "these bytes are no snapshot of a session");
  sha256(content, size - BEGIN, digest);
  if (memcmp(digest, (const uint8_t *)bytes + sizeof magic, DIGEST))
    return fail(BAD_SNAPSHOT, "the snapshot is cut short or damaged: its digest differs");
  for (int i = 0; i < LENGTH; i++) length |= (uint64_t)content[i] << 8 * i;
  if (size != whole || length != header || memcmp(at, program->snapshot, header))
    return fail(BAD_SNAPSHOT, "the snapshot is of another model, version or file than %s %s", program->name,
                program->version);
  at += header;
  for (uint32_t i = 0; i < program->states; i++) {
    memcpy(one->present[i], at, bytes_of(program, i));
    at += bytes_of(program, i);
  }
  return OK;
}
