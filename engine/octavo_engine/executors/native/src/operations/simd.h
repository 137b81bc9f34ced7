// One vector of floats as wide as the translation unit's instruction set, with the few operations that the kernels
// need. scalar.cpp, avx2.cpp and avx512.cpp each include it for their own instruction set, in an anonymous namespace:
// code compiled for one set is never linked into another's translation unit.
//
// `Vec` holds `kWidth` floats. `Units` holds as many four-byte units of a KV tile: floats, or pairs of bf16. They are
// the compiler's own vector types, with its operators: GCC keeps arrays of structs around them in memory.
//
// `max` and `min` of two vectors give the second operand where either is NaN, as SSE does: what may be NaN comes
// second, or a broken model's NaN would become a number and be served.
#pragma once
#include <cstdint>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "../matmul/half.h"

namespace octavo {
namespace {

#define OCTAVO_INLINE inline __attribute__((always_inline))
// Loops over rows and vectors whose sums or rows must stay in registers.
#define OCTAVO_UNROLL _Pragma("GCC unroll 16")

// Ask for `bytes` from p on, to be read soon.
inline void prefetch(const void* p, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(p) + i);
}

#if defined(OCTAVO_ISA_AVX512)

constexpr int kWidth = 16;
using Vec = __m512;
using Units = __m512i;
using Ints = __m512i;

inline Vec set(float x) { return _mm512_set1_ps(x); }
inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, Vec a) { _mm512_storeu_ps(p, a); }
inline __mmask16 first(int64_t n) { return n >= 16 ? __mmask16(0xffff) : __mmask16((1U << n) - 1U); }
inline Vec load_first(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(first(n), p); }
inline void store_first(float* p, Vec a, int64_t n) { _mm512_mask_storeu_ps(p, first(n), a); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
inline Vec min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
inline Vec round(Vec a) { return _mm512_roundscale_ps(a, 8); }
inline float sum(Vec a) { return _mm512_reduce_add_ps(a); }
inline float max(Vec a) { return _mm512_reduce_max_ps(a); }
// a < b ? x : y
inline Vec select_less(Vec a, Vec b, Vec x, Vec y) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}
inline uint32_t less(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
inline uint32_t less_equal(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
inline Vec abs(Vec a) { return _mm512_abs_ps(a); }
// a * 2^n, n integral
inline Vec scale2(Vec a, Vec n) { return _mm512_scalef_ps(a, n); }
// a = mantissa * 2^exponent, mantissa in [1, 2); a positive and normal
inline Vec exponent(Vec a) { return _mm512_getexp_ps(a); }
inline Vec mantissa(Vec a) { return _mm512_getmant_ps(a, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src); }

inline Vec load_bf16(const uint16_t* p) {
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
inline Units load_units(const uint32_t* p) { return _mm512_loadu_si512(p); }
inline Units every_unit(const uint32_t* p) { return _mm512_set1_epi32(static_cast<int>(*p)); }
inline Vec mac_f32(Vec acc, Units a, Units b) {
  return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), acc);
}
inline Vec mac_bf16(Vec acc, Units a, Units b) { return _mm512_dpbf16_ps(acc, (__m512bh)a, (__m512bh)b); }
inline void store_bf16(uint16_t* p, Vec a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(a));
}

inline Ints set_ints(uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
inline Ints count_from(uint32_t x) {
  return _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(x)),
                          _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
}
inline Ints shift_right_8(Ints a) { return _mm512_srli_epi32(a, 8); }
inline void multiply_wide(Ints a, uint32_t b, Ints& high, Ints& low) {
  const __m512i m = _mm512_set1_epi64(static_cast<long long>(b));
  const __m512i even = _mm512_mul_epu32(a, m);
  const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), m);
  low = _mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32));
  high = _mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd);
}
// Of lanes below 2^31: which are at least t, and the lanes as floats.
inline uint32_t at_least(Ints a, uint32_t t) {
  return _mm512_cmpge_epi32_mask(a, _mm512_set1_epi32(static_cast<int>(t)));
}
inline Vec to_float(Ints a) { return _mm512_cvtepi32_ps(a); }

#elif defined(OCTAVO_ISA_AVX2)

constexpr int kWidth = 8;
using Vec = __m256;
using Units = __m256i;
using Ints = __m256i;

inline Vec set(float x) { return _mm256_set1_ps(x); }
inline Vec load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, Vec a) { _mm256_storeu_ps(p, a); }
inline __m256i first(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n >= 8 ? 8 : static_cast<int>(n)),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline Vec load_first(const float* p, int64_t n) { return _mm256_maskload_ps(p, first(n)); }
inline void store_first(float* p, Vec a, int64_t n) { _mm256_maskstore_ps(p, first(n), a); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
inline Vec min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
inline Vec round(Vec a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline float sum(Vec a) {
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
inline float max(Vec a) {
  __m128 x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  x = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}
inline Vec select_less(Vec a, Vec b, Vec x, Vec y) { return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ)); }
inline uint32_t less(Vec a, Vec b) {
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_LT_OQ)));
}
inline uint32_t less_equal(Vec a, Vec b) {
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_LE_OQ)));
}
inline Vec abs(Vec a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0F), a); }
inline Vec scale2(Vec a, Vec n) {
  const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_mul_ps(a, _mm256_castsi256_ps(power));
}
inline Vec exponent(Vec a) {
  const __m256i e = _mm256_sub_epi32(_mm256_srli_epi32(_mm256_castps_si256(a), 23), _mm256_set1_epi32(127));
  return _mm256_cvtepi32_ps(e);
}
inline Vec mantissa(Vec a) {
  const __m256i m = _mm256_and_si256(_mm256_castps_si256(a), _mm256_set1_epi32(0x007fffff));
  return _mm256_castsi256_ps(_mm256_or_si256(m, _mm256_set1_epi32(0x3f800000)));
}

