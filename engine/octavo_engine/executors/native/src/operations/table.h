// The table of this translation unit's kernels.
#pragma once
#include "attention.h"
#include "low_rank.h"
#include "operations.h"
#include "rows.h"
#include "sampling.h"

namespace octavo {
namespace {

inline void kv_write_any(const KvWriteArgs& args, const KvRun& run, float* scratch) {
  args.kv.bf16 ? kv_write_with<Bf16Element>(args, run, scratch) : kv_write_with<F32Element>(args, run, scratch);
}

inline void attention_any(const AttentionArgs& args, float* scratch) {
  args.kv.bf16 ? attention_with<Bf16Element>(args, scratch) : attention_with<F32Element>(args, scratch);
}

inline constexpr Operations table(const char* name) {
  Operations k{};
  k.name = name;
  k.norm = norm_row;
  k.add_residual = add_residual_row;
  k.cut_off = cut_off_row;
  k.scale = scale_row;
  k.gate = gate_row;
  k.add_scaled = add_scaled_row;
  k.activate = activate_row;
  k.prepare_width = prepare_width_row;
  k.kv_write = kv_write_any;
  k.attention = attention_any;
  k.attention_join = join_parts;
  k.low_rank_in = low_rank_in_any;
  k.low_rank_out = low_rank_out_any;
  k.finish_logits = finish_row;
  k.finite = finite_row;
  k.argmax = argmax_row;
  k.exp_sum = exp_sum_row;
  k.divide_below = divide_below_row;
  k.count_above = count_above_row;
  k.collect = collect_row;
  k.gumbel_argmax = gumbel_argmax_row;
  return k;
}

}  // namespace
}  // namespace octavo
