// A GPU for tests: CUDA C++ compiled for this processor. Each thread of a block is a fiber; blocks run one after another.
// Instructions of tensor cores follow the figures of the PTX ISA for `mma.m16n8k16`, `mma.m16n8k8` and `ldmatrix`, lane by
// lane, so a kernel's own indexing, barriers and fragments are what is tested.

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define __CUDA_ARCH__ EMULATED_ARCH
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static
#define EDGEC_DEVICE inline
#define CUDART_INF_F __builtin_inff()
#define CUDART_INF __builtin_inf()
#define CUDART_NAN_F __builtin_nanf("")

struct Place { int x, y, z; };
typedef unsigned char uchar;
typedef _Float16 half;
typedef _Float16 __half;
typedef __bf16 __nv_bfloat16;
typedef __bf16 nv_bfloat16;

template <typename T> struct alignas(2 * sizeof(T)) Two { T x, y; };
typedef Two<float> float2;
typedef Two<int> int2;
typedef Two<unsigned short> ushort2;
typedef Two<half> half2;
inline float2 make_float2(float x, float y) { return {x, y}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline half2 make_half2(half x, half y) { return {x, y}; }

template <typename T> struct alignas(4 * sizeof(T)) Four { T x, y, z, w; };
typedef Four<float> float4;
typedef Four<int> int4;
typedef Four<unsigned short> ushort4;
typedef Four<unsigned char> uchar4;
typedef Four<signed char> char4;
typedef Four<half> half4;
typedef Four<__nv_bfloat16> nv_bfloat164;
struct alignas(16) longlong4 { long long x, y, z, w; };
inline longlong4 make_longlong4(long long x, long long y, long long z, long long w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline char4 make_char4(signed char x, signed char y, signed char z, signed char w) { return {x, y, z, w}; }
inline uchar4 make_uchar4(uchar x, uchar y, uchar z, uchar w) { return {x, y, z, w}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline half4 make_half4(half x, half y, half z, half w) { return {x, y, z, w}; }
inline half __float2half_rn(float x) { return (half)x; }
inline float __half2float(half x) { return (float)x; }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return (__nv_bfloat16)x; }
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }

namespace machine {

struct Fiber {
  ucontext_t context;
  Place thread;
  bool ended;
  const void* row;  // what a lane shows to the others of its warp
  const unsigned *a, *b;
  unsigned shown;
};

static Fiber fibers[1024];
static ucontext_t scheduler;
static int count, current;
static unsigned arrived_block, round_block, arrived_warp[32], round_warp[32];
static Place block;

static void yield() { swapcontext(&fibers[current].context, &scheduler); }

static void meet(unsigned& arrived, unsigned& round, unsigned members) {
  const unsigned mine = round;
  if (++arrived == members) {
    arrived = 0;
    ++round;
    return;
  }
  while (round == mine) yield();
}

static int lane() { return current % 32; }  // fibers are in the order of their threads' numbers
static int warp() { return current / 32; }
static int lanes() { return count - 32 * warp() < 32 ? count - 32 * warp() : 32; }
static void meet_warp() { meet(arrived_warp[warp()], round_warp[warp()], lanes()); }
static Fiber& peer(int lane) { return fibers[32 * warp() + lane]; }

// ldmatrix: lane t takes of each matrix the t % 4-th four bytes of row t / 4; lane 8 m + r names row r of matrix m.
static void load_matrices(unsigned* x, const void* row, int matrices) {
  fibers[current].row = row;
  meet_warp();
  for (int m = 0; m < matrices; ++m) {
    const char* from = static_cast<const char*>(peer(8 * m + lane() / 4).row);
    if (reinterpret_cast<uintptr_t>(from) % 16) abort();  // the hardware refuses such an address
    memcpy(&x[m], from + 4 * (lane() % 4), 4);
  }
  meet_warp();
}

// Transposed, lane t takes of each matrix the rows 2 * (t % 4) and the next of column t / 4, two bytes each.
static void load_transposed(unsigned* x, const void* row, int matrices) {
  fibers[current].row = row;
  meet_warp();
  for (int m = 0; m < matrices; ++m)
    for (int half = 0; half < 2; ++half) {
      const char* from = static_cast<const char*>(peer(8 * m + 2 * (lane() % 4) + half).row);
      if (reinterpret_cast<uintptr_t>(from) % 16) abort();
      memcpy(reinterpret_cast<char*>(&x[m]) + 2 * half, from + 2 * (lane() / 4), 2);
    }
  meet_warp();
}

template <typename T>
static T element(unsigned word, int number) {
  T parts[4 / sizeof(T)];
  memcpy(parts, &word, 4);
  return parts[number];
}

// A step of 16 rows, 8 columns and `depth` terms; a word holds `4 / sizeof(A)` terms side by side.
template <typename Sum, typename A, typename B>
static void multiply(Sum* c, const unsigned* a, const unsigned* b, int depth) {
  fibers[current].a = a;
  fibers[current].b = b;
  meet_warp();
  const int words = 4 / sizeof(A), half = 4 * words;
  for (int i = 0; i < 4; ++i) {
    const int row = lane() / 4 + 8 * (i / 2), column = 2 * (lane() % 4) + i % 2;
    Sum sum = c[i];
    for (int k = 0; k < depth; ++k) {
      const int t = k % half / words;
      const A x = element<A>(peer(4 * (row % 8) + t).a[row / 8 + 2 * (k / half)], k % words);
      const B y = element<B>(peer(4 * column + t).b[k / half], k % words);
      sum += static_cast<Sum>(x) * static_cast<Sum>(y);
    }
    c[i] = sum;
  }
  meet_warp();
}

}  // namespace machine

#define threadIdx (machine::fibers[machine::current].thread)
#define blockIdx machine::block
inline void __syncthreads() { machine::meet(machine::arrived_block, machine::round_block, machine::count); }
inline void __syncwarp() { machine::meet_warp(); }
inline unsigned __activemask() { return 0xffffffffu; }

// A lane's value for another lane of its group of `width`; outside the group, its own.
template <typename T>
inline T __shfl_sync(unsigned, T value, int source, int width = 32) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 2, "as the hardware exchanges them");
  machine::Fiber& mine = machine::fibers[machine::current];
  memcpy(&mine.shown, &value, sizeof(T));
  machine::meet_warp();
  const int group = machine::lane() / width * width;
  T found = value;
  if (source >= 0 && group + source % width < machine::lanes())
    memcpy(&found, &machine::peer(group + source % width).shown, sizeof(T));
  machine::meet_warp();
  return found;
}
template <typename T>
inline T __shfl_down_sync(unsigned mask, T value, int by, int width = 32) {
  const int at = machine::lane() % width + by;
  return __shfl_sync(mask, value, at < width ? at : -1, width);
}
template <typename T>
inline T __shfl_xor_sync(unsigned mask, T value, int by, int width = 32) {
  return __shfl_sync(mask, value, (machine::lane() % width) ^ by, width);
}
inline float __expf(float x) { return expf(x); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }

