#include "model.h"

#include <cmath>

namespace octavo {

void fill_angles(const Rotary& rotary, int32_t position, float* cos, float* sin) {
  for (size_t i = 0; i < rotary.inverse_frequencies.size(); ++i) {
    // The angle is rounded to a float, as checkpoints' own code has it.
    const float angle = static_cast<float>(position) * rotary.inverse_frequencies[i];
    cos[i] = std::cos(angle) * rotary.factor;
    sin[i] = std::sin(angle) * rotary.factor;
  }
}

}  // namespace octavo
