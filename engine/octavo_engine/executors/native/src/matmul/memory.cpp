#include "memory.h"

#include <algorithm>
#include <mutex>
#include <new>

#include "memory_map.h"

namespace octavo {
namespace {

constexpr size_t kRegion = size_t{32} << 20;

class Region {
 public:
  explicit Region(size_t bytes) : memory_(bytes) {}

  // nullptr when it is full.
  uint8_t* take(size_t bytes) {
    if (memory_.size() - used_ < bytes) return nullptr;
    uint8_t* piece = memory_.data() + used_;
    used_ += bytes;
    return piece;
  }

 private:
  MemoryMap memory_;
  size_t used_ = 0;
};

}  // namespace

std::shared_ptr<uint8_t> allocate_weights(size_t bytes) {
  static std::mutex mutex;
  static std::weak_ptr<Region> current;
  bytes = std::max<size_t>((bytes + 63) / 64 * 64, 64);
  const std::lock_guard<std::mutex> lock(mutex);
  std::shared_ptr<Region> region = current.lock();
  uint8_t* piece = region ? region->take(bytes) : nullptr;
  if (piece == nullptr) {
    region = std::make_shared<Region>(std::max(kRegion, bytes));
    piece = region->take(bytes);
    current = region;
  }
  return std::shared_ptr<uint8_t>(region, piece);
}

void out_of_memory() { throw std::bad_alloc(); }

}  // namespace octavo
