// Codes and scales of quantized panels in AVX-512 registers.
#pragma once
#include <immintrin.h>

#include "layout.h"

namespace octavo::avx512 {

static inline __m512i load(const uint8_t* from) { return _mm512_load_si512(from); }

static inline __m512 half(const uint8_t* from) {
  return _mm512_cvtph_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(from)));
}

static inline __m128i load16(const uint8_t* from) { return _mm_load_si128(reinterpret_cast<const __m128i*>(from)); }

static inline __m512 unsigned_bytes(const uint8_t* from) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(load16(from)));
}

static inline __m512 signed_bytes(const uint8_t* from) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load16(from)));
}

// (words << or >> so that bit `from` comes to bit 4) & mask, ored to codes.
template <int From>
static inline __m512i with_high_bits(__m512i codes, __m512i plane, __m512i mask) {
  __m512i moved = plane;
  if constexpr (From < 4) moved = _mm512_slli_epi16(plane, 4 - From);
  if constexpr (From > 4) moved = _mm512_srli_epi16(plane, From - 4);
  return _mm512_ternarylogic_epi32(codes, moved, mask, 0xf8);  // codes | (moved & mask)
}

// The eight quads of a group as bytes.
template <int Bits>
static inline void unpack(const uint8_t* group, __m512i (&quads)[8]) {
  if constexpr (Bits == 8) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) quads[j] = load(group + j * 64);
    return;
  }
  const __m512i nibble = _mm512_set1_epi8(15);
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512i both = load(group + j * 64);
    quads[j] = _mm512_and_si512(both, nibble);
    quads[j + 4] = _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble);
  }
  if constexpr (Bits == 5) {
    const __m512i plane = load(group + 256);
    const __m512i mask = _mm512_set1_epi8(16);
    quads[0] = with_high_bits<0>(quads[0], plane, mask);
    quads[1] = with_high_bits<1>(quads[1], plane, mask);
    quads[2] = with_high_bits<2>(quads[2], plane, mask);
    quads[3] = with_high_bits<3>(quads[3], plane, mask);
    quads[4] = with_high_bits<4>(quads[4], plane, mask);
    quads[5] = with_high_bits<5>(quads[5], plane, mask);
    quads[6] = with_high_bits<6>(quads[6], plane, mask);
    quads[7] = with_high_bits<7>(quads[7], plane, mask);
  } else if constexpr (Bits == 6) {
    const __m512i mask = _mm512_set1_epi8(48);
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      const __m512i plane = load(group + 256 + h * 64);
      quads[h * 4] = with_high_bits<0>(quads[h * 4], plane, mask);
      quads[h * 4 + 1] = with_high_bits<2>(quads[h * 4 + 1], plane, mask);
      quads[h * 4 + 2] = with_high_bits<4>(quads[h * 4 + 2], plane, mask);
      quads[h * 4 + 3] = with_high_bits<6>(quads[h * 4 + 3], plane, mask);
    }
  }
}

// Scales of a group for 16 outputs; `second` is that of the group's second half where it has its own.
struct ScaleSet {
  __m512 first;
  __m512 second;
  __m512 minimum;
};

template <Scales Kind>
static inline ScaleSet scales_of(const uint8_t* area, int64_t group) {
  ScaleSet set{};
  if constexpr (Kind == Scales::Single) {
    set.first = half(area + group * 32);
  } else if constexpr (Kind == Scales::Min) {
    set.first = half(area + group * 64);
    set.minimum = half(area + group * 64 + 32);
  } else if constexpr (Kind == Scales::Super) {
    const uint8_t* super = area + group / 8 * 320;
    const uint8_t* bytes = super + 64 + group % 8 * 32;
    set.first = _mm512_mul_ps(half(super), unsigned_bytes(bytes));
    set.minimum = _mm512_mul_ps(_mm512_sub_ps(_mm512_setzero_ps(), half(super + 32)), unsigned_bytes(bytes + 16));
  } else {
    const uint8_t* super = area + group / 8 * 288;
    const uint8_t* bytes = super + 32 + group % 8 * 32;
    const __m512 d = half(super);
    set.first = _mm512_mul_ps(d, signed_bytes(bytes));
    set.second = _mm512_mul_ps(d, signed_bytes(bytes + 16));
  }
  return set;
}

}  // namespace octavo::avx512
