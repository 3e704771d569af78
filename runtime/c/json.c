/* A reader of JSON (RFC 8259) that allocates its nodes once. */
#include <stdlib.h>
#include <string.h>

#include "loader.h"

#define DEEPEST 64
#define LARGEST (64u << 20)

struct block {
  struct block *next;
  uint64_t unused; /* so that what follows is aligned to 16 bytes */
};

void *keep(struct keeper *keeper, size_t size) {
  struct block *made = size < SIZE_MAX / 2 ? calloc(1, sizeof *made + size) : NULL;
  if (!made) {
    fail(NO_MEMORY, "there are no %zu bytes of memory", size);
    return NULL;
  }
  made->next = keeper->first;
  keeper->first = made;
  return made + 1;
}

void free_kept(struct keeper *keeper) {
  while (keeper->first) {
    struct block *block = keeper->first;
    keeper->first = block->next;
    free(block);
  }
}

struct reader {
  const uint8_t *text;
  uint32_t size, at, used, room;
  struct json_node *nodes; /* NULL when it only counts */
};

static void skip_space(struct reader *r) {
  while (r->at < r->size && (r->text[r->at] == ' ' || r->text[r->at] == '\n' || r->text[r->at] == '\t' || r->text[r->at] == '\r'))
    r->at++;
}

static int word(struct reader *r, const char *text) {
  size_t length = strlen(text);
  if (r->size - r->at < length || memcmp(r->text + r->at, text, length)) return 0;
  r->at += (uint32_t)length;
  return 1;
}

static int is_hex(uint8_t c) { return (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'f'); }

static int string(struct reader *r) {
  for (r->at++; r->at < r->size; r->at++) {
    uint8_t c = r->text[r->at];
    if (c == '"') return 1;
    if (c < 32) return 0;
    if (c != '\\') continue;
    if (++r->at >= r->size) return 0;
    c = r->text[r->at];
    if (c == 'u') {
      for (int i = 0; i < 4; i++)
        if (++r->at >= r->size || !is_hex(r->text[r->at])) return 0;
    } else if (!strchr("\"\\/bfnrt", c) || !c) {
      return 0;
    }
  }
  return 0;
}

static int number(struct reader *r) {
  uint32_t start = r->at;
  while (r->at < r->size && r->text[r->at] && strchr("+-.0123456789eE", r->text[r->at])) r->at++;
  return r->at > start;
}

static int value(struct reader *r, int depth);

static int container(struct reader *r, int depth, uint32_t own, uint8_t end) {
  uint32_t count = 0;
  r->at++;
  skip_space(r);
  if (r->at < r->size && r->text[r->at] == end) {
    r->at++;
    return 1;
  }
  for (;;) {
    skip_space(r);
    if (end == '}') {
      if (r->at >= r->size || r->text[r->at] != '"' || !value(r, depth + 1)) return 0;
      skip_space(r);
      if (r->at >= r->size || r->text[r->at++] != ':') return 0;
      count++;
    }
    if (!value(r, depth + 1)) return 0;
    count++;
    skip_space(r);
    if (r->at >= r->size) return 0;
    uint8_t c = r->text[r->at++];
    if (c == end) break;
    if (c != ',') return 0;
  }
  if (r->nodes) r->nodes[own].count = count;
  return 1;
}

static int value(struct reader *r, int depth) {
  skip_space(r);
  if (depth > DEEPEST || r->at >= r->size) return 0;
  uint32_t own = r->used++, start = r->at;
  enum json_kind kind;
  int good;
  if (r->nodes && own >= r->room) return 0;
  switch (r->text[r->at]) {
    case '{': kind = JSON_OBJECT, good = container(r, depth, own, '}'); break;
    case '[': kind = JSON_ARRAY, good = container(r, depth, own, ']'); break;
    case '"': kind = JSON_STRING, good = string(r); start++; break;
    case 't': kind = JSON_TRUE, good = word(r, "true"); break;
    case 'f': kind = JSON_FALSE, good = word(r, "false"); break;
    case 'n': kind = JSON_NULL, good = word(r, "null"); break;
    default: kind = JSON_NUMBER, good = number(r);
  }
  if (!good) return 0;
  if (r->nodes) {
    r->nodes[own].kind = kind;
    r->nodes[own].start = start;
    r->nodes[own].end = r->at;
    r->nodes[own].next = r->used;
  }
  if (kind == JSON_STRING) r->at++;
  return 1;
}