EDGEC_DEVICE void edgec_ldmatrix_x4(unsigned* x, const void* row) { machine::load_matrices(x, row, 4); }
EDGEC_DEVICE void edgec_ldmatrix_x2(unsigned* x, const void* row) { machine::load_matrices(x, row, 2); }
EDGEC_DEVICE void edgec_ldmatrix_x4_trans(unsigned* x, const void* row) { machine::load_transposed(x, row, 4); }
EDGEC_DEVICE void edgec_mma_f16(float* c, const unsigned* a, const unsigned* b) {
  machine::multiply<float, half, half>(c, a, b, 16);
}
EDGEC_DEVICE void edgec_mma_bf16(float* c, const unsigned* a, const unsigned* b) {
  machine::multiply<float, __nv_bfloat16, __nv_bfloat16>(c, a, b, 16);
}
EDGEC_DEVICE void edgec_mma_tf32(float* c, const unsigned* a, const unsigned* b) {
  machine::multiply<float, float, float>(c, a, b, 8);
}
EDGEC_DEVICE void edgec_mma_s8(int* c, const unsigned* a, const unsigned* b) {
  machine::multiply<int, signed char, signed char>(c, a, b, 16);
}
EDGEC_DEVICE void edgec_mma_u8(int* c, const unsigned* a, const unsigned* b) {
  machine::multiply<int, unsigned char, signed char>(c, a, b, 16);
}
EDGEC_DEVICE unsigned edgec_to_tf32(unsigned value) { return (value + 0x1000u) & ~0x1fffu; }  // ties away from zero

