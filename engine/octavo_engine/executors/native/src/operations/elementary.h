// exp, log, tanh and erf on vectors, to about one part in 10^7.
#pragma once
#include "simd.h"

namespace octavo {
namespace {

// 2^n · e^r with |r| <= ln 2 / 2, e^r by its Taylor series to the sixth power. Zero below the normal floats; NaN of
// NaN.
OCTAVO_INLINE Vec exp(Vec x) {
  const Vec lowest = set(-87.3F);
  const Vec y = max(lowest, min(set(88.3F), x));
  const Vec n = round(y * set(1.44269504F));
  Vec r = fma(n, set(-0.693145752F), y);  // ln 2 in two parts, the first with trailing zeros
  r = fma(n, set(-1.42860677e-6F), r);
  Vec p = set(1.0F / 720);
  p = fma(p, r, set(1.0F / 120));
  p = fma(p, r, set(1.0F / 24));
  p = fma(p, r, set(1.0F / 6));
  p = fma(p, r, set(0.5F));
  p = fma(p, r, set(1.0F));
  p = fma(p, r, set(1.0F));
  return select_less(x, lowest, set(0.0F), scale2(p, n));
}

// log(1 + f) + e · ln 2 for f in [-1/2, 0.42], by the series of the inverse hyperbolic tangent.
OCTAVO_INLINE Vec log_of(Vec f, Vec e) {
  const Vec s = f / (f + set(2.0F));
  const Vec z = s * s;
  Vec p = set(1.0F / 19);
  p = fma(p, z, set(1.0F / 17));
  p = fma(p, z, set(1.0F / 15));
  p = fma(p, z, set(1.0F / 13));
  p = fma(p, z, set(1.0F / 11));
  p = fma(p, z, set(1.0F / 9));
  p = fma(p, z, set(1.0F / 7));
  p = fma(p, z, set(1.0F / 5));
  p = fma(p, z, set(1.0F / 3));
  p = fma(p, z, set(1.0F));
  return fma(e, set(0.693147181F), set(2.0F) * s * p);
}

// x = (1 + f) · 2^e with 1 + f in [0.71, 1.42]; x positive and normal.
OCTAVO_INLINE void split(Vec x, Vec& f, Vec& e) {
  const Vec m = mantissa(x), root = set(1.41421356F);
  f = select_less(root, m, m * set(0.5F), m) - set(1.0F);
  e = exponent(x) + select_less(root, m, set(1.0F), set(0.0F));
}

OCTAVO_INLINE Vec log(Vec x) {
  Vec f, e;
  split(x, f, e);
  return log_of(f, e);
}

OCTAVO_INLINE Vec tanh(Vec x) { return set(1.0F) - set(2.0F) / (exp(x + x) + set(1.0F)); }

// Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: within 1.5e-7.
OCTAVO_INLINE Vec erf(Vec x) {
  const Vec a = abs(x);
  const Vec t = set(1.0F) / fma(a, set(0.3275911F), set(1.0F));
  Vec p = set(1.061405429F);
  p = fma(p, t, set(-1.453152027F));
  p = fma(p, t, set(1.421413741F));
  p = fma(p, t, set(-0.284496736F));
  p = fma(p, t, set(0.254829592F));
  const Vec y = set(1.0F) - p * t * exp(set(0.0F) - a * a);
  return select_less(x, set(0.0F), set(0.0F) - y, y);
}

}  // namespace
}  // namespace octavo
