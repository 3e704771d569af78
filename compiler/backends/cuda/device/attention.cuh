// Steps of attention on tensor cores, of one warp and 16 queries. Scores stay in the registers of the sums (see
// fragments.cuh), whose layout is that of a first operand, so that they are rounded and multiplied where they lie.
// GPUs without such instructions (Volta's have another layout) do the same by ordinary arithmetic.

EDGEC_DEVICE float edgec_quad_max(float x) {
  for (int by = 1; by < 4; by *= 2) {
    const float other = __shfl_xor_sync(0xffffffffu, x, by);
    x = other > x ? other : x;
  }
  return x;
}

EDGEC_DEVICE float edgec_quad_sum(float x) {
  for (int by = 1; by < 4; by *= 2) x += __shfl_xor_sync(0xffffffffu, x, by);
  return x;
}

EDGEC_DEVICE int edgec_warp_lane() { return threadIdx.x; }  // blocks are 32 x warps

template <typename T>
union edgec_pair {
  unsigned bits;
  T x[2];
  EDGEC_DEVICE edgec_pair() : bits(0) {}
};

// 16 queries and 16 elements of each, as a first operand.
EDGEC_DEVICE void edgec_take_queries(unsigned* q, const void* rows, int stride) {
  const int lane = edgec_warp_lane();
  const unsigned short* from = static_cast<const unsigned short*>(rows);
#if __CUDA_ARCH__ >= 750
  edgec_ldmatrix_x4(q, from + (lane % 16) * stride + 8 * (lane / 16));
#else
  for (int i = 0; i < 4; ++i)
    q[i] = *reinterpret_cast<const unsigned*>(from + (lane / 4 + 8 * (i % 2)) * stride + 2 * (lane % 4) + 8 * (i / 2));
#endif
}

// Sums, scaled and masked, as a first operand of 16 rows and 16 terms.
#define EDGEC_PACK(name, T, rounded)                          \
  EDGEC_DEVICE void name(unsigned* p, const float* c) {       \
    for (int i = 0; i < 4; ++i) {                             \
      edgec_pair<T> pair;                                     \
      pair.x[0] = rounded(c[2 * i]);                          \
      pair.x[1] = rounded(c[2 * i + 1]);                      \
      p[i] = pair.bits;                                       \
    }                                                         \
  }

#if __CUDA_ARCH__ >= 750
#define EDGEC_ATTENTION(kind, multiply)                                                                        \
  /* c += queries x keys: 16 keys, each a row of `stride` elements. */                                         \
  EDGEC_DEVICE void edgec_scores_##kind(float* c, const unsigned* q, const void* keys, int stride) {            \
    const int lane = edgec_warp_lane();                                                                        \
    unsigned b[4];                                                                                             \
    edgec_ldmatrix_x4(b, static_cast<const unsigned short*>(keys) + (lane % 8 + 8 * (lane / 16)) * stride +    \
                             8 * (lane / 8 % 2));                                                              \
    for (int n = 0; n < 2; ++n) multiply(c + 4 * n, q, b + 2 * n);                                             \
  }                                                                                                            \
  /* c += shares x values: 16 values, each a row of which 16 columns are taken. */                             \
  EDGEC_DEVICE void edgec_mix_##kind(float* c, const unsigned* p, const void* values, int stride) {             \
    const int lane = edgec_warp_lane();                                                                        \
    unsigned b[4];                                                                                             \
    edgec_ldmatrix_x4_trans(b, static_cast<const unsigned short*>(values) +                                    \
                                   (lane % 8 + 8 * (lane / 8 % 2)) * stride + 8 * (lane / 16));                \
    for (int n = 0; n < 2; ++n) multiply(c + 4 * n, p, b + 2 * n);                                             \
  }
#ifdef EDGEC_HALF
EDGEC_PACK(edgec_pack_f16, __half, __float2half_rn)
EDGEC_ATTENTION(f16, edgec_mma_f16)
#endif
#if __CUDA_ARCH__ >= 800 && defined(EDGEC_BFLOAT16)
EDGEC_PACK(edgec_pack_bf16, __nv_bfloat16, __float2bfloat16_rn)
EDGEC_ATTENTION(bf16, edgec_mma_bf16)
#endif
#elif defined(EDGEC_HALF)
EDGEC_PACK(edgec_pack_f16, __half, __float2half_rn)

// The element of a first operand in row `half * 8 + lane / 4` and column k is one of another lane's of the same four.
EDGEC_DEVICE float edgec_operand(const unsigned* a, int half, int k) {
  edgec_pair<__half> pair;
  pair.bits = __shfl_sync(0xffffffffu, a[half + 2 * (k / 8)], edgec_warp_lane() / 4 * 4 + k % 8 / 2);
  return __half2float(pair.x[k % 2]);
}

template <bool ByRows>
EDGEC_DEVICE void edgec_multiply_f16(float* c, const unsigned* a, const void* second, int stride) {
  const __half* b = static_cast<const __half*>(second);
  for (int k = 0; k < 16; ++k)
    for (int half = 0; half < 2; ++half) {
      const float x = edgec_operand(a, half, k);
      for (int n = 0; n < 4; ++n) {
        const int column = 8 * (n / 2) + 2 * (edgec_warp_lane() % 4) + n % 2;
        c[4 * (n / 2) + 2 * half + n % 2] += x * __half2float(ByRows ? b[k * stride + column] : b[column * stride + k]);
      }
    }
}
EDGEC_DEVICE void edgec_scores_f16(float* c, const unsigned* q, const void* keys, int stride) {
  edgec_multiply_f16<false>(c, q, keys, stride);
}
EDGEC_DEVICE void edgec_mix_f16(float* c, const unsigned* p, const void* values, int stride) {
  edgec_multiply_f16<true>(c, p, values, stride);
}
#endif
