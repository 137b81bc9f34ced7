#include "paged_attention.h"

#include <algorithm>

namespace octavo {

KvView lay_out(const LayerModel& model, int32_t block_size, bool bf16, int64_t offset) {
  const int64_t pack = bf16 ? 2 : 1;
  KvView kv;
  kv.layer_offset = offset;
  kv.block_size = block_size;
  kv.head_dim_k = model.head_dim_k;
  kv.head_dim_v = model.head_dim_v;
  kv.padded_v = (model.head_dim_v + 15) / 16 * 16;
  kv.bf16 = bf16;
  kv.key_units = model.head_dim_k / pack * 16;
  kv.tile_units = kv.key_units + 16 / pack * kv.padded_v;
  return kv;
}

int64_t layer_bytes(const LayerModel& model, const KvView& kv) {
  return int64_t{model.num_kv_heads} * (kv.block_size / 16) * kv.tile_units * 4;
}

int64_t paged_attention_scratch(const LayerModel& model) {
  return std::max<int64_t>(attention_scratch_floats(model.head_dim_k, (model.head_dim_v + 15) / 16 * 16),
                           int64_t{2} * (model.head_dim_k + model.head_dim_v));
}

void PagedAttention::write(Member& me, const StepPlan& plan, const float* qkv, int64_t ld, float* scratch) const {
  const auto& runs = plan.runs[static_cast<size_t>(model.kv_group)];
  const int64_t heads = model.num_kv_heads;
  me.team->each(me, static_cast<int64_t>(runs.size()) * heads, 1, [&](int64_t begin, int64_t end) {
    KvWriteArgs args;
    args.kv = kv;
    args.rotary = rotary;
    args.k_norm = model.k_norm.view();
    args.ld = ld;
    for (int64_t at = begin; at < end; ++at) {
      const int64_t head = at % heads;
      args.kv_head = static_cast<int32_t>(head);
      args.k = qkv + model.q_size() + head * model.head_dim_k;
      args.v = qkv + model.q_size() + model.k_size() + head * model.head_dim_v;
      args.k_bias = k_bias == nullptr ? nullptr : k_bias + head * model.head_dim_k;
      args.v_bias = v_bias == nullptr ? nullptr : v_bias + head * model.head_dim_v;
      ops.kv_write(args, runs[static_cast<size_t>(at / heads)], scratch);
    }
  });
}

void PagedAttention::attend(Member& me, const StepPlan& plan, const AttentionPlan& attention, const float* qkv,
                            int64_t ld, float* parts, float* out, float* scratch) const {
  const int64_t heads = model.num_kv_heads;
  const auto tiles = static_cast<int64_t>(attention.tiles.size());
  me.team->each(me, tiles * heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; ++at) {
      attend_tile(plan, attention.tiles[static_cast<size_t>(at / heads)], at % heads, qkv, ld, parts, out, scratch);
    }
  });
  const auto split = static_cast<int64_t>(attention.split_tiles.size());
  me.team->each(me, split * heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; ++at) {
      const auto tile = static_cast<size_t>(attention.split_tiles[static_cast<size_t>(at / heads)]);
      join(plan, attention.tiles[tile], at % heads, parts, out);
    }
  });
}

void PagedAttention::attend_tile(const StepPlan& plan, const AttentionTile& tile, int64_t head, const float* qkv,
                                 int64_t ld, float* parts, float* out, float* scratch) const {
  const int64_t group = model.num_heads / model.num_kv_heads, first_head = head * group;
  const SequenceRows& sequence = plan.sequences[static_cast<size_t>(tile.sequence)];
  const int64_t row = sequence.first_row + tile.offset;
  AttentionArgs args;
  args.kv = kv;
  args.rotary = rotary;
  args.q_norm = model.q_norm.view();
  args.q = qkv + row * ld + first_head * model.head_dim_k;
  args.ldq = ld;
  args.q_bias = q_bias == nullptr ? nullptr : q_bias + first_head * model.head_dim_k;
  args.blocks = sequence.request->tables[static_cast<size_t>(model.kv_group)].data();
  args.rotary_row = static_cast<int32_t>(row);
  args.tokens = tile.tokens;
  args.group = static_cast<int32_t>(group);
  args.kv_head = static_cast<int32_t>(head);
  args.position = sequence.position + tile.offset;
  args.key_begin = tile.key_begin;
  args.key_end = tile.key_end;
  args.stretch = tile.stretch;
  args.window = model.window;
  args.scale = model.scale;
  args.soft_cap = model.soft_cap;
  args.partial = tile.part >= 0;
  if (args.partial) {
    args.ldo = model.head_dim_v + 2;
    args.out = parts + tile.part + (head * tile.splits + tile.split) * tile.tokens * group * args.ldo;
  } else {
    args.ldo = model.o_size();
    args.out = out + row * args.ldo + first_head * model.head_dim_v;
  }
  ops.attention(args, scratch);
}

void PagedAttention::join(const StepPlan& plan, const AttentionTile& tile, int64_t head, const float* parts,
                          float* out) const {
  const int64_t group = model.num_heads / model.num_kv_heads;
  const int64_t row = plan.sequences[static_cast<size_t>(tile.sequence)].first_row + tile.offset;
  const int64_t width = model.head_dim_v + 2, stride = tile.tokens * group * width;
  const float* first = parts + tile.part + head * tile.splits * stride;
  for (int64_t r = 0; r < tile.tokens * group; ++r) {
    float* to = out + (row + r / group) * model.o_size() + (head * group + r % group) * model.head_dim_v;
    ops.attention_join(first + r * width, stride, tile.splits, model.head_dim_v, to);
  }
}

}  // namespace octavo
