// Latent attention in a step of the decoder: queries take in each head's keys, attend over latents, and what comes out
// is multiplied by each head's values. A block is read once for all heads.
#include <algorithm>
#include <cstring>

#include "decoder.h"

namespace octavo {

void Decoder::pack_latent(LayerModel& model, Layer& layer, const std::string& at) {
  LatentModel& latent = model.latent;
  const int64_t hidden = model_.hidden_size, heads = model.num_heads, nope = model.head_dim_k - latent.rotary_dim;
  const StoredWeight kv = stored_.take(at + "kv_a", latent.width(), hidden);
  if (latent.q_rank > 0) {
    layer.qkv = pack_linear({stored_.take(at + "q_a", latent.q_rank, hidden), kv});
    layer.q_bias = stored_.take_bias(at + "q_a_bias", latent.q_rank);
    stored_.take_norm(latent.q_norm, at + "q_a_norm", latent.q_rank);
    layer.q_b = pack_linear({stored_.take(at + "q_b", model.q_size(), latent.q_rank)});
  } else {
    layer.qkv = pack_linear({stored_.take(at + "q", model.q_size(), hidden), kv});
  }
  layer.k_bias = stored_.take_bias(at + "kv_a_bias", latent.width());
  stored_.take_norm(latent.kv_norm, at + "kv_a_norm", latent.rank);
  const Packing packing{options_.widen, head_pool_, team_};
  layer.k_b = ByHead(stored_.take(at + "k_b", heads * latent.rank, nope), heads, packing);
  layer.v_b = ByHead(stored_.take(at + "v_b", model.o_size(), latent.rank), heads, packing);
  packed_bytes_ += layer.k_b.bytes() + layer.v_b.bytes();
}

// Norms the step's latents, in place: of a row's product the query's of `q_rank`, and [latent, key] as [key, latent].
void Decoder::norm_latents(const LayerModel& model, const Layer& layer, int64_t row, float* scratch) {
  const LatentModel& latent = model.latent;
  const int64_t columns = layer.qkv.n() - latent.width();
  float* q = qkv_.floats() + row * layer.qkv.n();
  float* kv = q + columns;
  if (latent.q_rank > 0) {
    if (!layer.q_bias.empty()) ops_.add_scaled(q, layer.q_bias.data(), latent.q_rank, 1.0F);
    ops_.norm(q, latent.q_rank, latent.q_norm.view(), q);
  }
  if (!layer.k_bias.empty()) ops_.add_scaled(kv, layer.k_bias.data(), latent.width(), 1.0F);
  std::memcpy(scratch, kv + latent.rank, static_cast<size_t>(latent.rotary_dim) * sizeof(float));
  ops_.norm(kv, latent.rank, latent.kv_norm.view(), scratch + latent.rotary_dim);
  std::memcpy(kv, scratch, static_cast<size_t>(latent.width()) * sizeof(float));
}

void Decoder::attend_latent(Member& me, size_t i) {
  const LayerModel& model = model_.layers[i];
  const Layer& layer = layers_[i];
  const LatentModel& latent = model.latent;
  const int64_t m = plan_.rows(), heads = model.num_heads, ld = layer.qkv.n(), columns = ld - latent.width();
  const int64_t width = latent.width(), all = heads * width, nope = model.head_dim_k - latent.rotary_dim;
  team_.each(me, m, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) norm_latents(model, layer, row, scratch(me));
    if (latent.q_rank > 0) layer.q_b.prepare(qkv_.floats(), ld, begin, end);
  });
  const float* queries = qkv_.floats();
  int64_t ldq = ld;
  if (latent.q_rank > 0) {
    multiply(me, layer.q_b, m, queries_.floats());
    queries = queries_.floats();
    ldq = layer.q_b.n();
  }
  mark(me, Phase::Qkv);

  const PagedAttention attention{ops_,    layer.absorbed, layer.kv, rotary(model.rotary),
                                 nullptr, nullptr,        nullptr,  or_null(layer.sinks)};
  attention.write(me, plan_, qkv_.floats() + columns, ld, scratch(me));
  mark(me, Phase::KvWrite);

  float* absorbed = absorbed_.floats();
  each_head(me, layer.k_b, absorbed + latent.rotary_dim, all, width, [&](int64_t row, int64_t head) {
    const float* q = queries + row * ldq + head * model.head_dim_k;
    std::memcpy(absorbed + row * all + head * width, q + nope, static_cast<size_t>(latent.rotary_dim) * sizeof(float));
    return q;
  });
  attention.attend(me, plan_, plan_.attention[static_cast<size_t>(layer.shape)], absorbed, all, parts_.floats(),
                   {absorbed, all, width}, scratch(me));
  each_head(me, layer.v_b, attended_.floats(), model.o_size(), model.head_dim_v,
            [&](int64_t row, int64_t head) { return absorbed + row * all + head * width; });
}

// The product of every row and head with the head's matrix, into y. `input(row, head)` gives what is multiplied.
template <class Input>
void Decoder::each_head(Member& me, const ByHead& weight, float* y, int64_t ldy, int64_t head_out, Input&& input) {
  const int64_t m = plan_.rows(), heads = weight.heads();
  for (int64_t first = 0; first < m;) {
    const HeadSlice slice = weight.slice(first, m, head_slots_, options_.isa);
    team_.each(me, slice.count * heads, 4, [&](int64_t begin, int64_t end) {
      for (int64_t at = begin; at < end; ++at) {
        weight.prepare(slice, at % heads, at / heads, input(first + at / heads, at % heads));
      }
    });
    team_.each(me, weight.blocks(), 1,
               [&](int64_t begin, int64_t end) { weight.multiply(slice, begin, end, y + first * ldy, ldy, head_out); });
    first += slice.count;
  }
}

}  // namespace octavo
