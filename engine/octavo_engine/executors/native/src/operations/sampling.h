// Scans over one row of logits, and Gumbel noise.
#pragma once
#include <cstdint>

#include "elementary.h"
#include "operations.h"
#include "rows.h"
#include "simd.h"

namespace octavo {
namespace {

inline void finish_row(float* logits, const float* bias, int64_t n, float multiplier, float soft_cap) {
  if (bias != nullptr) {
    for_vectors(n, [&](int64_t i, auto get, auto put) { put(logits + i, get(logits + i) + get(bias + i)); });
  }
  const Vec m = set(multiplier);
  if (soft_cap > 0.0F) {
    const Vec cap = set(soft_cap), inverse = set(1.0F / soft_cap);
    for_vectors(n, [&](int64_t i, auto get, auto put) { put(logits + i, cap * tanh(get(logits + i) * m * inverse)); });
  } else if (multiplier != 1.0F) {
    scale_row(logits, n, multiplier);
  }
}

inline bool finite_row(const float* x, int64_t n, bool banned) {
  const Vec infinity = set(__builtin_inff());
  const uint32_t all = kWidth == 32 ? ~0U : (1U << kWidth) - 1U;
  const auto good = [&](Vec v) { return banned ? less(v, infinity) : less(abs(v), infinity); };
  int64_t i = 0;
  for (; i + 4 * kWidth <= n; i += 4 * kWidth) {
    const float* at = x + i;
    if ((good(load(at)) & good(load(at + kWidth)) & good(load(at + 2 * kWidth)) & good(load(at + 3 * kWidth))) != all) {
      return false;
    }
  }
  for (; i < n; i += kWidth) {
    if (good(load_first(x + i, n - i)) != all) return false;
  }
  return true;
}

// The lowest token with the largest value; values are not NaN.
inline BestToken argmax_row(const float* x, int64_t n) {
  if (n <= 0) return {0.0F, -1};
  Vec a = set(-__builtin_inff()), b = a;
  int64_t i = 0;
  for (; i + 2 * kWidth <= n; i += 2 * kWidth) {
    a = max(load(x + i), a);
    b = max(load(x + i + kWidth), b);
  }
  float best = max(max(a, b));
  for (; i < n; ++i) best = x[i] > best ? x[i] : best;
  const Vec wanted = set(best);
  for (i = 0; i + kWidth <= n; i += kWidth) {
    const uint32_t found = less_equal(wanted, load(x + i));
    if (found != 0) return {best, static_cast<int32_t>(i + __builtin_ctz(found))};
  }
  for (; i < n; ++i) {
    if (x[i] == best) return {best, static_cast<int32_t>(i)};
  }
  return {best, -1};
}

// The sum of exp(x - maximum) over those of x >= threshold; sums of some hundred terms in float, those in double.
inline double exp_sum_row(const float* x, int64_t n, float maximum, float threshold) {
  const Vec base = set(maximum), least = set(threshold), zero = set(0.0F);
  constexpr int64_t kBlock = 1024;
  double total = 0.0;
  for (int64_t from = 0; from < n; from += kBlock) {
    const int64_t to = from + kBlock < n ? from + kBlock : n;
    Vec part = zero;
    int64_t i = from;
    for (; i + kWidth <= to; i += kWidth) {
      const Vec v = load(x + i);
      part = part + select_less(v, least, zero, exp(v - base));
    }
    total += sum(part);
    for (; i < to; ++i) {
      if (x[i] >= threshold) {
        float one[kWidth];
        store(one, exp(set(x[i] - maximum)));
        total += one[0];
      }
    }
  }
  return total;
}

inline void divide_below_row(float* x, int64_t n, float maximum, float divisor) {
  const Vec base = set(maximum), d = set(divisor);
  for_vectors(n, [&](int64_t i, auto get, auto put) { put(x + i, (get(x + i) - base) / d); });
}

inline int64_t count_above_row(const float* x, int64_t n, float threshold) {
  const Vec t = set(threshold);
  int64_t count = 0, i = 0;
  for (; i + kWidth <= n; i += kWidth) count += __builtin_popcount(less(t, load(x + i)));
  for (; i < n; ++i) count += x[i] > threshold ? 1 : 0;
  return count;
}

inline int64_t collect_row(const float* x, int64_t n, float threshold, int32_t* out, int64_t room) {
  const Vec t = set(threshold);
  int64_t count = 0, i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    for (uint32_t found = less_equal(t, load(x + i)); found != 0; found &= found - 1) {
      if (count < room) out[count] = static_cast<int32_t>(i + __builtin_ctz(found));
      ++count;
    }
  }
  for (; i < n; ++i) {
    if (x[i] >= threshold) {
      if (count < room) out[count] = static_cast<int32_t>(i);
      ++count;
    }
  }
  return count;
}

// Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011): kWidth counters
// (block + lane, position, 0, 0) at once.
inline void philox(uint32_t block, uint32_t position, uint64_t seed, Ints out[4]) {
  Ints c0 = count_from(block), c1 = set_ints(position), c2 = set_ints(0), c3 = set_ints(0);
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    Ints high0, low0, high1, low1;
    multiply_wide(c0, 0xD2511F53U, high0, low0);
    multiply_wide(c2, 0xCD9E8D57U, high1, low1);
    c0 = high1 ^ c1 ^ set_ints(k0);
    c1 = low1;
    c2 = high0 ^ c3 ^ set_ints(k1);
    c3 = low0;
    k0 += 0x9E3779B9U;
    k1 += 0xBB67AE85U;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

// -log(-log(u)), u = (k + 0.5) · 2^-24 with k below 2^24. Above one half the logarithm is taken of 1 - u, which is
// exact in a float where u is not.
inline Vec gumbel(Ints k) {
  const Vec whole = to_float(k), middle = set(8388608.0F), unit = set(5.9604645e-8F), half = set(0.5F);
  Vec f, e;
  split((whole + half) * unit, f, e);
  const Vec above = (set(16777216.0F) - whole - half) * unit;
  f = select_less(whole, middle, f, set(0.0F) - above);
  e = select_less(whole, middle, e, set(0.0F));
  return set(0.0F) - log(set(0.0F) - log_of(f, e));
}

// The least k whose noise can raise a logit by `distance`: noise above d needs 1 - u below
// 1 - exp(-exp(-d)), which is below exp(-d). A thousandth and one k are left for rounding.
inline uint32_t least_word(float distance) {
  const float bound = __builtin_expf(-distance) * 1.001F;
  return bound >= 1.0F ? 0U : static_cast<uint32_t>((1.0F - bound) * 16777216.0F) - 1U;
}

// The largest possible noise is 17.33: a token that lies further below the best so far cannot win.
constexpr float kMostNoise = 17.4F;

inline BestToken gumbel_argmax_row(const float* x, int64_t n, int32_t likeliest, float threshold, int32_t last_tie,
                                   PhiloxKey key) {
  constexpr int64_t kBlock = 4 * kWidth;
  BestToken best{-__builtin_inff(), -1};
  const auto scan = [&](int64_t begin) {
    const int64_t end = begin + kBlock < n ? begin + kBlock : n;
    Vec highest = set(-__builtin_inff());
    if (end - begin == kBlock) {
      for (int64_t i = begin; i < end; i += kWidth) highest = max(load(x + i), highest);
    } else {
      for (int64_t i = begin; i < end; ++i) highest = max(set(x[i]), highest);
    }
    const float top = max(highest);
    if (!(top >= threshold) || (best.token >= 0 && top + kMostNoise < best.value)) return;
    // The noise of most remaining tokens is too small to win; comparing random words decides that without a logarithm.
    const uint32_t least = best.token < 0 ? 0U : least_word(best.value - top);
    Ints words[4];
    philox(static_cast<uint32_t>(begin / 4), key.position, key.seed, words);
    for (int64_t j = 0; j < 4; ++j) {
      const Ints k = shift_right_8(words[j]);
      uint32_t able = at_least(k, least);
      if (able == 0) continue;
      float noise[kWidth];
      store(noise, gumbel(k));
      for (; able != 0; able &= able - 1) {
        const int64_t lane = __builtin_ctz(able), i = begin + 4 * lane + j;
        if (i >= end || !(x[i] > threshold || (x[i] == threshold && i <= last_tie))) continue;
        const float value = x[i] + noise[lane];
        const int32_t token = static_cast<int32_t>(i);
        if (best.token < 0 || value > best.value || (value == best.value && token < best.token)) best = {value, token};
      }
    }
  };
  const int64_t first = likeliest / kBlock * kBlock;
  scan(first);
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    if (begin != first) scan(begin);
  }
  return best;
}

}  // namespace
}  // namespace octavo
