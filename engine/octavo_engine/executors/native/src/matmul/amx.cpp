// Products of many rows on AMX tiles, in bf16; fewer rows take the AVX-512 kernels. No standard containers here:
// see kernels.h.
//
// Quantized weights are widened to bf16 two panels at a time and used for all rows: with scales for every 32 k,
// int8 tiles would spend more on scaling their sums than on summing.
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>

#include "amx_tiles.h"
#include "avx512_unpack.h"
#include "kernels.h"
#include "memory.h"

namespace octavo::amx {
namespace {

constexpr int64_t kTileRows = 16;
constexpr int64_t kTileK = 32;
constexpr int64_t kTileBytes = 1024;
constexpr int64_t kLeastRows = 16;         // below, half a tile or more would be empty
constexpr int64_t kLeastRowsToWiden = 32;  // below, widening costs more than it saves

// Two panels of bf16 weights, [k / 32] tiles each.
struct Panels {
  const uint8_t* first;
  const uint8_t* second;  // null when there is only one
  int64_t column;
  int64_t columns;
};

// Memory of a thread, kept from call to call.
struct Scratch {
  uint8_t* data = nullptr;
  int64_t bytes = 0;
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { std::free(data); }
  uint8_t* hold(int64_t wanted) {
    if (wanted > bytes) {
      std::free(data);
      data = static_cast<uint8_t*>(std::aligned_alloc(64, static_cast<size_t>(wanted)));
      bytes = data == nullptr ? 0 : wanted;
      if (data == nullptr) out_of_memory();
    }
    return data;
  }
};
thread_local Scratch scratch;

template <int Tile>
void store_sums(float* y, int64_t ldy, int64_t rows, int64_t columns) {
  if (rows >= kTileRows && columns >= kPanel) return tile_store<Tile>(y, ldy * 4);
  if (rows <= 0 || columns <= 0) return;
  alignas(64) float sums[kTileRows][kPanel];
  tile_store<Tile>(sums, 64);
  const int64_t bytes = (columns < kPanel ? columns : kPanel) * 4;
  for (int64_t r = 0; r < rows && r < kTileRows; ++r) std::memcpy(y + r * ldy, sums[r], static_cast<size_t>(bytes));
}

// Up to 32 rows by two panels: four tiles of sums, two of activations, two of weights.
void multiply(const Panels& w, const Activations::Impl& x, int64_t row, int64_t rows, int64_t k, float* y,
              int64_t ldy) {
  const bool two_rows = rows > kTileRows;
  const int64_t stride = x.row_elements * 2;
  const auto* a = reinterpret_cast<const uint8_t*>(x.rows + row * x.row_elements);
  tile_zero<0>();
  tile_zero<1>();
  tile_zero<2>();
  tile_zero<3>();
  for (int64_t step = 0; step * kTileK < k; ++step) {
    tile_load<4>(a + step * 64, stride);
    tile_load<6>(w.first + step * kTileBytes, 64);
    tile_dot<0, 4, 6>();
    if (w.second != nullptr) {
      tile_load<7>(w.second + step * kTileBytes, 64);
      tile_dot<1, 4, 7>();
    }
    if (two_rows) {
      tile_load<5>(a + kTileRows * stride + step * 64, stride);
      tile_dot<2, 5, 6>();
      if (w.second != nullptr) tile_dot<3, 5, 7>();
    }
  }
  float* out = y + row * ldy + w.column;
  store_sums<0>(out, ldy, rows, w.columns);
  store_sums<1>(out + kPanel, ldy, rows, w.columns - kPanel);
  store_sums<2>(out + kTileRows * ldy, ldy, rows - kTileRows, w.columns);
  store_sums<3>(out + kTileRows * ldy + kPanel, ldy, rows - kTileRows, w.columns - kPanel);
}

// A group of a panel to a tile of bf16 weights.
template <Format F>
void widen_group(const uint8_t* area, const uint8_t* values, int64_t group, uint8_t* tile) {
  constexpr FormatInfo info = info_of(F);
  __m512i quads[8];
  avx512::unpack<info.bits>(values + group * info.bits * 64, quads);
  const avx512::ScaleSet scales = avx512::scales_of<info.scales>(area, group);
  const __m512i byte = _mm512_set1_epi32(255);
  for (int j = 0; j < 8; ++j) {
    const __m512 scale = info.scales == Scales::Half && j >= 4 ? scales.second : scales.first;
    const __m512i zero = _mm512_set1_epi32(info.zero);
    for (int pair = 0; pair < 2; ++pair) {
      const __m512i even = _mm512_and_si512(_mm512_srli_epi32(quads[j], pair * 16), byte);
      const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(quads[j], pair * 16 + 8), byte);
      const __m512 low = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(even, zero)), scale, scales.minimum);
      const __m512 high = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(odd, zero)), scale, scales.minimum);
      const __m512i low_words = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(low));
      const __m512i high_words = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(high));
      const __m512i words = _mm512_or_si512(low_words, _mm512_slli_epi32(high_words, 16));
      _mm512_store_si512(tile + (j * 2 + pair) * 64, words);
    }
  }
}

