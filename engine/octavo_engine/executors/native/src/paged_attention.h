// One layer's attention over blocks: where keys and values lie, writing them, and reading them back, by all threads.
#pragma once
#include "model.h"
#include "operations/operations.h"
#include "parallel.h"
#include "plan.h"

namespace octavo {

// A layer's part of a block, from `offset` on; `blocks` and `block_bytes` are set once the blocks are there.
KvView lay_out(const LayerModel& model, int32_t block_size, bool bf16, int64_t offset);
int64_t layer_bytes(const LayerModel& model, const KvView& kv);

// Floats of scratch that a thread needs.
int64_t paged_attention_scratch(const LayerModel& model);

// Results of heads: `ld` floats from a row, and `head` from a head, to the next.
struct HeadRows {
  float* data;
  int64_t ld;
  int64_t head;
};

struct PagedAttention {
  const Operations& ops;
  const LayerModel& model;
  const KvView& kv;
  RotaryView rotary;    // of the step's rows
  const float* q_bias;  // [num_heads * head_dim_k], or null
  const float* k_bias;
  const float* v_bias;
  const float* sinks;  // [num_heads], or null

  // Prepares queries and keys whose norms span all heads, in place; nothing to do for others. Comes first.
  void prepare(Member& me, const StepPlan& plan, float* qkv, int64_t ld) const;
  // kv: [rows][ld], keys then values. Writes those of all rows to their blocks.
  void write(Member& me, const StepPlan& plan, const float* kv, int64_t ld, float* scratch) const;
  // q: [rows][ld]. `out` may be where q is, if its heads begin where those of q do. `parts` has room for the plan's
  // partial sums.
  void attend(Member& me, const StepPlan& plan, const AttentionPlan& attention, const float* q, int64_t ld,
              float* parts, const HeadRows& out, float* scratch) const;

 private:
  bool prepared() const { return model.qk_norm_span == QkNormSpan::Width && model.q_norm.present; }
  HeadView whole(const Norm& norm) const;
  HeadView view(const Norm& norm, int64_t head) const;
  // The heads of one KV head's group that are the `piece`-th part of it.
  void attend_tile(const StepPlan& plan, const AttentionTile& tile, int64_t kv_head, int64_t piece, const float* q,
                   int64_t ld, float* parts, const HeadRows& out, float* scratch) const;
  void join(const StepPlan& plan, const AttentionTile& tile, int64_t head, const float* parts,
            const HeadRows& out) const;
};

}  // namespace octavo
