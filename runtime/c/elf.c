/* Loads a compiled library from memory: maps its segments, binds the few symbols that kernels need, and runs nothing.
 *
 * The system's dynamic linker would need a file, cannot be had in a static program, and would resolve symbols anywhere in the
 * process. Kernels need little: C's memory and mathematical functions, all of them listed here. */
#include <elf.h>
#include <math.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "loader.h"

#if defined(__aarch64__)
enum { OWN_MACHINE = EM_AARCH64, RELATIVE = 1027, GLOBAL = 1025, JUMP = 1026, ABSOLUTE = 257 };
#else
enum { OWN_MACHINE = EM_X86_64, RELATIVE = 8, GLOBAL = 6, JUMP = 7, ABSOLUTE = 1 };
#endif

#define MATHS(x)                                                                                                        \
  x(acos) x(acosf) x(acosh) x(acoshf) x(asin) x(asinf) x(asinh) x(asinhf) x(atan) x(atan2) x(atan2f) x(atanf) x(atanh)   \
  x(atanhf) x(cbrt) x(cbrtf) x(ceil) x(ceilf) x(copysign) x(copysignf) x(cos) x(cosf) x(cosh) x(coshf) x(erf) x(erff)    \
  x(erfc) x(erfcf) x(exp) x(exp2) x(exp2f) x(expf) x(expm1) x(expm1f) x(fabs) x(fabsf) x(floor) x(floorf) x(fma)         \
  x(fmaf) x(fmax) x(fmaxf) x(fmin) x(fminf) x(fmod) x(fmodf) x(hypot) x(hypotf) x(ldexp) x(ldexpf) x(lgamma)             \
  x(lgammaf) x(llrint) x(llrintf) x(log) x(log10) x(log10f) x(log1p) x(log1pf) x(log2) x(log2f) x(logf) x(lrint)         \
  x(lrintf) x(lround) x(lroundf) x(nearbyint) x(nearbyintf) x(nextafter) x(nextafterf) x(pow) x(powf) x(remainder)       \
  x(remainderf) x(rint) x(rintf) x(round) x(roundf) x(sin) x(sinf) x(sinh) x(sinhf) x(sqrt) x(sqrtf) x(tan) x(tanf)      \
  x(tanh) x(tanhf) x(tgamma) x(tgammaf) x(trunc) x(truncf)

#define ENTRY(name) {#name, (void *)name},
static const struct {
  const char *name;
  void *at;
} offered[] = {ENTRY(memcpy) ENTRY(memset) ENTRY(memmove) ENTRY(memcmp){"TVMFFIErrorSetRaisedFromCStrParts",
                                                                         (void *)raised_from_parts},
               MATHS(ENTRY)};

static const struct {
  const char *name;
  void *at;
} callbacks[] = {{"__TVMBackendParallelLaunch", (void *)launch_parallel},
                 {"__TVMBackendAllocWorkspace", (void *)workspace_alloc},
                 {"__TVMBackendFreeWorkspace", (void *)workspace_free}};

static const char malformed[] = "the artifact's code is malformed";
static const uint64_t largest = 1u << 30;

/* `size` bytes at an address of the library; NULL where it has none. */
static uint8_t *inside(const struct code *code, uint64_t address, uint64_t size) {
  return address <= code->size && size <= code->size - address ? code->base + address : NULL;
}

static int map_segments(struct code *code, struct span file, const Elf64_Ehdr *head) {
  uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), end = 0;
  Elf64_Phdr segment;
  for (int i = 0; i < head->e_phnum; i++) {
    memcpy(&segment, file.at + head->e_phoff + i * sizeof segment, sizeof segment);
    if (segment.p_type == PT_TLS) return fail(BAD_FILE, "%s: it has variables of threads", malformed);
    if (segment.p_type != PT_LOAD) continue;
    if (segment.p_filesz > segment.p_memsz || segment.p_offset > file.size || segment.p_filesz > file.size - segment.p_offset ||
        segment.p_vaddr > largest || segment.p_memsz > largest || ((segment.p_flags & PF_W) && (segment.p_flags & PF_X)))
      return fail(BAD_FILE, "%s: a segment of it", malformed);
    if (segment.p_vaddr + segment.p_memsz > end) end = segment.p_vaddr + segment.p_memsz;
  }
  end = (end + page - 1) / page * page;
  if (!end) return fail(BAD_FILE, "%s: it is empty", malformed);
  uint8_t *base = mmap(NULL, end, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) return fail(NO_MEMORY, "there are no %llu bytes for code", (unsigned long long)end);
  code->base = base;
  code->size = end;
  for (int i = 0; i < head->e_phnum; i++) {
    memcpy(&segment, file.at + head->e_phoff + i * sizeof segment, sizeof segment);
    if (segment.p_type == PT_LOAD) memcpy(base + segment.p_vaddr, file.at + segment.p_offset, segment.p_filesz);
  }
  return OK;
}

