// Operations on one row of activations: norms, residuals, the MLP's nonlinearity, rotary.
#pragma once
#include <cstdint>

#include "elementary.h"
#include "operations.h"
#include "simd.h"

namespace octavo {
namespace {

// Calls step(i, load, store) over n elements: whole vectors, then one partial one.
template <class Body>
inline void for_vectors(int64_t n, Body&& body) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    body(i, [](const float* p) { return load(p); }, [](float* p, Vec a) { store(p, a); });
  }
  if (i < n) {
    const int64_t rest = n - i;
    body(
        i, [rest](const float* p) { return load_first(p, rest); },
        [rest](float* p, Vec a) { store_first(p, a, rest); });
  }
}

inline float sum_of_squares(const float* x, int64_t n) {
  Vec a = set(0.0F), b = a, c = a, d = a;
  int64_t i = 0;
  for (; i + 4 * kWidth <= n; i += 4 * kWidth) {
    const Vec x0 = load(x + i), x1 = load(x + i + kWidth), x2 = load(x + i + 2 * kWidth), x3 = load(x + i + 3 * kWidth);
    a = fma(x0, x0, a);
    b = fma(x1, x1, b);
    c = fma(x2, x2, c);
    d = fma(x3, x3, d);
  }
  for (; i < n; i += kWidth) {
    const Vec y = load_first(x + i, n - i);
    a = fma(y, y, a);
  }
  return sum((a + b) + (c + d));
}

inline float sum_of(const float* x, int64_t n) {
  Vec a = set(0.0F);
  for (int64_t i = 0; i < n; i += kWidth) a = a + load_first(x + i, n - i);
  return sum(a);
}

inline void norm_row(const float* x, int64_t n, const NormView& norm, float* out) {
  float mean = 0.0F;
  if (norm.kind == NormKind::Layer) {
    mean = sum_of(x, n) / static_cast<float>(n);
    for_vectors(n, [&](int64_t i, auto get, auto put) { put(out + i, get(x + i) - set(mean)); });
    x = out;
  }
  const float factor = 1.0F / __builtin_sqrtf(sum_of_squares(x, n) / static_cast<float>(n) + norm.eps);
  const Vec f = set(factor), offset = set(norm.offset);
  if (norm.weight == nullptr) {
    for_vectors(n, [&](int64_t i, auto get, auto put) { put(out + i, get(x + i) * f); });
  } else if (norm.bias == nullptr) {
    for_vectors(n,
                [&](int64_t i, auto get, auto put) { put(out + i, get(x + i) * f * (get(norm.weight + i) + offset)); });
  } else {
    for_vectors(n, [&](int64_t i, auto get, auto put) {
      put(out + i, fma(get(x + i) * f, get(norm.weight + i) + offset, get(norm.bias + i)));
    });
  }
}

inline void add_residual_row(float* x, const float* a, const float* bias, int64_t n, float factor, const NormView& post,
                             float* scratch) {
  if (bias != nullptr) {
    for_vectors(n, [&](int64_t i, auto get, auto put) { put(scratch + i, get(a + i) + get(bias + i)); });
    a = scratch;
  }
  if (post.present) {
    norm_row(a, n, post, scratch);
    a = scratch;
  }
  const Vec f = set(factor);
  for_vectors(n, [&](int64_t i, auto get, auto put) { put(x + i, fma(get(a + i), f, get(x + i))); });
}

inline void cut_off_row(float* x, int64_t n, float cutoff) {
  const Vec mean = set(sum_of(x, n) / static_cast<float>(n));
  for_vectors(n, [&](int64_t i, auto get, auto put) { put(x + i, get(x + i) - mean); });
  const Vec least = set(cutoff * __builtin_sqrtf(sum_of_squares(x, n) / static_cast<float>(n)));
  for_vectors(n, [&](int64_t i, auto get, auto put) { put(x + i, max(set(0.0F), get(x + i) - least)); });
}

inline void scale_row(float* x, int64_t n, float factor) {
  const Vec f = set(factor);
  for_vectors(n, [&](int64_t i, auto get, auto put) { put(x + i, get(x + i) * f); });
}

inline void add_scaled_row(float* x, const float* a, int64_t n, float factor) {
  const Vec f = set(factor);
  for_vectors(n, [&](int64_t i, auto get, auto put) { put(x + i, fma(get(a + i), f, get(x + i))); });
}

OCTAVO_INLINE Vec sigmoid(Vec x) { return set(1.0F) / (set(1.0F) + exp(set(0.0F) - x)); }

inline void gate_row(float* x, const float* gate, int64_t n) {
  for_vectors(n, [&](int64_t i, auto get, auto put) { put(x + i, get(x + i) * sigmoid(get(gate + i))); });
}

// Apertus, as its authors define it (arXiv 2411.13010), with beta 0.5; the exponential's argument is at most -1e-6.
OCTAVO_INLINE Vec xielu(Vec x, const Nonlinearity& act) {
  const Vec linear = set(0.5F) * x;
  const Vec above = fma(set(act.positive) * x, x, linear);
  const Vec below = fma(exp(min(set(-1e-6F), x)) - set(1.0F) - x, set(act.negative), linear);
  return select_less(set(0.0F), x, above, below);
}

