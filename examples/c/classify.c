/* Classifies a picture with the C library of a model.
 *
 *   edgec compile mobilenetv2_035_128_flowers5.onnx --name flowers --format c -o flowers -i input_1:1x3x128x128
 *   cc classify.c -Iflowers flowers/libflowers.a -lm -lpthread -o classify
 *   ./classify daisy.ppm         (128 by 128 pixels, binary PPM)
 */
#include <stdio.h>

#include "flowers.h"

enum { SIDE = 128, PIXELS = SIDE * SIDE, CLASSES = 5 };
static const char *const labels[CLASSES] = {"daisy", "dandelion", "roses", "sunflowers", "tulips"};

static unsigned char picture[PIXELS][3];
static _Alignas(64) float input[3][PIXELS], scores[CLASSES];
static _Alignas(64) unsigned char memory[FLOWERS_MEMORY_BYTES(1)]; /* no heap at all */

static int read_picture(const char *path) {
  int width = 0, height = 0, most = 0;
  FILE *file = fopen(path, "rb");
  int good = file && fscanf(file, "P6 %d %d %d", &width, &height, &most) == 3 && fgetc(file) != EOF && width == SIDE &&
             height == SIDE && most == 255 && fread(picture, sizeof picture, 1, file) == 1;
  if (file) fclose(file);
  return good;
}

int main(int count, char **values) {
  flowers *model;
  flowers_options options = {.memory = memory, .memory_bytes = sizeof memory};
  if (count != 2 || !read_picture(values[1])) return fprintf(stderr, "usage: classify PICTURE.ppm (128 by 128)\n"), 2;
  for (int pixel = 0; pixel < PIXELS; pixel++)
    for (int channel = 0; channel < 3; channel++)
      input[channel][pixel] = (float)picture[pixel][channel] / 127.5f - 1.0f;
  if (flowers_init(&model, &options) ||
      flowers_run(model, (const void *[]){[FLOWERS_INPUT_INPUT_1] = input}, (void *[]){[FLOWERS_OUTPUT_DENSE] = scores}))
    return fprintf(stderr, "%s\n", flowers_last_error()), 1;
  for (int i = 0; i < CLASSES; i++) printf("%-10s %.9g\n", labels[i], (double)scores[i]);
  flowers_free(model);
}
