#define OCTAVO_ISA_SCALAR
#include "table.h"

namespace octavo {

const Operations& scalar_operations() {
  static constexpr Operations kTable = table("scalar");
  return kTable;
}

}  // namespace octavo
