// Preparing activations with AVX2. No standard containers here: see kernels.h.
#include <immintrin.h>

#include <cmath>

#include "half.h"
#include "kernels.h"

namespace octavo::avx2 {
namespace {

uint8_t* quad_of(const Activations::Impl& x, int64_t row) { return x.data + row / kQuad * x.quad_bytes; }

inline __m256 absolute(__m256 x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }

inline float largest_lane(__m256 x) {
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
}

inline int32_t lane_sum(__m256i x) {
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

void quantize(const float* x, Q8Group& to) {
  __m256 values[4];
  __m256 most = _mm256_setzero_ps();
  __m256 differences = _mm256_setzero_ps();
  for (int i = 0; i < 4; ++i) {
    values[i] = _mm256_loadu_ps(x + i * 8);
    most = _mm256_max_ps(most, absolute(values[i]));
    // x - x is zero for finite values alone; the maximum would lose a NaN.
    differences = _mm256_add_ps(differences, _mm256_sub_ps(values[i], values[i]));
  }
  if (_mm256_movemask_ps(_mm256_cmp_ps(differences, _mm256_setzero_ps(), _CMP_EQ_OQ)) != 0xff) {
    to = Q8Group{};
    to.scale = to.scaled_sum = NAN;
    return;
  }
  const float largest = largest_lane(most);
  const float inverse = largest < 1e-36f ? 0.0f : 127.0f / largest;
  __m256i codes[4];
  for (int i = 0; i < 4; ++i) codes[i] = _mm256_cvtps_epi32(_mm256_mul_ps(values[i], _mm256_set1_ps(inverse)));
  to.scale = inverse == 0.0f ? 0.0f : largest / 127.0f;
  to.minus_first = -lane_sum(_mm256_add_epi32(codes[0], codes[1]));
  to.minus_sum = to.minus_first - lane_sum(_mm256_add_epi32(codes[2], codes[3]));
  to.scaled_sum = to.scale * static_cast<float>(-to.minus_sum);
  const __m256i words =
      _mm256_packs_epi16(_mm256_packs_epi32(codes[0], codes[1]), _mm256_packs_epi32(codes[2], codes[3]));
  // The packs work within 128 bits: put their quads in order.
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to.q), _mm256_permutevar8x32_epi32(words, order));
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
    auto* out = reinterpret_cast<uint16_t*>(quad_of(to, m)) + m % kQuad * 2;
    const float* row = x + (m - m_begin) * ldx;
    for (int64_t k = 0; k < to.k; ++k) out[k / 2 * kQuad * 2 + k % 2] = float_to_bfloat(row[k]);
  }
}

void prepare_q8(const Activations::Impl& to, const float* x, int64_t ldx, int64_t m_begin, int64_t m_end) {
  for (int64_t m = m_begin; m < m_end; ++m) {
    auto* out = reinterpret_cast<Q8Group*>(quad_of(to, m)) + m % kQuad;
    const float* row = x + (m - m_begin) * ldx;
    for (int64_t group = 0; group < to.k / kGroup; ++group) quantize(row + group * kGroup, out[group * kQuad]);
  }
}

}  // namespace octavo::avx2
