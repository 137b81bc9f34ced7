// Matrix products of the native executor: weights packed once, activations prepared once, products in any
// number of threads. Owns formats, packing and instruction sets; knows nothing of layers, batches or pages.
//
// y[m, n] = sum_k x[m, k] * w[n, k]; y is float32, row-major with a stride of ldy elements.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

namespace octavo {

// Numbers are GGML's type numbers.
enum class Format : int32_t { F32 = 0, F16 = 1, Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8,
                              Q4_K = 12, Q5_K = 13, Q6_K = 14, BF16 = 30 };

enum class Isa : int32_t { Scalar = 0, Avx2 = 1, Avx512 = 2, Amx = 3 };  // Avx512: F, BW, VL, VNNI, BF16

Isa best_isa();            // what this CPU has, lowered by OCTAVO_NATIVE_ISA=scalar|avx2|avx512|amx
bool isa_available(Isa);

// Rows of one tensor as stored in the file (row-major, whole blocks a row), to be part of a packed matrix.
struct Rows { Format format; int64_t rows; const void* data; };

// How activations must be prepared for a matrix: matrices of the same kind share one preparation.
enum class ActivationKind : int32_t { F32, BF16, Q8 };  // Q8: int8 by groups of 32 with scale and sum

// A packed weight [n, k]. Immutable after `pack`; shared by all threads.
class Matrix {
 public:
  virtual ~Matrix() = default;
  virtual int64_t n() const = 0;
  virtual int64_t k() const = 0;
  virtual ActivationKind kind() const = 0;
  virtual int64_t bytes() const = 0;          // resident
  virtual int64_t blocks() const = 0;         // units of work: blocks of output columns that one call may split at
  virtual int64_t block_width() const = 0;    // output columns of a block (the last may be partial)
  // The first output column of `block` (n() for blocks()). Blocks are block_width() apart within a part; a part
  // whose rows do not fill its last block makes that one narrower.
  virtual int64_t block_column(int64_t block) const = 0;
  // Dequantize row `row` into out[k] (embedding lookup from a tied head).
  virtual void row(int64_t row, float* out) const = 0;
};

// Stack `parts` (all with k columns, and all packable to one layout) into one matrix.
// `widen`: F32, F16 or BF16 turn every part into that; std::nullopt-like -1 keeps the stored precision.
// Throws std::invalid_argument naming format and sizes.
std::unique_ptr<Matrix> pack(const std::vector<Rows>& parts, int64_t k, int32_t widen, Isa isa);

// True if parts of these formats can be stacked into one matrix.
bool stackable(Format a, Format b, int32_t widen);

// Prepared activations of up to max_m rows; allocated once, reused.
class Activations {
 public:
  Activations(ActivationKind kind, int64_t max_m, int64_t k);
  ~Activations();
  // Prepare rows [m_begin, m_end) of x (stride ldx floats). Different threads may prepare different rows.
  void prepare(const float* x, int64_t ldx, int64_t m_begin, int64_t m_end, Isa isa);
  struct Impl;
  Impl* impl;
};

// Compute output blocks [block_begin, block_end) for rows [0, m). Called by each thread with its own range.
void matmul(const Matrix& w, const Activations& x, int64_t m, int64_t block_begin, int64_t block_end,
            float* y, int64_t ldy);

}  // namespace octavo
