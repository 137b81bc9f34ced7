// Which instruction sets run here: what CPU and operating system allow, lowered by OCTAVO_NATIVE_ISA.
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.h"

namespace octavo {

namespace {

#if defined(__x86_64__)

const Kernels avx2_kernels{avx2::prepare_f32, avx2::prepare_bf16, avx2::prepare_q8,    avx2::product_f32,
                           avx2::product_f16, avx2::product_bf16, avx2::product_affine};
// Products with bf16 weights need AVX512-BF16, and take AVX2's here.
const Kernels vnni_kernels{avx512::prepare_f32, avx2::prepare_bf16, avx512::prepare_q8,    avx512::product_f32,
                           avx512::product_f16, avx2::product_bf16, avx512::product_affine};
const Kernels bf16_kernels{avx512::prepare_f32, avx512::prepare_bf16, avx512::prepare_q8,    avx512::product_f32,
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
    case Isa::Scalar:
      return true;
    case Isa::Avx2:
      return has_avx2();
    case Isa::Avx512Vnni:
      return has_vnni();
    case Isa::Avx512Bf16:
      return has_vnni() && has_bf16();
    case Isa::Amx:
      return has_vnni() && has_bf16() && amx::permitted();
  }
  return false;
}

const Kernels& choose(Isa isa) {
  switch (isa) {
    case Isa::Avx2:
      return avx2_kernels;
    case Isa::Avx512Vnni:
      return vnni_kernels;
    case Isa::Avx512Bf16:
      return bf16_kernels;
    case Isa::Amx:
      return amx_kernels;
    case Isa::Scalar:
      break;
  }
  return scalar_kernels;
}

#else

bool detect(Isa isa) { return isa == Isa::Scalar; }

const Kernels& choose(Isa) { return scalar_kernels; }

#endif

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::Avx2:
      return "avx2";
    case Isa::Avx512Vnni:
      return "avx512-vnni";
    case Isa::Avx512Bf16:
      return "avx512-bf16";
    case Isa::Amx:
      return "amx";
    case Isa::Scalar:
      break;
  }
  return "scalar";
}

bool isa_available(Isa isa) {
  static const std::vector<bool> available = [] {
    std::vector<bool> found;
    for (const Isa each : kIsas) found.push_back(detect(each));
    return found;
  }();
  const auto index = static_cast<size_t>(isa);
  return index < available.size() && available[index];
}

Isa best_isa() {
  const char* wanted = std::getenv("OCTAVO_NATIVE_ISA");
  const bool any = wanted == nullptr || *wanted == '\0';
  Isa best = Isa::Scalar;
  std::string names;
  for (const Isa isa : kIsas) {
    if (any) {
      if (isa_available(isa)) best = isa;
    } else if (std::string(wanted) == isa_name(isa)) {
      if (isa_available(isa)) return isa;
      throw std::invalid_argument(std::string("OCTAVO_NATIVE_ISA asks for ") + wanted +
                                  ", which this CPU lacks; leave it unset");
    }
    names += std::string(names.empty() ? "" : ", ") + isa_name(isa);
  }
  if (any) return best;
  throw std::invalid_argument(std::string("OCTAVO_NATIVE_ISA is \"") + wanted + "\"; set it to one of " + names);
}

const Kernels& kernels_of(Isa isa) {
  if (!isa_available(isa)) throw std::invalid_argument("this CPU lacks the instruction set asked for");
  return choose(isa);
}

}  // namespace octavo
