// The file's blocks of quantized weights, read into codes and scales.
#pragma once
#include <cstdint>

#include "codes.h"
#include "layout.h"

namespace octavo {

// Four bits, from the 4j-th on, to the lowest bits of four bytes: the factor copies the bits 7 places apart.
static inline uint32_t spread_bits(uint32_t bits, int j) { return ((bits >> 4 * j & 15u) * 0x00204081u) & 0x01010101u; }

static inline void read_nibbles(const uint8_t* nibbles, uint32_t codes[8]) {
  for (int j = 0; j < 4; ++j) {
    const uint32_t word = load_word(nibbles + 4 * j);
    codes[j] = word & 0x0f0f0f0fu;
    codes[j + 4] = word >> 4 & 0x0f0f0f0fu;
  }
}

// The block that holds group `group` of a row.
static inline const uint8_t* block_of(Format format, const uint8_t* row, int64_t group) {
  const FormatInfo info = info_of(format);
  return row + group * kGroup / info.block_elements * info.block_bytes;
}

// Codes of group `group` of a row of blocks of `format`.
static inline void read_codes(Format format, const uint8_t* row, int64_t group, uint32_t codes[8]) {
  const uint8_t* block = block_of(format, row, group);
  const int g = static_cast<int>(group % 8);  // within a block of 256
  switch (format) {
    case Format::Q4_0:
      return read_nibbles(block + 2, codes);
    case Format::Q4_1:
      return read_nibbles(block + 4, codes);
    case Format::Q5_0:
    case Format::Q5_1: {
      const uint8_t* high = block + (format == Format::Q5_0 ? 2 : 4);
      read_nibbles(high + 4, codes);
      const uint32_t bits = load_word(high);
      for (int j = 0; j < 8; ++j) codes[j] |= spread_bits(bits, j) << 4;
      return;
    }
    case Format::Q8_0:
      // From signed to an offset of 128.
      for (int j = 0; j < 8; ++j) codes[j] = load_word(block + 2 + 4 * j) ^ 0x80808080u;
      return;
    case Format::Q4_K:
    case Format::Q5_K: {
      const uint8_t* low = block + (format == Format::Q4_K ? 16 : 48) + g / 2 * 32;
      for (int j = 0; j < 8; ++j) {
        codes[j] = load_word(low + 4 * j) >> g % 2 * 4 & 0x0f0f0f0fu;
        if (format == Format::Q5_K) codes[j] |= (load_word(block + 16 + 4 * j) >> g & 0x01010101u) << 4;
      }
      return;
    }
    case Format::Q6_K: {
      const uint8_t* low = block + g / 4 * 64 + g % 2 * 32;
      const uint8_t* high = block + 128 + g / 4 * 32;
      for (int j = 0; j < 8; ++j) {
        codes[j] = (load_word(low + 4 * j) >> g % 4 / 2 * 4 & 0x0f0f0f0fu) |
                   (load_word(high + 4 * j) >> g % 4 * 2 & 0x03030303u) << 4;
      }
      return;
    }
    default:
      for (int j = 0; j < 8; ++j) codes[j] = 0;
  }
}

// The six-bit scale and minimum of group `g` of a block of Q4_K or Q5_K: 12 bytes hold eight of each; the upper
// two bits of the first four are the upper two bits of the last four.
static inline void read_six_bit(const uint8_t* packed, int g, uint8_t& scale, uint8_t& minimum) {
  if (g < 4) {
    scale = packed[g] & 63u;
    minimum = packed[g + 4] & 63u;
  } else {
    scale = static_cast<uint8_t>((packed[g + 4] & 15u) | (packed[g - 4] >> 6) << 4);
    minimum = static_cast<uint8_t>((packed[g + 4] >> 4) | (packed[g] >> 6) << 4);
  }
}

// Scales of group `group` of a row, to lane `lane` of a panel's scale area.
static inline void place_scales(Format format, const uint8_t* row, int64_t group, int64_t lane, uint8_t* area) {
  const uint8_t* block = block_of(format, row, group);
  const int g = static_cast<int>(group % 8);
  switch (info_of(format).scales) {
    case Scales::Single:
      std::memcpy(area + (group * kPanel + lane) * 2, block, 2);
      return;
    case Scales::Min:
      std::memcpy(area + (group * 2 * kPanel + lane) * 2, block, 2);
      std::memcpy(area + ((group * 2 + 1) * kPanel + lane) * 2, block + 2, 2);
      return;
    case Scales::Super: {
      uint8_t* super = area + group / 8 * 320;
      if (g == 0) {
        std::memcpy(super + lane * 2, block, 2);
        std::memcpy(super + (kPanel + lane) * 2, block + 2, 2);
      }
      uint8_t* bytes_of_group = super + 64 + g * 32;
      read_six_bit(block + 4, g, bytes_of_group[lane], bytes_of_group[kPanel + lane]);
      return;
    }
    case Scales::Half: {
      uint8_t* super = area + group / 8 * 288;
      if (g == 0) std::memcpy(super + lane * 2, block + 208, 2);
      uint8_t* bytes_of_group = super + 32 + g * 32;
      bytes_of_group[lane] = block[192 + g * 2];
      bytes_of_group[kPanel + lane] = block[192 + g * 2 + 1];
      return;
    }
    case Scales::None:
      return;
  }
}

}  // namespace octavo
