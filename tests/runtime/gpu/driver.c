// A driver of the tests: CUDA's driver interface on the host's memory, with kernels that copy, fail or run too long.
// Everything that is not released can be counted, and settings of the environment make calls fail. A module that is a
// library of the emulator (`tests/compiler/backends/cuda/emulator`) brings its own kernels.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int R;
enum { OK = 0, INVALID = 1, MEMORY = 2, NOT_INITIALISED = 3, NO_DEVICE = 100, NO_BINARY = 209, PTX_VERSION = 222, NOT_FOUND = 500 };
enum { KERNEL, COPY };
typedef void Run(void **, const int *, const int *);
typedef struct { size_t size; int error; Run *run; int count; } Function;
typedef struct { const Function *function; uint64_t values[64]; int grid[3], block[3]; } Launch;
typedef struct Work { int kind; uint64_t a, b; size_t size; int error; struct Work *next; Launch *launch; } Work;
typedef struct { Work *first, *last; } Graph;
typedef struct Stream { int capturing, slow; Graph *graph; Work *first, *last; struct Stream *next; } Stream;
typedef struct { int time; Stream *stream; } Event;

static int live, broken, launches, resets, synchronised, waited, waits, pageable;
static size_t used;
static Stream *slow; // streams whose work waits until somebody waits for it
static struct { uint64_t at; size_t size; } blocks[4096]; // memory of the device and page-locked memory
static int block_of(uint64_t p) {
  for (int i = 0; i < 4096; i++) if (blocks[i].at && blocks[i].at <= p && p < blocks[i].at + blocks[i].size) return i;
  return -1;
}
static uint64_t block(size_t n) {
  int i = 0; while (blocks[i].at) i++;
  blocks[i].size = (n + 255) / 256 * 256; blocks[i].at = (uint64_t)aligned_alloc(256, blocks[i].size);
  memset((void *)blocks[i].at, 0x7f, blocks[i].size); live++; return blocks[i].at;
}
static int drop(uint64_t p) {
  int i = block_of(p); if (i < 0 || blocks[i].at != p) return INVALID; // such as that of a context that is gone
  free((void *)p); blocks[i].at = 0; live--; return OK;
}
static long setting(const char *name, long fallback) { const char *t = getenv(name); return t ? atol(t) : fallback; }
int fake_live(void) { return live; }
int fake_synchronised(void) { return synchronised; }
int fake_launches(void) { return launches; }
int fake_resets(void) { return resets; }
int fake_waited(void) { return waited; }
int fake_waits(void) { return waits; } // of the host for a stream
int fake_pageable(void) { return pageable; } // copies between the device and memory that is not page-locked

static pid_t opened;
R cuInit(unsigned f) { opened = getpid(); return f ? INVALID : OK; }
R cuDriverGetVersion(int *v) { *v = (int)setting("FAKE_VERSION", 12040); return OK; }
R cuGetErrorString(R code, const char **s) {
  *s = code == MEMORY ? "out of memory" : code == NO_DEVICE ? "no CUDA-capable device is detected"
     : code == 700 ? "an illegal memory access was encountered" : code == 702 ? "the launch timed out and was terminated"
     : code == NO_BINARY ? "no kernel image is available for execution on the device" : "another error";
  return OK;
}
R cuGetErrorName(R code, const char **s) { (void)code; *s = "CUDA_ERROR"; return OK; }
R cuDeviceGetCount(int *n) { *n = (int)setting("FAKE_DEVICES", 1); return *n ? OK : NO_DEVICE; }
R cuDeviceGet(int *d, int n) { *d = n + 40; return OK; }
R cuDeviceGetName(char *s, int n, int d) { if (d != 40) return INVALID; strncpy(s, "Fake GPU", (size_t)n); return OK; }
R cuDeviceGetAttribute(int *v, int what, int d) {
  if (d != 40) return INVALID;
  *v = what == 75 ? (int)setting("FAKE_MAJOR", 8) : what == 76 ? (int)setting("FAKE_MINOR", 9) : what == 97 ? 101376 : what == 18 ? (int)setting("FAKE_INTEGRATED", 0)
     : what == 13 ? 2040000 : what == 36 ? 6251000 : what == 37 ? 192 : 58;
  return OK;
}
R cuDeviceTotalMem_v2(size_t *s, int d) { *s = 1u << 30; return d == 40 ? OK : INVALID; }
R cuDevicePrimaryCtxRetain(void **c, int d) { *c = (void *)&broken; return d == 40 ? OK : INVALID; }
R cuDevicePrimaryCtxReset_v2(int d) {
  if (!setting("FAKE_STUCK", 0)) broken = 0;
  for (int i = 0; i < 4096; i++) if (blocks[i].at) { free((void *)blocks[i].at); blocks[i].at = 0; }
  live = 0; used = 0; slow = 0; resets++;
  if (setting("FAKE_RESET", 0)) return (int)setting("FAKE_RESET", 0);
  return d == 40 ? OK : INVALID;
}
R cuDevicePrimaryCtxRelease_v2(int d) { return d == 40 ? OK : INVALID; }
R cuCtxSetCurrent(void *c) { if (opened != getpid()) return NOT_INITIALISED; return c == (void *)&broken ? OK : INVALID; }
R cuMemGetInfo_v2(size_t *f, size_t *t) { *t = 1u << 30; *f = (size_t)setting("FAKE_FREE", 1 << 30) - used; return OK; }
R cuMemAlloc_v2(uint64_t *p, size_t n) {
  if (broken) return broken;
  if (used + n > (size_t)setting("FAKE_FREE", 1 << 30)) return MEMORY;
  *p = block(n); used += n; return OK;
}
R cuMemFree_v2(uint64_t p) { if (broken) return broken; return drop(p); }
R cuMemHostAlloc(void **p, size_t n, unsigned f) { if (broken) return broken; *p = (void *)block(n); return f ? INVALID : OK; }
R cuMemFreeHost(void *p) { return drop((uint64_t)p); }
R cuPointerGetAttribute(int *v, int what, uint64_t p) { *v = (int)setting("FAKE_ORDINAL", 0); return what == 9 && block_of(p) >= 0 ? OK : INVALID; }

