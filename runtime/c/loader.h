/* Parts of the loader of artifacts. */
#ifndef EDGEC_LOADER_H
#define EDGEC_LOADER_H

#include "engine.h"

/* A piece of memory that belongs to somebody else. */
struct span {
  const uint8_t *at;
  size_t size;
};

/* All that a model allocates, freed together. */
struct keeper {
  void *first;
};
void *keep(struct keeper *keeper, size_t size); /* zeros; NULL when there is no memory, which fail() has been told */
void free_kept(struct keeper *keeper);

/* json.c: a parsed document. Node 0 is its root. */
enum json_kind { JSON_NULL, JSON_FALSE, JSON_TRUE, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

struct json_node {
  enum json_kind kind;
  uint32_t start, end; /* of the text; of a string, without the quotes */
  uint32_t next;       /* the node behind this one and all that is in it */
  uint32_t count;      /* elements, or keys and values together */
};

struct json {
  struct span text;
  struct json_node *nodes;
  uint32_t count;
};

int json_parse(struct json *made, struct span text, struct keeper *keeper, const char *what);
/* These take NOWHERE for a node that is not there, and pass it on. */
int64_t json_member(const struct json *json, int64_t object, const char *key);
int64_t json_element(const struct json *json, int64_t array, uint32_t number);
uint32_t json_count(const struct json *json, int64_t array); /* elements; 0 for what is no array */
int json_is(const struct json *json, int64_t node, enum json_kind kind);
int json_equals(const struct json *json, int64_t node, const char *text);
int json_integer(const struct json *json, int64_t node, int64_t *number);
char *json_text(const struct json *json, int64_t node, struct keeper *keeper); /* NULL for what is no string */

/* artifact.c */
struct artifact {
  const char *path;
  struct span file;
  struct json manifest, config;
  struct keeper keeper;
  struct span *names, *contents; /* of the files in it */
  uint32_t files;
};
int artifact_open(struct artifact *artifact, const char *path);
int artifact_check(struct artifact *artifact); /* all digests */
/* Finds a layer; one that is not there has no address. A copy is checked after it was made, whatever happens to the file. */
int artifact_copy(struct artifact *artifact, const char *type, const char *title, struct span *copy);
int artifact_layer(const struct artifact *artifact, const char *type, const char *title, struct span *found);
void artifact_close(struct artifact *artifact);

/* elf.c: a compiled library in memory */
struct code {
  uint8_t *base;
  size_t size;
  const uint8_t *symbols, *strings;
  uint64_t symbol_count, strings_size;
};
int code_load(struct code *code, struct span file);
void *code_symbol(const struct code *code, const char *name);
void code_unload(struct code *code);

/* table.c: from JSON to a program */
struct model_parts {
  struct program program;
  struct call *calls;
  struct span weights;
};
int read_program(struct model_parts *made, struct artifact *artifact, const struct json *table, int64_t shapes);

#endif
