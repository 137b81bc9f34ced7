// The one implementation of Matrix: parts of possibly different formats, one below the other.
#pragma once
#include <memory>
#include <vector>

#include "kernels.h"

namespace octavo {

class PackedMatrix final : public Matrix {
 public:
  // Lays out `parts` (format and number of rows; k columns) in fresh zeroed memory.
  PackedMatrix(const std::vector<Part>& parts, int64_t k, Isa isa);

  int64_t n() const override { return n_; }
  int64_t k() const override { return k_; }
  ActivationKind kind() const override { return kind_; }
  int64_t bytes() const override { return bytes_; }
  int64_t blocks() const override { return blocks_; }
  int64_t block_column(int64_t block) const override;
  void row(int64_t row, float* out) const override;

  const std::vector<Part>& parts() const { return parts_; }
  const Kernels& kernels() const { return *kernels_; }

 private:
  std::vector<Part> parts_;
  std::shared_ptr<uint8_t> memory_;
  const Kernels* kernels_;
  ActivationKind kind_;
  int64_t n_ = 0;
  int64_t k_;
  int64_t bytes_ = 0;
  int64_t blocks_ = 0;
};

// The scales of the two halves of a group (equal but for Q6_K) and its minimum, for one lane of a panel.
struct GroupScale {
  float scale[2];
  float minimum;
};
GroupScale group_scale(const Part& part, const uint8_t* scales, int64_t group, int64_t lane);

// Row `row` of a packed part, dequantized.
void unpack_row(const Part& part, int64_t row, float* out);

}  // namespace octavo
