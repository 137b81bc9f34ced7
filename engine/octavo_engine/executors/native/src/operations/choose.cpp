#include "operations.h"

namespace octavo {

int64_t attention_scratch_floats(int32_t head_dim_k, int32_t padded_v, bool values_in_keys) {
  const int64_t turned = values_in_keys ? int64_t{kAttentionChunk} * padded_v : 0;
  return kAttentionRows * (int64_t{2} * kAttentionChunk + 2 * padded_v + head_dim_k) + head_dim_k + turned + 64;
}

const Operations& operations(Isa isa) {
#if defined(__x86_64__)
  // The AVX-512 operations use bf16, which a CPU with VNNI may lack.
  if (isa == Isa::Avx512Bf16 || isa == Isa::Amx) return avx512_operations();
  if (isa == Isa::Avx2 || isa == Isa::Avx512Vnni) return avx2_operations();
#endif
  (void)isa;
  return scalar_operations();
}

}  // namespace octavo