template <Format F>
void widen_panel(const Part& part, int64_t panel, uint8_t* to) {
  const uint8_t* area = part.data + panel * part.panel_bytes;
  for (int64_t group = 0; group < part.k / kGroup; ++group) {
    widen_group<F>(area, area + part.scale_bytes, group, to + group * kTileBytes);
  }
}

using Widen = void (*)(const Part&, int64_t, uint8_t*);

Widen widen_of(Format format) {
  Widen found = nullptr;
  with_quantized(format, [&](auto constant) { found = widen_panel<constant.value>; });
  return found;
}

// bf16 panels are tiles as they lie, but for a k that is no multiple of 32: the rest of its last tile must be zero.
const uint8_t* whole_tiles(const Part& part, int64_t panel, uint8_t* scratch_panel, int64_t padded_bytes) {
  const uint8_t* lines = part.data + panel * part.panel_bytes;
  if (part.k % kTileK == 0) return lines;
  std::memcpy(scratch_panel, lines, static_cast<size_t>(part.panel_bytes));
  std::memset(scratch_panel + part.panel_bytes, 0, static_cast<size_t>(padded_bytes - part.panel_bytes));
  return scratch_panel;
}

void product(const Part& part, const Activations::Impl& x, const Span& span, float* y, int64_t ldy) {
  const int64_t padded_bytes = (part.k + kTileK - 1) / kTileK * kTileBytes;
  uint8_t* memory = scratch.hold(2 * padded_bytes);
  const Widen widen = part.format == Format::BF16 ? nullptr : widen_of(part.format);
  tiles_begin();
  for (int64_t panel = span.panel_begin; panel < span.panel_end; panel += 2) {
    const uint8_t* lines[2] = {memory, memory + padded_bytes};
    const int64_t count = panel + 1 < span.panel_end ? 2 : 1;
    for (int64_t p = 0; p < count; ++p) {
      if (widen != nullptr) {
        widen(part, panel + p, memory + p * padded_bytes);
      } else {
        lines[p] = whole_tiles(part, panel + p, memory + p * padded_bytes, padded_bytes);
      }
    }
    const int64_t left = part.n - panel * kPanel;
    const Panels panels{lines[0], count == 2 ? lines[1] : nullptr, part.column + panel * kPanel,
                        left < count * kPanel ? left : count * kPanel};
    for (int64_t row = span.row_begin; row < span.row_end; row += 2 * kTileRows) {
      const int64_t rows = span.row_end - row < 2 * kTileRows ? span.row_end - row : 2 * kTileRows;
      multiply(panels, x, row, rows, part.k, y, ldy);
    }
  }
  tiles_end();
}

void write_rows(const Activations::Impl& to, const float* x, int64_t ldx, int64_t m_begin, int64_t m_end) {
  for (int64_t m = m_begin; m < m_end; ++m) {
    const float* row = x + (m - m_begin) * ldx;
    uint16_t* out = to.rows + m * to.row_elements;
    for (int64_t k = 0; k < to.k; k += 16) {
      const auto mask = static_cast<__mmask16>(to.k - k >= 16 ? 0xffffu : (1u << (to.k - k)) - 1u);
      _mm256_mask_storeu_epi16(out + k, mask, (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, row + k)));
    }
  }
}

}  // namespace

// AMX state is large, so Linux gives it only to processes that ask.
bool permitted() {
#if defined(OCTAVO_EMULATE_AMX)
  return true;
#else
  constexpr unsigned kTile = 1u << 24;
  constexpr unsigned kBf16 = 1u << 22;
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0 || (edx & kTile) == 0 || (edx & kBf16) == 0) return false;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#endif
}

void prepare_bf16(const Activations::Impl& to, const float* x, int64_t ldx, int64_t m_begin, int64_t m_end) {
  avx512::prepare_bf16(to, x, ldx, m_begin, m_end);
  write_rows(to, x, ldx, m_begin, m_end);
}

void prepare_q8(const Activations::Impl& to, const float* x, int64_t ldx, int64_t m_begin, int64_t m_end) {
  avx512::prepare_q8(to, x, ldx, m_begin, m_end);
  write_rows(to, x, ldx, m_begin, m_end);
}

void product_bf16(const Part& part, const Activations::Impl& x, const Span& span, float* y, int64_t ldy) {
  if (span.row_end - span.row_begin < kLeastRows) return avx512::product_bf16(part, x, span, y, ldy);
  product(part, x, span, y, ldy);
}

void product_affine(const Part& part, const Activations::Impl& x, const Span& span, float* y, int64_t ldy) {
  if (span.row_end - span.row_begin < kLeastRowsToWiden) return avx512::product_affine(part, x, span, y, ldy);
  product(part, x, span, y, ldy);
}

}  // namespace octavo::amx
