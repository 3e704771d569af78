// Fragments of 16 x 16 elements in the registers of a warp, under the names that TVM's code generator writes.
//
// NVIDIA's header of these names comes only with its offline compiler, and its loads are opaque to the hardware's ldmatrix.
// Layouts of registers: see the figures of `mma.m16n8k16` (fp16, bfloat16), `mma.m16n8k8` (tf32) and `mma.m16n8k16` (int8)
// in the PTX ISA. Lane t holds of the sums the rows t / 4 and t / 4 + 8 and, of each 8 columns, 2 * (t % 4) and the next.

namespace nvcuda {
namespace wmma {

struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
struct col_major;
enum layout_t { mem_row_major };

template <typename Use, int M, int N, int K, typename T, typename Layout = void>
struct fragment;

template <typename T>
struct fragment<accumulator, 16, 16, 16, T> {
  T x[8];
};

template <typename T>
EDGEC_DEVICE void fill_fragment(fragment<accumulator, 16, 16, 16, T>& sums, T value) {
  for (int i = 0; i < 8; ++i) sums.x[i] = value;
}

// TVM numbers the lanes of a warp by threadIdx.x, in blocks of 32 x warps.
EDGEC_DEVICE int edgec_lane() { return threadIdx.x; }

#if __CUDA_ARCH__ >= 750
template <typename Use, typename T, typename Layout>
struct fragment<Use, 16, 16, 16, T, Layout> {
  unsigned x[4 * sizeof(T) / 2];
};

template <>
struct fragment<matrix_a, 16, 16, 16, signed char, row_major> {
  unsigned x[2];
};
template <>
struct fragment<matrix_a, 16, 16, 16, unsigned char, row_major> {
  unsigned x[2];
};
template <>
struct fragment<matrix_b, 16, 16, 16, signed char, col_major> {
  unsigned x[2];
};

template <typename T>
EDGEC_DEVICE void load_matrix_sync(fragment<matrix_a, 16, 16, 16, T, row_major>& a, const T* rows, unsigned stride) {
  const int lane = edgec_lane();
  const T* row = rows + (lane % 16) * stride;
  if constexpr (sizeof(T) == 1) {
    edgec_ldmatrix_x2(a.x, row);
  } else if constexpr (sizeof(T) == 2) {
    edgec_ldmatrix_x4(a.x, row + 8 * (lane / 16));
  } else {
    edgec_ldmatrix_x4(a.x, row + 4 * (lane / 16));
    edgec_ldmatrix_x4(a.x + 4, row + 8 + 4 * (lane / 16));
#if __CUDA_ARCH__ >= 800
    for (int i = 0; i < 8; ++i) a.x[i] = edgec_to_tf32(a.x[i]);
#endif
  }
}

// The second operand lies as [columns, depth]; registers 2n and 2n + 1 are those of the n-th 8 columns.
template <typename T>
EDGEC_DEVICE void load_matrix_sync(fragment<matrix_b, 16, 16, 16, T, col_major>& b, const T* rows, unsigned stride) {
  const int lane = edgec_lane();
  if constexpr (sizeof(T) == 1) {
    edgec_ldmatrix_x2(b.x, rows + (lane % 16) * stride);
  } else {
    const T* row = rows + (lane % 8 + 8 * (lane / 16)) * stride;
    const int half = lane / 8 % 2;
    if constexpr (sizeof(T) == 2) {
      edgec_ldmatrix_x4(b.x, row + 8 * half);
    } else {
      edgec_ldmatrix_x4(b.x, row + 4 * half);
      edgec_ldmatrix_x4(b.x + 4, row + 8 + 4 * half);
#if __CUDA_ARCH__ >= 800
      for (int i = 0; i < 8; ++i) b.x[i] = edgec_to_tf32(b.x[i]);
#endif
    }
  }
}

// The second operand lies as [depth, columns], and is transposed on the way.
template <typename T>
EDGEC_DEVICE void load_matrix_sync(fragment<matrix_b, 16, 16, 16, T, row_major>& b, const T* rows, unsigned stride) {
  static_assert(sizeof(T) == 2, "only elements of two bytes are transposed by the hardware");
  const int lane = edgec_lane();
  edgec_ldmatrix_x4_trans(b.x, rows + (lane % 8 + 8 * (lane / 8 % 2)) * stride + 8 * (lane / 16));
}

#define EDGEC_SYNC(A, B, Sum, multiply, registers)                                                                   \
  template <typename Layout>                                                                                         \
  EDGEC_DEVICE void mma_sync(fragment<accumulator, 16, 16, 16, Sum>& d, fragment<matrix_a, 16, 16, 16, A, row_major>& a, \
                             fragment<matrix_b, 16, 16, 16, B, Layout>& b, fragment<accumulator, 16, 16, 16, Sum>& c) { \
    if (&d != &c) d = c;                                                                                             \
    for (int n = 0; n < 2; ++n) multiply(d.x + 4 * n, a.x, b.x + registers * n);                                     \
  }

#ifdef EDGEC_HALF
EDGEC_SYNC(__half, __half, float, edgec_mma_f16, 2)
#endif
EDGEC_SYNC(signed char, signed char, int, edgec_mma_s8, 1)
EDGEC_SYNC(unsigned char, signed char, int, edgec_mma_u8, 1)
#if __CUDA_ARCH__ >= 800
#ifdef EDGEC_BFLOAT16
EDGEC_SYNC(__nv_bfloat16, __nv_bfloat16, float, edgec_mma_bf16, 2)
#endif
EDGEC_DEVICE void mma_sync(fragment<accumulator, 16, 16, 16, float>& d, fragment<matrix_a, 16, 16, 16, float, row_major>& a,
                           fragment<matrix_b, 16, 16, 16, float, col_major>& b,
                           fragment<accumulator, 16, 16, 16, float>& c) {
  if (&d != &c) d = c;
  for (int k = 0; k < 2; ++k)
    for (int n = 0; n < 2; ++n) edgec_mma_tf32(d.x + 4 * n, a.x + 4 * k, b.x + 4 * k + 2 * n);
}
#endif

template <typename T>
EDGEC_DEVICE void store_matrix_sync(T* rows, const fragment<accumulator, 16, 16, 16, T>& c, unsigned stride, layout_t) {
  const int row = edgec_lane() / 4, column = 2 * (edgec_lane() % 4);
  for (int n = 0; n < 2; ++n)
    for (int half = 0; half < 2; ++half) {
      T* place = rows + (row + 8 * half) * stride + column + 8 * n;
      place[0] = c.x[4 * n + 2 * half];
      place[1] = c.x[4 * n + 2 * half + 1];
    }
}
#else
// Volta: whole fragments only, whose registers have no documented layout.
template <typename Use, typename Layout>
struct fragment<Use, 16, 16, 16, __half, Layout> {
  unsigned x[8];
};

#define EDGEC_LOAD(use, order, letter, way)                                                                          \
  EDGEC_DEVICE void load_matrix_sync(fragment<use, 16, 16, 16, __half, order>& f, const __half* rows, unsigned stride) { \
    asm volatile("wmma.load." letter ".sync.aligned." way ".m16n16k16.f16 {%0, %1, %2, %3, %4, %5, %6, %7}, [%8], %9;" \
                 : "=r"(f.x[0]), "=r"(f.x[1]), "=r"(f.x[2]), "=r"(f.x[3]), "=r"(f.x[4]), "=r"(f.x[5]), "=r"(f.x[6]), \
                   "=r"(f.x[7])                                                                                      \
                 : "l"(rows), "r"(stride) : "memory");                                                               \
  }
EDGEC_LOAD(matrix_a, row_major, "a", "row")
EDGEC_LOAD(matrix_b, col_major, "b", "col")
EDGEC_LOAD(matrix_b, row_major, "b", "row")

#define EDGEC_VOLTA_SYNC(order, way) \
  EDGEC_DEVICE void mma_sync(fragment<accumulator, 16, 16, 16, float>& d, fragment<matrix_a, 16, 16, 16, __half, row_major>& a, \
                             fragment<matrix_b, 16, 16, 16, __half, order>& b, \
                             fragment<accumulator, 16, 16, 16, float>& c) { \
    if (&d != &c) d = c; \
    asm volatile("wmma.mma.sync.aligned.row." way ".m16n16k16.f32.f32 {%0, %1, %2, %3, %4, %5, %6, %7}, " \
                 "{%8, %9, %10, %11, %12, %13, %14, %15}, {%16, %17, %18, %19, %20, %21, %22, %23}, " \
                 "{%0, %1, %2, %3, %4, %5, %6, %7};" \
                 : "+f"(d.x[0]), "+f"(d.x[1]), "+f"(d.x[2]), "+f"(d.x[3]), "+f"(d.x[4]), "+f"(d.x[5]), "+f"(d.x[6]), \
                   "+f"(d.x[7]) \
                 : "r"(a.x[0]), "r"(a.x[1]), "r"(a.x[2]), "r"(a.x[3]), "r"(a.x[4]), "r"(a.x[5]), "r"(a.x[6]), "r"(a.x[7]), \
                   "r"(b.x[0]), "r"(b.x[1]), "r"(b.x[2]), "r"(b.x[3]), "r"(b.x[4]), "r"(b.x[5]), "r"(b.x[6]), "r"(b.x[7])); \
  }
EDGEC_VOLTA_SYNC(col_major, "col")
EDGEC_VOLTA_SYNC(row_major, "row")

EDGEC_DEVICE void store_matrix_sync(float* rows, const fragment<accumulator, 16, 16, 16, float>& c, unsigned stride, layout_t) {
  asm volatile("wmma.store.d.sync.aligned.row.m16n16k16.f32 [%8], {%0, %1, %2, %3, %4, %5, %6, %7}, %9;"
               :: "f"(c.x[0]), "f"(c.x[1]), "f"(c.x[2]), "f"(c.x[3]), "f"(c.x[4]), "f"(c.x[5]), "f"(c.x[6]), "f"(c.x[7]),
                  "l"(rows), "r"(stride) : "memory");
}
#endif

}  // namespace wmma
}  // namespace nvcuda
