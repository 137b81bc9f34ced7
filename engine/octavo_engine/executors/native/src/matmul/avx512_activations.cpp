// Preparing activations with AVX-512. No standard containers here: see kernels.h.
#include <immintrin.h>

#include <cmath>

#include "kernels.h"

namespace octavo::avx512 {
namespace {

uint8_t* quad_of(const Activations::Impl& x, int64_t row) { return x.data + row / kQuad * x.quad_bytes; }

// Every fourth word from `out` on takes a lane of `words`.
void scatter_words(uint8_t* out, __m512i words, int64_t count) {
  alignas(64) int32_t lanes[16];
  _mm512_store_si512(lanes, words);
  auto* to = reinterpret_cast<int32_t*>(out);
  for (int64_t i = 0; i < count; ++i) to[i * kQuad] = lanes[i];
}

void quantize(const float* x, Q8Group& to) {
  const __m512 low = _mm512_loadu_ps(x);
  const __m512 high = _mm512_loadu_ps(x + 16);
  const __m512 largest_lanes = _mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high));
  // x - x is zero for finite values alone; the maximum would lose a NaN.
  const __m512 differences = _mm512_add_ps(_mm512_sub_ps(low, low), _mm512_sub_ps(high, high));
  const bool finite = _mm512_cmp_ps_mask(differences, _mm512_setzero_ps(), _CMP_EQ_OQ) == 0xffff;
  const float largest = finite ? _mm512_reduce_max_ps(largest_lanes) : NAN;
  const float inverse = largest < 1e-36f || !finite ? 0.0f : 127.0f / largest;
  const __m512 factor = _mm512_set1_ps(inverse);
  const __mmask16 keep = finite ? 0xffff : 0;
  const __m512i low_codes = _mm512_maskz_cvtps_epi32(keep, _mm512_mul_ps(low, factor));
  const __m512i high_codes = _mm512_maskz_cvtps_epi32(keep, _mm512_mul_ps(high, factor));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to.q), _mm512_cvtepi32_epi8(low_codes));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to.q + 16), _mm512_cvtepi32_epi8(high_codes));
  to.scale = finite && inverse == 0.0f ? 0.0f : largest / 127.0f;
  to.sum[0] = _mm512_reduce_add_epi32(low_codes);
  to.sum[1] = _mm512_reduce_add_epi32(high_codes);
  to.scaled_sum = to.scale * static_cast<float>(to.sum[0] + to.sum[1]);
}

}  // namespace

void prepare_f32(const Activations::Impl& to, const float* x, int64_t ldx, int64_t m_begin, int64_t m_end) {
  for (int64_t m = m_begin; m < m_end; ++m) {
    auto* out = reinterpret_cast<float*>(quad_of(to, m)) + m % kQuad;
    const float* row = x + (m - m_begin) * ldx;
    for (int64_t k = 0; k < to.k; ++k) out[k * kQuad] = row[k];
  }
}

void prepare_bf16(const Activations::Impl& to, const float* x, int64_t ldx, int64_t m_begin, int64_t m_end) {
  for (int64_t m = m_begin; m < m_end; ++m) {
    uint8_t* out = quad_of(to, m) + m % kQuad * 4;
    const float* row = x + (m - m_begin) * ldx;
    for (int64_t k = 0; k < to.k; k += 32) {
      const int64_t left = to.k - k;
      const __mmask16 low = static_cast<__mmask16>(left >= 16 ? 0xffffu : (1u << left) - 1u);
      const __mmask16 high = static_cast<__mmask16>(left >= 32 ? 0xffffu : left > 16 ? (1u << (left - 16)) - 1u : 0u);
      const __m512bh words = _mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps(high, row + k + 16),
                                                 _mm512_maskz_loadu_ps(low, row + k));
      scatter_words(out + k / 2 * kQuad * 4, (__m512i)words, left >= 32 ? 16 : (left + 1) / 2);
    }
  }
}

void prepare_q8(const Activations::Impl& to, const float* x, int64_t ldx, int64_t m_begin, int64_t m_end) {
  for (int64_t m = m_begin; m < m_end; ++m) {
    auto* out = reinterpret_cast<Q8Group*>(quad_of(to, m)) + m % kQuad;
    const float* row = x + (m - m_begin) * ldx;
    for (int64_t group = 0; group < to.k / kGroup; ++group) quantize(row + group * kGroup, out[group * kQuad]);
  }
}

}  // namespace octavo::avx512
