// Memory of packed weights.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

namespace octavo {

// Zeroed memory aligned to 64 bytes, cut from large regions that ask for huge pages: a decode step reads every
// weight once, and with 4 KiB pages it would wait for a page walk every 64 lines. A region is unmapped when the
// last piece of it is gone. Throws std::bad_alloc.
std::shared_ptr<uint8_t> allocate_weights(size_t bytes);

}  // namespace octavo
