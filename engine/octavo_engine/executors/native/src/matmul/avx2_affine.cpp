// Products with quantized weights on AVX2: u8 by s8 with vpmaddubsw, whose 16-bit sums cannot saturate here.
//
// A pair of products is at most 2 * 127 * code: with codes of 4, 5 and 6 bits, 8, 4 and 2 quads can be added in
// 16 bits. Codes of 8 bits go in as signed: |w| * sign(w) x, at most 2 * 128 * 127 = 32512.
// A tile is half a panel (8 outputs) by up to 4 rows.
#include <immintrin.h>

#include "kernels.h"

namespace octavo::avx2 {
namespace {

inline __m256i load(const uint8_t* from) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(from)); }

inline __m256 half(const uint8_t* from) {
  return _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i*>(from)));
}

inline __m256 unsigned_bytes(const uint8_t* from) {
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
}

inline __m256 signed_bytes(const uint8_t* from) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
}

// Bit `from` of each byte moved to bit 4; bits that come from a neighbour are masked off by the caller.
template <int From>
inline __m256i move_bits(__m256i plane) {
  if constexpr (From < 4) return _mm256_slli_epi16(plane, 4 - From);
  if constexpr (From > 4) return _mm256_srli_epi16(plane, From - 4);
  return plane;
}

// Quad `J` of eight outputs: signed for 8 bits, codes else. `group` points at the half panel's first byte.
template <int Bits, int J>
inline __m256i quad_of(const uint8_t* group) {
  if constexpr (Bits == 8) return _mm256_xor_si256(load(group + J * 64), _mm256_set1_epi8(-128));
  const __m256i both = load(group + J % 4 * 64);
  const __m256i codes = _mm256_and_si256(J < 4 ? both : _mm256_srli_epi16(both, 4), _mm256_set1_epi8(15));
  if constexpr (Bits == 5) {
    return _mm256_or_si256(codes, _mm256_and_si256(move_bits<J>(load(group + 256)), _mm256_set1_epi8(16)));
  } else if constexpr (Bits == 6) {
    const __m256i plane = load(group + 256 + J / 4 * 64);
    return _mm256_or_si256(codes, _mm256_and_si256(move_bits<J % 4 * 2>(plane), _mm256_set1_epi8(48)));
  }
  return codes;
}

struct ScaleSet {
  __m256 first;
  __m256 second;
  __m256 minimum;
};

// `lane` is 0 or 8.
template <Scales Kind>
inline ScaleSet scales_of(const uint8_t* area, int64_t group, int64_t lane) {
  ScaleSet set;
  set.second = set.minimum = _mm256_setzero_ps();
  if constexpr (Kind == Scales::Single) {
    set.first = half(area + group * 32 + lane * 2);
  } else if constexpr (Kind == Scales::Min) {
    set.first = half(area + group * 64 + lane * 2);
    set.minimum = half(area + group * 64 + 32 + lane * 2);
  } else if constexpr (Kind == Scales::Super) {
    const uint8_t* super = area + group / 8 * 320;
    const uint8_t* bytes = super + 64 + group % 8 * 32 + lane;
    set.first = _mm256_mul_ps(half(super + lane * 2), unsigned_bytes(bytes));
    const __m256 product = _mm256_mul_ps(half(super + 32 + lane * 2), unsigned_bytes(bytes + 16));
    set.minimum = _mm256_sub_ps(_mm256_setzero_ps(), product);
  } else {
    const uint8_t* super = area + group / 8 * 288;
    const uint8_t* bytes = super + 32 + group % 8 * 32 + lane;
    const __m256 d = half(super + lane * 2);
    set.first = _mm256_mul_ps(d, signed_bytes(bytes));
    set.second = _mm256_mul_ps(d, signed_bytes(bytes + 16));
  }
  return set;
}

// Quads [J, End) times each row, added in 16 bits.
template <int Bits, int J, int End, int Rows>
inline void add_words(const uint8_t* group, const Q8Group* x, __m256i (&words)[Rows]) {
  const __m256i quad = quad_of<Bits, J>(group);
  const __m256i sizes = Bits == 8 ? _mm256_abs_epi8(quad) : quad;
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r) {
    int32_t word;
    __builtin_memcpy(&word, x[r].q + J * 4, sizeof word);
    const __m256i values = _mm256_set1_epi32(word);
    const __m256i pairs = _mm256_maddubs_epi16(sizes, Bits == 8 ? _mm256_sign_epi8(values, quad) : values);
    words[r] = _mm256_add_epi16(words[r], pairs);
  }
  if constexpr (J + 1 < End) add_words<Bits, J + 1, End, Rows>(group, x, words);
}

