#include "memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <mutex>
#include <new>

namespace octavo {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kRegion = size_t{32} << 20;

class Region {
 public:
  explicit Region(size_t bytes) : mapped_(bytes + kHugePage), capacity_(bytes) {
    base_ = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base_ == MAP_FAILED) throw std::bad_alloc();
    const auto address = reinterpret_cast<uintptr_t>(base_);
    start_ = reinterpret_cast<uint8_t*>((address + kHugePage - 1) / kHugePage * kHugePage);
    madvise(start_, capacity_, MADV_HUGEPAGE);
  }
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;
  ~Region() { munmap(base_, mapped_); }

  // nullptr when it is full.
  uint8_t* take(size_t bytes) {
    if (capacity_ - used_ < bytes) return nullptr;
    uint8_t* piece = start_ + used_;
    used_ += bytes;
    return piece;
  }

 private:
  void* base_;
  size_t mapped_;
  uint8_t* start_;
  size_t capacity_;
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
    region = std::make_shared<Region>(std::max(kRegion, (bytes + kHugePage - 1) / kHugePage * kHugePage));
    piece = region->take(bytes);
    current = region;
  }
  return std::shared_ptr<uint8_t>(region, piece);
}

}  // namespace octavo
