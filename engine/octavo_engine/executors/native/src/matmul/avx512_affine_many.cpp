// Products of many rows with quantized weights, bound by arithmetic: up to 768 columns of two panels are unpacked to
// bytes and float32 scales in the L1 cache, then used for all rows, four at a time.
#include "avx512_affine.h"
#include "avx512_unpack.h"

namespace octavo::avx512 {
namespace {

constexpr int64_t kChunk = 24;  // groups: 30 KiB unpacked

// `other` is the minimum, or the scale of the second half of a group where halves have their own.
struct alignas(64) UnpackedGroup {
  uint8_t quads[8][64];
  float scale[16];
  float other[16];
};

template <Format F>
void unpack_groups(const Part& part, int64_t panel, int64_t begin, int64_t end, UnpackedGroup* to) {
  constexpr FormatInfo info = info_of(F);
  const uint8_t* area = part.data + panel * part.panel_bytes;
  const uint8_t* values = area + part.scale_bytes;
  for (int64_t group = begin; group < end; ++group, ++to) {
    __m512i quads[8];
    unpack<info.bits>(values + group * info.bits * 64, quads);
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) _mm512_store_si512(to->quads[j], quads[j]);
    const ScaleSet scales = scales_of<info.scales>(area, group);
    _mm512_store_ps(to->scale, scales.first);
    _mm512_store_ps(to->other, info.scales == Scales::Half ? scales.second : scales.minimum);
  }
}

// Four rows by `Panels` panels; the groups of the second panel follow those of the first.
template <Scales Kind, int Zero, int Panels>
inline void add_groups(const UnpackedGroup* w, int64_t groups, const Q8Group* x, __m512 (&sums)[kQuad][Panels]) {
  for (int64_t group = 0; group < groups; ++group, x += kQuad) {
    __m512i dots[kQuad][Panels];
    __m512i halves[kQuad][Panels];
#pragma GCC unroll 4
    for (int r = 0; r < kQuad; ++r) {
      const __m512i begin = beginning<Zero>(Kind == Scales::Half ? x[r].minus_first : x[r].minus_sum);
#pragma GCC unroll 2
      for (int p = 0; p < Panels; ++p) dots[r][p] = begin;
    }
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      if (Kind == Scales::Half && j == 4) {
#pragma GCC unroll 4
        for (int r = 0; r < kQuad; ++r) {
          const __m512i begin = _mm512_sub_epi32(beginning<Zero>(x[r].minus_sum), beginning<Zero>(x[r].minus_first));
#pragma GCC unroll 2
          for (int p = 0; p < Panels; ++p) {
            halves[r][p] = dots[r][p];
            dots[r][p] = begin;
          }
        }
      }
      __m512i weights[Panels];
#pragma GCC unroll 2
      for (int p = 0; p < Panels; ++p) weights[p] = _mm512_load_si512(w[p * groups + group].quads[j]);
#pragma GCC unroll 4
      for (int r = 0; r < kQuad; ++r) {
        const __m512i value = quad_at(x[r], j);
#pragma GCC unroll 2
        for (int p = 0; p < Panels; ++p) dots[r][p] = _mm512_dpbusd_epi32(dots[r][p], weights[p], value);
      }
    }
#pragma GCC unroll 2
    for (int p = 0; p < Panels; ++p) {
      const __m512 scale = _mm512_load_ps(w[p * groups + group].scale);
      const __m512 other = _mm512_load_ps(w[p * groups + group].other);
#pragma GCC unroll 4
      for (int r = 0; r < kQuad; ++r) {
        const __m512 row_scale = _mm512_set1_ps(x[r].scale);
        if constexpr (Kind == Scales::Half) {
          const __m512 first = _mm512_mul_ps(scale, row_scale);
          const __m512 second = _mm512_mul_ps(other, row_scale);
          sums[r][p] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(halves[r][p]), first, sums[r][p]);
          sums[r][p] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[r][p]), second, sums[r][p]);
        } else {
          const __m512 both = _mm512_mul_ps(scale, row_scale);
          sums[r][p] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[r][p]), both, sums[r][p]);
          if constexpr (Kind == Scales::Min) {
            sums[r][p] = _mm512_fmadd_ps(other, _mm512_set1_ps(x[r].scaled_sum), sums[r][p]);
          }
        }
      }
    }
  }
}

