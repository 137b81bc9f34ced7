// What an instruction set provides: three ways to prepare activations and four products.
//
// Files compiled for an instruction set must not use standard containers or algorithms, nor anything inline that is
// not static: of equal inline functions the linker keeps one, perhaps the one that this CPU cannot run.
#pragma once
#include "layout.h"

namespace octavo {

// Panels [panel_begin, panel_end) of one part, rows [row_begin, row_end) of the activations; row_begin is a
// multiple of row_alignment. Both ranges are not empty.
struct Span {
  int64_t panel_begin;
  int64_t panel_end;
  int64_t row_begin;
  int64_t row_end;
};

// y points at row 0 and column 0 of the whole output.
using Product = void (*)(const Part& part, const Activations::Impl& x, const Span& span, float* y, int64_t ldy);

struct Kernels {
  Prepare prepare_f32;
  Prepare prepare_bf16;
  Prepare prepare_q8;
  Product f32;
  Product f16;
  Product bf16;
  Product affine;
};

extern const Kernels scalar_kernels;

const Kernels& kernels_of(Isa isa);

// Each instruction set's functions; cpu.cpp puts them into tables.
namespace avx2 {
void prepare_f32(const Activations::Impl&, const float*, int64_t, int64_t, int64_t);
void prepare_bf16(const Activations::Impl&, const float*, int64_t, int64_t, int64_t);
void prepare_q8(const Activations::Impl&, const float*, int64_t, int64_t, int64_t);
void product_f32(const Part&, const Activations::Impl&, const Span&, float*, int64_t);
void product_f16(const Part&, const Activations::Impl&, const Span&, float*, int64_t);
void product_bf16(const Part&, const Activations::Impl&, const Span&, float*, int64_t);
void product_affine(const Part&, const Activations::Impl&, const Span&, float*, int64_t);
}  // namespace avx2

namespace avx512 {
void prepare_f32(const Activations::Impl&, const float*, int64_t, int64_t, int64_t);
void prepare_bf16(const Activations::Impl&, const float*, int64_t, int64_t, int64_t);
void prepare_q8(const Activations::Impl&, const float*, int64_t, int64_t, int64_t);
void product_f32(const Part&, const Activations::Impl&, const Span&, float*, int64_t);
void product_f16(const Part&, const Activations::Impl&, const Span&, float*, int64_t);
void product_bf16(const Part&, const Activations::Impl&, const Span&, float*, int64_t);
void product_affine(const Part&, const Activations::Impl&, const Span&, float*, int64_t);
}  // namespace avx512

namespace amx {
void prepare_bf16(const Activations::Impl&, const float*, int64_t, int64_t, int64_t);
void prepare_q8(const Activations::Impl&, const float*, int64_t, int64_t, int64_t);
void product_bf16(const Part&, const Activations::Impl&, const Span&, float*, int64_t);
void product_affine(const Part&, const Activations::Impl&, const Span&, float*, int64_t);
bool permitted();  // requests tile state from the operating system, once
}  // namespace amx

}  // namespace octavo
