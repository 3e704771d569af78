/* An .edge file: an OCI image layout in a canonical tar. Nothing in it is believed before its digest is checked. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "loader.h"

enum { TAR_BLOCK = 512, MOST_FILES = 4096 };
static const char prefix[] = "blobs/sha256/";
static const char artifact_type[] = "application/vnd.edgec.artifact.v1";
static const char layout[] = "{\"imageLayoutVersion\":\"1.0.0\"}";

static void tar_header(uint8_t header[TAR_BLOCK], struct span name, uint64_t size) {
  unsigned sum = 0;
  memset(header, 0, TAR_BLOCK);
  memcpy(header, name.at, name.size);
  memcpy(header + 100, "0000644\0" "0000000\0" "0000000", 24);
  snprintf((char *)header + 124, 12, "%011llo", (unsigned long long)size);
  memcpy(header + 136, "00000000000", 12);
  memcpy(header + 148, "        0", 9);
  memcpy(header + 257, "ustar\0" "00", 8);
  memcpy(header + 329, "0000000\0" "0000000", 16);
  for (int i = 0; i < TAR_BLOCK; i++) sum += header[i];
  snprintf((char *)header + 148, 8, "%06o", sum & 0777777);
  header[155] = ' ';
}

static int is_zero(const uint8_t *at, size_t size) {
  for (size_t i = 0; i < size; i++)
    if (at[i]) return 0;
  return 1;
}

static int name_is_plain(struct span name) {
  for (size_t i = 0; i < name.size; i++) {
    uint8_t c = name.at[i];
    if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '/' || c == '-')) return 0;
  }
  return name.size > 0;
}

static int same_name(struct span a, struct span b) { return a.size == b.size && !memcmp(a.at, b.at, a.size); }

static int find_file(const struct artifact *one, struct span name) {
  for (uint32_t i = 0; i < one->files; i++)
    if (same_name(one->names[i], name)) return (int)i;
  return NOWHERE;
}

/* One file at `*at`, which moves behind it. */
static int read_file(struct artifact *one, size_t *at) {
  uint8_t expected[TAR_BLOCK];
  size_t left = one->file.size - *at;
  const uint8_t *header = one->file.at + *at;
  struct span name = {header, 0};
  uint64_t size = 0;
  if (left < TAR_BLOCK) return fail(BAD_FILE, "%s is cut short: it has no end mark", one->path);
  while (name.size < 100 && header[name.size]) name.size++;
  for (int i = 124; i < 135; i++) {
    if (header[i] < '0' || header[i] > '7') return fail(BAD_FILE, "%s is no edgec artifact, or was altered", one->path);
    size = size * 8 + (uint64_t)(header[i] - '0');
  }
  if (!name_is_plain(name)) return fail(BAD_FILE, "%s is no edgec artifact, or was altered", one->path);
  tar_header(expected, name, size);
  if (memcmp(expected, header, TAR_BLOCK) || find_file(one, name) != NOWHERE || one->files == MOST_FILES)
    return fail(BAD_FILE, "%s was altered: the header of a file in it is not canonical", one->path);
  uint64_t padding = (TAR_BLOCK - size % TAR_BLOCK) % TAR_BLOCK;
  if (size + padding > left - TAR_BLOCK)
    return fail(BAD_FILE, "%s is cut short: it has %zu bytes", one->path, one->file.size);
  if (!is_zero(header + TAR_BLOCK + size, padding))
    return fail(BAD_FILE, "%s was altered between its files", one->path);
  one->names[one->files] = name;
  one->contents[one->files++] = (struct span){header + TAR_BLOCK, size};
  *at += TAR_BLOCK + size + padding;
  return OK;
}

static int read_files(struct artifact *one) {
  size_t at = 0;
  one->names = keep(&one->keeper, MOST_FILES * sizeof *one->names);
  one->contents = keep(&one->keeper, MOST_FILES * sizeof *one->contents);
  if (!one->names || !one->contents) return NO_MEMORY;
  while (one->file.size - at < TAR_BLOCK || !is_zero(one->file.at + at, TAR_BLOCK)) {
    int failed = read_file(one, &at);
    if (failed) return failed;
  }
  if (one->file.size - at != 2 * TAR_BLOCK || !is_zero(one->file.at + at, 2 * TAR_BLOCK))
    return fail(BAD_FILE, "%s is cut short, or something was appended to it", one->path);
  return OK;
}

/* The content of a blob whose descriptor is given, with the size that it tells. */
static int find_blob(const struct artifact *one, const struct json *json, int64_t descriptor, struct span *found, const char **hex) {
  static const char algorithm[] = "sha256:";
  int64_t digest = json_member(json, descriptor, "digest"), size;
  char name[sizeof prefix + 64];
  if (!json_is(json, digest, JSON_STRING)) return fail(BAD_FILE, "%s: a descriptor in its manifest is malformed", one->path);
  const char *text = (const char *)json->text.at + json->nodes[digest].start;
  if (json->nodes[digest].end - json->nodes[digest].start != 71 || memcmp(text, algorithm, 7))
    return fail(BAD_FILE, "%s: a digest in its manifest is no sha256", one->path);
  *hex = text + 7;
  memcpy(name, prefix, sizeof prefix - 1);
  memcpy(name + sizeof prefix - 1, *hex, 64);
  int number = find_file(one, (struct span){(const uint8_t *)name, sizeof prefix - 1 + 64});
  if (number == NOWHERE) return fail(BAD_FILE, "%s: blob sha256:%.12s… is missing", one->path, *hex);
  *found = one->contents[number];
  if (!json_integer(json, json_member(json, descriptor, "size"), &size) || size < 0 || (uint64_t)size != found->size)
    return fail(BAD_FILE, "%s: a blob has %zu bytes, not those that the manifest tells", one->path, found->size);
  return OK;
}

