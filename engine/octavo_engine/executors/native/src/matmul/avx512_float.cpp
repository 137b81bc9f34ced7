// Products with float32 and float16 weights.
#include "avx512_float_tiles.h"

namespace octavo::avx512 {
namespace {

struct F32 {
  static constexpr int64_t kLine = 64;
  static __m512 add(__m512 sum, __m512i weights, __m512i x) {
    return _mm512_fmadd_ps(_mm512_castsi512_ps(weights), _mm512_castsi512_ps(x), sum);
  }
  static __m512i load(const uint8_t* line) { return _mm512_load_si512(line); }
};

struct F16 {
  static constexpr int64_t kLine = 32;
  static __m512 add(__m512 sum, __m512i weights, __m512i x) { return F32::add(sum, weights, x); }
  static __m512i load(const uint8_t* line) {
    return _mm512_castps_si512(_mm512_cvtph_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(line))));
  }
};

}  // namespace

void product_f32(const Part& part, const Activations::Impl& x, const Span& span, float* y, int64_t ldy) {
  product<F32>(part, x, span, y, ldy);
}

void product_f16(const Part& part, const Activations::Impl& x, const Span& span, float* y, int64_t ldy) {
  product<F16>(part, x, span, y, ldy);
}

}  // namespace octavo::avx512