static R work(Stream *s, Work w) {
  if (broken) return broken;
  Work *made = malloc(sizeof w); *made = w; made->next = 0;
  if (s->capturing) {
    if (s->graph->last) s->graph->last->next = made; else s->graph->first = made;
    s->graph->last = made; return OK;
  }
  if (s->slow == 1) {
    if (s->last) s->last->next = made; else s->first = made;
    s->last = made; return OK;
  }
  if (w.launch && w.launch->function->run) {
    void *v[64]; for (int i = 0; i < w.launch->function->count; i++) v[i] = (void *)w.launch->values[i];
    w.launch->function->run(v, w.launch->grid, w.launch->block);
  } else if (w.error) broken = w.error; else memmove((void *)w.a, (void *)w.b, w.size);
  launches += w.kind == KERNEL; free(made); return OK;
}
// What has been queued on a slow stream is done now.
static void pass(Stream *s) {
  Work *w = s->first; s->first = s->last = 0; s->slow = 2;
  for (Work *n; w; w = n) { n = w->next; work(s, *w); free(w); }
  s->slow = 1;
}
void fake_slow(Stream *s) { s->slow = 1; s->next = slow; slow = s; }
R cuMemcpyHtoDAsync_v2(uint64_t d, const void *h, size_t n, Stream *s) { pageable += block_of((uint64_t)h) < 0; Work w = {COPY, d, (uint64_t)h, n, 0, 0, 0}; return work(s, w); }
R cuMemcpyDtoHAsync_v2(void *h, uint64_t d, size_t n, Stream *s) { pageable += block_of((uint64_t)h) < 0; Work w = {COPY, (uint64_t)h, d, n, 0, 0, 0}; return work(s, w); }
R cuMemcpyDtoDAsync_v2(uint64_t a, uint64_t b, size_t n, Stream *s) { Work w = {COPY, a, b, n, 0, 0, 0}; return work(s, w); }
typedef struct { char *text; void *library; } Module;
static void *library_of(const char *image) { // an ELF file ends with its table of sections
  size_t size = *(uint64_t *)(image + 0x28) + (size_t)*(uint16_t *)(image + 0x3a) * *(uint16_t *)(image + 0x3c);
  char path[] = "/tmp/module-XXXXXX"; int file = mkstemp(path); void *made = 0; // the loader keeps libraries by name
  if (write(file, image, size) == (ssize_t)size) made = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  close(file); unlink(path); return made;
}
R cuModuleLoadData(Module **m, const char *image) {
  if (broken) return broken;
  if (!memcmp(image, "\x7f" "ELF", 4)) {
    void *library = library_of(image); if (!library) return NO_BINARY;
    *m = calloc(1, sizeof **m); (*m)->library = library; live++; return OK;
  }
  if (strncmp(image, "cubin", 5) && strncmp(image, "ptx", 3)) return NO_BINARY;
  *m = calloc(1, sizeof **m); (*m)->text = strdup(image); live++; return OK;
}
R cuModuleUnload(Module *m) {
  if (broken) return broken;
  if (m->library) dlclose(m->library);
  free(m->text); free(m); live--; return OK;
}
// Names say what a kernel does: copy_64, fault_700, wait_702.
R cuModuleGetFunction(Function **f, Module *m, const char *name) {
  Function *one = calloc(1, sizeof *one); const char *number = strchr(name, '_'); // functions live as long as the process
  if (m->library) {
    char symbol[512]; snprintf(symbol, sizeof symbol, "run_%s", name); one->run = (Run *)dlsym(m->library, symbol);
    snprintf(symbol, sizeof symbol, "arguments_%s", name); int *count = dlsym(m->library, symbol);
    if (!one->run || !count || *count > 64) return NOT_FOUND;
    one->count = *count; *f = one; return OK;
  }
  if (!number) return NOT_FOUND;
  if (!strncmp(name, "copy", 4)) one->size = (size_t)atol(number + 1); else one->error = (int)setting("FAKE_FAULT", 0);
  *f = one; return OK;
}
R cuFuncSetAttribute(Function *f, int what, int v) { (void)f; return what == 8 && v > 49152 ? OK : INVALID; }
R cuStreamCreate(Stream **s, unsigned f) { if (broken) return broken; *s = calloc(1, sizeof **s); live++; return f == 1 ? OK : INVALID; }
R cuStreamDestroy_v2(Stream *s) { if (broken) return broken; if (s->slow) slow = 0; free(s); live--; return OK; }
R cuCtxSynchronize(void) { synchronised++; for (Stream *s = slow; s; s = s->next) pass(s); return broken; }
R cuStreamSynchronize(Stream *s) { waits++; if (s->slow) pass(s); return broken; }
R cuStreamBeginCapture_v2(Stream *s, int mode) { s->capturing = 1; s->graph = calloc(1, sizeof *s->graph); return mode == 2 ? OK : INVALID; }
R cuStreamEndCapture(Stream *s, Graph **g) { s->capturing = 0; *g = s->graph; live++; return OK; }
R cuGraphInstantiateWithFlags(Graph **e, Graph *g, uint64_t f) { *e = malloc(sizeof *g); **e = *g; live++; return f ? INVALID : OK; }
R cuGraphDestroy(Graph *g) { free(g); live--; return OK; }
R cuGraphLaunch(Graph *e, Stream *s) {
  for (Work *w = e->first; w; w = w->next) { R r = work(s, *w); if (r) return r; }
  return OK;
}
R cuGraphExecDestroy(Graph *e) {
  if (broken) return broken;
  for (Work *w = e->first, *n; w; w = n) { n = w->next; free(w->launch); free(w); }
  free(e); live--; return OK;
}
R cuLaunchKernel(Function *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                 Stream *s, void **arguments, void **extra) {
  if (!gx || !gy || !gz || !bx || !by || !bz || extra || shared > 101376) return INVALID;
  Launch *launch = 0;
  if (f->run) {
    launch = malloc(sizeof *launch);
    *launch = (Launch){f, {0}, {(int)gx, (int)gy, (int)gz}, {(int)bx, (int)by, (int)bz}};
    for (int i = 0; i < f->count; i++) launch->values[i] = *(uint64_t *)arguments[i];
  }
  Work w = {KERNEL, f->run ? 0 : *(uint64_t *)arguments[1], f->run ? 0 : *(uint64_t *)arguments[0], f->size, f->error, 0, launch};
  R r = work(s, w);
  if (launch && !s->capturing && !s->slow) free(launch);
  return r;
}
R cuEventCreate(Event **e, unsigned f) { *e = calloc(1, sizeof **e); live++; return f & ~2u ? INVALID : OK; }
R cuEventRecord(Event *e, Stream *s) { static int now; e->time = ++now; e->stream = s; return OK; }
R cuStreamWaitEvent(Stream *s, Event *e, unsigned f) {
  if (broken) return broken;
  Stream *other = e->stream; waited++;
  for (Stream *one = slow; one; one = one->next) if (one == other && one != s) pass(one);
  return f ? INVALID : OK;
}
R cuEventElapsedTime(float *ms, Event *a, Event *b) { *ms = (float)(b->time - a->time); return OK; }
R cuEventDestroy_v2(Event *e) { free(e); live--; return OK; }
