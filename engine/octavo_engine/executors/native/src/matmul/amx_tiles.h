// The AMX tile instructions, or with OCTAVO_EMULATE_AMX a model of them in software, for tests on other CPUs.
// Every tile is 16 rows of 64 bytes.
#pragma once
#include <cstdint>
#include <cstring>

#include "half.h"

namespace octavo::amx {

#if defined(OCTAVO_EMULATE_AMX)

struct TileFile {
  alignas(64) uint8_t tile[8][16][64];
  bool configured;
};
static thread_local TileFile tile_file;

static inline void tiles_begin() { tile_file.configured = true; }
static inline void tiles_end() { tile_file.configured = false; }

template <int Tile>
static inline void tile_zero() {
  std::memset(tile_file.tile[Tile], 0, sizeof tile_file.tile[Tile]);
}

template <int Tile>
static inline void tile_load(const void* from, int64_t stride) {
  if (!tile_file.configured) __builtin_trap();
  for (int r = 0; r < 16; ++r) std::memcpy(tile_file.tile[Tile][r], static_cast<const uint8_t*>(from) + r * stride, 64);
}

template <int Tile>
static inline void tile_store(void* to, int64_t stride) {
  for (int r = 0; r < 16; ++r) std::memcpy(static_cast<uint8_t*>(to) + r * stride, tile_file.tile[Tile][r], 64);
}

static inline float tile_bf16(const uint8_t* from) {
  uint16_t half;
  std::memcpy(&half, from, sizeof half);
  return bfloat_to_float(half);
}

// sums[m][n] += a[m][2k] * b[k][2n] + a[m][2k + 1] * b[k][2n + 1]
template <int Sums, int A, int B>
static inline void tile_dot() {
  for (int m = 0; m < 16; ++m) {
    for (int n = 0; n < 16; ++n) {
      float sum;
      std::memcpy(&sum, tile_file.tile[Sums][m] + n * 4, sizeof sum);
      for (int k = 0; k < 32; ++k) {
        sum += tile_bf16(tile_file.tile[A][m] + k * 2) * tile_bf16(tile_file.tile[B][k / 2] + n * 4 + k % 2 * 2);
      }
      std::memcpy(tile_file.tile[Sums][m] + n * 4, &sum, sizeof sum);
    }
  }
}

#else

// Palette 1: bytes a row, then rows, of each tile.
struct alignas(64) TileConfig {
  uint8_t palette;
  uint8_t start_row;
  uint8_t reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
static_assert(sizeof(TileConfig) == 64, "as ldtilecfg reads it");

static inline void tiles_begin() {
  TileConfig config{};
  config.palette = 1;
  for (int tile = 0; tile < 8; ++tile) {
    config.row_bytes[tile] = 64;
    config.rows[tile] = 16;
  }
  asm volatile("ldtilecfg %0" : : "m"(config));
}

// Tiles in use make every context switch of the thread slower.
static inline void tiles_end() { asm volatile("tilerelease" ::: "memory"); }

template <int Tile>
static inline void tile_zero() {
  asm volatile("tilezero %%tmm%c0" : : "i"(Tile));
}

template <int Tile>
static inline void tile_load(const void* from, int64_t stride) {
  asm volatile("tileloadd (%1,%2,1), %%tmm%c0" : : "i"(Tile), "r"(from), "r"(stride) : "memory");
}

template <int Tile>
static inline void tile_store(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c0, (%1,%2,1)" : : "i"(Tile), "r"(to), "r"(stride) : "memory");
}

template <int Sums, int A, int B>
static inline void tile_dot() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sums), "i"(A), "i"(B));
}

#endif

}  // namespace octavo::amx
