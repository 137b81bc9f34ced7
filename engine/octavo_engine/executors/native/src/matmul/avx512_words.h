// Activations of 32-bit words (a float32, or a pair of bf16) into quads of rows.
//
// `Type` says how many values make a word and how 16 words are loaded.
#pragma once
#include <immintrin.h>

#include "kernels.h"

namespace octavo::avx512 {
namespace {  // each file that includes this has its own copies, compiled for its own instruction set

uint8_t* quad_of(const Activations::Impl& x, int64_t row) { return x.data + row / kQuad * x.quad_bytes; }

// 16 words of each of four rows, side by side.
void store_quad(const __m512i (&rows)[4], uint8_t* out) {
  const __m512i low_ab = _mm512_unpacklo_epi32(rows[0], rows[1]);
  const __m512i high_ab = _mm512_unpackhi_epi32(rows[0], rows[1]);
  const __m512i low_cd = _mm512_unpacklo_epi32(rows[2], rows[3]);
  const __m512i high_cd = _mm512_unpackhi_epi32(rows[2], rows[3]);
  // Each 128-bit lane l of word[i] holds word 4l + i of the four rows.
  const __m512i word[4] = {_mm512_unpacklo_epi64(low_ab, low_cd), _mm512_unpackhi_epi64(low_ab, low_cd),
                           _mm512_unpacklo_epi64(high_ab, high_cd), _mm512_unpackhi_epi64(high_ab, high_cd)};
  const __m512i front01 = _mm512_shuffle_i32x4(word[0], word[1], 0x44);
  const __m512i front23 = _mm512_shuffle_i32x4(word[2], word[3], 0x44);
  const __m512i back01 = _mm512_shuffle_i32x4(word[0], word[1], 0xee);
  const __m512i back23 = _mm512_shuffle_i32x4(word[2], word[3], 0xee);
  _mm512_store_si512(out, _mm512_shuffle_i32x4(front01, front23, 0x88));
  _mm512_store_si512(out + 64, _mm512_shuffle_i32x4(front01, front23, 0xdd));
  _mm512_store_si512(out + 128, _mm512_shuffle_i32x4(back01, back23, 0x88));
  _mm512_store_si512(out + 192, _mm512_shuffle_i32x4(back01, back23, 0xdd));
}

// 16 words of one row, among the words of its quad.
void store_row(__m512i words, int64_t count, uint8_t* out) {
  alignas(64) int32_t lanes[16];
  _mm512_store_si512(lanes, words);
  auto* to = reinterpret_cast<int32_t*>(out);
  for (int64_t i = 0; i < count; ++i) to[i * kQuad] = lanes[i];
}

template <class Type>
void prepare_words(const Activations::Impl& to, const float* x, int64_t ldx, int64_t m_begin, int64_t m_end) {
  constexpr int64_t values = 16 * Type::kValues;
  for (int64_t m = m_begin; m < m_end;) {
    const float* row = x + (m - m_begin) * ldx;
    uint8_t* out = quad_of(to, m) + m % kQuad * 4;
    const bool whole = m % kQuad == 0 && m + kQuad <= m_end;
    const int64_t rows = whole ? kQuad : 1;
    for (int64_t k = 0; k < to.k; k += values) {
      uint8_t* line = out + k / Type::kValues * kQuad * 4;
      const int64_t left = to.k - k;
      __m512i words[4];
      for (int64_t r = 0; r < rows; ++r) words[r] = Type::words(row + r * ldx + k, left);
      if (whole && left >= values) {
        store_quad(words, line);
      } else {
        const int64_t count = left >= values ? 16 : (left + Type::kValues - 1) / Type::kValues;
        for (int64_t r = 0; r < rows; ++r) store_row(words[r], count, line + r * 4);
      }
    }
    m += rows;
  }
}

}  // namespace
}  // namespace octavo::avx512
