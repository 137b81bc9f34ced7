// Memory of packed weights.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

namespace octavo {

// Zeroed memory aligned to 64 bytes, cut from large regions of huge pages. A region is unmapped when the last piece of
// it is gone. Throws std::bad_alloc.
std::shared_ptr<uint8_t> allocate_weights(size_t bytes);

// Throws std::bad_alloc for files that are compiled for an instruction set, which must hold no inline code of others.
[[noreturn]] void out_of_memory();

}  // namespace octavo
