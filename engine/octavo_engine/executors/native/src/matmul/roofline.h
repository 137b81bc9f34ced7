// Measured limits of this machine, in multiply-adds and bytes per second, as a yardstick for the products.
#pragma once
#include <cstdint>

namespace octavo {

enum class Peak : int32_t { Fma = 0, Bf16Dot = 1, Int8Dot = 2 };

// Multiply-adds per second of all `threads` together, running that instruction alone. Throws std::invalid_argument
// where the CPU has no AVX-512.
double measure_peak(Peak peak, int threads);

// Bytes per second that `threads` read from a buffer of `bytes`, best of `repeats` passes.
double measure_bandwidth(int64_t bytes, int threads, int repeats);

namespace avx512 {
double count_macs(Peak peak, int64_t rounds);  // executes `rounds` rounds and returns the number of multiply-adds
void read_all(const uint8_t* data, int64_t bytes);
}  // namespace avx512

}  // namespace octavo
