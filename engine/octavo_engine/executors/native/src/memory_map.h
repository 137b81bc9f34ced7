// Memory that the system gives page by page as it is touched, and takes back when the object goes.
#pragma once
#include <cstddef>
#include <cstdint>

namespace octavo {

class MemoryMap {
 public:
  MemoryMap() = default;
  explicit MemoryMap(size_t bytes);  // zeroed; throws std::bad_alloc
  ~MemoryMap();
  MemoryMap(MemoryMap&& other) noexcept;
  MemoryMap& operator=(MemoryMap&& other) noexcept;
  MemoryMap(const MemoryMap&) = delete;
  MemoryMap& operator=(const MemoryMap&) = delete;

  uint8_t* data() const { return data_; }
  float* floats() const { return reinterpret_cast<float*>(data_); }
  size_t size() const { return size_; }

 private:
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace octavo