template <Format F, int Panels>
void run_panels(const Part& part, const Activations::Impl& x, int64_t panel, const Span& span, float* y, int64_t ldy) {
  constexpr FormatInfo info = info_of(F);
  constexpr Scales kind = info.scales == Scales::Super ? Scales::Min : info.scales;  // alike once unpacked
  const int64_t groups = part.k / kGroup;
  const int64_t chunks = (groups + kChunk - 1) / kChunk;
  const int64_t chunk = (groups + chunks - 1) / chunks;
  __mmask16 masks[Panels];
  for (int p = 0; p < Panels; ++p) {
    const int64_t left = part.n - (panel + p) * kPanel;
    masks[p] = static_cast<__mmask16>((1u << (left < kPanel ? left : kPanel)) - 1u);
  }
  UnpackedGroup unpacked[Panels * kChunk];
  // While these panels are used, as many bytes after them are fetched, a share with each four rows of each chunk.
  const int64_t shares = chunks * ((span.row_end - span.row_begin + kQuad - 1) / kQuad);
  const int64_t share = (Panels * part.panel_bytes / shares + 63) / 64 * 64;
  const uint8_t* next = part.data + (panel + Panels) * part.panel_bytes;
  for (int64_t begin = 0; begin < groups; begin += chunk) {
    const int64_t count = groups - begin < chunk ? groups - begin : chunk;
    for (int p = 0; p < Panels; ++p) unpack_groups<F>(part, panel + p, begin, begin + count, unpacked + p * count);
    for (int64_t row = span.row_begin; row < span.row_end; row += kQuad, next += share) {
      for (int64_t line = 0; line < share; line += 64) {
        _mm_prefetch(reinterpret_cast<const char*>(next + line), _MM_HINT_T1);
      }
      float* out = y + row * ldy + part.column + panel * kPanel;
      const int64_t rows = span.row_end - row;
      __m512 sums[kQuad][Panels];
#pragma GCC unroll 4
      for (int r = 0; r < kQuad; ++r) {
#pragma GCC unroll 2
        for (int p = 0; p < Panels; ++p) {
          sums[r][p] = _mm512_setzero_ps();  // without touching y: a load of a line not cached would be waited for
          if (begin > 0 && r < rows) sums[r][p] = _mm512_maskz_loadu_ps(masks[p], out + r * ldy + p * kPanel);
        }
      }
      const auto* quad = reinterpret_cast<const Q8Group*>(x.data + row / kQuad * x.quad_bytes);
      add_groups<kind, info.zero, Panels>(unpacked, count, quad + begin * kQuad, sums);
#pragma GCC unroll 4
      for (int r = 0; r < kQuad; ++r) {
#pragma GCC unroll 2
        for (int p = 0; p < Panels; ++p) {
          if (r < rows) _mm512_mask_storeu_ps(out + r * ldy + p * kPanel, masks[p], sums[r][p]);
        }
      }
    }
  }
}

template <Format F>
void product(const Part& part, const Activations::Impl& x, const Span& span, float* y, int64_t ldy) {
  int64_t panel = span.panel_begin;
  for (; panel + 2 <= span.panel_end; panel += 2) run_panels<F, 2>(part, x, panel, span, y, ldy);
  if (panel < span.panel_end) run_panels<F, 1>(part, x, panel, span, y, ldy);
}

}  // namespace

void product_affine_many(const Part& part, const Activations::Impl& x, const Span& span, float* y, int64_t ldy) {
  with_quantized(part.format, [&](auto format) { product<format.value>(part, x, span, y, ldy); });
}

}  // namespace octavo::avx512