// Quads [J, End) times each row, added in 32 bits.
template <int Bits, int J, int End, int Rows>
inline void add_quads(const uint8_t* group, const Q8Group* x, __m256i (&sums)[Rows]) {
  constexpr int fit = Bits == 4 ? 8 : Bits == 5 ? 4 : Bits == 6 ? 2 : 1;
  constexpr int next = J + fit < End ? J + fit : End;
  __m256i words[Rows];
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r) words[r] = _mm256_setzero_si256();
  add_words<Bits, J, next, Rows>(group, x, words);
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r) {
    sums[r] = _mm256_add_epi32(sums[r], _mm256_madd_epi16(words[r], _mm256_set1_epi16(1)));
  }
  if constexpr (next < End) add_quads<Bits, next, End, Rows>(group, x, sums);
}

// Integer sums of quads [J, End) with each row, times scales, added to the rows' sums. `from` is what they begin at.
template <int Bits, int J, int End, int Rows>
inline void add_scaled(const uint8_t* group, const Q8Group* x, __m256 scale, __m256i (&from)[Rows],
                       __m256 (&sums)[Rows]) {
  add_quads<Bits, J, End, Rows>(group, x, from);
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r) {
    const __m256 both = _mm256_mul_ps(scale, _mm256_set1_ps(x[r].scale));
    sums[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(from[r]), both, sums[r]);
  }
}

template <Format F, int Rows>
void run_tile(const Part& part, const Activations::Impl& x, int64_t panel, int64_t lane, int64_t row, float* y,
              int64_t ldy) {
  constexpr FormatInfo info = info_of(F);
  constexpr int zero = info.bits == 8 ? 0 : info.zero;
  const uint8_t* area = part.data + panel * part.panel_bytes;
  const uint8_t* values = area + part.scale_bytes + lane * 4;
  const auto* quad = reinterpret_cast<const Q8Group*>(x.data + row / kQuad * x.quad_bytes);
  const int64_t groups = part.k / kGroup;
  // The next panel, scales and all, is fetched while this one is used, half of each group's lines with each half.
  const int64_t stride = part.panel_bytes / groups;
  const uint8_t* next = area + part.panel_bytes + (lane == 0 ? 0 : 64);
  __m256 sums[Rows];
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r) sums[r] = _mm256_setzero_ps();
  for (int64_t group = 0; group < groups; ++group, quad += kQuad) {
    const uint8_t* codes = values + group * info.bits * 64;
#pragma GCC unroll 5
    for (int j = 0; j <= info.bits; j += 2) {
      _mm_prefetch(reinterpret_cast<const char*>(next + group * stride + j * 64), _MM_HINT_T0);
    }
    const ScaleSet scales = scales_of<info.scales>(area, group, lane);
    __m256i from[Rows];
    if constexpr (info.scales == Scales::Half) {
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) from[r] = _mm256_set1_epi32(zero * quad[r].minus_first);
      add_scaled<info.bits, 0, 4, Rows>(codes, quad, scales.first, from, sums);
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) {
        from[r] = _mm256_set1_epi32(zero * (quad[r].minus_sum - quad[r].minus_first));
      }
      add_scaled<info.bits, 4, 8, Rows>(codes, quad, scales.second, from, sums);
    } else {
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) from[r] = _mm256_set1_epi32(zero * quad[r].minus_sum);
      add_scaled<info.bits, 0, 8, Rows>(codes, quad, scales.first, from, sums);
    }
    if constexpr (info.scales == Scales::Min || info.scales == Scales::Super) {
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) {
        sums[r] = _mm256_fmadd_ps(scales.minimum, _mm256_set1_ps(quad[r].scaled_sum), sums[r]);
      }
    }
  }
  const int64_t left = part.n - panel * kPanel - lane;
  float* out = y + row * ldy + part.column + panel * kPanel + lane;
  for (int r = 0; r < Rows; ++r) {
    alignas(32) float lanes[8];
    _mm256_store_ps(lanes, sums[r]);
    __builtin_memcpy(out + r * ldy, lanes, static_cast<size_t>(left < 8 ? left : 8) * sizeof(float));
  }
}

template <Format F>
void product(const Part& part, const Activations::Impl& x, const Span& span, float* y, int64_t ldy) {
  for (int64_t panel = span.panel_begin; panel < span.panel_end; ++panel) {
    for (int64_t row = span.row_begin; row < span.row_end; row += kQuad) {
      for (int64_t lane = 0; lane < kPanel && panel * kPanel + lane < part.n; lane += 8) {
        switch (span.row_end - row) {
          case 1:
            run_tile<F, 1>(part, x, panel, lane, row, y, ldy);
            break;
          case 2:
            run_tile<F, 2>(part, x, panel, lane, row, y, ldy);
            break;
          case 3:
            run_tile<F, 3>(part, x, panel, lane, row, y, ldy);
            break;
          default:
            run_tile<F, 4>(part, x, panel, lane, row, y, ldy);
            break;
        }
      }
    }
  }
}

}  // namespace

void product_affine(const Part& part, const Activations::Impl& x, const Span& span, float* y, int64_t ldy) {
  with_quantized(part.format, [&](auto format) { product<format.value>(part, x, span, y, ldy); });
}

}  // namespace octavo::avx2
