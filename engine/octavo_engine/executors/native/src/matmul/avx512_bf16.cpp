// Everything that needs AVX512-BF16, which CPUs with VNNI may lack.
#include "avx512_float_tiles.h"
#include "avx512_words.h"

namespace octavo::avx512 {
namespace {

struct Bf16 {
  static constexpr int64_t kLine = 64;
  static __m512 add(__m512 sum, __m512i weights, __m512i x) {
    return _mm512_dpbf16_ps(sum, (__m512bh)weights, (__m512bh)x);
  }
  static __m512i load(const uint8_t* line) { return _mm512_load_si512(line); }
};

struct Bf16Words {
  static constexpr int64_t kValues = 2;
  static __m512i words(const float* x, int64_t left) {
    const uint32_t mask = left >= 32 ? ~0u : (1u << left) - 1u;
    const __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), x);
    const __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), x + 16);
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
  }
};

}  // namespace

void prepare_bf16(const Activations::Impl& to, const float* x, int64_t ldx, int64_t m_begin, int64_t m_end) {
  prepare_words<Bf16Words>(to, x, ldx, m_begin, m_end);
}

void product_bf16(const Part& part, const Activations::Impl& x, const Span& span, float* y, int64_t ldy) {
  product<Bf16>(part, x, span, y, ldy);
}

}  // namespace octavo::avx512
