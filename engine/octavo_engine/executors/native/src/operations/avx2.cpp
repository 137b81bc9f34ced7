#define OCTAVO_ISA_AVX2
#include "table.h"

namespace octavo {

const Operations& avx2_operations() {
  static constexpr Operations kTable = table("avx2");
  return kTable;
}

}  // namespace octavo
