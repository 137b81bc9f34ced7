#include <type_traits>

#include "../matmul/half.h"
#include "operations.h"

#define OCTAVO_ISA_SCALAR
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

const Operations& scalar_operations() {
  static constexpr Operations kTable = table("scalar");
  return kTable;
}

}  // namespace octavo
