// The instructions of tensor cores and their loads, as functions. Source: PTX ISA 8.8, "Warp Level Matrix Instructions".
// A matrix of ldmatrix has 8 rows of 16 bytes; lane 8 * m + r gives the address of row r of matrix m.

#define EDGEC_DEVICE inline __device__ __attribute__((always_inline))

EDGEC_DEVICE unsigned edgec_shared_address(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

#if __CUDA_ARCH__ >= 750
EDGEC_DEVICE void edgec_ldmatrix_x4(unsigned* x, const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "r"(edgec_shared_address(row)));
}

EDGEC_DEVICE void edgec_ldmatrix_x4_trans(unsigned* x, const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "r"(edgec_shared_address(row)));
}

EDGEC_DEVICE void edgec_ldmatrix_x2(unsigned* x, const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(x[0]), "=r"(x[1]) : "r"(edgec_shared_address(row)));
}
#endif

// Sums of 16 rows and 8 columns: c += a * b.
#if __CUDA_ARCH__ >= 800
EDGEC_DEVICE void edgec_mma_f16(float* c, const unsigned* a, const unsigned* b) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
               "{%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

EDGEC_DEVICE void edgec_mma_bf16(float* c, const unsigned* a, const unsigned* b) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
               "{%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

EDGEC_DEVICE void edgec_mma_tf32(float* c, const unsigned* a, const unsigned* b) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
               "{%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

EDGEC_DEVICE unsigned edgec_to_tf32(unsigned value) {
  unsigned rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(__uint_as_float(value)));
  return rounded;
}

#define EDGEC_MMA_INT8(name, kind)                                                                          \
  EDGEC_DEVICE void name(int* c, const unsigned* a, const unsigned* b) {                                    \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.s32." kind ".s8.s32 {%0, %1, %2, %3}, {%4, %5}, {%6}, " \
                 "{%0, %1, %2, %3};"                                                                        \
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])                                           \
                 : "r"(a[0]), "r"(a[1]), "r"(b[0]));                                                        \
  }
#elif __CUDA_ARCH__ >= 750
EDGEC_DEVICE void edgec_mma_f16(float* c, const unsigned* a, const unsigned* b) {
  for (int half = 0; half < 2; ++half)
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
}

#define EDGEC_MMA_INT8(name, kind)                                                                                \
  EDGEC_DEVICE void name(int* c, const unsigned* a, const unsigned* b) {                                          \
    for (int half = 0; half < 2; ++half)                                                                          \
      asm volatile("mma.sync.aligned.m8n8k16.row.col.s32." kind ".s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"         \
                   : "+r"(c[2 * half]), "+r"(c[2 * half + 1]) : "r"(a[half]), "r"(b[0]));                         \
  }
#endif

#if __CUDA_ARCH__ >= 750
EDGEC_MMA_INT8(edgec_mma_s8, "s8")
EDGEC_MMA_INT8(edgec_mma_u8, "u8")
#endif
