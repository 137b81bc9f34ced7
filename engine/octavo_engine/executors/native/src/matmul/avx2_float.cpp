// Products with weights stored as floats, on AVX2: tiles of up to 4 rows by one panel, two registers a row.
#include <immintrin.h>

#include "kernels.h"

namespace octavo::avx2 {
namespace {

inline float float_at(const uint8_t* from) {
  float value;
  __builtin_memcpy(&value, from, sizeof value);
  return value;
}

struct F32 {
  static constexpr int64_t kLine = 64;
  template <int Rows>
  static void step(const uint8_t* line, const uint8_t* x, __m256 (&sums)[Rows][2]) {
    const __m256 low = _mm256_load_ps(reinterpret_cast<const float*>(line));
    const __m256 high = _mm256_load_ps(reinterpret_cast<const float*>(line) + 8);
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
      const __m256 value = _mm256_set1_ps(float_at(x + r * 4));
      sums[r][0] = _mm256_fmadd_ps(low, value, sums[r][0]);
      sums[r][1] = _mm256_fmadd_ps(high, value, sums[r][1]);
    }
  }
};

struct F16 {
  static constexpr int64_t kLine = 32;
  template <int Rows>
  static void step(const uint8_t* line, const uint8_t* x, __m256 (&sums)[Rows][2]) {
    const __m256 low = _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i*>(line)));
    const __m256 high = _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i*>(line) + 1));
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
      const __m256 value = _mm256_set1_ps(float_at(x + r * 4));
      sums[r][0] = _mm256_fmadd_ps(low, value, sums[r][0]);
      sums[r][1] = _mm256_fmadd_ps(high, value, sums[r][1]);
    }
  }
};

// A bf16 is the upper half of a float32: of a pair, the second is the word without its lower half, the first is the
// word moved up.
struct Bf16 {
  static constexpr int64_t kLine = 64;
  template <int Rows>
  static void step(const uint8_t* line, const uint8_t* x, __m256 (&sums)[Rows][2]) {
    const __m256i upper = _mm256_set1_epi32(static_cast<int32_t>(0xffff0000u));
    __m256 first[2];
    __m256 second[2];
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      const __m256i words = _mm256_load_si256(reinterpret_cast<const __m256i*>(line) + h);
      first[h] = _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
      second[h] = _mm256_castsi256_ps(_mm256_and_si256(words, upper));
    }
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
      const __m256i pair = _mm256_castps_si256(_mm256_set1_ps(float_at(x + r * 4)));
      const __m256 x0 = _mm256_castsi256_ps(_mm256_slli_epi32(pair, 16));
      const __m256 x1 = _mm256_castsi256_ps(_mm256_and_si256(pair, upper));
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        sums[r][h] = _mm256_fmadd_ps(first[h], x0, sums[r][h]);
        sums[r][h] = _mm256_fmadd_ps(second[h], x1, sums[r][h]);
      }
    }
  }
};

constexpr int64_t kPrefetch = 2048;

template <class Type, int Rows>
void run_tile(const Part& part, const Activations::Impl& x, int64_t panel, int64_t row, float* y, int64_t ldy) {
  const uint8_t* lines = part.data + panel * part.panel_bytes;
  const uint8_t* quad = x.data + row / kQuad * x.quad_bytes;
  const int64_t steps = part.format == Format::BF16 ? (part.k + 1) / 2 : part.k;
  __m256 sums[Rows][2] = {};
  for (int64_t step = 0; step < steps; ++step) {
    _mm_prefetch(reinterpret_cast<const char*>(lines + step * Type::kLine + kPrefetch), _MM_HINT_T0);
    Type::template step<Rows>(lines + step * Type::kLine, quad + step * 16, sums);
  }
  const int64_t left = part.n - panel * kPanel;
  float* out = y + row * ldy + part.column + panel * kPanel;
  for (int r = 0; r < Rows; ++r) {
    alignas(32) float values[kPanel];
    _mm256_store_ps(values, sums[r][0]);
    _mm256_store_ps(values + 8, sums[r][1]);
    __builtin_memcpy(out + r * ldy, values, static_cast<size_t>(left < kPanel ? left : kPanel) * sizeof(float));
  }
}

template <class Type>
void product(const Part& part, const Activations::Impl& x, const Span& span, float* y, int64_t ldy) {
  for (int64_t panel = span.panel_begin; panel < span.panel_end; ++panel) {
    for (int64_t row = span.row_begin; row < span.row_end; row += kQuad) {
      switch (span.row_end - row) {
        case 1:
          run_tile<Type, 1>(part, x, panel, row, y, ldy);
          break;
        case 2:
          run_tile<Type, 2>(part, x, panel, row, y, ldy);
          break;
        case 3:
          run_tile<Type, 3>(part, x, panel, row, y, ldy);
          break;
        default:
          run_tile<Type, 4>(part, x, panel, row, y, ldy);
          break;
      }
    }
  }
}

}  // namespace

void product_f32(const Part& part, const Activations::Impl& x, const Span& span, float* y, int64_t ldy) {
  product<F32>(part, x, span, y, ldy);
}

void product_f16(const Part& part, const Activations::Impl& x, const Span& span, float* y, int64_t ldy) {
  product<F16>(part, x, span, y, ldy);
}

void product_bf16(const Part& part, const Activations::Impl& x, const Span& span, float* y, int64_t ldy) {
  product<Bf16>(part, x, span, y, ldy);
}

}  // namespace octavo::avx2
