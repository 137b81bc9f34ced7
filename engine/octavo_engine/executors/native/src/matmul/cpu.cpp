// Which instruction sets run here. Best is what CPU and operating system allow, lowered by OCTAVO_NATIVE_ISA.
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "kernels.h"

namespace octavo {

namespace {

#if defined(__x86_64__)

const Kernels avx2_kernels{avx2::prepare_f32, avx2::prepare_bf16, avx2::prepare_q8,    avx2::product_f32,
                           avx2::product_f16, avx2::product_bf16, avx2::product_affine};
// For a CPU between the two, such as Cascade Lake and Ice Lake: AVX-512 with VNNI, without bf16.
const Kernels vnni_kernels{avx512::prepare_f32, avx2::prepare_bf16, avx512::prepare_q8,    avx512::product_f32,
                           avx512::product_f16, avx2::product_bf16, avx512::product_affine};
const Kernels avx512_kernels{avx512::prepare_f32, avx512::prepare_bf16, avx512::prepare_q8,    avx512::product_f32,
                             avx512::product_f16, avx512::product_bf16, avx512::product_affine};
const Kernels amx_kernels{avx512::prepare_f32, amx::prepare_bf16, amx::prepare_q8,    avx512::product_f32,
                          avx512::product_f16, amx::product_bf16, amx::product_affine};

bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

bool has_vnni() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vnni");
}

bool has_bf16() { return __builtin_cpu_supports("avx512bf16"); }

bool detect(Isa isa) {
  switch (isa) {
    case Isa::Scalar: return true;
    case Isa::Avx2: return has_avx2();
    case Isa::Avx512: return has_vnni() && has_bf16();
    case Isa::Amx: return has_vnni() && has_bf16() && amx::permitted();
  }
  return false;
}

const Kernels& choose(Isa isa) {
  switch (isa) {
    case Isa::Avx2: return has_vnni() && !has_bf16() ? vnni_kernels : avx2_kernels;
    case Isa::Avx512: return avx512_kernels;
    case Isa::Amx: return amx_kernels;
    case Isa::Scalar: break;
  }
  return scalar_kernels;
}

#else

bool detect(Isa isa) { return isa == Isa::Scalar; }

const Kernels& choose(Isa) { return scalar_kernels; }

#endif

}  // namespace

bool isa_available(Isa isa) {
  static const bool available[] = {detect(Isa::Scalar), detect(Isa::Avx2), detect(Isa::Avx512), detect(Isa::Amx)};
  const auto index = static_cast<int32_t>(isa);
  return index >= 0 && index < 4 && available[index];
}

Isa best_isa() {
  Isa best = Isa::Scalar;
  for (const Isa isa : {Isa::Avx2, Isa::Avx512, Isa::Amx}) {
    if (isa_available(isa)) best = isa;
  }
  const char* wanted = std::getenv("OCTAVO_NATIVE_ISA");
  if (wanted == nullptr || *wanted == '\0') return best;
  const std::string name = wanted;
  Isa isa = Isa::Scalar;
  if (name == "avx2") {
    isa = Isa::Avx2;
  } else if (name == "avx512") {
    isa = Isa::Avx512;
  } else if (name == "amx") {
    isa = Isa::Amx;
  } else if (name != "scalar") {
    throw std::invalid_argument("OCTAVO_NATIVE_ISA is \"" + name + "\"; it may be scalar, avx2, avx512 or amx");
  }
  if (!isa_available(isa)) {
    throw std::invalid_argument("OCTAVO_NATIVE_ISA asks for " + name + ", which this CPU lacks; leave it unset");
  }
  return isa;
}

const Kernels& kernels_of(Isa isa) {
  if (!isa_available(isa)) throw std::invalid_argument("this CPU lacks the instruction set asked for");
  return choose(isa);
}

}  // namespace octavo
