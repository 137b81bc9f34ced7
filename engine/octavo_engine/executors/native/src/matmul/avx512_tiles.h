// How the rows of a product are cut into tiles of up to 12.
#pragma once
#include <cstdint>

namespace octavo::avx512 {

// Rows of the next tile when `left` remain; 16 as two tiles of 8, not 12 and 4.
static inline int64_t tile_rows(int64_t left) { return left > 12 && left <= 16 ? 8 : left < 12 ? left : 12; }

static inline int64_t tiles_of(int64_t rows) { return (rows + 11) / 12; }

// The `tile`-th of `tiles` tiles that use the same weights.
struct TileIndex {
  int64_t tile = 0;
  int64_t tiles = 1;
};

}  // namespace octavo::avx512
