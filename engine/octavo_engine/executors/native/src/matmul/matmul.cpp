// The order of a product: which rows and panels are taken together, so that activations stay in the L2 cache.
#include <algorithm>
#include <stdexcept>

#include "matrix.h"

namespace octavo {
namespace {

// Half of a small L2 cache (1 MiB on Zen, 1 to 2 MiB on Xeon); the rest is for the weights of a panel or two.
constexpr int64_t kActivationBytes = int64_t{512} << 10;
constexpr int64_t kTileRows = 48;  // whole tiles of every instruction set: of 4, 12 and 16 rows

Product product_of(const Kernels& kernels, Format format) {
  switch (format) {
    case Format::F32:
      return kernels.f32;
    case Format::F16:
      return kernels.f16;
    case Format::BF16:
      return kernels.bf16;
    default:
      return kernels.affine;
  }
}

}  // namespace

void matmul(const Matrix& w, const Activations& x, RowRange rows, int64_t block_begin, int64_t block_end, float* y,
            int64_t ldy) {
  const auto& matrix = static_cast<const PackedMatrix&>(w);
  const Activations::Impl& prepared = *x.impl;
  if (prepared.kind != matrix.kind() || prepared.k != matrix.k() || rows.end > prepared.max_m ||
      rows.begin % kQuad != 0) {
    throw std::invalid_argument("activations of another kind or size than the matrix");
  }
  const int64_t chunk = std::max(kActivationBytes / prepared.quad_bytes * kQuad / kTileRows, int64_t{1}) * kTileRows;
  float* first_row = y - rows.begin * ldy;
  for (int64_t row = rows.begin; row < rows.end; row += chunk) {
    int64_t first = 0;  // block of the part
    for (const Part& part : matrix.parts()) {
      const Span span{std::max(block_begin - first, int64_t{0}), std::min(block_end - first, part.panels), row,
                      std::min(rows.end, row + chunk)};
      if (span.panel_begin < span.panel_end) {
        product_of(matrix.kernels(), part.format)(part, prepared, span, first_row, ldy);
      }
      first += part.panels;
    }
  }
}

}  // namespace octavo
