/* Whether this machine can run code that was compiled for a target. */
#include <pthread.h>
#include <fcntl.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>
#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

#include "engine.h"

#if defined(__x86_64__)
static const char own_arch[] = "x86_64";
#elif defined(__aarch64__)
static const char own_arch[] = "aarch64";
#else
static const char own_arch[] = "";
#endif

#if defined(__aarch64__)
/* Linux, arch/arm64/include/uapi/asm/hwcap.h, by the names in /proc/cpuinfo; those that have another name have two lines. */
static const struct {
  const char *name;
  int word, bit;
} known[] = {{"fp", 0, 0},        {"asimd", 0, 1},     {"aes", 0, 3},       {"pmull", 0, 4},   {"sha1", 0, 5},
             {"sha2", 0, 6},      {"crc32", 0, 7},     {"atomics", 0, 8},   {"fphp", 0, 9},    {"asimdhp", 0, 10},
             {"asimdrdm", 0, 12}, {"jscvt", 0, 13},    {"fcma", 0, 14},     {"lrcpc", 0, 15},  {"dcpop", 0, 16},
             {"sha3", 0, 17},     {"asimddp", 0, 20},  {"dotprod", 0, 20},  {"sha512", 0, 21}, {"sve", 0, 22},
             {"asimdfhm", 0, 23}, {"ilrcpc", 0, 26},   {"flagm", 0, 27},    {"sve2", 1, 1},    {"svei8mm", 1, 9},
             {"svebf16", 1, 12},  {"i8mm", 1, 13},     {"bf16", 1, 14},     {"sme", 1, 23}};

static int has(const char *feature) {
  unsigned long words[2] = {getauxval(AT_HWCAP), getauxval(AT_HWCAP2)};
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (!strcmp(known[i].name, feature)) return (int)(words[known[i].word] >> known[i].bit & 1);
  return 0;
}
#else
/* The flags of the first processor in /proc/cpuinfo, as " a b c ", read in pieces: the line is long. */
static char flags[8192];

static int flags_read;

static void read_flags(void) {
  static const char key[] = "flags";
  char piece[512];
  size_t used = 0, at_line = 0;
  int in_flags = 1, named = 0, done = 0;
  int file = open("/proc/cpuinfo", O_RDONLY | O_CLOEXEC);
  if (file < 0) return;
  for (ssize_t got; !done && (got = read(file, piece, sizeof piece)) > 0;)
    for (ssize_t i = 0; i < got && !done; i++) {
      char c = piece[i];
      if (c == '\n') {
        done = named;
        at_line = 0, in_flags = 1;
      } else if (named) {
        if (used < sizeof flags - 2) flags[used++] = c == '\t' ? ' ' : c;
      } else if (in_flags) {
        if (at_line < sizeof key - 1)
          in_flags = c == key[at_line++];
        else if (c == ':')
          named = 1, flags[used++] = ' ';
        else
          in_flags = c == ' ' || c == '\t';
      }
    }
  close(file);
  flags[used++] = ' ';
  flags[used] = 0;
  flags_read = named;
}

static int has(const char *feature) {
  size_t length = strlen(feature);
  for (const char *at = flags; length && (at = strstr(at, feature)); at++)
    if (at > flags && at[-1] == ' ' && at[length] == ' ') return 1;
  return 0;
}
#endif

/* glibc's version without its header's: the symbol is weak, so that musl has none. */
extern const char *gnu_get_libc_version(void) __attribute__((weak));

static int older(const char *present, const char *needed) {
  long numbers[2][2] = {{0}};
  for (int i = 0; i < 2; i++) {
    const char *at = i ? needed : present;
    for (int k = 0; k < 2; k++) {
      while (*at >= '0' && *at <= '9' && numbers[i][k] < 100000) numbers[i][k] = numbers[i][k] * 10 + *at++ - '0';
      if (*at == '.') at++;
    }
  }
  return numbers[0][0] != numbers[1][0] ? numbers[0][0] < numbers[1][0] : numbers[0][1] < numbers[1][1];
}

int machine_check(const char *what, const char *arch, const char *const *features, int count, const char *glibc) {
  const uint16_t one = 1;
  if (sizeof(void *) != 8)
    return fail(INCOMPATIBLE, "%s needs a 64-bit machine; this program is built for %d bits", what,
                (int)sizeof(void *) * 8);
  if (!*(const uint8_t *)&one)
    return fail(INCOMPATIBLE, "%s needs a little-endian machine; this one is big-endian", what);
  if (strcmp(arch, own_arch)) {
    struct utsname machine;
    const char *here = *own_arch ? own_arch : uname(&machine) ? "unknown" : machine.machine;
    return fail(INCOMPATIBLE, "%s was compiled for %s; this machine is %s", what, arch, here);
  }
#if !defined(__aarch64__)
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, read_flags);
  if (count && !flags_read)
    return fail(INCOMPATIBLE, "%s needs %s, and /proc/cpuinfo does not tell what this processor has", what, features[0]);
#endif
  for (int i = 0; i < count; i++)
    if (!has(features[i])) {
      return fail(INCOMPATIBLE, "%s needs a processor with %s; this one lacks it", what, features[i]);
    }
  if (glibc && *glibc && gnu_get_libc_version && older(gnu_get_libc_version(), glibc))
    return fail(INCOMPATIBLE, "%s needs glibc %s; this system has glibc %s", what, glibc, gnu_get_libc_version());
  return OK;
}
