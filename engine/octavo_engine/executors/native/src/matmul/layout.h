// How packed weights and prepared activations lie in memory; the same for every instruction set.
//
// Weights lie in panels of 16 output rows, so that one 512-bit register holds one value of each of 16 outputs and
// no kernel ever sums across lanes. A panel is a scale area (quantized formats only) and a value area:
//   f32, f16    [k][16]
//   bf16        [k/2][16][2], k rounded up to even
//   quantized   [k/32] groups, a group being 8 quads of 4 consecutive k, a quad 64 bytes [16][4] when one byte a code:
//               8 bits   8 quads
//               4 bits   4 x 64 bytes: the low nibbles of the j-th are quad j, the high ones quad j + 4
//               5 bits   the same, then 64 bytes whose bit j is bit 4 of quad j
//               6 bits   the same as 4, then 2 x 64 bytes: bits 2j, 2j+1 of the first are bits 4, 5 of quad j,
//                        those of the second of quad j + 4
// Codes and scales are the file's own, only moved: packing a quantized matrix loses nothing.
//
// Activations lie in quads of four rows, element by element side by side, so that every row of a tile is reached
// from one pointer and constant offsets:
//   F32 [k][4] float     BF16 [k/2][4][2]     Q8 [k/32][4] Q8Group
#pragma once
#include <cstdint>
#include <type_traits>

#include "matmul.h"

namespace octavo {

constexpr int64_t kPanel = kBlockWidth;
constexpr int64_t kGroup = 32;
constexpr int64_t kSuper = 256;
constexpr int64_t kQuad = 4;

// Single: f16 scale [k/32][16], w = d * (q - zero)
// Min:    f16 scale and minimum [k/32][2][16], w = d * q + m
// Super:  per 256: f16 d and dmin [2][16], then u8 [8][2][16], w = d * sc * q - dmin * m
// Half:   per 256: f16 d [16], then i8 [8][2][16] (a scale for each half of a group), w = d * sc * (q - zero)
// The two of 256 keep all f16 first, so that every vector is aligned to its own size.
enum class Scales { None, Single, Min, Super, Half };

// A format of the file (struct layouts of ggml-common.h in llama.cpp), and how its values are packed.
struct FormatInfo {
  Format format;
  const char* name;
  int64_t block_elements;  // that a block of the file holds
  int64_t block_bytes;
  Scales scales;
  int bits;  // of a code, or of a stored float
  int zero;  // the code that means 0
};

static constexpr FormatInfo kFormats[] = {
    {Format::F32, "f32", 1, 4, Scales::None, 32, 0},
    {Format::F16, "f16", 1, 2, Scales::None, 16, 0},
    {Format::BF16, "bf16", 1, 2, Scales::None, 16, 0},
    {Format::Q4_0, "q4_0", kGroup, 18, Scales::Single, 4, 8},
    {Format::Q4_1, "q4_1", kGroup, 20, Scales::Min, 4, 0},
    {Format::Q5_0, "q5_0", kGroup, 22, Scales::Single, 5, 16},
    {Format::Q5_1, "q5_1", kGroup, 24, Scales::Min, 5, 0},
    {Format::Q8_0, "q8_0", kGroup, 34, Scales::Single, 8, 128},
    {Format::Q4_K, "q4_k", kSuper, 144, Scales::Super, 4, 0},
    {Format::Q5_K, "q5_k", kSuper, 176, Scales::Super, 5, 0},
    {Format::Q6_K, "q6_k", kSuper, 210, Scales::Half, 6, 32},
};

// Without a name if the format is unknown.
static constexpr FormatInfo info_of(Format format) {
  for (const FormatInfo& info : kFormats) {
    if (info.format == format) return info;
  }
  return {format, nullptr, 1, 0, Scales::None, 0, 0};
}

// Calls body with a quantized format as a constant. Of one translation unit: a body is a lambda of its own there.
template <class Body>
static inline void with_quantized(Format format, Body&& body) {
  switch (format) {
    case Format::Q4_0:
      return body(std::integral_constant<Format, Format::Q4_0>{});
    case Format::Q4_1:
      return body(std::integral_constant<Format, Format::Q4_1>{});
    case Format::Q5_0:
      return body(std::integral_constant<Format, Format::Q5_0>{});
    case Format::Q5_1:
      return body(std::integral_constant<Format, Format::Q5_1>{});
    case Format::Q8_0:
      return body(std::integral_constant<Format, Format::Q8_0>{});
    case Format::Q4_K:
      return body(std::integral_constant<Format, Format::Q4_K>{});
    case Format::Q5_K:
      return body(std::integral_constant<Format, Format::Q5_K>{});
    case Format::Q6_K:
      return body(std::integral_constant<Format, Format::Q6_K>{});
    case Format::F32:
    case Format::F16:
    case Format::BF16:
      return;
  }
}

static constexpr bool is_quantized(Format format) { return info_of(format).scales != Scales::None; }

static constexpr int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

static constexpr int64_t scale_area(Format format, int64_t k) {
  switch (info_of(format).scales) {
    case Scales::Single:
      return round_up(k / kGroup * 32, 64);
    case Scales::Min:
      return k / kGroup * 64;
    case Scales::Super:
      return k / kSuper * (64 + 256);
    case Scales::Half:
      return round_up(k / kSuper * (32 + 256), 64);
    case Scales::None:
      break;
  }
  return 0;
}

static constexpr int64_t value_area(Format format, int64_t k) {
  const int64_t columns = format == Format::BF16 ? round_up(k, 2) : k;
  return round_up(columns * kPanel * info_of(format).bits / 8, 64);
}

// A stack of rows of one format within a matrix. `column` is where its rows begin in the output.
struct Part {
  Format format;
  int64_t column;
  int64_t n;
  int64_t k;
  int64_t panels;
  int64_t scale_bytes;
  int64_t panel_bytes;
  uint8_t* data;
};

// 32 activations of one row: x = scale * q. The sum of q comes as `scaled_sum`, times scale, for formats with a
// minimum; and negative, so that products with codes around a zero can begin with it, of all and of the first 16.
struct Q8Group {
  int8_t q[32];
  float scale;
  float scaled_sum;
  int32_t minus_sum;
  int32_t minus_first;
};
static_assert(sizeof(Q8Group) == 48, "the kernels count on it");

using Prepare = void (*)(const Activations::Impl& to, const float* x, int64_t ldx, int64_t m_begin, int64_t m_end);

// Activations in quads; `rows` are those of the same values, row-major in bf16, that AMX tiles are loaded from.
struct Activations::Impl {
  ActivationKind kind;
  int64_t max_m;
  int64_t k;
  int64_t quad_bytes;
  uint8_t* data;
  int64_t row_elements;
  uint16_t* rows;
  Prepare prepare;
};

}  // namespace octavo
