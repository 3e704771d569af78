/* Finds speech in a stream of sound with the C library of a model that remembers (Silero VAD).
 *
 *   edgec compile silero_vad_16k_op15.onnx --card vad.toml --format c -o vad -i input:1x576
 *   cc listen.c -Ivad vad/libvad.a -lm -lpthread -o listen
 *   arecord -f S16_LE -r 16000 -c 1 -t raw | ./listen
 *
 * Each frame of 512 samples (32 ms) is seen with the 64 samples before it. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "vad.h"

enum { BEFORE = 64, FRAME = 512 };

static _Alignas(64) float window[BEFORE + FRAME], probability;
static int16_t samples[FRAME];

int main(void) {
  vad *model;
  if (vad_init(&model, NULL)) return fprintf(stderr, "%s\n", vad_last_error()), 1;
  for (int frame = 0; fread(samples, sizeof samples, 1, stdin) == 1; frame++) {
    for (int i = 0; i < FRAME; i++) window[BEFORE + i] = (float)samples[i] / 32768.0f;
    if (vad_run(model, (const void *[]){[VAD_INPUT_INPUT] = window}, (void *[]){[VAD_OUTPUT_OUTPUT] = &probability}))
      return fprintf(stderr, "%s\n", vad_last_error()), 1;
    printf("%.3f %.9g\n", frame * FRAME / 16000.0, (double)probability);
    memmove(window, window + FRAME, BEFORE * sizeof *window);
  }
  vad_free(model); /* vad_reset() would begin another stream */
}
