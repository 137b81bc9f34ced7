// Memory of prepared activations, and the choice of who prepares them.
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>

#include "kernels.h"

namespace octavo {
namespace {

int64_t quad_bytes(ActivationKind kind, int64_t k) {
  const int64_t bytes = kind == ActivationKind::F32    ? k * kQuad * 4
                        : kind == ActivationKind::BF16 ? round_up(k, 2) * kQuad * 2
                                                       : k / kGroup * kQuad * int64_t{sizeof(Q8Group)};
  // An odd number of cache lines, so that the quads of a tile do not fall into the same sets of the L1 cache.
  return (round_up(bytes, 64) / 64 | 1) * 64;
}

uint8_t* allocate(int64_t bytes) {
  const auto size = static_cast<size_t>(round_up(bytes, 64));
  void* memory = std::aligned_alloc(64, size);
  if (memory == nullptr) throw std::bad_alloc();
  std::memset(memory, 0, size);
  return static_cast<uint8_t*>(memory);
}

Prepare prepare_of(ActivationKind kind, const Kernels& kernels) {
  switch (kind) {
    case ActivationKind::F32:
      return kernels.prepare_f32;
    case ActivationKind::BF16:
      return kernels.prepare_bf16;
    case ActivationKind::Q8:
      break;
  }
  return kernels.prepare_q8;
}

}  // namespace

Activations::Activations(ActivationKind kind, int64_t max_m, int64_t k, Isa isa) : impl(nullptr) {
  if (max_m <= 0 || k <= 0 || (kind == ActivationKind::Q8 && k % kGroup != 0)) {
    throw std::invalid_argument("activations need rows, and columns in whole groups of 32 for int8");
  }
  impl = new Impl{kind, max_m, k, quad_bytes(kind, k), nullptr, 0, nullptr, prepare_of(kind, kernels_of(isa))};
  try {
    impl->data = allocate((max_m + kQuad - 1) / kQuad * impl->quad_bytes);
    if (kind != ActivationKind::F32 && isa == Isa::Amx) {
      impl->row_elements = (round_up(k, 32) / 32 | 1) * 32;
      impl->rows = reinterpret_cast<uint16_t*>(allocate(round_up(max_m, 16) * impl->row_elements * 2));
    }
  } catch (...) {
    std::free(impl->data);
    delete impl;
    throw;
  }
}

Activations::~Activations() {
  std::free(impl->rows);
  std::free(impl->data);
  delete impl;
}

void Activations::prepare(const float* x, int64_t ldx, int64_t m_begin, int64_t m_end) {
  if (m_begin < 0 || m_end > impl->max_m) throw std::invalid_argument("more rows than the activations were made for");
  impl->prepare(*impl, x, ldx, m_begin, m_end);
}

}  // namespace octavo
