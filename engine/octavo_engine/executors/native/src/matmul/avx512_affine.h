// Constants and functions that both kernels of quantized weights use.
#pragma once
#include <immintrin.h>

#include "kernels.h"

namespace octavo::avx512 {

// For more rows, unpacking a panel to memory costs less than the broadcasts it saves.
constexpr int64_t kManyRows = 33;

void product_affine_many(const Part& part, const Activations::Impl& x, const Span& span, float* y, int64_t ldy);

static constexpr int log2_of(int value) { return value <= 1 ? 0 : 1 + log2_of(value / 2); }

// Initial value of integer sums: it cancels what the zero code adds to each product.
template <int Zero>
static inline __m512i beginning(int32_t minus_sum) {
  if constexpr (Zero == 0) return _mm512_setzero_si512();
  return _mm512_slli_epi32(_mm512_set1_epi32(minus_sum), log2_of(Zero));
}

static inline __m512i quad_at(const Q8Group& x, int j) {
  int32_t word;
  __builtin_memcpy(&word, x.q + j * 4, sizeof word);
  return _mm512_set1_epi32(word);
}

}  // namespace octavo::avx512
