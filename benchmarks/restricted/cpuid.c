/* A processor that says it has no more than AVX2: the handler of the instruction that stands in place of `cpuid` in
 * copied libraries (`d6 a2`: d6 is undefined for ever in 64-bit mode and raises SIGILL; TVM takes SIGSEGV for itself).
 * It executes `cpuid` and clears what comes after AVX2 and FMA: AVX-512, AVX-VNNI and its relatives, AMX, AVX10, GFNI.
 * So a library that chooses its kernels by `cpuid` runs those of an AVX2 machine, natively.
 * `edgec_restrict_cpuid` installs it. The proof: between `edgec_sample(1)` and `edgec_sample(0)` the process is
 * interrupted every millisecond of its computing, and instructions that begin with 62, as all of AVX-512 do, are counted.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/time.h>
#include <ucontext.h>

static struct sigaction before;
static atomic_int samples, avx512;

/* Bits of leaf 7 and of extended features, by sub-leaf and register (Intel SDM, volume 2, CPUID). */
enum {
    AVX512_EBX = 1u << 16 | 1u << 17 | 1u << 21 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 30, /* and 31: below */
    BEYOND_ECX = 1u << 1 | 1u << 6 | 1u << 8 | 1u << 11 | 1u << 12 | 1u << 14, /* VBMI, VBMI2, GFNI, VNNI, BITALG, VPOPCNT */
    BEYOND_EDX = 1u << 2 | 1u << 3 | 1u << 8 | 1u << 22 | 1u << 23 | 1u << 24 | 1u << 25, /* 4VNNIW to AMX-INT8 */
    BEYOND_EAX_1 = 1u << 4 | 1u << 5 | 1u << 21 | 1u << 23, /* AVX-VNNI, BF16, AMX-FP16, AVX-IFMA */
    BEYOND_EDX_1 = 1u << 4 | 1u << 5 | 1u << 8 | 1u << 10 | 1u << 19, /* VNNI-INT8, NE-CONVERT, AMX, VNNI-INT16, AVX10 */
    AVX10_LEAF = 0x24,
};

static void restricted(uint32_t leaf, uint32_t sub, uint32_t r[4])
{
    __asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(sub));
    if (leaf == 7 && sub == 0) {
        r[1] &= ~(AVX512_EBX | 1u << 31);
        r[2] &= ~(uint32_t)BEYOND_ECX;
        r[3] &= ~(uint32_t)BEYOND_EDX;
    } else if (leaf == 7 && sub == 1) {
        r[0] &= ~(uint32_t)BEYOND_EAX_1;
        r[3] &= ~(uint32_t)BEYOND_EDX_1;
    } else if (leaf == AVX10_LEAF) {
        memset(r, 0, 4 * sizeof *r);
    }
}

static void answer(int number, siginfo_t *info, void *context)
{
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint8_t *at = (const uint8_t *)(uintptr_t)registers[REG_RIP];
    uint32_t r[4];
    (void)info;
    if (at[0] != 0xd6 || at[1] != 0xa2) {
        sigaction(number, &before, NULL); /* not ours: it happens again, to whom it belongs */
        return;
    }
    restricted((uint32_t)registers[REG_RAX], (uint32_t)registers[REG_RCX], r);
    registers[REG_RAX] = r[0];
    registers[REG_RBX] = r[1];
    registers[REG_RCX] = r[2];
    registers[REG_RDX] = r[3];
    registers[REG_RIP] += 2;
}

int edgec_restrict_cpuid(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = answer;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    return sigaction(SIGILL, &action, &before);
}

static void sample(int number, siginfo_t *info, void *context)
{
    const uint8_t *at = (const uint8_t *)(uintptr_t)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
    (void)number, (void)info;
    atomic_fetch_add(&samples, 1);
    atomic_fetch_add(&avx512, at[0] == 0x62);
}

/* Begin (1) or end (0) sampling; beginning clears the counts. */
int edgec_sample(int on)
{
    const struct itimerval every = {{0, on ? 1000 : 0}, {0, on ? 1000 : 0}};
    struct sigaction action;
    if (on) {
        memset(&action, 0, sizeof action);
        action.sa_sigaction = sample;
        action.sa_flags = SA_SIGINFO | SA_RESTART;
        atomic_store(&samples, 0);
        atomic_store(&avx512, 0);
        if (sigaction(SIGPROF, &action, NULL) != 0)
            return -1;
    }
    return setitimer(ITIMER_PROF, &every, NULL);
}

int edgec_samples(void)
{
    return atomic_load(&samples);
}

int edgec_avx512_samples(void)
{
    return atomic_load(&avx512);
}
