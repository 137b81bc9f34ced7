#include "matrix.h"

#include <stdexcept>
#include <string>

#include "codes.h"
#include "half.h"
#include "memory.h"

namespace octavo {
namespace {

ActivationKind kind_of(Format format) {
  if (is_quantized(format)) return ActivationKind::Q8;
  return format == Format::BF16 ? ActivationKind::BF16 : ActivationKind::F32;
}

float half_at(const uint8_t* halves, int64_t index) {
  uint16_t half;
  std::memcpy(&half, halves + index * 2, sizeof half);
  return half_to_float(half);
}

void unpack_floats(const Part& part, const uint8_t* panel, int64_t lane, float* out) {
  for (int64_t k = 0; k < part.k; ++k) {
    if (part.format == Format::F32) {
      std::memcpy(out + k, panel + (k * kPanel + lane) * 4, 4);
    } else if (part.format == Format::F16) {
      out[k] = half_at(panel, k * kPanel + lane);
    } else {
      uint16_t value;
      std::memcpy(&value, panel + ((k / 2 * kPanel + lane) * 2 + k % 2) * 2, sizeof value);
      out[k] = bfloat_to_float(value);
    }
  }
}

}  // namespace

GroupScale group_scale(const Part& part, const uint8_t* scales, int64_t group, int64_t lane) {
  const int64_t in_super = group % 8;
  switch (info_of(part.format).scales) {
    case Scales::Single: {
      const float scale = half_at(scales, group * kPanel + lane);
      return {{scale, scale}, 0.0f};
    }
    case Scales::Min: {
      const float scale = half_at(scales, group * 2 * kPanel + lane);
      return {{scale, scale}, half_at(scales, (group * 2 + 1) * kPanel + lane)};
    }
    case Scales::Super: {
      const uint8_t* super = scales + group / 8 * 320;
      const uint8_t* bytes = super + 64 + in_super * 32;
      const float scale = half_at(super, lane) * bytes[lane];
      return {{scale, scale}, -(half_at(super, kPanel + lane) * bytes[kPanel + lane])};
    }
    case Scales::Half: {
      const uint8_t* super = scales + group / 8 * 288;
      const auto* bytes = reinterpret_cast<const int8_t*>(super + 32 + in_super * 32);
      const float d = half_at(super, lane);
      return {{d * bytes[lane], d * bytes[kPanel + lane]}, 0.0f};
    }
    case Scales::None:
      break;
  }
  return {{0.0f, 0.0f}, 0.0f};
}

void unpack_row(const Part& part, int64_t row, float* out) {
  const uint8_t* panel = part.data + row / kPanel * part.panel_bytes;
  const int64_t lane = row % kPanel;
  const FormatInfo info = info_of(part.format);
  if (info.scales == Scales::None) return unpack_floats(part, panel, lane, out);
  for (int64_t group = 0; group < part.k / kGroup; ++group) {
    uint32_t codes[8];
    take_codes(info.bits, panel + part.scale_bytes + group * info.bits * 64, lane, codes);
    const GroupScale scale = group_scale(part, panel, group, lane);
    for (int64_t i = 0; i < kGroup; ++i) {
      const float code = static_cast<float>(code_at(codes, i) - info.zero);
      out[group * kGroup + i] = scale.scale[i / 16] * code + scale.minimum;
    }
  }
}

PackedMatrix::PackedMatrix(const std::vector<Part>& parts, int64_t k, Isa isa)
    : parts_(parts), kernels_(&kernels_of(isa)), kind_(kind_of(parts.front().format)), k_(k) {
  for (Part& part : parts_) {
    part.column = n_;
    part.k = k;
    part.panels = (part.n + kPanel - 1) / kPanel;
    part.scale_bytes = scale_area(part.format, k);
    part.panel_bytes = part.scale_bytes + value_area(part.format, k);
    n_ += part.n;
    blocks_ += part.panels;
    bytes_ += part.panels * part.panel_bytes;
  }
  memory_ = allocate_weights(static_cast<size_t>(bytes_));
  uint8_t* next = memory_.get();
  for (Part& part : parts_) {
    part.data = next;
    next += part.panels * part.panel_bytes;
  }
}

int64_t PackedMatrix::block_column(int64_t block) const {
  for (const Part& part : parts_) {
    if (block < part.panels) return part.column + block * kPanel;
    block -= part.panels;
  }
  return n_;
}

void PackedMatrix::row(int64_t row, float* out) const {
  for (const Part& part : parts_) {
    if (row >= part.column && row < part.column + part.n) return unpack_row(part, row - part.column, out);
  }
  throw std::invalid_argument("row " + std::to_string(row) + " of a matrix of " + std::to_string(n_) + " rows");
}

}  // namespace octavo
