#include "roofline.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <stdexcept>

#include "matmul.h"
#include "memory.h"

namespace octavo {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void need_avx512() {
  if (!isa_available(Isa::Avx512)) throw std::invalid_argument("the roofline is measured with AVX-512, which is missing");
}

}  // namespace

double measure_peak(Peak peak, int threads) {
  need_avx512();
  double best = 0.0;
  for (int repeat = 0; repeat < 8; ++repeat) {
    double macs = 0.0;
    const double start = now();
#pragma omp parallel num_threads(threads) reduction(+ : macs)
    macs += avx512::count_macs(peak, 1 << 20);
    best = std::max(best, macs / (now() - start));
  }
  return best;
}

double measure_bandwidth(int64_t bytes, int threads, int repeats) {
  need_avx512();
  const auto memory = allocate_weights(static_cast<size_t>(bytes));
  std::memset(memory.get(), 1, static_cast<size_t>(bytes));
  const int64_t share = bytes / threads / 512 * 512;
  double best = 0.0;
  for (int repeat = 0; repeat < repeats; ++repeat) {
    const double start = now();
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; ++thread) avx512::read_all(memory.get() + thread * share, share);
    best = std::max(best, static_cast<double>(share * threads) / (now() - start));
  }
  return best;
}

}  // namespace octavo
