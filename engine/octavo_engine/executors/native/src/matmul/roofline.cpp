#include "roofline.h"

#include <algorithm>
#include <cstring>
#include <ctime>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "matmul.h"
#include "memory.h"
#include "parallel.h"

namespace octavo {
namespace {

// As the products are timed: one thread by its own clock, several by the wall's.
double now(int threads) {
  timespec time{};
  clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

void need_avx512() {
  if (isa_available(Isa::Avx512Bf16)) return;
  throw std::invalid_argument("the roofline is measured with AVX-512, which is missing");
}

}  // namespace

#if !defined(__x86_64__)
namespace avx512 {
double count_macs(Peak, int64_t) { return 0.0; }
void read_all(const uint8_t*, int64_t) {}
}  // namespace avx512
#endif

double measure_peak(Peak peak, int threads) {
  need_avx512();
  double best = 0.0;
  Team team(threads);
  std::vector<double> macs(static_cast<size_t>(threads));
  // Many short rounds: the best of them is one that no neighbour interrupted.
  for (int repeat = 0; repeat < 200; ++repeat) {
    const double start = now(threads);
    team.run([&](Member& me) {
      team.each(me, threads, 1, [&](int64_t begin, int64_t end) {
        for (; begin < end; ++begin) macs[static_cast<size_t>(begin)] = avx512::count_macs(peak, 1 << 17);
      });
    });
    best = std::max(best, std::accumulate(macs.begin(), macs.end(), 0.0) / (now(threads) - start));
  }
  return best;
}

double measure_bandwidth(int64_t bytes, int threads, int repeats) {
  need_avx512();
  const auto memory = allocate_weights(static_cast<size_t>(bytes));
  std::memset(memory.get(), 1, static_cast<size_t>(bytes));
  const int64_t share = bytes / threads / 512 * 512;
  double best = 0.0;
  Team team(threads);
  for (int repeat = 0; repeat < repeats; ++repeat) {
    const double start = now(threads);
    team.run([&](Member& me) {
      team.each(me, threads, 1, [&](int64_t begin, int64_t end) {
        for (; begin < end; ++begin) avx512::read_all(memory.get() + begin * share, share);
      });
    });
    best = std::max(best, static_cast<double>(share * threads) / (now(threads) - start));
  }
  return best;
}

}  // namespace octavo
