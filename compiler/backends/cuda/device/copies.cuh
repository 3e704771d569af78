// Copies from global to shared memory that go on while the block computes (`cp.async`, PTX ISA 8.8), from Ampere on;
// earlier GPUs copy at once. `wanted` is false where a window lies outside its picture: zeros are stored there.

template <int Bytes>
struct alignas(Bytes) edgec_bytes {
  unsigned x[Bytes / 4];
};

template <int Bytes>
EDGEC_DEVICE void edgec_copy(void* target, const void* source, bool wanted) {
#if __CUDA_ARCH__ >= 800
  // The hardware fills the rest of the target with zeros, and does not read the source where it takes no byte of it.
  const int taken = wanted ? Bytes : 0;
  if constexpr (Bytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"(edgec_shared_address(target)), "l"(source), "r"(taken) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %3, %2;"
                 :: "r"(edgec_shared_address(target)), "l"(source), "r"(taken), "n"(Bytes) : "memory");
#else
  edgec_bytes<Bytes> value = {};
  if (wanted) value = *static_cast<const edgec_bytes<Bytes>*>(source);
  *static_cast<edgec_bytes<Bytes>*>(target) = value;
#endif
}

EDGEC_DEVICE void edgec_close_group() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

template <int Open>
EDGEC_DEVICE void edgec_await_groups() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" :: "n"(Open) : "memory");
#endif
}
