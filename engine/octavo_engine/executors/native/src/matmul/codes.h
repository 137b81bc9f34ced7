// One row of one group of quantized weights, in and out of a panel, four codes at a time in a 32-bit word.
// `codes[j]` holds quad j: the codes of k = 4j .. 4j + 3, lowest byte first.
#pragma once
#include <cstdint>
#include <cstring>

#include "layout.h"

namespace octavo {

static inline uint32_t load_word(const void* from) {
  uint32_t word;
  std::memcpy(&word, from, sizeof word);
  return word;
}

static inline void store_word(void* to, uint32_t word) { std::memcpy(to, &word, sizeof word); }

// Write row `row` of a group whose values begin at `group`.
static inline void place_codes(int bits, const uint32_t codes[8], int64_t row, uint8_t* group) {
  uint8_t* out = group + row * 4;
  if (bits == 8) {
    for (int j = 0; j < 8; ++j) store_word(out + j * 64, codes[j]);
    return;
  }
  for (int j = 0; j < 4; ++j) {
    store_word(out + j * 64, (codes[j] & 0x0f0f0f0fu) | (codes[j + 4] & 0x0f0f0f0fu) << 4);
  }
  if (bits == 5) {
    uint32_t plane = 0;
    for (int j = 0; j < 8; ++j) plane |= (codes[j] >> 4 & 0x01010101u) << j;
    store_word(out + 256, plane);
  } else if (bits == 6) {
    uint32_t first = 0;
    uint32_t second = 0;
    for (int j = 0; j < 4; ++j) {
      first |= (codes[j] >> 4 & 0x03030303u) << 2 * j;
      second |= (codes[j + 4] >> 4 & 0x03030303u) << 2 * j;
    }
    store_word(out + 256, first);
    store_word(out + 320, second);
  }
}

// The inverse of place_codes.
static inline void take_codes(int bits, const uint8_t* group, int64_t row, uint32_t codes[8]) {
  const uint8_t* in = group + row * 4;
  if (bits == 8) {
    for (int j = 0; j < 8; ++j) codes[j] = load_word(in + j * 64);
    return;
  }
  for (int j = 0; j < 4; ++j) {
    const uint32_t word = load_word(in + j * 64);
    codes[j] = word & 0x0f0f0f0fu;
    codes[j + 4] = word >> 4 & 0x0f0f0f0fu;
  }
  if (bits == 5) {
    const uint32_t plane = load_word(in + 256);
    for (int j = 0; j < 8; ++j) codes[j] |= (plane >> j & 0x01010101u) << 4;
  } else if (bits == 6) {
    const uint32_t first = load_word(in + 256);
    const uint32_t second = load_word(in + 320);
    for (int j = 0; j < 4; ++j) {
      codes[j] |= (first >> 2 * j & 0x03030303u) << 4;
      codes[j + 4] |= (second >> 2 * j & 0x03030303u) << 4;
    }
  }
}

static inline int code_at(const uint32_t codes[8], int64_t k) {
  return static_cast<int>(codes[k / 4] >> 8 * (k % 4) & 0xffu);
}

}  // namespace octavo
