#include "paged_attention.h"

#include <algorithm>
#include <limits>

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
  kv.values_from = model.values_from;
  kv.tile_units = kv.key_units + (model.values_from < 0 ? 16 / pack * kv.padded_v : 0);
  return kv;
}

int64_t layer_bytes(const LayerModel& model, const KvView& kv) {
  return int64_t{model.num_kv_heads} * (kv.block_size / 16) * kv.tile_units * 4;
}

int64_t paged_attention_scratch(const LayerModel& model) {
  return std::max<int64_t>(
      attention_scratch_floats(model.head_dim_k, (model.head_dim_v + 15) / 16 * 16, model.values_from >= 0),
      int64_t{2} * (model.head_dim_k + model.head_dim_v));
}

// What is done to queries or keys, by the weights of the first head's norm.
HeadView PagedAttention::whole(const Norm& norm) const {
  return {model.qkv_clip, norm.view(), rotary, model.qk_norm_after_rotary};
}

// What is still to be done to `head`, of queries or of keys.
HeadView PagedAttention::view(const Norm& norm, int64_t head) const {
  if (prepared()) return {};
  HeadView view = whole(norm);
  if (model.qk_norm_span == QkNormSpan::EachHead) view.norm = of_head(view.norm, head * model.head_dim_k);
  return view;
}

void PagedAttention::prepare(Member& me, const StepPlan& plan, float* qkv, int64_t ld) const {
  if (!prepared()) return;
  const HeadView query = whole(model.q_norm), key = whole(model.k_norm);
  me.team->each(me, plan.rows(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float* q = qkv + row * ld;
      ops.prepare_width(q, q_bias, model.num_heads, model.head_dim_k, query, row);
      ops.prepare_width(q + model.q_size(), k_bias, model.num_kv_heads, model.head_dim_k, key, row);
    }
  });
}

void PagedAttention::write(Member& me, const StepPlan& plan, const float* kv_rows, int64_t ld, float* scratch) const {
  const auto& runs = plan.runs[static_cast<size_t>(model.kv_group)];
  const int64_t heads = model.num_kv_heads;
  me.team->each(me, static_cast<int64_t>(runs.size()) * heads, 1, [&](int64_t begin, int64_t end) {
    KvWriteArgs args;
    args.kv = kv;
    args.value = {model.qkv_clip, model.v_norm.view(), {}, false};
    args.ld = ld;
    for (int64_t at = begin; at < end; ++at) {
      const int64_t head = at % heads;
      args.kv_head = static_cast<int32_t>(head);
      args.key = view(model.k_norm, head);
      args.k = kv_rows + head * model.head_dim_k;
      args.v = kv_rows + model.k_size() + head * model.head_dim_v;
      args.k_bias = k_bias == nullptr || prepared() ? nullptr : k_bias + head * model.head_dim_k;
      args.v_bias = v_bias == nullptr ? nullptr : v_bias + head * model.head_dim_v;
      ops.kv_write(args, runs[static_cast<size_t>(at / heads)], scratch);
    }
  });
}

void PagedAttention::attend(Member& me, const StepPlan& plan, const AttentionPlan& attention, const float* q,
                            int64_t ld, float* parts, const HeadRows& out, float* scratch) const {
  const int64_t heads = model.num_kv_heads, pieces = attention.shape.pieces(), parts_of_tile = heads * pieces;
  const auto tiles = static_cast<int64_t>(attention.tiles.size());
  me.team->each(me, tiles * parts_of_tile, 1, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; ++at) {
      const int64_t part = at % parts_of_tile;
      attend_tile(plan, attention.tiles[static_cast<size_t>(at / parts_of_tile)], part / pieces, part % pieces, q, ld,
                  parts, out, scratch);
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

void PagedAttention::attend_tile(const StepPlan& plan, const AttentionTile& tile, int64_t kv_head, int64_t piece,
                                 const float* q, int64_t ld, float* parts, const HeadRows& out, float* scratch) const {
  const AttentionShape shape = AttentionShape::of(model);
  const int64_t group = shape.group(), in_group = group * piece / shape.pieces();
  const int64_t first_head = kv_head * group + in_group, count = group * (piece + 1) / shape.pieces() - in_group;
  const SequenceRows& sequence = plan.sequences[static_cast<size_t>(tile.sequence)];
  const int64_t row = sequence.first_row + tile.offset;
  float factors[kAttentionRows];
  AttentionArgs args;
  args.query_factors = nullptr;
  if (model.query_scaling.period > 0) {
    for (int32_t i = 0; i < tile.tokens; ++i) {
      factors[i] = model.query_scaling.at(sequence.position + tile.offset + i);
    }
    args.query_factors = factors;
  }
  args.kv = kv;
  args.query = view(model.q_norm, first_head);
  args.norm_stride = model.qk_norm_span == QkNormSpan::EachHead ? model.head_dim_k : 0;
  args.q = q + row * ld + first_head * model.head_dim_k;
  args.ldq = ld;
  args.q_bias = q_bias == nullptr || prepared() ? nullptr : q_bias + first_head * model.head_dim_k;
  args.blocks = sequence.request->tables[static_cast<size_t>(model.kv_group)].data();
  args.rotary_row = static_cast<int32_t>(row);
  args.tokens = tile.tokens;
  args.group = static_cast<int32_t>(count);
  args.kv_head = static_cast<int32_t>(kv_head);
  args.position = sequence.position + tile.offset;
  args.key_begin = tile.key_begin;
  args.key_end = tile.key_end;
  args.stretch = tile.stretch;
  args.window = model.window;
  args.chunk = model.chunk;
  args.ahead = 0;
  if (!model.causal) args.ahead = model.window > 0 ? model.window - 1 : sequence.count;
  args.scale = model.scale;
  args.soft_cap = model.soft_cap;
  args.slopes = model.alibi_slopes.empty() ? nullptr : model.alibi_slopes.data() + first_head;
  args.sinks = sinks == nullptr ? nullptr : sinks + first_head;
  args.partial = tile.part >= 0;
  if (args.partial) {
    args.ldo = args.head_out = model.head_dim_v + 2;
    // A group in pieces has one token a tile, so that its pieces follow one another.
    args.out = parts + tile.part + ((kv_head * tile.splits + tile.split) * tile.tokens * group + in_group) * args.ldo;
  } else {
    args.ldo = out.ld;
    args.head_out = out.head;
    args.out = out.data + row * out.ld + first_head * out.head;
  }
  ops.attention(args, scratch);
}

void PagedAttention::join(const StepPlan& plan, const AttentionTile& tile, int64_t head, const float* parts,
                          const HeadRows& out) const {
  const int64_t group = model.num_heads / model.num_kv_heads;
  const int64_t row = plan.sequences[static_cast<size_t>(tile.sequence)].first_row + tile.offset;
  const int64_t width = model.head_dim_v + 2, stride = tile.tokens * group * width;
  const float* first = parts + tile.part + head * tile.splits * stride;
  for (int64_t r = 0; r < tile.tokens * group; ++r) {
    float* to = out.data + (row + r / group) * out.ld + (head * group + r % group) * out.head;
    const float sink = sinks == nullptr ? -std::numeric_limits<float>::infinity() : sinks[head * group + r % group];
    ops.attention_join(first + r * width, stride, tile.splits, model.head_dim_v, sink, to);
  }
}

}  // namespace octavo
