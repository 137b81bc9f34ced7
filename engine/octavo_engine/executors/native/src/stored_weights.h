// The weights of a checkpoint between executor.py, which adds them, and the decoder, which packs them.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "matmul.h"
#include "model.h"

namespace octavo {

// Rows of a tensor as a file has them.
struct StoredWeight {
  Format format;
  int64_t rows = 0;
  int64_t cols = 0;
  const uint8_t* data = nullptr;

  // The `index`-th of `count` equal parts.
  StoredWeight part(int64_t index, int64_t count) const;
};

class StoredWeights {
 public:
  // `data` must stay readable until the weight is packed. Throws std::invalid_argument naming the weight.
  void add(const std::string& name, int32_t format, int64_t rows, int64_t cols, const uint8_t* data);
  bool has(const std::string& name) const { return weights_.count(name) > 0; }
  // The name of one that nothing has taken; empty: none is left.
  std::string left() const { return weights_.empty() ? std::string() : weights_.begin()->first; }
  // Of all vectors that were taken.
  int64_t vector_bytes() const { return vector_bytes_; }

  // These throw std::invalid_argument naming the weight that is missing or of another size.
  StoredWeight take(const std::string& name, int64_t rows, int64_t cols);
  std::vector<float> take_vector(const std::string& name, int64_t n);
  // Empty where there is none.
  std::vector<float> take_bias(const std::string& name, int64_t n);
  // Does nothing for a norm that is absent.
  void take_norm(Norm& norm, const std::string& name, int64_t n);

 private:
  std::map<std::string, StoredWeight> weights_;
  int64_t vector_bytes_ = 0;
};

}  // namespace octavo
