// Products with weights stored as floats, in tiles of up to 12 rows by 2 panels: 24 sums in registers.
//
// `Type` says how a step's line of a panel is loaded (64 or 32 bytes: two k in bf16, one k else) and multiplied.
#pragma once
#include <immintrin.h>

#include "avx512_tiles.h"
#include "kernels.h"

namespace octavo::avx512 {
namespace {  // each file that includes this has its own copies, compiled for its own instruction set

inline __m512i word_at(const uint8_t* from) {
  int32_t word;
  __builtin_memcpy(&word, from, sizeof word);
  return _mm512_set1_epi32(word);
}

// Far enough ahead for the latency of memory at full bandwidth, near enough to stay in the L1 cache.
constexpr int64_t kPrefetch = 4096;
constexpr int64_t kFewRows = 8;

// Every sum is one chain over k, whatever the number of rows, so that a row's result depends on no other row.
//
// Few rows are bound by memory: both panels are read as streams, their lines and those of the next two brought in
// ahead. Many are bound by arithmetic: every value loaded is used as often as registers allow, and meanwhile the panels
// after these are brought in, the lines of a step shared out between the tiles of rows.
template <class Type, int Rows, int Panels, bool Few>
inline void tile(const uint8_t* panel, int64_t panel_bytes, int64_t steps, const uint8_t* x, int64_t quad_bytes,
                 const TileIndex& index, __m512 (&sums)[Rows][Panels]) {
#pragma GCC unroll 2
  for (int64_t step = 0; step < steps; ++step) {
    const uint8_t* line = panel + step * Type::kLine;
    __m512i weights[Panels];
#pragma GCC unroll 2
    for (int p = 0; p < Panels; ++p) weights[p] = Type::load(line + p * panel_bytes);
    if constexpr (Few) {
      const int64_t ahead = step * Type::kLine + kPrefetch;
      const uint8_t* next = panel + ahead + (ahead < panel_bytes ? 0 : (Panels - 1) * panel_bytes);
#pragma GCC unroll 2
      for (int p = 0; p < Panels; ++p) {
        _mm_prefetch(reinterpret_cast<const char*>(next + p * panel_bytes), _MM_HINT_T0);
      }
    } else {
      for (int64_t p = index.tile; p < Panels; p += index.tiles) {
        _mm_prefetch(reinterpret_cast<const char*>(line + (Panels + p) * panel_bytes), _MM_HINT_T1);
      }
    }
#pragma GCC unroll 12
    for (int r = 0; r < Rows; ++r) {
      const __m512i value = word_at(x + r / kQuad * quad_bytes + step * 16 + r % kQuad * 4);
#pragma GCC unroll 2
      for (int p = 0; p < Panels; ++p) sums[r][p] = Type::add(sums[r][p], weights[p], value);
    }
  }
}

template <class Type, int Rows, int Panels, bool Few>
void run_tile(const Part& part, const Activations::Impl& x, int64_t panel, int64_t row, int64_t rows,
              const TileIndex& index, float* y, int64_t ldy) {
  __m512 sums[Rows][Panels];
#pragma GCC unroll 12
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 2
    for (int p = 0; p < Panels; ++p) sums[r][p] = _mm512_setzero_ps();
  }
  const int64_t steps = part.format == Format::BF16 ? (part.k + 1) / 2 : part.k;
  const uint8_t* lines = part.data + panel * part.panel_bytes;
  const uint8_t* quad = x.data + row / kQuad * x.quad_bytes;
  tile<Type, Rows, Panels, Few>(lines, part.panel_bytes, steps, quad, x.quad_bytes, index, sums);
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
void run_few_rows(const Part& part, const Activations::Impl& x, int64_t panel, int64_t row, int64_t rows, float* y,
                  int64_t ldy) {
  switch (rows) {
    case 1:
      return run_tile<Type, 1, Panels, true>(part, x, panel, row, rows, {}, y, ldy);
    case 2:
      return run_tile<Type, 2, Panels, true>(part, x, panel, row, rows, {}, y, ldy);
    case 3:
      return run_tile<Type, 3, Panels, true>(part, x, panel, row, rows, {}, y, ldy);
    case 4:
      return run_tile<Type, 4, Panels, true>(part, x, panel, row, rows, {}, y, ldy);
    default:
      return run_tile<Type, 8, Panels, true>(part, x, panel, row, rows, {}, y, ldy);
  }
}

template <class Type, int Panels>
void run_many_rows(const Part& part, const Activations::Impl& x, int64_t panel, int64_t row, int64_t rows,
                   const TileIndex& index, float* y, int64_t ldy) {
  if (rows <= 4) return run_tile<Type, 4, Panels, false>(part, x, panel, row, rows, index, y, ldy);
  if (rows <= 8) return run_tile<Type, 8, Panels, false>(part, x, panel, row, rows, index, y, ldy);
  run_tile<Type, 12, Panels, false>(part, x, panel, row, rows, index, y, ldy);
}

template <class Type, int Panels>
void run_panels(const Part& part, const Activations::Impl& x, int64_t panel, const Span& span, float* y, int64_t ldy) {
  const int64_t count = span.row_end - span.row_begin;
  if (count <= kFewRows) return run_few_rows<Type, Panels>(part, x, panel, span.row_begin, count, y, ldy);
  TileIndex index{0, tiles_of(count)};
  for (int64_t row = span.row_begin; row < span.row_end; ++index.tile) {
    const int64_t rows = tile_rows(span.row_end - row);
    run_many_rows<Type, Panels>(part, x, panel, row, rows, index, y, ldy);
    row += rows;
  }
}

template <class Type>
void product(const Part& part, const Activations::Impl& x, const Span& span, float* y, int64_t ldy) {
  int64_t panel = span.panel_begin;
  // Up to four rows are read faster as one stream than as two.
  const bool pairs = span.row_end - span.row_begin > 4;
  for (; pairs && panel + 2 <= span.panel_end; panel += 2) run_panels<Type, 2>(part, x, panel, span, y, ldy);
  for (; panel < span.panel_end; ++panel) run_panels<Type, 1>(part, x, panel, span, y, ldy);
}

}  // namespace
}  // namespace octavo::avx512