int json_parse(struct json *made, struct span text, struct keeper *keeper, const char *what) {
  if (text.size > LARGEST) return fail(BAD_FILE, "%s has %zu bytes, which is too much", what, text.size);
  struct reader count = {.text = text.at, .size = (uint32_t)text.size}, r;
  int good = value(&count, 0);
  skip_space(&count);
  if (!good || count.at != count.size) return fail(BAD_FILE, "%s is malformed at byte %u", what, count.at);
  r = (struct reader){.text = text.at, .size = (uint32_t)text.size, .room = count.used};
  r.nodes = keep(keeper, (size_t)count.used * sizeof *r.nodes);
  if (!r.nodes) return NO_MEMORY;
  value(&r, 0);
  *made = (struct json){text, r.nodes, count.used};
  return OK;
}

int json_is(const struct json *json, int64_t node, enum json_kind kind) {
  return node != NOWHERE && json->nodes[node].kind == kind;
}

int json_equals(const struct json *json, int64_t node, const char *text) {
  if (!json_is(json, node, JSON_STRING)) return 0;
  size_t length = json->nodes[node].end - json->nodes[node].start;
  return length == strlen(text) && !memcmp(json->text.at + json->nodes[node].start, text, length);
}

int64_t json_member(const struct json *json, int64_t object, const char *key) {
  if (!json_is(json, object, JSON_OBJECT)) return NOWHERE;
  uint32_t at = (uint32_t)object + 1;
  for (uint32_t i = 0; i < json->nodes[object].count; i += 2) {
    uint32_t member = json->nodes[at].next;
    if (json_equals(json, at, key)) return member;
    at = json->nodes[member].next;
  }
  return NOWHERE;
}

uint32_t json_count(const struct json *json, int64_t array) {
  return json_is(json, array, JSON_ARRAY) ? json->nodes[array].count : 0;
}

int64_t json_element(const struct json *json, int64_t array, uint32_t number) {
  if (number >= json_count(json, array)) return NOWHERE;
  uint32_t at = (uint32_t)array + 1;
  while (number--) at = json->nodes[at].next;
  return at;
}

int json_integer(const struct json *json, int64_t node, int64_t *number) {
  if (!json_is(json, node, JSON_NUMBER)) return 0;
  const uint8_t *at = json->text.at + json->nodes[node].start, *end = json->text.at + json->nodes[node].end;
  int negative = *at == '-';
  int64_t found = 0;
  if (negative) at++;
  if (at == end) return 0;
  for (; at < end; at++) {
    if (*at < '0' || *at > '9' || found > (INT64_MAX - 9) / 10) return 0;
    found = found * 10 + (*at - '0');
  }
  *number = negative ? -found : found;
  return 1;
}

static uint32_t hex(const uint8_t *at) {
  uint32_t found = 0;
  for (int i = 0; i < 4; i++) found = found << 4 | (uint32_t)(at[i] <= '9' ? at[i] - '0' : (at[i] | 32) - 'a' + 10);
  return found;
}

static char *utf8(char *out, uint32_t c) {
  if (c < 0x80) {
    *out++ = (char)c;
  } else if (c < 0x800) {
    *out++ = (char)(0xc0 | c >> 6), *out++ = (char)(0x80 | (c & 63));
  } else if (c < 0x10000) {
    *out++ = (char)(0xe0 | c >> 12), *out++ = (char)(0x80 | (c >> 6 & 63)), *out++ = (char)(0x80 | (c & 63));
  } else {
    *out++ = (char)(0xf0 | c >> 18), *out++ = (char)(0x80 | (c >> 12 & 63));
    *out++ = (char)(0x80 | (c >> 6 & 63)), *out++ = (char)(0x80 | (c & 63));
  }
  return out;
}

char *json_text(const struct json *json, int64_t node, struct keeper *keeper) {
  static const char escapes[] = "b\bf\fn\nr\rt\t";
  if (!json_is(json, node, JSON_STRING)) return NULL;
  const uint8_t *at = json->text.at + json->nodes[node].start, *end = json->text.at + json->nodes[node].end;
  char *made = keep(keeper, (size_t)(end - at) + 1), *out = made;
  if (!made) return NULL;
  while (at < end) {
    if (*at != '\\') {
      *out++ = (char)*at++;
      continue;
    }
    const char *escape = strchr(escapes, at[1]);
    if (at[1] == 'u') {
      uint32_t c = hex(at + 2);
      at += 6;
      if (c >= 0xd800 && c < 0xdc00 && end - at >= 6 && at[0] == '\\' && at[1] == 'u') {
        uint32_t low = hex(at + 2);
        if (low >= 0xdc00 && low < 0xe000) c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00), at += 6;
      }
      out = utf8(out, c ? c : '?'); /* a zero would end the text */
    } else {
      *out++ = escape ? escape[1] : (char)at[1];
      at += 2;
    }
  }
  return made;
}
