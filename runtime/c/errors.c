/* The text of the last error, one for each thread. */
#include <stdarg.h>
#include <stdio.h>

#include "engine.h"

static _Thread_local char text[512];

int fail(int status, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  return status;
}

void forget_error(void) { text[0] = 0; }

const char *last_error(void) { return text; }
