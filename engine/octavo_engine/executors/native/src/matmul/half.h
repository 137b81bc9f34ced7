// Conversions between float32 and the two 16-bit formats: the only ones outside of the kernels, for any CPU, and right
// whether denormals are flushed or not.
// Everything here is static: a copy compiled for one instruction set must not be linked into another's code.
#pragma once
#include <cstdint>
#include <cstring>

namespace octavo {

static inline float bits_to_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

static inline uint32_t float_to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

static inline float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t rest = static_cast<uint32_t>(half & 0x7fffu) << 13;
  if (rest >= 0x0f800000u) return bits_to_float(sign | 0x70000000u | rest);
  if (rest >= 0x00800000u) return bits_to_float(sign | (rest + 0x38000000u));
  // A subnormal, which is a normal float32: counted in units of 2^-24, it is never a denormal on the way, and so comes
  // out right in a step too, where denormals are taken for zero.
  return bits_to_float(sign | float_to_bits(static_cast<float>(half & 0x3ffu) * bits_to_float(0x33800000u)));
}

static inline uint16_t float_to_half(float value) {
  const uint32_t bits = float_to_bits(value);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {
    // Adding 0.5 leaves the subnormal's bits, rounded to nearest even, at the bottom of the mantissa.
    return static_cast<uint16_t>(sign | (float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3f000000u));
  }
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13));
}

static inline float bfloat_to_float(uint16_t value) { return bits_to_float(static_cast<uint32_t>(value) << 16); }

static inline uint16_t float_to_bfloat(float value) {
  const uint32_t bits = float_to_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

}  // namespace octavo
