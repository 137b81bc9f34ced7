#include "stored_weights.h"

#include <cstring>
#include <stdexcept>

#include "matmul/half.h"

namespace octavo {
namespace {

float element(const StoredWeight& w, int64_t i) {
  if (w.format == Format::F32) {
    float value;
    std::memcpy(&value, w.data + i * 4, sizeof value);
    return value;
  }
  uint16_t value;
  std::memcpy(&value, w.data + i * 2, sizeof value);
  return w.format == Format::F16 ? half_to_float(value) : bfloat_to_float(value);
}

}  // namespace

StoredWeight StoredWeight::part(int64_t index, int64_t count) const {
  const int64_t size = rows / count;
  return {format, size, cols, data + index * size * row_bytes(format, cols)};
}

void StoredWeights::add(const std::string& name, int32_t format, int64_t rows, int64_t cols, const uint8_t* data) {
  if (rows <= 0) throw std::invalid_argument(name + ": it has no rows");
  try {
    row_bytes(static_cast<Format>(format), cols);
  } catch (const std::invalid_argument& error) {
    throw std::invalid_argument(name + ": " + error.what());
  }
  weights_[name] = {static_cast<Format>(format), rows, cols, data};
}

StoredWeight StoredWeights::take(const std::string& name, int64_t rows, int64_t cols) {
  const auto found = weights_.find(name);
  if (found == weights_.end()) throw std::invalid_argument("the weight " + name + " is missing");
  const StoredWeight w = found->second;
  if (w.rows != rows || w.cols != cols) {
    throw std::invalid_argument(name + " is " + std::to_string(w.rows) + " × " + std::to_string(w.cols) +
                                ", where the model needs " + std::to_string(rows) + " × " + std::to_string(cols));
  }
  weights_.erase(found);
  return w;
}

std::vector<float> StoredWeights::take_vector(const std::string& name, int64_t n) {
  const StoredWeight w = take(name, 1, n);
  if (w.format != Format::F32 && w.format != Format::F16 && w.format != Format::BF16) {
    throw std::invalid_argument(name + ": a vector can't be quantized");
  }
  std::vector<float> out(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) out[static_cast<size_t>(i)] = element(w, i);
  vector_bytes_ += n * static_cast<int64_t>(sizeof(float));
  return out;
}

std::vector<float> StoredWeights::take_bias(const std::string& name, int64_t n) {
  return has(name) ? take_vector(name, n) : std::vector<float>{};
}

void StoredWeights::take_norm(Norm& norm, const std::string& name, int64_t n) {
  if (!norm.present || !norm.weighted) return;
  norm.weight = take_vector(name, n);
  norm.bias = take_bias(name + "_bias", n);
}

}  // namespace octavo
