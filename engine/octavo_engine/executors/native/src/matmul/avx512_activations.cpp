// Preparing activations with AVX-512. No standard containers here: see kernels.h.
#include <cmath>

#include "avx512_words.h"

namespace octavo::avx512 {
namespace {

uint32_t largest_lane(__m512i x) {
  __m256i m = _mm256_max_epu32(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64(x, 1));
  __m128i n = _mm_max_epu32(_mm256_castsi256_si128(m), _mm256_extracti128_si256(m, 1));
  n = _mm_max_epu32(n, _mm_shuffle_epi32(n, 0x4e));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_max_epu32(n, _mm_shuffle_epi32(n, 0xb1))));
}

void quantize(const float* x, Q8Group& to) {
  const __m512 low = _mm512_loadu_ps(x);
  const __m512 high = _mm512_loadu_ps(x + 16);
  // Sizes compare as integers do, and infinity and NaN are larger than every number.
  const __m512i sign = _mm512_set1_epi32(INT32_MIN);
  const __m512i sizes = _mm512_max_epu32(_mm512_andnot_si512(sign, _mm512_castps_si512(low)),
                                         _mm512_andnot_si512(sign, _mm512_castps_si512(high)));
  const float largest = _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(static_cast<int32_t>(largest_lane(sizes)))));
  if (!(largest <= 3.4028235e38f)) {
    to = Q8Group{};
    to.scale = to.scaled_sum = NAN;
    return;
  }
  const float inverse = largest < 1e-36f ? 0.0f : 127.0f / largest;
  const __m512 factor = _mm512_set1_ps(inverse);
  const __m128i low_codes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(low, factor)));
  const __m128i high_codes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(high, factor)));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to.q), low_codes);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to.q + 16), high_codes);
  const __m128i ones = _mm_set1_epi8(1);
  const __m128i zero = _mm_setzero_si128();
  const __m128i first = _mm_dpbusd_epi32(zero, ones, low_codes);
  __m128i sums = _mm_hadd_epi32(_mm_dpbusd_epi32(first, ones, high_codes), first);
  sums = _mm_sub_epi32(zero, _mm_hadd_epi32(sums, sums));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(&to.minus_sum), sums);  // and minus_first
  to.scale = inverse == 0.0f ? 0.0f : largest / 127.0f;
  to.scaled_sum = to.scale * static_cast<float>(-_mm_cvtsi128_si32(sums));
}

struct F32 {
  static constexpr int64_t kValues = 1;  // in a word
  static __m512i words(const float* x, int64_t left) {
    return _mm512_castps_si512(
        _mm512_maskz_loadu_ps(static_cast<__mmask16>(left >= 16 ? 0xffffu : (1u << left) - 1u), x));
  }
};

}  // namespace

void prepare_f32(const Activations::Impl& to, const float* x, int64_t ldx, int64_t m_begin, int64_t m_end) {
  prepare_words<F32>(to, x, ldx, m_begin, m_end);
}

void prepare_q8(const Activations::Impl& to, const float* x, int64_t ldx, int64_t m_begin, int64_t m_end) {
  for (int64_t m = m_begin; m < m_end; ++m) {
    auto* out = reinterpret_cast<Q8Group*>(quad_of(to, m)) + m % kQuad;
    const float* row = x + (m - m_begin) * ldx;
    for (int64_t group = 0; group < to.k / kGroup; ++group) quantize(row + group * kGroup, out[group * kQuad]);
  }
}

}  // namespace octavo::avx512
