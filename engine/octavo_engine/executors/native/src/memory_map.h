// Anonymous memory, allocated by the system as it is touched and released with the object. From 2 MiB on it is advised
// to be huge pages: a step reads weights and KV from end to end, and with memory pages of 4 KiB it would wait for a
// table walk every 64 lines.
#pragma once
#include <cstddef>
#include <cstdint>

namespace octavo {

class MemoryMap {
 public:
  MemoryMap() = default;
  explicit MemoryMap(size_t bytes);  // zeroed; throws std::bad_alloc
  // Room for `count` floats, at least one.
  static MemoryMap of_floats(int64_t count) {
    return MemoryMap(static_cast<size_t>(count > 0 ? count : 1) * sizeof(float));
  }
  ~MemoryMap();
  MemoryMap(MemoryMap&& other) noexcept;
  MemoryMap& operator=(MemoryMap&& other) noexcept;
  MemoryMap(const MemoryMap&) = delete;
  MemoryMap& operator=(const MemoryMap&) = delete;

  uint8_t* data() const { return data_; }
  float* floats() const { return reinterpret_cast<float*>(data_); }
  size_t size() const { return size_; }

 private:
  void* base_ = nullptr;
  size_t mapped_ = 0;
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace octavo
