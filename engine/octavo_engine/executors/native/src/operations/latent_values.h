// Values that are elements of the keys: a chunk of key tiles, brought into the order in which `mix` reads values.
#pragma once
#include <cstdint>

#include "kv_elements.h"
#include "operations.h"
#include "simd.h"

namespace octavo {
namespace {

// Units of bf16 that `turn_pairs` takes at a time, and the pairs of tokens of each.
#if defined(OCTAVO_ISA_AVX512)
constexpr int kTurned = 8;
#elif defined(OCTAVO_ISA_AVX2)
constexpr int kTurned = 4;
#else
constexpr int kTurned = 1;
#endif

// A unit of keys has two elements of a token, one of values an element of two tokens: from two keys to two values.
inline void turn_pair(const uint32_t* from, uint32_t* to) {
  to[0] = (from[0] & 0xffffU) | (from[1] << 16);
  to[1] = (from[0] >> 16) | (from[1] & 0xffff0000U);
}

// kTurned units of kTurned pairs of tokens, 16 tokens apart, to kTurned pairs of as many units, `stride` apart.
inline void turn_pairs(const uint32_t* from, uint32_t* to, int64_t stride) {
#if defined(OCTAVO_ISA_AVX512)
  const __m512i halves = _mm512_set4_epi32(0x0f0e0b0a, 0x0d0c0908, 0x07060302, 0x05040100);
  __m512i r[8], t[8];
  OCTAVO_UNROLL
  for (int i = 0; i < 8; ++i) r[i] = _mm512_shuffle_epi8(_mm512_loadu_si512(from + i * 16), halves);
  OCTAVO_UNROLL
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm512_unpacklo_epi64(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi64(r[i], r[i + 1]);
  }
  OCTAVO_UNROLL
  for (int odd = 0; odd < 2; ++odd) {
    const __m512i a = _mm512_shuffle_i64x2(t[odd], t[odd + 2], 0x88),
                  b = _mm512_shuffle_i64x2(t[odd + 4], t[odd + 6], 0x88);
    const __m512i c = _mm512_shuffle_i64x2(t[odd], t[odd + 2], 0xdd),
                  d = _mm512_shuffle_i64x2(t[odd + 4], t[odd + 6], 0xdd);
    _mm512_storeu_si512(to + odd * stride, _mm512_shuffle_i64x2(a, b, 0x88));
    _mm512_storeu_si512(to + (odd + 2) * stride, _mm512_shuffle_i64x2(c, d, 0x88));
    _mm512_storeu_si512(to + (odd + 4) * stride, _mm512_shuffle_i64x2(a, b, 0xdd));
    _mm512_storeu_si512(to + (odd + 6) * stride, _mm512_shuffle_i64x2(c, d, 0xdd));
  }
#elif defined(OCTAVO_ISA_AVX2)
  const __m256i halves = _mm256_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15, 0, 1, 4, 5, 2, 3, 6, 7,
                                          8, 9, 12, 13, 10, 11, 14, 15);
  __m256i r[4];
  OCTAVO_UNROLL
  for (int i = 0; i < 4; ++i) r[i] = _mm256_shuffle_epi8(load_units(from + i * 16), halves);
  OCTAVO_UNROLL
  for (int odd = 0; odd < 2; ++odd) {
    const __m256i a = odd == 0 ? _mm256_unpacklo_epi64(r[0], r[1]) : _mm256_unpackhi_epi64(r[0], r[1]);
    const __m256i b = odd == 0 ? _mm256_unpacklo_epi64(r[2], r[3]) : _mm256_unpackhi_epi64(r[2], r[3]);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + odd * stride), _mm256_permute2x128_si256(a, b, 0x20));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + (odd + 2) * stride), _mm256_permute2x128_si256(a, b, 0x31));
  }
#else
  (void)stride;
  turn_pair(from, to);
#endif
}

// Values of a tile in bf16: [8 pairs of tokens][padded_v].
inline void turn_tile(const KvView& kv, const uint32_t* keys, Bf16Element, uint32_t* out) {
  const int64_t first = kv.values_from / 2, units = kv.head_dim_v / 2;
  int64_t i = 0;
  for (; i + kTurned <= units; i += kTurned) {
    for (int pair = 0; pair < 8; pair += kTurned) {
      turn_pairs(keys + (first + i) * 16 + 2 * pair, out + pair * kv.padded_v + 2 * i, kv.padded_v);
    }
  }
  for (; i < units; ++i) {
    for (int pair = 0; pair < 8; ++pair)
      turn_pair(keys + (first + i) * 16 + 2 * pair, out + pair * kv.padded_v + 2 * i);
  }
}

// In float: [16 tokens][padded_v].
inline void turn_tile(const KvView& kv, const uint32_t* keys, F32Element, uint32_t* out) {
  const uint32_t* from = keys + int64_t{kv.values_from} * 16;
  for (int64_t begin = 0; begin < kv.head_dim_v; begin += 16) {
    const int64_t end = begin + 16 < kv.head_dim_v ? begin + 16 : kv.head_dim_v;
    for (int64_t token = 0; token < 16; ++token) {
      for (int64_t d = begin; d < end; ++d) out[token * kv.padded_v + d] = from[d * 16 + token];
    }
  }
}

// Of the `n` tokens of `tiles`, the values into `out`, and where each tile's begin into `values`. What is left of a
// block's last owner is not among them: a weight of zero would not hide that.
template <class Element>
inline void turn_keys(const KvView& kv, const uint32_t* const* tiles, int32_t n, uint32_t* out,
                      const uint32_t** values) {
  constexpr int kRows = 16 / Element::kPack;
  for (int32_t t = 0; t * 16 < n; ++t) {
    uint32_t* tile = out + int64_t{t} * kRows * kv.padded_v;
    turn_tile(kv, tiles[t], Element{}, tile);
    for (int row = 0; row < kRows && kv.head_dim_v < kv.padded_v; ++row) {
      for (int32_t d = kv.head_dim_v; d < kv.padded_v; ++d) tile[row * kv.padded_v + d] = 0;
    }
    values[t] = tile;
  }
  if (Element::kPack == 2 && n % 2 != 0) {
    uint32_t* last = out + int64_t{n / 2} * kv.padded_v;
    for (int32_t d = 0; d < kv.head_dim_v; ++d) last[d] &= 0xffffU;
  }
}

}  // namespace
}  // namespace octavo
