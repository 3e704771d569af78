/* AVX-VNNI on a processor that lacks it: a handler of SIGILL that computes its instructions, `vpdpbusd` (our kernels')
 * and `vpdpwssd` (which LLVM makes of pmaddwd and an addition) of 128 and 256 bits, on the registers that the system
 * saved. It is exact and slow, for tests of code that was compiled for such processors. `edgec_emulate_avx_vnni` installs it.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>

enum { YMM_HIGH = 576, XSTATE_BV = 512 }; /* offsets in the saved state (Intel SDM, volume 1, 13.4) */

static struct sigaction before;

static const int SAVED[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                              REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

static void read_register(const uint8_t *state, int number, uint8_t value[32])
{
    memcpy(value, state + 160 + 16 * number, 16);
    memcpy(value + 16, state + YMM_HIGH + 16 * number, 16);
}

static int64_t displacement(const uint8_t *at, int bytes)
{
    int8_t one = (int8_t)at[0];
    int32_t four;
    memcpy(&four, at, 4);
    return bytes == 1 ? one : four;
}

/* The second factor: a register, or memory; `*at` moves behind the operand. */
static void read_operand(const greg_t *registers, const uint8_t *state, const uint8_t prefix, const uint8_t **at,
                         uint8_t value[32], int size)
{
    const uint8_t modrm = *(*at)++;
    const int mode = modrm >> 6, base_bit = prefix & 0x20 ? 0 : 8, index_bit = prefix & 0x40 ? 0 : 8;
    int base = modrm & 7;
    int64_t address = 0;
    if (mode == 3) {
        read_register(state, base | base_bit, value);
        return;
    }
    if (base == 4) {
        const uint8_t sib = *(*at)++;
        const int index = ((sib >> 3) & 7) | index_bit;
        if (index != 4)
            address += registers[SAVED[index]] * (1 << (sib >> 6));
        base = sib & 7;
        if (!(base == 5 && mode == 0))
            address += registers[SAVED[base | base_bit]];
        else
            address += displacement(*at, 4), *at += 4;
    } else if (base == 5 && mode == 0) {
        address = displacement(*at, 4) + (int64_t)(intptr_t)(*at + 4);
        *at += 4;
    } else {
        address = registers[SAVED[base | base_bit]];
    }
    if (mode == 1)
        address += displacement(*at, 1), *at += 1;
    if (mode == 2)
        address += displacement(*at, 4), *at += 4;
    memcpy(value, (const void *)(intptr_t)address, (size_t)size);
}

static void illegal(int number, siginfo_t *info, void *context)
{
    ucontext_t *saved = context;
    greg_t *registers = saved->uc_mcontext.gregs;
    uint8_t *state = (uint8_t *)saved->uc_mcontext.fpregs;
    const uint8_t *code = (const uint8_t *)(intptr_t)registers[REG_RIP];
    const int bytes_of_four = code[3] == 0x50;
    /* VEX in three bytes, map 0F38, W0, prefix 66, opcode 50 or 52 */
    if (code[0] != 0xC4 || (code[1] & 0x1F) != 2 || (code[2] & 0x83) != 0x01 || !(bytes_of_four || code[3] == 0x52)) {
        sigaction(SIGILL, &before, NULL);
        return;
    }
    const uint8_t *at = code + 4;
    const int sums = ((*at >> 3) & 7) | (code[1] & 0x80 ? 0 : 8), first = (~code[2] >> 3) & 15;
    const int size = code[2] & 0x04 ? 32 : 16;
    uint8_t x[32], y[32];
    int16_t p[16], q[16];
    int32_t total[8];
    uint64_t present;
    read_register(state, sums, (uint8_t *)total);
    read_register(state, first, x);
    read_operand(registers, state, code[1], &at, y, size);
    memcpy(p, x, 32);
    memcpy(q, y, 32);
    for (int lane = 0; lane < size / 4; lane++) {
        uint32_t sum = (uint32_t)total[lane]; /* wraps, as the instruction does */
        for (int k = 0; k < 4; k++)
            if (bytes_of_four)
                sum += (uint32_t)(x[4 * lane + k] * (int8_t)y[4 * lane + k]);
            else if (k < 2)
                sum += (uint32_t)(p[2 * lane + k] * q[2 * lane + k]);
        total[lane] = (int32_t)sum;
    }
    if (size == 16) /* the upper half becomes zero */
        memset(total + 4, 0, 16);
    memcpy(state + 160 + 16 * sums, total, 16);
    memcpy(state + YMM_HIGH + 16 * sums, total + 4, 16);
    memcpy(&present, state + XSTATE_BV, 8);
    present |= 6; /* both halves are to be restored */
    memcpy(state + XSTATE_BV, &present, 8);
    registers[REG_RIP] = (greg_t)(intptr_t)at;
    (void)number;
    (void)info;
}

int edgec_emulate_avx_vnni(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = illegal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    return sigaction(SIGILL, &action, &before);
}
