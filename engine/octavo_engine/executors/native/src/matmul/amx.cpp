#include "kernels.h"

namespace octavo::amx {

bool permitted() { return false; }

void prepare_bf16(const Activations::Impl& to, const float* x, int64_t ldx, int64_t m_begin, int64_t m_end) {
  avx512::prepare_bf16(to, x, ldx, m_begin, m_end);
}
void prepare_q8(const Activations::Impl& to, const float* x, int64_t ldx, int64_t m_begin, int64_t m_end) {
  avx512::prepare_q8(to, x, ldx, m_begin, m_end);
}
void product_bf16(const Part& part, const Activations::Impl& x, const Span& span, float* y, int64_t ldy) {
  avx512::product_bf16(part, x, span, y, ldy);
}
void product_affine(const Part& part, const Activations::Impl& x, const Span& span, float* y, int64_t ldy) {
  avx512::product_affine(part, x, span, y, ldy);
}

}  // namespace octavo::amx
