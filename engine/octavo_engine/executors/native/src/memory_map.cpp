#include "memory_map.h"

#include <sys/mman.h>

#include <new>
#include <utility>

namespace octavo {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

}  // namespace

MemoryMap::MemoryMap(size_t bytes) : size_(bytes) {
  if (bytes == 0) return;
  // Only an aligned stretch of the size of a huge page can become one.
  const size_t slack = bytes >= kHugePage ? kHugePage : 0;
  mapped_ = bytes + slack;
  base_ = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base_ == MAP_FAILED) {
    base_ = nullptr;
    throw std::bad_alloc();
  }
  data_ = static_cast<uint8_t*>(base_);
  if (slack == 0) return;
  data_ += (kHugePage - reinterpret_cast<uintptr_t>(base_) % kHugePage) % kHugePage;
#if defined(MADV_HUGEPAGE)
  madvise(data_, bytes, MADV_HUGEPAGE);
#endif
}

MemoryMap::~MemoryMap() {
  if (base_ != nullptr) munmap(base_, mapped_);
}

MemoryMap::MemoryMap(MemoryMap&& other) noexcept { *this = std::move(other); }

MemoryMap& MemoryMap::operator=(MemoryMap&& other) noexcept {
  std::swap(base_, other.base_);
  std::swap(mapped_, other.mapped_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

}  // namespace octavo