inline Vec load_bf16(const uint16_t* p) {
  const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}
inline Units load_units(const uint32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline Units every_unit(const uint32_t* p) { return _mm256_set1_epi32(static_cast<int>(*p)); }
inline Vec mac_f32(Vec acc, Units a, Units b) {
  return _mm256_fmadd_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), acc);
}
inline Vec mac_bf16(Vec acc, Units a, Units b) {
  const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000U));
  acc = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_and_si256(a, high)), _mm256_castsi256_ps(_mm256_and_si256(b, high)),
                        acc);
  return _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(b, 16)),
                         acc);
}
inline void store_bf16(uint16_t* p, Vec a) {
  const __m256i bits = _mm256_castps_si256(a);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i sum = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  // Rounding could carry a NaN into the sign: it is only made quiet.
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256 chosen =
      _mm256_blendv_ps(_mm256_castsi256_ps(sum), _mm256_castsi256_ps(quiet), _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  const __m256i rounded = _mm256_srli_epi32(_mm256_castps_si256(chosen), 16);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(rounded, rounded), 0x08);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
}

inline Ints set_ints(uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); }
inline Ints count_from(uint32_t x) {
  return _mm256_add_epi32(_mm256_set1_epi32(static_cast<int>(x)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline Ints shift_right_8(Ints a) { return _mm256_srli_epi32(a, 8); }
inline void multiply_wide(Ints a, uint32_t b, Ints& high, Ints& low) {
  const __m256i m = _mm256_set1_epi64x(static_cast<long long>(b));
  const __m256i even = _mm256_mul_epu32(a, m);
  const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), m);
  low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
  high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
}
inline uint32_t at_least(Ints a, uint32_t t) {
  const __m256i above = _mm256_cmpgt_epi32(a, _mm256_set1_epi32(static_cast<int>(t) - 1));
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(above)));
}
inline Vec to_float(Ints a) { return _mm256_cvtepi32_ps(a); }

#else

constexpr int kWidth = 1;
using Vec = float;
using Units = uint32_t;
using Ints = uint32_t;

inline Vec set(float x) { return x; }
inline Vec load(const float* p) { return *p; }
inline void store(float* p, Vec a) { *p = a; }
inline Vec load_first(const float* p, int64_t n) { return n > 0 ? *p : 0.0F; }
inline void store_first(float* p, Vec a, int64_t n) {
  if (n > 0) *p = a;
}
inline Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
inline Vec max(Vec a, Vec b) { return a > b ? a : b; }
inline Vec min(Vec a, Vec b) { return a < b ? a : b; }
inline Vec round(Vec a) { return __builtin_rintf(a); }
inline float sum(Vec a) { return a; }
inline float max(Vec a) { return a; }
inline Vec select_less(Vec a, Vec b, Vec x, Vec y) { return a < b ? x : y; }
inline uint32_t less(Vec a, Vec b) { return a < b ? 1U : 0U; }
inline uint32_t less_equal(Vec a, Vec b) { return a <= b ? 1U : 0U; }
inline Vec abs(Vec a) { return __builtin_fabsf(a); }
inline Vec scale2(Vec a, Vec n) {
  if (n != n) return n;  // has no integer
  return a * bits_to_float(static_cast<uint32_t>(static_cast<int32_t>(n) + 127) << 23);
}
inline Vec exponent(Vec a) { return static_cast<float>(static_cast<int32_t>(float_to_bits(a) >> 23) - 127); }
inline Vec mantissa(Vec a) { return bits_to_float((float_to_bits(a) & 0x007fffffU) | 0x3f800000U); }

inline Vec load_bf16(const uint16_t* p) { return bfloat_to_float(*p); }
inline Units load_units(const uint32_t* p) { return *p; }
inline Units every_unit(const uint32_t* p) { return *p; }
inline Vec mac_f32(Vec acc, Units a, Units b) { return acc + bits_to_float(a) * bits_to_float(b); }
inline Vec mac_bf16(Vec acc, Units a, Units b) {
  const float high = bits_to_float(a & 0xffff0000U) * bits_to_float(b & 0xffff0000U);
  const float low = bits_to_float(a << 16) * bits_to_float(b << 16);
  return acc + high + low;
}
inline void store_bf16(uint16_t* p, Vec a) { *p = float_to_bfloat(a); }

inline Ints set_ints(uint32_t x) { return x; }
inline Ints count_from(uint32_t x) { return x; }
inline Ints shift_right_8(Ints a) { return a >> 8; }
inline void multiply_wide(Ints a, uint32_t b, Ints& high, Ints& low) {
  const uint64_t product = static_cast<uint64_t>(a) * b;
  high = static_cast<uint32_t>(product >> 32);
  low = static_cast<uint32_t>(product);
}
inline uint32_t at_least(Ints a, uint32_t t) { return a >= t ? 1U : 0U; }
inline Vec to_float(Ints a) { return static_cast<float>(a); }

#endif

}  // namespace
}  // namespace octavo
