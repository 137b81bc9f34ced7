// Products with quantized weights: a group's integer sums by vpdpbusd (u8 weights, s8 activations), then one
// multiply-add in float32 per group. Codes are unpacked in registers, once for up to 12 rows; from kManyRows on, in
// avx512_affine_many.cpp.
#include "avx512_affine.h"

#include <immintrin.h>

#include "avx512_tiles.h"
#include "avx512_unpack.h"

namespace octavo::avx512 {
namespace {

// Rows [First, First + Count) of a tile times one group, added to their sums. `x` is the group of the tile's row 0.
template <Format F, int First, int Count>
inline void add_group(const __m512i (&quads)[8], const ScaleSet& scales, const uint8_t* x, int64_t quad_bytes,
                      __m512* sums) {
  constexpr FormatInfo info = info_of(F);
  // One or two rows alone would wait for the latency of eight dependent sums: they get two shorter chains.
  constexpr bool two_sums = info.scales == Scales::Half || Count <= 2;
  const auto row = [x, quad_bytes](int r) -> const Q8Group& {
    return reinterpret_cast<const Q8Group*>(x + (First + r) / kQuad * quad_bytes)[(First + r) % kQuad];
  };
  __m512i low[Count];
  __m512i high[Count];
#pragma GCC unroll 8
  for (int r = 0; r < Count; ++r) {
    low[r] = beginning<info.zero>(two_sums ? row(r).minus_first : row(r).minus_sum);
    high[r] = two_sums ? _mm512_sub_epi32(beginning<info.zero>(row(r).minus_sum), low[r]) : low[r];
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
#pragma GCC unroll 8
    for (int r = 0; r < Count; ++r) low[r] = _mm512_dpbusd_epi32(low[r], quads[j], quad_at(row(r), j));
  }
#pragma GCC unroll 4
  for (int j = 4; j < 8; ++j) {
#pragma GCC unroll 8
    for (int r = 0; r < Count; ++r) {
      __m512i& sum = two_sums ? high[r] : low[r];
      sum = _mm512_dpbusd_epi32(sum, quads[j], quad_at(row(r), j));
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Count; ++r) {
    const __m512 scale = _mm512_set1_ps(row(r).scale);
    __m512& sum = sums[First + r];
    if constexpr (info.scales == Scales::Half) {
      sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(low[r]), _mm512_mul_ps(scales.first, scale), sum);
      sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(high[r]), _mm512_mul_ps(scales.second, scale), sum);
    } else {
      const __m512i dot = two_sums ? _mm512_add_epi32(low[r], high[r]) : low[r];
      sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_mul_ps(scales.first, scale), sum);
    }
    if constexpr (info.scales == Scales::Min || info.scales == Scales::Super) {
      sum = _mm512_fmadd_ps(scales.minimum, _mm512_set1_ps(row(r).scaled_sum), sum);
    }
  }
}

template <Format F, int Rows>
void run_tile(const Part& part, const Activations::Impl& x, int64_t panel, int64_t row, int64_t rows,
              const TileIndex& index, float* y, int64_t ldy) {
  constexpr FormatInfo info = info_of(F);
  constexpr int64_t group_bytes = info.bits * 64;
  constexpr int batch = Rows > 8 ? Rows / 2 : Rows;  // of rows whose integer sums are in registers at once
  const uint8_t* area = part.data + panel * part.panel_bytes;
  const uint8_t* values = area + part.scale_bytes;
  const uint8_t* first = x.data + row / kQuad * x.quad_bytes;
  __m512 sums[Rows];
#pragma GCC unroll 12
  for (int r = 0; r < Rows; ++r) sums[r] = _mm512_setzero_ps();
  // Panels follow one another, so the next one, scales and all, is fetched while this one is used; the lines of a
  // group are shared out between the tiles of rows.
  const int64_t groups = part.k / kGroup;
  const uint8_t* next = area + part.panel_bytes;
  const int64_t stride = part.panel_bytes / groups;
  for (int64_t group = 0; group < groups; ++group) {
    const uint8_t* line = values + group * group_bytes;
    for (int64_t j = index.tile; j <= info.bits; j += index.tiles) {
      _mm_prefetch(reinterpret_cast<const char*>(next + group * stride + j * 64), _MM_HINT_T0);
    }
    __m512i quads[8];
    unpack<info.bits>(line, quads);
    const ScaleSet scales = scales_of<info.scales>(area, group);
    const uint8_t* from = first + group * kQuad * int64_t{sizeof(Q8Group)};
    add_group<F, 0, batch>(quads, scales, from, x.quad_bytes, sums);
    if constexpr (batch < Rows) add_group<F, batch, Rows - batch>(quads, scales, from, x.quad_bytes, sums);
  }
  const int64_t left = part.n - panel * kPanel;
  const auto mask = static_cast<__mmask16>((1u << (left < kPanel ? left : kPanel)) - 1u);
  float* out = y + row * ldy + part.column + panel * kPanel;
#pragma GCC unroll 12
  for (int r = 0; r < Rows; ++r) {
    if (r < rows) _mm512_mask_storeu_ps(out + r * ldy, mask, sums[r]);
  }
}

template <Format F>
void run_rows(const Part& part, const Activations::Impl& x, int64_t panel, int64_t row, int64_t rows,
              const TileIndex& index, float* y, int64_t ldy) {
  switch (rows) {
    case 1:
      return run_tile<F, 1>(part, x, panel, row, rows, index, y, ldy);
    case 2:
      return run_tile<F, 2>(part, x, panel, row, rows, index, y, ldy);
    case 3:
      return run_tile<F, 3>(part, x, panel, row, rows, index, y, ldy);
    case 4:
      return run_tile<F, 4>(part, x, panel, row, rows, index, y, ldy);
    default:
      break;
  }
  if (rows <= 8) return run_tile<F, 8>(part, x, panel, row, rows, index, y, ldy);
  run_tile<F, 12>(part, x, panel, row, rows, index, y, ldy);
}

template <Format F>
void product(const Part& part, const Activations::Impl& x, const Span& span, float* y, int64_t ldy) {
  for (int64_t panel = span.panel_begin; panel < span.panel_end; ++panel) {
    TileIndex index{0, tiles_of(span.row_end - span.row_begin)};
    for (int64_t row = span.row_begin; row < span.row_end; ++index.tile) {
      const int64_t rows = tile_rows(span.row_end - row);
      run_rows<F>(part, x, panel, row, rows, index, y, ldy);
      row += rows;
    }
  }
}

}  // namespace

void product_affine(const Part& part, const Activations::Impl& x, const Span& span, float* y, int64_t ldy) {
  if (span.row_end - span.row_begin >= kManyRows) return product_affine_many(part, x, span, y, ldy);
  with_quantized(part.format, [&](auto format) { product<format.value>(part, x, span, y, ldy); });
}

}  // namespace octavo::avx512
