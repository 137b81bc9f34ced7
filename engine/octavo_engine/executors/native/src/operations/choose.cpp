#include "operations.h"

namespace octavo {

int64_t attention_scratch_floats(int32_t head_dim_k, int32_t padded_v) {
  return kAttentionRows * (int64_t{2} * kAttentionChunk + padded_v + head_dim_k) + head_dim_k + 64;
}

const Operations& operations(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::Avx512 || isa == Isa::Amx) return avx512_operations();
  if (isa == Isa::Avx2) return avx2_operations();
#endif
  (void)isa;
  return scalar_operations();
}

}  // namespace octavo