static int check_digest(const struct artifact *one, struct span content, const char *hex) {
  uint8_t digest[32];
  char text[65];
  sha256(content.at, content.size, digest);
  for (int i = 0; i < 32; i++) snprintf(text + 2 * i, 3, "%02x", digest[i]);
  return memcmp(text, hex, 64) ? fail(BAD_FILE, "%s: a blob was altered, its digest differs (%.12s…)", one->path, hex) : OK;
}

static int check_blob(const struct artifact *one, const struct json *json, int64_t descriptor, struct span *found) {
  const char *hex;
  int failed = find_blob(one, json, descriptor, found, &hex);
  return failed ? failed : check_digest(one, *found, hex);
}

static int read_manifest(struct artifact *one) {
  struct json index;
  struct span content, name = {(const uint8_t *)"oci-layout", 10}, index_name = {(const uint8_t *)"index.json", 10};
  int place = find_file(one, name), index_place = find_file(one, index_name), failed;
  if (place == NOWHERE || index_place == NOWHERE || one->contents[place].size != sizeof layout - 1 ||
      memcmp(one->contents[place].at, layout, sizeof layout - 1))
    return fail(BAD_FILE, "%s holds no OCI image layout", one->path);
  if ((failed = json_parse(&index, one->contents[index_place], &one->keeper, "the artifact's index"))) return failed;
  int64_t manifests = json_member(&index, 0, "manifests");
  if (json_count(&index, manifests) != 1) return fail(BAD_FILE, "%s holds %u artifacts", one->path, json_count(&index, manifests));
  if ((failed = check_blob(one, &index, json_element(&index, manifests, 0), &content))) return failed;
  if ((failed = json_parse(&one->manifest, content, &one->keeper, "the artifact's manifest"))) return failed;
  if (!json_equals(&one->manifest, json_member(&one->manifest, 0, "artifactType"), artifact_type))
    return fail(BAD_FILE, "%s is no edgec artifact", one->path);
  if ((failed = check_blob(one, &one->manifest, json_member(&one->manifest, 0, "config"), &content))) return failed;
  return json_parse(&one->config, content, &one->keeper, "the artifact's config");
}

int artifact_open(struct artifact *one, const char *path) {
  struct stat about;
  int file = open(path, O_RDONLY | O_CLOEXEC), failed;
  *one = (struct artifact){.path = path};
  if (file < 0 || fstat(file, &about) || !S_ISREG(about.st_mode)) {
    if (file >= 0) close(file);
    return fail(BAD_FILE, "%s cannot be read", path);
  }
  void *at = about.st_size > 0 ? mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_PRIVATE, file, 0) : MAP_FAILED;
  close(file);
  if (at == MAP_FAILED) return fail(BAD_FILE, "%s is empty, or cannot be mapped", path);
  one->file = (struct span){at, (size_t)about.st_size};
  failed = read_files(one);
  return failed ? failed : read_manifest(one);
}

int artifact_check(struct artifact *one) {
  const struct json *json = &one->manifest;
  int64_t layers = json_member(json, 0, "layers");
  if (!json_is(json, layers, JSON_ARRAY)) return fail(BAD_FILE, "%s: its manifest has no layers", one->path);
  for (uint32_t i = 0; i < json_count(json, layers); i++) {
    struct span content;
    int failed = check_blob(one, json, json_element(json, layers, i), &content);
    if (failed) return failed;
  }
  return OK;
}

static int find_layer(const struct artifact *one, const char *type, const char *title, struct span *found, const char **hex) {
  const struct json *json = &one->manifest;
  int64_t layers = json_member(json, 0, "layers");
  for (uint32_t i = 0; i < json_count(json, layers); i++) {
    int64_t layer = json_element(json, layers, i);
    int64_t told = json_member(json, json_member(json, layer, "annotations"), "org.opencontainers.image.title");
    if (json_equals(json, json_member(json, layer, "mediaType"), type) && (!title || json_equals(json, told, title)))
      return find_blob(one, json, layer, found, hex);
  }
  *found = (struct span){NULL, 0};
  return OK;
}

int artifact_layer(const struct artifact *one, const char *type, const char *title, struct span *found) {
  const char *hex;
  return find_layer(one, type, title, found, &hex);
}

int artifact_copy(struct artifact *one, const char *type, const char *title, struct span *found) {
  const char *hex;
  int failed = find_layer(one, type, title, found, &hex);
  if (failed || !found->at) return failed;
  void *copy = keep(&one->keeper, found->size);
  if (!copy) return NO_MEMORY;
  memcpy(copy, found->at, found->size);
  found->at = copy;
  return check_digest(one, *found, hex);
}

void artifact_close(struct artifact *one) {
  free_kept(&one->keeper);
  if (one->file.at) munmap((void *)(uintptr_t)one->file.at, one->file.size);
  *one = (struct artifact){0};
}
