// The two products of a low-rank adapter: from a row's input to its few numbers, and from these to its output.
//
// Each sum is one accumulator's, in the order of its terms, whatever rows are taken together: which they are changes no
// bit of a row's result.
#pragma once
#include <cstdint>

#include "operations.h"
#include "simd.h"

namespace octavo {
namespace {

struct F32Factor {
  using Element = float;
  static Vec at(const float* p) { return load(p); }
};

struct Bf16Factor {
  using Element = uint16_t;
  static Vec at(const uint16_t* p) { return load_bf16(p); }
};

// Numbers [first, first + Ranks) of rows [at, at + Rows) of args.rows.
template <class Factor, int Rows, int Ranks>
inline void low_rank_in_tile(const LowRankIn& args, int64_t at, int64_t first) {
  const auto* a = static_cast<const typename Factor::Element*>(args.a) + first * args.lda;
  const float* x[Rows];
  OCTAVO_UNROLL
  for (int i = 0; i < Rows; ++i) x[i] = args.x + args.rows[at + i] * args.ldx;
  Vec acc[Rows][Ranks];
  OCTAVO_UNROLL
  for (int i = 0; i < Rows; ++i) {
    OCTAVO_UNROLL
    for (int r = 0; r < Ranks; ++r) acc[i][r] = set(0.0F);
  }
  for (int64_t c = 0; c < args.k; c += kWidth) {
    Vec factors[Ranks];
    OCTAVO_UNROLL
    for (int r = 0; r < Ranks; ++r) factors[r] = Factor::at(a + r * args.lda + c);
    OCTAVO_UNROLL
    for (int i = 0; i < Rows; ++i) {
      const Vec v = c + kWidth <= args.k ? load(x[i] + c) : load_first(x[i] + c, args.k - c);
      OCTAVO_UNROLL
      for (int r = 0; r < Ranks; ++r) acc[i][r] = fma(v, factors[r], acc[i][r]);
    }
  }
  OCTAVO_UNROLL
  for (int i = 0; i < Rows; ++i) {
    OCTAVO_UNROLL
    for (int r = 0; r < Ranks; ++r) args.out[args.rows[at + i] * args.ldo + first + r] = sum(acc[i][r]);
  }
}

template <class Factor, int Rows, int Ranks>
inline void low_rank_in_rows(const LowRankIn& args, int64_t at) {
  int64_t r = 0;
  for (; r + Ranks <= args.rank; r += Ranks) low_rank_in_tile<Factor, Rows, Ranks>(args, at, r);
  for (; r < args.rank; ++r) low_rank_in_tile<Factor, Rows, 1>(args, at, r);
}

template <class Factor>
inline void low_rank_in_with(const LowRankIn& args) {
  int64_t i = 0;
  for (; i + 4 <= args.count; i += 4) low_rank_in_rows<Factor, 4, 4>(args, i);
  for (; i < args.count; ++i) low_rank_in_rows<Factor, 1, 8>(args, i);
}

// Columns [c, c + Vecs * kWidth) of one block, of which `n` exist, of rows [at, at + Rows) of args.rows.
template <class Factor, int Rows, int Vecs>
inline void low_rank_out_tile(const LowRankOut& args, int64_t at, int64_t c, int64_t n) {
  const auto* b = static_cast<const typename Factor::Element*>(args.b) + c / kLowRankBlock * kLowRankBlock * args.rank +
                  c % kLowRankBlock;
  float* y[Rows];
  const float* t[Rows];
  Vec acc[Rows][Vecs];
  OCTAVO_UNROLL
  for (int i = 0; i < Rows; ++i) {
    y[i] = args.y + args.rows[at + i] * args.ldy + (c - args.begin);
    t[i] = args.t + args.rows[at + i] * args.ldt;
    OCTAVO_UNROLL
    for (int v = 0; v < Vecs; ++v) {
      const int64_t left = n - v * kWidth;
      acc[i][v] = left >= kWidth ? load(y[i] + v * kWidth) : load_first(y[i] + v * kWidth, left > 0 ? left : 0);
    }
  }
  for (int64_t r = 0; r < args.rank; ++r) {
    Vec factors[Vecs];
    OCTAVO_UNROLL
    for (int v = 0; v < Vecs; ++v) factors[v] = Factor::at(b + r * kLowRankBlock + v * kWidth);
    OCTAVO_UNROLL
    for (int i = 0; i < Rows; ++i) {
      const Vec number = set(t[i][r]);
      OCTAVO_UNROLL
      for (int v = 0; v < Vecs; ++v) acc[i][v] = fma(number, factors[v], acc[i][v]);
    }
  }
  OCTAVO_UNROLL
  for (int i = 0; i < Rows; ++i) {
    OCTAVO_UNROLL
    for (int v = 0; v < Vecs; ++v) {
      const int64_t left = n - v * kWidth;
      if (left >= kWidth) {
        store(y[i] + v * kWidth, acc[i][v]);
      } else if (left > 0) {
        store_first(y[i] + v * kWidth, acc[i][v], left);
      }
    }
  }
}

template <class Factor, int Vecs>
inline void low_rank_out_columns(const LowRankOut& args, int64_t c, int64_t n) {
  int64_t i = 0;
  for (; i + 4 <= args.count; i += 4) low_rank_out_tile<Factor, 4, Vecs>(args, i, c, n);
  for (; i < args.count; ++i) low_rank_out_tile<Factor, 1, Vecs>(args, i, c, n);
}

template <class Factor>
inline void low_rank_out_with(const LowRankOut& args) {
  constexpr int kHalf = kWidth >= 16 ? 1 : 16 / kWidth;
  for (int64_t c = args.begin; c < args.end;) {
    const int64_t n = args.end - c;
    if (c % kLowRankBlock == 0 && n > kLowRankBlock / 2) {
      low_rank_out_columns<Factor, 2 * kHalf>(args, c, n);
      c += kLowRankBlock;
    } else {
      low_rank_out_columns<Factor, kHalf>(args, c, n);
      c += kLowRankBlock / 2;
    }
  }
}

inline void low_rank_in_any(const LowRankIn& args) {
  args.bf16 ? low_rank_in_with<Bf16Factor>(args) : low_rank_in_with<F32Factor>(args);
}

inline void low_rank_out_any(const LowRankOut& args) {
  args.bf16 ? low_rank_out_with<Bf16Factor>(args) : low_rank_out_with<F32Factor>(args);
}

}  // namespace
}  // namespace octavo
