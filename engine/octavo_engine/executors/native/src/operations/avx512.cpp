#define OCTAVO_ISA_AVX512
#include "table.h"

namespace octavo {

const Operations& avx512_operations() {
  static constexpr Operations kTable = table("avx512");
  return kTable;
}

}  // namespace octavo