/* Segments become what they are meant to be; none is both written and executed. */
static int protect(const struct code *code, struct span file, const Elf64_Ehdr *head) {
  uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
  Elf64_Phdr segment;
  for (int pass = 0; pass < 2; pass++)
    for (int i = 0; i < head->e_phnum; i++) {
      memcpy(&segment, file.at + head->e_phoff + i * sizeof segment, sizeof segment);
      if (segment.p_type != PT_LOAD || !segment.p_memsz) continue;
      int rights = (segment.p_flags & PF_X ? PROT_EXEC : 0) | PROT_READ | (segment.p_flags & PF_W ? PROT_WRITE : 0);
      if (!!(rights & PROT_WRITE) != pass) continue; /* what is written comes last: a page may belong to two */
      uint64_t begin = segment.p_vaddr / page * page, end = (segment.p_vaddr + segment.p_memsz + page - 1) / page * page;
      if (mprotect(code->base + begin, end - begin, rights))
        return fail(INCOMPATIBLE, "this system does not let programs load code of their own");
    }
#if defined(__aarch64__)
  __builtin___clear_cache((char *)code->base, (char *)code->base + code->size);
#endif
  return OK;
}

static const char *name_of(const struct code *code, const Elf64_Sym *symbol) {
  if (symbol->st_name >= code->strings_size) return "";
  const char *name = (const char *)code->strings + symbol->st_name;
  return memchr(name, 0, code->strings_size - symbol->st_name) ? name : "";
}

static int symbol_at(const struct code *code, uint64_t number, Elf64_Sym *symbol) {
  if (number >= code->symbol_count) return 0;
  memcpy(symbol, code->symbols + number * sizeof *symbol, sizeof *symbol);
  return 1;
}

void *code_symbol(const struct code *code, const char *name) {
  Elf64_Sym symbol;
  for (uint64_t i = 1; symbol_at(code, i, &symbol); i++)
    if (symbol.st_shndx != SHN_UNDEF && !strcmp(name_of(code, &symbol), name)) return inside(code, symbol.st_value, 1);
  return NULL;
}

static int resolve(const struct code *code, const Elf64_Sym *symbol, uint64_t *value) {
  const char *name = name_of(code, symbol);
  *value = 0;
  if (symbol->st_shndx != SHN_UNDEF) {
    uint8_t *at = inside(code, symbol->st_value, 0);
    *value = (uint64_t)(uintptr_t)at;
    return at ? OK : fail(BAD_FILE, "%s: symbol %s lies beyond it", malformed, name);
  }
  for (size_t i = 0; i < sizeof offered / sizeof *offered; i++)
    if (!strcmp(offered[i].name, name)) *value = (uint64_t)(uintptr_t)offered[i].at;
  if (*value || ELF64_ST_BIND(symbol->st_info) == STB_WEAK) return OK;
  return fail(INCOMPATIBLE, "the artifact's code needs %s, which this libedgec does not offer", *name ? name : "a symbol");
}

static int relocate(const struct code *code, uint64_t table, uint64_t size) {
  if (!inside(code, table, size)) return fail(BAD_FILE, "%s: its relocations", malformed);
  for (uint64_t i = 0; i < size / sizeof(Elf64_Rela); i++) {
    Elf64_Rela one;
    Elf64_Sym symbol;
    uint64_t value;
    memcpy(&one, code->base + table + i * sizeof one, sizeof one);
    uint32_t kind = ELF64_R_TYPE(one.r_info);
    uint8_t *place = inside(code, one.r_offset, sizeof value);
    if (!place || (place < code->base + table + size && place + sizeof value > code->base + table))
      return fail(BAD_FILE, "%s: a relocation of it", malformed);
    if (kind == RELATIVE) {
      value = (uint64_t)(uintptr_t)code->base + (uint64_t)one.r_addend;
    } else if (kind == GLOBAL || kind == JUMP || kind == ABSOLUTE) {
      if (!symbol_at(code, ELF64_R_SYM(one.r_info), &symbol)) return fail(BAD_FILE, "%s: a relocation of it", malformed);
      int failed = resolve(code, &symbol, &value);
      if (failed) return failed;
      if (kind == ABSOLUTE) value += (uint64_t)one.r_addend;
    } else {
      return fail(BAD_FILE, "%s: a relocation of kind %u", malformed, kind);
    }
    memcpy(place, &value, sizeof value);
  }
  return OK;
}

struct dynamic {
  uint64_t symbols, strings, strings_size, hash, rela, rela_size, jump, jump_size, starts;
};