// act(x); of SwigluClamped what the gate makes of it.
template <Activation kind>
inline Vec activated(Vec x, const Nonlinearity& act) {
  if constexpr (kind == Activation::Silu) {
    return x / (set(1.0F) + exp(set(0.0F) - x));
  } else if constexpr (kind == Activation::Gelu) {
    return set(0.5F) * x * (set(1.0F) + erf(x * set(0.70710678F)));
  } else if constexpr (kind == Activation::GeluTanh) {
    const Vec inner = set(0.79788456F) * fma(set(0.044715F) * x * x, x, x);
    return set(0.5F) * x * (set(1.0F) + tanh(inner));
  } else if constexpr (kind == Activation::QuickGelu) {
    return x * sigmoid(set(1.702F) * x);
  } else if constexpr (kind == Activation::Xielu) {
    return xielu(x, act);
  } else if constexpr (kind == Activation::SwigluClamped) {
    return activated<Activation::QuickGelu>(min(set(7.0F), x), act);
  } else {
    const Vec r = max(set(0.0F), x);
    return kind == Activation::Relu ? r : r * r;
  }
}

template <Activation kind>
inline void activate_with(const Nonlinearity& act, const float* gate, const float* up, const float* gate_bias,
                          const float* up_bias, int64_t n, float* out) {
  for_vectors(n, [&](int64_t i, auto get, auto put) {
    Vec g = get(gate + i);
    if (gate_bias != nullptr) g = g + get(gate_bias + i);
    Vec y = activated<kind>(g, act);
    if (up != nullptr) {
      Vec u = get(up + i);
      if (up_bias != nullptr) u = u + get(up_bias + i);
      if constexpr (kind == Activation::SwigluClamped) u = max(set(-7.0F), min(set(7.0F), u)) + set(1.0F);
      y = y * u;
    }
    put(out + i, y);
  });
}

inline void activate_row(const Nonlinearity& act, const float* gate, const float* up, const float* gate_bias,
                         const float* up_bias, int64_t n, float* out) {
  switch (act.kind) {
    case Activation::Silu:
      return activate_with<Activation::Silu>(act, gate, up, gate_bias, up_bias, n, out);
    case Activation::Gelu:
      return activate_with<Activation::Gelu>(act, gate, up, gate_bias, up_bias, n, out);
    case Activation::GeluTanh:
      return activate_with<Activation::GeluTanh>(act, gate, up, gate_bias, up_bias, n, out);
    case Activation::Relu:
      return activate_with<Activation::Relu>(act, gate, up, gate_bias, up_bias, n, out);
    case Activation::Relu2:
      return activate_with<Activation::Relu2>(act, gate, up, gate_bias, up_bias, n, out);
    case Activation::QuickGelu:
      return activate_with<Activation::QuickGelu>(act, gate, up, gate_bias, up_bias, n, out);
    case Activation::Xielu:
      return activate_with<Activation::Xielu>(act, gate, up, gate_bias, up_bias, n, out);
    case Activation::SwigluClamped:
      return activate_with<Activation::SwigluClamped>(act, gate, up, gate_bias, up_bias, n, out);
  }
}

// Turn one head by the angles of row `row` of the step's tables, in place.
inline void rotate(float* head, const RotaryView& rotary, int64_t row) {
  const int64_t half = rotary.dim / 2;
  const float* c = rotary.cos + row * half;
  const float* s = rotary.sin + row * half;
  if (rotary.interleaved) {
    for (int64_t i = 0; i < half; ++i) {
      const float a = head[2 * i], b = head[2 * i + 1];
      head[2 * i] = a * c[i] - b * s[i];
      head[2 * i + 1] = b * c[i] + a * s[i];
    }
    return;
  }
  for_vectors(half, [&](int64_t i, auto get, auto put) {
    const Vec a = get(head + i), b = get(head + half + i), cos = get(c + i), sin = get(s + i);
    put(head + i, a * cos - b * sin);
    put(head + half + i, fma(b, cos, a * sin));
  });
}

inline void clip_row(float* x, int64_t n, float clip) {
  const Vec low = set(-clip), high = set(clip);
  for_vectors(n, [&](int64_t i, auto get, auto put) { put(x + i, max(low, min(high, get(x + i)))); });
}

// Prepares one head of n values for attention: adds the bias, then applies the steps of `view`.
inline void prepare_head(const float* x, const float* bias, int64_t n, const HeadView& view, int64_t row, float* out) {
  if (bias != nullptr) {
    for_vectors(n, [&](int64_t i, auto get, auto put) { put(out + i, get(x + i) + get(bias + i)); });
  } else {
    for_vectors(n, [&](int64_t i, auto get, auto put) { put(out + i, get(x + i)); });
  }
  if (view.clip > 0.0F) clip_row(out, n, view.clip);
  if (view.norm.present && !view.norm_last) norm_row(out, n, view.norm, out);
  if (view.rotary.dim > 0) rotate(out, view.rotary, row);
  if (view.norm.present && view.norm_last) norm_row(out, n, view.norm, out);
}

inline void prepare_width_row(float* x, const float* bias, int32_t heads, int32_t head_dim, const HeadView& view,
                              int64_t row) {
  const int64_t n = int64_t{heads} * head_dim;
  prepare_head(x, bias, n, {view.clip, view.norm_last ? NormView{} : view.norm, {}, false}, row, x);
  for (int64_t head = 0; view.rotary.dim > 0 && head < heads; ++head) rotate(x + head * head_dim, view.rotary, row);
  if (view.norm.present && view.norm_last) norm_row(x, n, view.norm, x);
}

}  // namespace
}  // namespace octavo