// Copies that are open until they are awaited: nothing arrives before.
namespace machine {
struct Copy { void* to; char bytes[16]; int size; };
struct Copies { Copy open[64]; int count, groups[64], closed; };
static Copies copies[1024];
}  // namespace machine

template <int Bytes>
EDGEC_DEVICE void edgec_copy(void* target, const void* source, bool wanted) {
  if (reinterpret_cast<uintptr_t>(target) % Bytes || (wanted && reinterpret_cast<uintptr_t>(source) % Bytes)) abort();
  machine::Copies& mine = machine::copies[machine::current];
  if (mine.count == 64) abort();
  machine::Copy& made = mine.open[mine.count++];
  made.to = target;
  made.size = Bytes;
  memset(made.bytes, 0, 16);
  if (wanted) memcpy(made.bytes, source, Bytes);
}
EDGEC_DEVICE void edgec_close_group() {
  machine::Copies& mine = machine::copies[machine::current];
  mine.groups[mine.closed++] = mine.count;
}
template <int Open>
EDGEC_DEVICE void edgec_await_groups() {
  machine::Copies& mine = machine::copies[machine::current];
  if (mine.closed <= Open) return;
  const int done = mine.groups[mine.closed - Open - 1];
  for (int i = 0; i < done; ++i) memcpy(mine.open[i].to, mine.open[i].bytes, mine.open[i].size);
  memmove(mine.open, mine.open + done, sizeof(machine::Copy) * (mine.count - done));
  mine.count -= done;
  for (int i = 0; i < Open; ++i) mine.groups[i] = mine.groups[mine.closed - Open + i] - done;
  mine.closed = Open;
}

namespace machine {
static void (*entry)(void**);
static void** arguments;

static void begin() {
  entry(arguments);
  fibers[current].ended = true;
  yield();
}

static void run(void (*kernel)(void**), void** values, const int* grid, const int* size) {
  const int stack = 1 << 17;
  count = size[0] * size[1] * size[2];
  char* stacks = static_cast<char*>(malloc(size_t(stack) * count));
  entry = kernel;
  arguments = values;
  for (block.z = 0; block.z < grid[2]; ++block.z)
    for (block.y = 0; block.y < grid[1]; ++block.y)
      for (block.x = 0; block.x < grid[0]; ++block.x) {
        for (int i = 0; i < count; ++i) {
          fibers[i].thread = {i % size[0], i / size[0] % size[1], i / size[0] / size[1]};
          fibers[i].ended = false;
          copies[i].count = copies[i].closed = 0;
          getcontext(&fibers[i].context);
          fibers[i].context.uc_stack.ss_sp = stacks + size_t(stack) * i;
          fibers[i].context.uc_stack.ss_size = stack;
          fibers[i].context.uc_link = &scheduler;
          makecontext(&fibers[i].context, begin, 0);
        }
        for (int left = count; left;) {
          left = 0;
          for (current = 0; current < count; ++current)
            if (!fibers[current].ended) {
              swapcontext(&scheduler, &fibers[current].context);
              left += !fibers[current].ended;
            }
        }
      }
  free(stacks);
}
}  // namespace machine
