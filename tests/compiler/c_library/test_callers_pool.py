"""The caller's own threads, in C libraries and in libedgec: loops of kernels run on them, and nowhere else."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from edgec.compiler.c_library.libedgec import build_libedgec
from edgec.targets import detect
from tests.compiler.c_library.harness import Built, build, python_outputs, zig_cc
from tests.compiler.c_library.models import classifier

RNG = np.random.default_rng(0)
PICTURE = {"image": RNG.standard_normal((1, 3, 32, 32)).astype(np.float32)}
POOLS = """
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

static atomic_int loops, threads_seen;
struct share { void (*run)(void *, int); void *work; int k; };

static void *share_main(void *argument) {
  struct share *share = argument;
  threads_seen++;
  share->run(share->work, share->k);
  return NULL;
}

/* A thread for each number, all at the same time. */
static int threads(void *pool, int tasks, void (*run)(void *, int), void *work) {
  pthread_t started[64];
  struct share shares[64];
  (void)pool, loops++;
  for (int k = 0; k < tasks; k++) {
    shares[k] = (struct share){run, work, k};
    if (pthread_create(&started[k], NULL, share_main, &shares[k])) return 1;
  }
  for (int k = 0; k < tasks; k++) pthread_join(started[k], NULL);
  return 0;
}

/* One after the other, the last one first. */
static int in_turn(void *pool, int tasks, void (*run)(void *, int), void *work) {
  (void)pool, loops++;
  for (int k = tasks; k-- > 0;) run(work, k);
  return 0;
}

/* Only one of the numbers, and one that does not exist. */
static int careless(void *pool, int tasks, void (*run)(void *, int), void *work) {
  (void)pool, loops++;
  run(work, tasks - 1), run(work, tasks + 7), run(work, -1);
  return 0;
}

static int refusing(void *pool, int tasks, void (*run)(void *, int), void *work) {
  (void)tasks, (void)run, (void)work;
  return *(int *)pool;
}

static float image[3072], outputs[2][3072];
static const void *const inputs[] = {image};
static void *const places[] = {outputs[0], outputs[1]};
static int own_threads(void) { /* of this process */
  char line[256];
  int count = 0;
  FILE *status = fopen("/proc/self/status", "r");
  while (fgets(line, sizeof line, status)) sscanf(line, "Threads: %d", &count);
  fclose(status);
  return count;
}
"""
MAIN = """
int main(int argc, char **argv) {
  FILE *file = fopen(argv[argc - 1], "rb");
  if (fread(image, sizeof image, 1, file) != 1) return 1;
  POOL pools[] = {NULL, threads, in_turn, careless};
  for (int i = 0; i < 4; i++) {
    void *one = begin(argv, pools[i], NULL);
    int present = own_threads();
    loops = threads_seen = 0;
    for (int time = 0; time < 3; time++)
      if (run(one)) return printf("%s\\n", told()), 2;
    printf("%d %d %d", present, loops > 0, threads_seen > 0);
    for (int o = 0; o < 2; o++) {
      const unsigned char *bytes = (const void *)outputs[o];
      for (size_t k = 0; k < BYTES[o]; k++) printf("%s%02x", k ? "" : " ", bytes[k]);
    }
    printf("\\n");
    end(one);
  }
  int refuses = 1;
  void *one = begin(argv, refusing, &refuses);
  printf("%d %s\\n", run(one), told());
  return 0;
}
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(classifier(), detect(), tmp_path_factory.mktemp("pictures"))


def check(program: Path, built: Built, arguments: list[str], folder: Path) -> None:
    (folder / "image.bin").write_bytes(PICTURE["image"].tobytes())
    done = subprocess.run(
        [str(program), *arguments, str(folder / "image.bin")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *lines, refused = done.stdout.splitlines()
    (expected,) = python_outputs(built, [PICTURE])
    values = " ".join(expected[spec.name].tobytes().hex() for spec in built.config.outputs)
    assert lines == [f"3 0 0 {values}", f"1 1 1 {values}", f"1 1 0 {values}", f"1 1 0 {values}"]
    assert refused.startswith("5 kernel "), refused


def source(built: Built, header: str, pool: str, body: str) -> str:
    sizes = ", ".join(
        str(int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize) for spec in built.config.outputs
    )
    begun = f'#include "{header}"\n#define POOL {pool}\nstatic const size_t BYTES[] = {{{sizes}}};\n'
    return POOLS + begun + body + MAIN


def test_a_c_library_runs_on_the_callers_threads(pictures: Built, tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text(source(pictures, "net.h", "net_parallel", """
        static void *begin(char **argv, net_parallel parallel, void *pool) {
          net *one;
          (void)argv;
          return net_init(&one, &(net_options){.threads = 3, .parallel = parallel, .pool = pool}) ? NULL : one;
        }
        static int run(void *one) { return net_run(one, inputs, places); }
        static const char *told(void) { return net_last_error(); }
        static void end(void *one) { net_free(one); }
    """))  # fmt: skip
    library = [f"-I{pictures.library.folder}", str(pictures.library.folder / "libnet.a"), "-lm", "-lpthread"]
    zig_cc(f"{detect().arch}-linux-gnu", str(tmp_path / "main.c"), *library, "-o", str(tmp_path / "main"))
    check(tmp_path / "main", pictures, [], tmp_path)


def test_libedgec_runs_on_the_callers_threads(pictures: Built, tmp_path: Path) -> None:
    build_libedgec(tmp_path, detect())
    (tmp_path / "main.c").write_text(source(pictures, "edgec.h", "edgec_parallel", """
        static void *begin(char **argv, edgec_parallel parallel, void *pool) {
          static edgec_model *model;
          edgec_session *one;
          if (!model && edgec_load(argv[1], 0, &model)) return NULL;
          edgec_options options = {.threads = 3, .parallel = parallel, .pool = pool};
          return edgec_open(model, &options, &one) ? NULL : one;
        }
        static int run(void *one) { return edgec_run(one, inputs, places); }
        static const char *told(void) { return edgec_last_error(); }
        static void end(void *one) { edgec_close(one); }
    """))  # fmt: skip
    library = [f"-I{tmp_path}", str(tmp_path / "libedgec.a"), "-lm", "-lpthread"]
    zig_cc(f"{detect().arch}-linux-gnu", str(tmp_path / "main.c"), *library, "-o", str(tmp_path / "main"))
    check(tmp_path / "main", pictures, [str(pictures.result.artifact)], tmp_path)
