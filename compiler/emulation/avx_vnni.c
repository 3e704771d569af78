/* AVX-VNNI for processors without it: loaded, it carries out vpdpbusd and its three relatives where they trap.
 *
 * Only these four instructions in their VEX encoding, on 128 or 256 bits, are known; another one that traps ends the
 * process as before. About a microsecond each: for values, not for times. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>

enum { XSTATE_BV = 512, YMM_HIGH = 576, XMM = 160, AVX_STATE = 4, VNNI_FIRST = 0x50, VNNI_LAST = 0x53 };
static const int REGISTERS[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                  REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

static void get(const uint8_t *state, int number, uint8_t value[32]) {
  uint64_t present;
  memcpy(&present, state + XSTATE_BV, 8);
  memcpy(value, state + XMM + 16 * number, 16);
  if (present & AVX_STATE)
    memcpy(value + 16, state + YMM_HIGH + 16 * number, 16);
  else
    memset(value + 16, 0, 16);
}

static void put(uint8_t *state, int number, const uint8_t value[32]) {
  uint64_t present;
  memcpy(&present, state + XSTATE_BV, 8);
  if (!(present & AVX_STATE)) memset(state + YMM_HIGH, 0, 256);
  present |= 7;
  memcpy(state + XSTATE_BV, &present, 8);
  memcpy(state + XMM + 16 * number, value, 16);
  memcpy(state + YMM_HIGH + 16 * number, value + 16, 16);
}

static int32_t product(int operation, const uint8_t *a, const uint8_t *b, int32_t sum) {
  int64_t total = sum;
  if (operation < 2)
    for (int i = 0; i < 4; i++) total += (int32_t)a[i] * (int8_t)b[i];
  else
    for (int i = 0; i < 2; i++) {
      int16_t left, right;
      memcpy(&left, a + 2 * i, 2), memcpy(&right, b + 2 * i, 2);
      total += (int32_t)left * right;
    }
  if (operation & 1) total = total > INT32_MAX ? INT32_MAX : total < INT32_MIN ? INT32_MIN : total;
  return (int32_t)total;
}

/* The address of a memory operand, and the bytes that it takes after the opcode. */
static const uint8_t *operand(const greg_t *registers, const uint8_t *at, int x, int b, int *length) {
  int mod = at[0] >> 6, rm = at[0] & 7, used = 1;
  uint64_t address = 0;
  int32_t offset = 0, wide = mod == 2;
  if (rm == 4) {
    int base = at[1] & 7, index = (at[1] >> 3 & 7) | x << 3;
    used = 2;
    if (base == 5 && mod == 0) wide = 1;
    else address = (uint64_t)registers[REGISTERS[base | b << 3]];
    if (index != 4) address += (uint64_t)registers[REGISTERS[index]] << (at[1] >> 6);
  } else if (rm == 5 && mod == 0) {
    wide = 1;
    address = (uint64_t)(uintptr_t)(at + 5); /* from the next instruction */
  } else {
    address = (uint64_t)registers[REGISTERS[rm | b << 3]];
  }
  if (wide) memcpy(&offset, at + used, 4), used += 4;
  else if (mod == 1) offset = (int8_t)at[used++];
  *length = used;
  return (const uint8_t *)(uintptr_t)(address + (uint64_t)(int64_t)offset);
}

static void trapped(int signal_number, siginfo_t *about, void *context) {
  (void)about;
  greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
  uint8_t *state = (uint8_t *)((ucontext_t *)context)->uc_mcontext.fpregs;
  const uint8_t *code = (const uint8_t *)(uintptr_t)registers[REG_RIP];
  /* VEX with three bytes, map 0F38, prefix 66, W = 0 */
  if (code[0] != 0xc4 || (code[1] & 31) != 2 || (code[2] & 0x83) != 1 || code[3] < VNNI_FIRST || code[3] > VNNI_LAST) {
    signal(signal_number, SIG_DFL); /* it traps again */
    return;
  }
  int r = !(code[1] & 0x80), x = !(code[1] & 0x40), b = !(code[1] & 0x20), long_vector = code[2] >> 2 & 1;
  int to = (code[4] >> 3 & 7) | r << 3, first = ~(code[2] >> 3) & 15, length = 1;
  uint8_t sums[32], left[32], right[32];
  get(state, to, sums);
  get(state, first, left);
  if (code[4] >> 6 == 3)
    get(state, (code[4] & 7) | b << 3, right);
  else
    memcpy(right, operand(registers, code + 4, x, b, &length), long_vector ? 32 : 16);
  for (int lane = 0; lane < (long_vector ? 8 : 4); lane++) {
    int32_t sum;
    memcpy(&sum, sums + 4 * lane, 4);
    sum = product(code[3] - VNNI_FIRST, left + 4 * lane, right + 4 * lane, sum);
    memcpy(sums + 4 * lane, &sum, 4);
  }
  if (!long_vector) memset(sums + 16, 0, 16);
  put(state, to, sums);
  registers[REG_RIP] += 4 + length;
}

__attribute__((constructor)) static void begin(void) {
  struct sigaction action = {.sa_sigaction = trapped, .sa_flags = SA_SIGINFO | SA_NODEFER};
  sigaction(SIGILL, &action, NULL);
}
