// Every kernel in plain C++: for CPUs without AVX2, and the twin that the others are tested against.
#include <cmath>

#include "codes.h"
#include "half.h"
#include "kernels.h"
#include "matrix.h"

namespace octavo {
namespace {

uint8_t* quad_of(const Activations::Impl& x, int64_t row) { return x.data + row / kQuad * x.quad_bytes; }

void prepare_f32(const Activations::Impl& to, const float* x, int64_t ldx, int64_t m_begin, int64_t m_end) {
  for (int64_t m = m_begin; m < m_end; ++m) {
    auto* out = reinterpret_cast<float*>(quad_of(to, m)) + m % kQuad;
    for (int64_t k = 0; k < to.k; ++k) out[k * kQuad] = x[(m - m_begin) * ldx + k];
  }
}

void prepare_bf16(const Activations::Impl& to, const float* x, int64_t ldx, int64_t m_begin, int64_t m_end) {
  for (int64_t m = m_begin; m < m_end; ++m) {
    auto* out = reinterpret_cast<uint16_t*>(quad_of(to, m)) + m % kQuad * 2;
    const float* row = x + (m - m_begin) * ldx;
    for (int64_t k = 0; k < to.k; ++k) out[k / 2 * kQuad * 2 + k % 2] = float_to_bfloat(row[k]);
  }
}

void quantize(const float* x, Q8Group& to) {
  float largest = 0.0f;
  bool finite = true;
  for (int64_t i = 0; i < kGroup; ++i) {
    largest = std::fmax(largest, std::fabs(x[i]));
    finite = finite && std::isfinite(x[i]);
  }
  if (!finite) {
    // Whatever a non-finite value would give is NaN in all outputs of its row, and in no other row.
    to = Q8Group{};
    to.scale = to.scaled_sum = std::nanf("");
    return;
  }
  // Below this the inverse overflows; what is lost is less than 1e-37 per weight.
  const float inverse = largest < 1e-36f ? 0.0f : 127.0f / largest;
  to.scale = inverse == 0.0f ? 0.0f : largest / 127.0f;
  int32_t sums[2] = {0, 0};
  for (int64_t i = 0; i < kGroup; ++i) {
    const auto code = static_cast<int32_t>(std::nearbyint(x[i] * inverse));
    to.q[i] = static_cast<int8_t>(code);
    sums[i / 16] += code;
  }
  to.minus_sum = -(sums[0] + sums[1]);
  to.minus_first = -sums[0];
  to.scaled_sum = to.scale * static_cast<float>(sums[0] + sums[1]);
}

void prepare_q8(const Activations::Impl& to, const float* x, int64_t ldx, int64_t m_begin, int64_t m_end) {
  for (int64_t m = m_begin; m < m_end; ++m) {
    auto* out = reinterpret_cast<Q8Group*>(quad_of(to, m)) + m % kQuad;
    for (int64_t group = 0; group < to.k / kGroup; ++group) {
      quantize(x + (m - m_begin) * ldx + group * kGroup, out[group * kQuad]);
    }
  }
}

// Weight k of a lane of a panel of floats.
template <Format F>
float weight(const uint8_t* panel, int64_t k, int64_t lane) {
  if (F == Format::F32) return reinterpret_cast<const float*>(panel)[k * kPanel + lane];
  const auto* halves = reinterpret_cast<const uint16_t*>(panel);
  if (F == Format::F16) return half_to_float(halves[k * kPanel + lane]);
  return bfloat_to_float(halves[(k / 2 * kPanel + lane) * 2 + k % 2]);
}

template <Format F>
void product_float(const Part& part, const Activations::Impl& x, const Span& span, float* y, int64_t ldy) {
  for (int64_t m = span.row_begin; m < span.row_end; ++m) {
    const uint8_t* quad = quad_of(x, m);
    for (int64_t n = span.panel_begin * kPanel; n < span.panel_end * kPanel && n < part.n; ++n) {
      const uint8_t* panel = part.data + n / kPanel * part.panel_bytes;
      float sum = 0.0f;
      for (int64_t k = 0; k < part.k; ++k) {
        const float value =
            F == Format::BF16
                ? bfloat_to_float(reinterpret_cast<const uint16_t*>(quad)[(k / 2 * kQuad + m % kQuad) * 2 + k % 2])
                : reinterpret_cast<const float*>(quad)[k * kQuad + m % kQuad];
        sum += value * weight<F>(panel, k, n % kPanel);
      }
      y[m * ldy + part.column + n] = sum;
    }
  }
}

void product_affine(const Part& part, const Activations::Impl& x, const Span& span, float* y, int64_t ldy) {
  const FormatInfo info = info_of(part.format);
  for (int64_t n = span.panel_begin * kPanel; n < span.panel_end * kPanel && n < part.n; ++n) {
    const uint8_t* panel = part.data + n / kPanel * part.panel_bytes;
    for (int64_t m = span.row_begin; m < span.row_end; ++m) y[m * ldy + part.column + n] = 0.0f;
    for (int64_t group = 0; group < part.k / kGroup; ++group) {
      uint32_t codes[8];
      take_codes(info.bits, panel + part.scale_bytes + group * info.bits * 64, n % kPanel, codes);
      const GroupScale scale = group_scale(part, panel, group, n % kPanel);
      for (int64_t m = span.row_begin; m < span.row_end; ++m) {
        const Q8Group& q = reinterpret_cast<const Q8Group*>(quad_of(x, m))[group * kQuad + m % kQuad];
        int32_t dot[2] = {info.zero * q.minus_first, info.zero * (q.minus_sum - q.minus_first)};
        for (int64_t i = 0; i < kGroup; ++i) dot[i / 16] += code_at(codes, i) * q.q[i];
        float& sum = y[m * ldy + part.column + n];
        sum += scale.scale[0] * q.scale * static_cast<float>(dot[0]);
        sum += scale.scale[1] * q.scale * static_cast<float>(dot[1]);
        sum += scale.minimum * q.scaled_sum;
      }
    }
  }
}

}  // namespace

const Kernels scalar_kernels{prepare_f32,
                             prepare_bf16,
                             prepare_q8,
                             product_float<Format::F32>,
                             product_float<Format::F16>,
                             product_float<Format::BF16>,
                             product_affine};

}  // namespace octavo
