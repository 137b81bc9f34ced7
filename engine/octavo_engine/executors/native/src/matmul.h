// Matrix products of the native executor: weights packed once, activations prepared once, products in any
// number of threads. Owns formats, packing and instruction sets; independent of layers, batches and blocks.
//
// y[m, n] = sum_k x[m, k] * w[n, k]; y is float32, row-major with a stride of ldy elements.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

namespace octavo {

class Team;  // parallel.h

// Numbers are GGML's type numbers.
enum class Format : int32_t {
  F32 = 0,
  F16 = 1,
  Q4_0 = 2,
  Q4_1 = 3,
  Q5_0 = 6,
  Q5_1 = 7,
  Q8_0 = 8,
  Q4_K = 12,
  Q5_K = 13,
  Q6_K = 14,
  BF16 = 30
};

// From the least to the most. Avx512Vnni (Cascade Lake, Ice Lake) has AVX-512 F, BW, DQ, VL and VNNI; Avx512Bf16 has
// BF16 too (Zen 4, Cooper Lake); Amx is that with tiles of bf16 (Sapphire Rapids).
enum class Isa : int32_t { Scalar, Avx2, Avx512Vnni, Avx512Bf16, Amx };
constexpr Isa kIsas[] = {Isa::Scalar, Isa::Avx2, Isa::Avx512Vnni, Isa::Avx512Bf16, Isa::Amx};

const char* isa_name(Isa);  // as OCTAVO_NATIVE_ISA and the logs have it
Isa best_isa();             // the most that this CPU has, or what OCTAVO_NATIVE_ISA names
bool isa_available(Isa);

// Rows of one tensor as stored in the file (row-major, whole blocks a row), to be part of a packed matrix; or of two of
// the same size in turn, `stripe` rows (a multiple of the block width) of `data`, then as many of `other`.
struct Rows {
  Format format;
  int64_t rows;  // of both
  const void* data;
  const void* other = nullptr;
  int64_t stripe = 0;
};
constexpr int64_t kBlockWidth = 16;  // output columns of a block of every packed matrix

// How activations must be prepared for a matrix: matrices of the same kind share one preparation.
enum class ActivationKind : int32_t { F32, BF16, Q8 };  // Q8: int8 by groups of 32 with scale and sum

// A packed weight [n, k]. Immutable after `pack`; shared by all threads.
class Matrix {
 public:
  virtual ~Matrix() = default;
  virtual int64_t n() const = 0;
  virtual int64_t k() const = 0;
  virtual ActivationKind kind() const = 0;
  virtual int64_t bytes() const = 0;   // resident
  virtual int64_t blocks() const = 0;  // units of work: blocks of output columns that one call may split at
  // The first output column of `block` (n() for blocks()). Blocks are kBlockWidth apart within a part; a part
  // whose rows do not fill its last block makes that one narrower.
  virtual int64_t block_column(int64_t block) const = 0;
  // Dequantize row `row` into out[k] (embedding lookup from a tied head).
  virtual void row(int64_t row, float* out) const = 0;
};

// Stack `parts` (all with k columns, and all packable to one layout) into one matrix.
// `widen`: F32, F16 or BF16 convert every part to that; -1 keeps the stored precision.
// Throws std::invalid_argument naming format and sizes.
std::unique_ptr<Matrix> pack(const std::vector<Rows>& parts, int64_t k, int32_t widen, Isa isa, Team& team);

// Bytes of a row of `k` columns as stored. Throws std::invalid_argument naming the format.
int64_t row_bytes(Format format, int64_t k);

// True if parts of these formats can be stacked into one matrix.
bool stackable(Format a, Format b, int32_t widen);

// Prepared activations of up to max_m rows; allocated once, reused.
class Activations {
 public:
  Activations(ActivationKind kind, int64_t max_m, int64_t k, Isa isa);
  ~Activations();
  Activations(const Activations&) = delete;
  Activations& operator=(const Activations&) = delete;
  // Prepare rows [m_begin, m_end) of x [m][ldx], k columns each. Different threads may prepare different rows.
  void prepare(const float* x, int64_t ldx, int64_t m_begin, int64_t m_end);
  struct Impl;
  Impl* impl;
};

// Rows [begin, end) of prepared activations.
struct RowRange {
  int64_t begin;
  int64_t end;
  int64_t count() const { return end - begin; }
};

// What a range of rows may begin at: the sets of rows that kernels take together are counted from a multiple of it.
constexpr int64_t row_alignment(Isa isa) { return isa == Isa::Amx ? 16 : 4; }

// Compute output blocks [block_begin, block_end) of `rows` into y [rows.count()][ldy]. Called by each thread with
// its own range of blocks.
void matmul(const Matrix& w, const Activations& x, RowRange rows, int64_t block_begin, int64_t block_end, float* y,
            int64_t ldy);

}  // namespace octavo
