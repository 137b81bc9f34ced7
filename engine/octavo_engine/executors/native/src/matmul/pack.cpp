// From the file's rows to panels.
#include <stdexcept>
#include <string>

#include "ggml_blocks.h"
#include "half.h"
#include "matrix.h"

namespace octavo {
namespace {

const char* name_of(Format format) {
  switch (format) {
    case Format::F32: return "f32";
    case Format::F16: return "f16";
    case Format::Q4_0: return "q4_0";
    case Format::Q4_1: return "q4_1";
    case Format::Q5_0: return "q5_0";
    case Format::Q5_1: return "q5_1";
    case Format::Q8_0: return "q8_0";
    case Format::Q4_K: return "q4_k";
    case Format::Q5_K: return "q5_k";
    case Format::Q6_K: return "q6_k";
    case Format::BF16: return "bf16";
  }
  return nullptr;
}

bool is_float(int32_t format) {
  return format == static_cast<int32_t>(Format::F32) || format == static_cast<int32_t>(Format::F16) ||
         format == static_cast<int32_t>(Format::BF16);
}

// What orders parts into stacks: formats of one class can stand in one matrix.
int stack_class(Format format) { return is_quantized(format) ? 2 : format == Format::BF16 ? 1 : 0; }

void check(const std::vector<Rows>& parts, int64_t k, int32_t widen) {
  if (parts.empty() || k <= 0) {
    throw std::invalid_argument("nothing to pack: " + std::to_string(parts.size()) + " parts of " +
                                std::to_string(k) + " columns");
  }
  if (widen != -1 && !is_float(widen)) {
    throw std::invalid_argument("weights can be widened to f32, f16 or bf16, not to format " + std::to_string(widen));
  }
  for (const Rows& rows : parts) {
    const char* name = name_of(rows.format);
    if (name == nullptr) {
      throw std::invalid_argument("format " + std::to_string(static_cast<int32_t>(rows.format)) + " is unknown");
    }
    if (rows.rows <= 0 || rows.data == nullptr) {
      throw std::invalid_argument(std::string("a part in ") + name + " has no rows");
    }
    if (k % block_elements(rows.format) != 0) {
      throw std::invalid_argument("a row of " + std::to_string(k) + " elements does not divide into " + name +
                                  " blocks of " + std::to_string(block_elements(rows.format)));
    }
    if (!stackable(parts.front().format, rows.format, widen)) {
      throw std::invalid_argument(std::string("rows in ") + name_of(parts.front().format) + " and " + name +
                                  " need different activations and cannot be stacked; widen them to one format");
    }
  }
}

void read_row(Format format, const uint8_t* row, int64_t k, float* out) {
  if (format == Format::F32) {
    std::memcpy(out, row, static_cast<size_t>(k) * 4);
    return;
  }
  if (!is_quantized(format)) {
    for (int64_t i = 0; i < k; ++i) {
      uint16_t value;
      std::memcpy(&value, row + i * 2, sizeof value);
      out[i] = format == Format::BF16 ? bfloat_to_float(value) : half_to_float(value);
    }
    return;
  }
  const LayoutInfo info = layout_of(format);
  for (int64_t group = 0; group < k / kGroup; ++group) {
    // A panel of one row and one block serves to read scales, so that both ways of reading them cannot differ.
    alignas(64) uint8_t area[320] = {};
    const int64_t in_block = block_elements(format) == kGroup ? 0 : group % 8;
    const uint8_t* block = row + (block_elements(format) == kGroup ? group : group / 8) * block_bytes(format);
    place_scales(format, block, 0, 0, area);
    place_scales(format, block, in_block, 0, area);
    uint32_t codes[8];
    read_codes(format, block, in_block, codes);
    const GroupScale scale = group_scale(Part{format, 0, 1, k, 1, 0, 0, nullptr}, area, in_block, 0);
    uint8_t bytes[kGroup];
    std::memcpy(bytes, codes, sizeof bytes);
    float* to = out + group * kGroup;
    for (int64_t i = 0; i < kGroup / 2; ++i) to[i] = scale.scale[0] * (bytes[i] - info.zero) + scale.minimum;
    for (int64_t i = kGroup / 2; i < kGroup; ++i) to[i] = scale.scale[1] * (bytes[i] - info.zero) + scale.minimum;
  }
}

// Values of `width` bytes are moved as they are: pairs for bf16.
template <int Width>
void move_values(const uint8_t* row, int64_t count, int64_t lane, uint8_t* panel) {
  for (int64_t i = 0; i < count; ++i) std::memcpy(panel + (i * kPanel + lane) * Width, row + i * Width, Width);
}

void place_floats(Format format, const uint8_t* row, int64_t k, int64_t lane, uint8_t* panel) {
  if (format == Format::F32) return move_values<4>(row, k, lane, panel);
  if (format == Format::F16) return move_values<2>(row, k, lane, panel);
  move_values<4>(row, k / 2, lane, panel);
  if (k % 2 != 0) std::memcpy(panel + (k / 2 * kPanel + lane) * 4, row + (k - 1) * 2, 2);
}

// One row of a format that is widened on the way.
void widen_row(Format from, Format to, const uint8_t* row, int64_t k, int64_t lane, uint8_t* panel) {
  std::vector<float> values(static_cast<size_t>(k));
  read_row(from, row, k, values.data());
  if (to == Format::F32) return place_floats(to, reinterpret_cast<const uint8_t*>(values.data()), k, lane, panel);
  std::vector<uint16_t> narrow(static_cast<size_t>(k));
  if (to == Format::BF16) {
    for (int64_t i = 0; i < k; ++i) narrow[i] = float_to_bfloat(values[i]);
  } else {
    for (int64_t i = 0; i < k; ++i) narrow[i] = float_to_half(values[i]);
  }
  place_floats(to, reinterpret_cast<const uint8_t*>(narrow.data()), k, lane, panel);
}

void place_row(Format from, const Part& part, const uint8_t* row, int64_t lane, uint8_t* panel) {
  if (from != part.format) return widen_row(from, part.format, row, part.k, lane, panel);
  if (!is_quantized(from)) return place_floats(from, row, part.k, lane, panel);
  const int bits = layout_of(from).bits;
  for (int64_t group = 0; group < part.k / kGroup; ++group) {
    uint32_t codes[8];
    read_codes(from, row, group, codes);
    place_codes(bits, codes, lane, panel + part.scale_bytes + group * bits * 64);
    place_scales(from, row, group, lane, panel);
  }
}

}  // namespace

bool stackable(Format a, Format b, int32_t widen) {
  return is_float(widen) || (widen == -1 && stack_class(a) == stack_class(b));
}

std::unique_ptr<Matrix> pack(const std::vector<Rows>& parts, int64_t k, int32_t widen, Isa isa) {
  check(parts, k, widen);
  std::vector<Part> layout;
  for (const Rows& rows : parts) {
    const Format format = widen == -1 ? rows.format : static_cast<Format>(widen);
    layout.push_back(Part{format, 0, rows.rows, k, 0, 0, 0, nullptr});
  }
  auto matrix = std::make_unique<PackedMatrix>(layout, k, isa);
  for (size_t i = 0; i < parts.size(); ++i) {
    const Rows& rows = parts[i];
    const Part& part = matrix->parts()[i];
    const auto* data = static_cast<const uint8_t*>(rows.data);
    const int64_t row_bytes = k / block_elements(rows.format) * block_bytes(rows.format);
#pragma omp parallel for schedule(static)
    for (int64_t panel = 0; panel < part.panels; ++panel) {
      for (int64_t lane = 0; lane < kPanel && panel * kPanel + lane < part.n; ++lane) {
        place_row(rows.format, part, data + (panel * kPanel + lane) * row_bytes, lane,
                  part.data + panel * part.panel_bytes);
      }
    }
  }
  return matrix;
}

}  // namespace octavo
