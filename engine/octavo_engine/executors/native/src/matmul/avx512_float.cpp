// Products with weights stored as floats, in tiles of up to 12 rows by 2 panels: 24 sums in registers.
#include <immintrin.h>

#include "kernels.h"

namespace octavo::avx512 {
namespace {

// A step takes one 64- or 32-byte line of a panel: two k in bf16, one k else.
struct Bf16 {
  static constexpr int64_t kLine = 64;
  static __m512 add(__m512 sum, __m512i weights, __m512i x) {
    return _mm512_dpbf16_ps(sum, (__m512bh)weights, (__m512bh)x);
  }
  static __m512i load(const uint8_t* line) { return _mm512_load_si512(line); }
};

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

constexpr int64_t kPrefetch = 2048;

template <class Type, int Rows, int Panels>
inline void tile(const uint8_t* panel, int64_t panel_bytes, int64_t steps, const uint8_t* x, int64_t quad_bytes,
                 __m512 (&sums)[Rows][Panels]) {
  for (int64_t step = 0; step < steps; ++step) {
    __m512i weights[Panels];
#pragma GCC unroll 4
    for (int p = 0; p < Panels; ++p) {
      const uint8_t* line = panel + p * panel_bytes + step * Type::kLine;
      _mm_prefetch(reinterpret_cast<const char*>(line + kPrefetch), _MM_HINT_T0);
      weights[p] = Type::load(line);
    }
#pragma GCC unroll 12
    for (int r = 0; r < Rows; ++r) {
      int32_t word;
      __builtin_memcpy(&word, x + r / kQuad * quad_bytes + step * 16 + r % kQuad * 4, sizeof word);
      const __m512i value = _mm512_set1_epi32(word);
#pragma GCC unroll 4
      for (int p = 0; p < Panels; ++p) sums[r][p] = Type::add(sums[r][p], weights[p], value);
    }
  }
}

template <class Type, int Rows, int Panels>
void run_tile(const Part& part, const Activations::Impl& x, int64_t panel, int64_t row, int64_t rows, float* y,
              int64_t ldy) {
  __m512 sums[Rows][Panels];
#pragma GCC unroll 12
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int p = 0; p < Panels; ++p) sums[r][p] = _mm512_setzero_ps();
  }
  const int64_t steps = part.format == Format::BF16 ? (part.k + 1) / 2 : part.k;
  tile<Type, Rows, Panels>(part.data + panel * part.panel_bytes, part.panel_bytes, steps,
                           x.data + row / kQuad * x.quad_bytes, x.quad_bytes, sums);
  for (int p = 0; p < Panels; ++p) {
    const int64_t first = (panel + p) * kPanel;
    const int64_t width = part.n - first < kPanel ? part.n - first : kPanel;
    const auto mask = static_cast<__mmask16>((1u << width) - 1u);
    float* out = y + row * ldy + part.column + first;
#pragma GCC unroll 12
    for (int r = 0; r < Rows; ++r) {
      if (r < rows) _mm512_mask_storeu_ps(out + r * ldy, mask, sums[r][p]);
    }
  }
}

template <class Type, int Panels>
void run_rows(const Part& part, const Activations::Impl& x, int64_t panel, int64_t row, int64_t rows, float* y,
              int64_t ldy) {
  switch (rows) {
    case 1: return run_tile<Type, 1, Panels>(part, x, panel, row, rows, y, ldy);
    case 2: return run_tile<Type, 2, Panels>(part, x, panel, row, rows, y, ldy);
    case 3: return run_tile<Type, 3, Panels>(part, x, panel, row, rows, y, ldy);
    case 4: return run_tile<Type, 4, Panels>(part, x, panel, row, rows, y, ldy);
    default: break;
  }
  if (rows <= 8) return run_tile<Type, 8, Panels>(part, x, panel, row, rows, y, ldy);
  run_tile<Type, 12, Panels>(part, x, panel, row, rows, y, ldy);
}

template <class Type>
void product(const Part& part, const Activations::Impl& x, const Span& span, float* y, int64_t ldy) {
  for (int64_t panel = span.panel_begin; panel < span.panel_end; panel += 2) {
    for (int64_t row = span.row_begin; row < span.row_end;) {
      const int64_t left = span.row_end - row;
      // 16 rows as two tiles of 8, not 12 and 4.
      const int64_t rows = left > 12 && left <= 16 ? 8 : left < 12 ? left : 12;
      if (panel + 1 < span.panel_end) {
        run_rows<Type, 2>(part, x, panel, row, rows, y, ldy);
      } else {
        run_rows<Type, 1>(part, x, panel, row, rows, y, ldy);
      }
      row += rows;
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

}  // namespace octavo::avx512
