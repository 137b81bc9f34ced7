#include <immintrin.h>

#include <type_traits>

#include "operations.h"

#define OCTAVO_ISA_AVX2
namespace octavo {
namespace {
#include "simd.h"
// in this order
#include "elementary.h"
#include "rows.h"
// in this order
#include "attention.h"
#include "sampling.h"
#include "table.h"
}  // namespace

const Operations& avx2_operations() {
  static constexpr Operations kTable = table("avx2");
  return kTable;
}

}  // namespace octavo
