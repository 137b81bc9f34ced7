#include <immintrin.h>

#include "roofline.h"

namespace octavo::avx512 {

double count_macs(Peak peak, int64_t rounds) {
  constexpr int kSums = 12;
  if (peak == Peak::Int8Dot) {
    __m512i sums[kSums] = {};
    const __m512i a = _mm512_set1_epi32(0x01020304);
    for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
      for (auto& sum : sums) {
        sum = _mm512_dpbusd_epi32(sum, a, a);
        asm volatile("" : "+v"(sum));  // or the compiler would fold the loop
      }
    }
    return static_cast<double>(rounds) * kSums * 64;
  }
  __m512 sums[kSums] = {};
  const __m512 a = _mm512_set1_ps(1e-3f);
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (auto& sum : sums) {
      sum = peak == Peak::Fma ? _mm512_fmadd_ps(a, a, sum) : _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)a);
      asm volatile("" : "+v"(sum));
    }
  }
  return static_cast<double>(rounds) * kSums * (peak == Peak::Fma ? 16 : 32);
}

void read_all(const uint8_t* data, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 512) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      const __m512i line = _mm512_load_si512(data + i + j * 64);
      asm volatile("" : : "v"(line));
    }
    _mm_prefetch(reinterpret_cast<const char*>(data + i + 4096), _MM_HINT_T0);
  }
}

}  // namespace octavo::avx512