static int read_dynamic(const struct code *code, struct span file, const Elf64_Ehdr *head, struct dynamic *found) {
  Elf64_Phdr segment;
  Elf64_Dyn entry;
  for (int i = 0; i < head->e_phnum; i++) {
    memcpy(&segment, file.at + head->e_phoff + i * sizeof segment, sizeof segment);
    if (segment.p_type != PT_DYNAMIC) continue;
    const uint8_t *at = inside(code, segment.p_vaddr, segment.p_memsz);
    if (!at) break;
    for (uint64_t k = 0; k < segment.p_memsz / sizeof entry; k++) {
      memcpy(&entry, at + k * sizeof entry, sizeof entry);
      uint64_t value = entry.d_un.d_val;
      switch (entry.d_tag) {
        case DT_NULL: return OK;
        case DT_SYMTAB: found->symbols = value; break;
        case DT_STRTAB: found->strings = value; break;
        case DT_STRSZ: found->strings_size = value; break;
        case DT_HASH: found->hash = value; break;
        case DT_RELA: found->rela = value; break;
        case DT_RELASZ: found->rela_size = value; break;
        case DT_JMPREL: found->jump = value; break;
        case DT_PLTRELSZ: found->jump_size = value; break;
        case DT_NEEDED: case DT_INIT: case DT_INIT_ARRAY: case DT_REL: case DT_TEXTREL: found->starts = 1; break;
        default: break;
      }
    }
    return OK;
  }
  return fail(BAD_FILE, "%s: it has no dynamic section", malformed);
}

static int set_callbacks(const struct code *code) {
  Elf64_Sym symbol;
  for (uint64_t i = 1; symbol_at(code, i, &symbol); i++) {
    const char *name = name_of(code, &symbol);
    void *set = NULL;
    if (symbol.st_shndx == SHN_UNDEF || strncmp(name, "__TVM", 5)) continue;
    for (size_t k = 0; k < sizeof callbacks / sizeof *callbacks; k++)
      if (!strcmp(callbacks[k].name, name)) set = callbacks[k].at;
    if (!set) return fail(INCOMPATIBLE, "the artifact's code calls TVM (%s), which libedgec does not have", name);
    uint8_t *place = inside(code, symbol.st_value, sizeof set);
    if (!place) return fail(BAD_FILE, "%s: symbol %s lies beyond it", malformed, name);
    memcpy(place, &set, sizeof set);
  }
  return OK;
}

static int bind_symbols(struct code *code, struct span file, const Elf64_Ehdr *head) {
  struct dynamic found = {0};
  uint32_t counts[2];
  int failed = read_dynamic(code, file, head, &found);
  if (failed) return failed;
  if (found.starts) return fail(BAD_FILE, "%s: it wants other libraries, or to run when it is loaded", malformed);
  const uint8_t *hash = inside(code, found.hash, sizeof counts);
  if (!found.hash || !hash) return fail(BAD_FILE, "%s: it has no table of symbols", malformed);
  memcpy(counts, hash, sizeof counts);
  code->symbol_count = counts[1];
  code->strings_size = found.strings_size;
  code->symbols = inside(code, found.symbols, (uint64_t)counts[1] * sizeof(Elf64_Sym));
  code->strings = inside(code, found.strings, found.strings_size);
  if (!code->symbols || !code->strings) return fail(BAD_FILE, "%s: its table of symbols", malformed);
  failed = relocate(code, found.rela, found.rela_size);
  if (!failed) failed = relocate(code, found.jump, found.jump_size);
  return failed ? failed : set_callbacks(code);
}

int code_load(struct code *code, struct span file) {
  Elf64_Ehdr head;
  *code = (struct code){0};
  if (file.size < sizeof head) return fail(BAD_FILE, "the artifact's code is no library");
  memcpy(&head, file.at, sizeof head);
  if (memcmp(head.e_ident, ELFMAG, SELFMAG)) return fail(BAD_FILE, "the artifact's code is no library");
  if (head.e_ident[EI_CLASS] != ELFCLASS64 || head.e_ident[EI_DATA] != ELFDATA2LSB)
    return fail(BAD_FILE, "the artifact's code is for a %s machine, and its config is not",
                head.e_ident[EI_CLASS] != ELFCLASS64 ? "32-bit" : "big-endian");
  if (head.e_type != ET_DYN) return fail(BAD_FILE, "the artifact's code is no library");
  if (head.e_machine != OWN_MACHINE)
    return fail(BAD_FILE, "the artifact's code is for another architecture (ELF machine %u) than its config", head.e_machine);
  if (head.e_phentsize != sizeof(Elf64_Phdr) || head.e_phoff > file.size ||
      head.e_phnum > (file.size - head.e_phoff) / sizeof(Elf64_Phdr))
    return fail(BAD_FILE, "%s: its segments", malformed);
  int failed = map_segments(code, file, &head);
  if (!failed) failed = bind_symbols(code, file, &head);
  if (!failed) failed = protect(code, file, &head);
  if (failed) code_unload(code);
  return failed;
}

void code_unload(struct code *code) {
  if (code->base) munmap(code->base, code->size);
  *code = (struct code){0};
}
