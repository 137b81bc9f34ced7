// The two kinds of elements that blocks hold, as units of four bytes.
#pragma once
#include <cstdint>

#include "simd.h"

namespace octavo {
namespace {

struct F32Element {
  static constexpr int kPack = 1;  // neighbours in a unit
  static Vec mac(Vec acc, Units a, Units b) { return mac_f32(acc, a, b); }
  static void encode(const float* in, int64_t n, uint32_t* out) {
    __builtin_memcpy(out, in, static_cast<size_t>(n) * 4);
  }
  static void put(uint32_t* out, int64_t i, Vec a) { store(reinterpret_cast<float*>(out) + i, a); }
};

struct Bf16Element {
  static constexpr int kPack = 2;
  static Vec mac(Vec acc, Units a, Units b) { return mac_bf16(acc, a, b); }
  static void encode(const float* in, int64_t n, uint32_t* out) {
    uint16_t* halves = reinterpret_cast<uint16_t*>(out);
    int64_t i = 0;
    for (; i + kWidth <= n; i += kWidth) store_bf16(halves + i, load(in + i));
    if (i < n) {
      uint16_t last[kWidth];
      store_bf16(last, load_first(in + i, n - i));
      __builtin_memcpy(halves + i, last, static_cast<size_t>(n - i) * 2);
    }
  }
  static void put(uint32_t* out, int64_t i, Vec a) { store_bf16(reinterpret_cast<uint16_t*>(out) + i, a); }
};

}  // namespace
}  // namespace octavo
