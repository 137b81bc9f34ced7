// From the file's rows to panels.
#include <stdexcept>
#include <string>

#include "ggml_blocks.h"
#include "half.h"
#include "matrix.h"
#include "parallel.h"

namespace octavo {
namespace {

bool is_float(int32_t format) {
  return format == static_cast<int32_t>(Format::F32) || format == static_cast<int32_t>(Format::F16) ||
         format == static_cast<int32_t>(Format::BF16);
}

// What orders parts into stacks: formats of one class can stand in one matrix.
int stack_class(Format format) { return is_quantized(format) ? 2 : format == Format::BF16 ? 1 : 0; }

void check(const std::vector<Rows>& parts, int64_t k, int32_t widen) {
  if (parts.empty() || k <= 0) {
    throw std::invalid_argument("nothing to pack: " + std::to_string(parts.size()) + " parts of " + std::to_string(k) +
                                " columns");
  }
  if (widen != -1 && !is_float(widen)) {
    throw std::invalid_argument("weights can be widened to f32, f16 or bf16, not to format " + std::to_string(widen));
  }
  for (const Rows& rows : parts) {
    row_bytes(rows.format, k);
    const char* name = info_of(rows.format).name;
    if (rows.rows <= 0 || rows.data == nullptr) {
      throw std::invalid_argument(std::string("a part in ") + name + " has no rows");
    }
    if (rows.other != nullptr &&
        (rows.stripe <= 0 || rows.stripe % kPanel != 0 || rows.rows % (2 * rows.stripe) != 0)) {
      throw std::invalid_argument("two tensors of " + std::to_string(rows.rows) + " rows can't be packed in turn by " +
                                  std::to_string(rows.stripe));
    }
    if (!stackable(parts.front().format, rows.format, widen)) {
      throw std::invalid_argument(std::string("rows in ") + info_of(parts.front().format).name + " and " + name +
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
  const FormatInfo info = info_of(format);
  for (int64_t group = 0; group < k / kGroup; ++group) {
    // A panel of one row and one block serves to read scales, so that both ways of reading them cannot differ.
    alignas(64) uint8_t area[320] = {};
    const int64_t in_block = group % (info.block_elements / kGroup);
    const uint8_t* block = block_of(format, row, group);
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

// Packs panels; keeps what widening a row needs.
class Packer {
 public:
  Packer(const Rows& rows, const Part& part) : rows_(rows), part_(part), row_bytes_(row_bytes(rows.format, part.k)) {
    if (rows_.format == part_.format) return;
    values_.resize(static_cast<size_t>(part_.k));
    if (part_.format != Format::F32) narrow_.resize(values_.size());
  }

  void pack(int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) {
      uint8_t* to = part_.data + panel * part_.panel_bytes;
      const uint8_t* from = row_at(panel * kPanel);
      for (int64_t lane = 0; lane < kPanel && panel * kPanel + lane < part_.n; ++lane) {
        place_row(from + lane * row_bytes_, lane, to);
      }
    }
  }

 private:
  // A panel's rows follow one another.
  const uint8_t* row_at(int64_t row) const {
    const auto* data = static_cast<const uint8_t*>(rows_.data);
    if (rows_.other == nullptr) return data + row * row_bytes_;
    const int64_t stripe = row / rows_.stripe;
    const auto* source = stripe % 2 == 0 ? data : static_cast<const uint8_t*>(rows_.other);
    return source + (stripe / 2 * rows_.stripe + row % rows_.stripe) * row_bytes_;
  }

  void place_row(const uint8_t* row, int64_t lane, uint8_t* panel) {
    if (rows_.format != part_.format) return widen_row(row, lane, panel);
    if (!is_quantized(part_.format)) return place_floats(part_.format, row, part_.k, lane, panel);
    const int bits = info_of(part_.format).bits;
    for (int64_t group = 0; group < part_.k / kGroup; ++group) {
      uint32_t codes[8];
      read_codes(part_.format, row, group, codes);
      place_codes(bits, codes, lane, panel + part_.scale_bytes + group * bits * 64);
      place_scales(part_.format, row, group, lane, panel);
    }
  }

  void widen_row(const uint8_t* row, int64_t lane, uint8_t* panel) {
    read_row(rows_.format, row, part_.k, values_.data());
    const void* wide = values_.data();
    if (part_.format != Format::F32) {
      const auto narrowed = part_.format == Format::BF16 ? float_to_bfloat : float_to_half;
      for (size_t i = 0; i < values_.size(); ++i) narrow_[i] = narrowed(values_[i]);
      wide = narrow_.data();
    }
    place_floats(part_.format, static_cast<const uint8_t*>(wide), part_.k, lane, panel);
  }

  const Rows& rows_;
  const Part& part_;
  int64_t row_bytes_;
  std::vector<float> values_;
  std::vector<uint16_t> narrow_;
};

}  // namespace

int64_t row_bytes(Format format, int64_t k) {
  const FormatInfo info = info_of(format);
  if (info.name == nullptr) {
    throw std::invalid_argument("weight format " + std::to_string(static_cast<int32_t>(format)) + " is unknown");
  }
  if (k <= 0 || k % info.block_elements != 0) {
    throw std::invalid_argument("a row of " + std::to_string(k) + " elements does not divide into " + info.name +
                                " blocks of " + std::to_string(info.block_elements));
  }
  return k / info.block_elements * info.block_bytes;
}

bool stackable(Format a, Format b, int32_t widen) {
  return is_float(widen) || (widen == -1 && stack_class(a) == stack_class(b));
}

std::unique_ptr<Matrix> pack(const std::vector<Rows>& parts, int64_t k, int32_t widen, Isa isa, Team& team) {
  check(parts, k, widen);
  std::vector<Part> layout;
  for (const Rows& rows : parts) {
    const Format format = widen == -1 ? rows.format : static_cast<Format>(widen);
    layout.push_back(Part{format, 0, rows.rows, k, 0, 0, 0, nullptr});
  }
  auto matrix = std::make_unique<PackedMatrix>(layout, k, isa);
  for (size_t i = 0; i < parts.size(); ++i) {
    const Part& part = matrix->parts()[i];
    team.run([&](Member& me) {
      team.each(me, part.panels, 1, [&](int64_t begin, int64_t end) { Packer(parts[i], part).pack(begin, end); });
    });
  }
  return matrix;
}

}  // namespace octavo
