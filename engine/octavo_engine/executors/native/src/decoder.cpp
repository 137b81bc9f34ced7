// Building a decoder: weights in, packed and laid out; blocks. step.cpp runs it.
#include "decoder.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "matmul/half.h"

namespace octavo {
namespace {

float element(const StoredWeight& w, int64_t i) {
  if (w.format == Format::F32) {
    float value;
    std::memcpy(&value, w.data + i * 4, sizeof value);
    return value;
  }
  uint16_t value;
  std::memcpy(&value, w.data + i * 2, sizeof value);
  return w.format == Format::F16 ? half_to_float(value) : bfloat_to_float(value);
}

std::vector<AttentionShape> shapes_of(const DecoderModel& model) {
  std::vector<AttentionShape> shapes;
  for (const LayerModel& l : model.layers) {
    const AttentionShape shape{l.kv_group, l.num_heads, l.num_kv_heads, l.window, l.head_dim_v};
    if (std::find(shapes.begin(), shapes.end(), shape) == shapes.end()) shapes.push_back(shape);
  }
  return shapes;
}

DecoderOptions checked(DecoderOptions options) {
  if (options.block_size <= 0 || options.block_size % 16 != 0) {
    throw std::invalid_argument("the native executor's blocks hold a multiple of 16 tokens, not " +
                                std::to_string(options.block_size));
  }
  if (options.max_rows <= 0 || options.max_drawn <= 0) {
    throw std::invalid_argument("a step of " + std::to_string(options.max_rows) + " tokens, of which " +
                                std::to_string(options.max_drawn) + " are drawn, can't be run");
  }
  if (!isa_available(options.isa)) throw std::invalid_argument("this CPU lacks the instruction set asked for");
  return options;
}

}  // namespace

Decoder::Decoder(DecoderModel model, DecoderOptions options)
    : model_(checked(std::move(model))),
      options_(checked(options)),
      ops_(operations(options.isa)),
      team_(options.threads),
      pool_(std::max(options.max_rows, options.max_drawn), options.isa),
      requests_(model_.vocab_size, model_.group_windows.size()),
      sampler_(ops_, model_.vocab_size),
      layers_(model_.layers.size()),
      groups_(model_.group_windows.size()),
      shapes_(shapes_of(model_)) {
  lay_out_blocks();
}

void Decoder::lay_out_blocks() {
  for (size_t i = 0; i < layers_.size(); ++i) {
    const LayerModel& l = model_.layers[i];
    Group& group = groups_[static_cast<size_t>(l.kv_group)];
    layers_[i].kv = lay_out(l, options_.block_size, options_.kv_bf16, group.block_bytes);
    group.block_bytes += layer_bytes(l, layers_[i].kv);
    const AttentionShape shape{l.kv_group, l.num_heads, l.num_kv_heads, l.window, l.head_dim_v};
    layers_[i].shape = static_cast<int32_t>(std::find(shapes_.begin(), shapes_.end(), shape) - shapes_.begin());
  }
}

void Decoder::init_kv(const std::vector<int32_t>& num_blocks, const std::vector<int32_t>& num_host_blocks) {
  for (const auto* counts : {&num_blocks, &num_host_blocks}) {
    if (counts->size() == groups_.size() || (counts == &num_host_blocks && counts->empty())) continue;
    throw std::invalid_argument("the model has " + std::to_string(groups_.size()) + " KV groups, not " +
                                std::to_string(counts->size()));
  }
  const auto map = [](int32_t count, int64_t bytes) {
    return MemoryMap(static_cast<size_t>(count) * static_cast<size_t>(bytes));
  };
  for (size_t g = 0; g < groups_.size(); ++g) {
    Group& group = groups_[g];
    group.num_blocks = num_blocks[g];
    group.blocks = map(group.num_blocks, group.block_bytes);
    group.num_host_blocks = num_host_blocks.empty() ? 0 : num_host_blocks[g];
    group.host_blocks = map(group.num_host_blocks, group.block_bytes);
  }
  for (size_t i = 0; i < layers_.size(); ++i) {
    KvView& kv = layers_[i].kv;
    const Group& group = groups_[static_cast<size_t>(model_.layers[i].kv_group)];
    kv.blocks = group.blocks.data();
    kv.block_bytes = group.block_bytes;
  }
}

void Decoder::touch_kv() {
  constexpr int64_t kBlock = 4096;
  team_.run([this](Member& me) {
    for (Group& group : groups_) {
      for (MemoryMap* map : {&group.blocks, &group.host_blocks}) {
        const auto bytes = static_cast<int64_t>(map->size());
        team_.each(me, (bytes + kBlock - 1) / kBlock, 512, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) *static_cast<volatile uint8_t*>(map->data() + i * kBlock) = 0;
        });
      }
    }
  });
}

uint8_t* Decoder::Group::block(int32_t number) const {
  if (number <= 0 || number >= num_blocks) throw std::out_of_range("a block outside of its KV group is moved");
  return blocks.data() + number * block_bytes;
}

uint8_t* Decoder::Group::host_block(int32_t number) const {
  if (number <= 0 || number >= num_host_blocks) throw std::out_of_range("a block outside of the swap space is moved");
  return host_blocks.data() + number * block_bytes;
}

void Decoder::copy_block(size_t group, int32_t from, int32_t to) {
  const Group& g = groups_.at(group);
  std::memcpy(g.block(to), g.block(from), static_cast<size_t>(g.block_bytes));
}

void Decoder::swap_out(size_t group, int32_t block, int32_t host_block) {
  const Group& g = groups_.at(group);
  std::memcpy(g.host_block(host_block), g.block(block), static_cast<size_t>(g.block_bytes));
}

void Decoder::swap_in(size_t group, int32_t host_block, int32_t block) {
  const Group& g = groups_.at(group);
  std::memcpy(g.block(block), g.host_block(host_block), static_cast<size_t>(g.block_bytes));
}

void Decoder::add_weight(const std::string& name, int32_t format, int64_t rows, int64_t cols, const uint8_t* data) {
  if (rows <= 0) throw std::invalid_argument(name + ": it has no rows");
  try {
    row_bytes(static_cast<Format>(format), cols);
  } catch (const std::invalid_argument& error) {
    throw std::invalid_argument(name + ": " + error.what());
  }
  stored_[name] = {static_cast<Format>(format), rows, cols, data};
}

StoredWeight Decoder::take(const std::string& name, int64_t rows, int64_t cols) {
  const auto found = stored_.find(name);
  if (found == stored_.end()) throw std::invalid_argument("the weight " + name + " is missing");
  const StoredWeight w = found->second;
  if (w.rows != rows || w.cols != cols) {
    throw std::invalid_argument(name + " is " + std::to_string(w.rows) + " × " + std::to_string(w.cols) +
                                ", where the model needs " + std::to_string(rows) + " × " + std::to_string(cols));
  }
  stored_.erase(found);
  return w;
}

std::vector<float> Decoder::take_vector(const std::string& name, int64_t n, bool required) {
  if (!required && !has(name)) return {};
  const StoredWeight w = take(name, 1, n);
  if (w.format != Format::F32 && w.format != Format::F16 && w.format != Format::BF16) {
    throw std::invalid_argument(name + ": a vector can't be quantized");
  }
  std::vector<float> out(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) out[static_cast<size_t>(i)] = element(w, i);
  return out;
}

void Decoder::take_norm(Norm& norm, const std::string& name, int64_t n) {
  if (!norm.present) return;
  norm.weight = take_vector(name, n, true);
  norm.bias = take_vector(name + "_bias", n, false);
}

void Decoder::pack_layers(size_t end) {
  const int64_t hidden = model_.hidden_size;
  int64_t& bytes = packed_bytes_;
  const auto pack_linear = [&](const std::vector<StoredWeight>& weights) {
    Linear linear(weights, options_.widen, pool_, team_);
    bytes += linear.bytes();
    return linear;
  };
  if (has("embedding")) {
    (model_.tied_head ? head_ : embedding_) = pack_linear({take("embedding", model_.vocab_size, hidden)});
  }
  for (; packed_layers_ < std::min(end, layers_.size()); ++packed_layers_) {
    const size_t i = packed_layers_;
    LayerModel& model = model_.layers[i];
    Layer& layer = layers_[i];
    const std::string at = "layers." + std::to_string(i) + ".";
    layer.qkv = pack_linear({take(at + "q", model.q_size(), hidden), take(at + "k", model.k_size(), hidden),
                             take(at + "v", model.v_size(), hidden)});
    layer.o = pack_linear({take(at + "o", hidden, model.o_size())});
    if (model.gated) {
      layer.gate_up = Linear::gate_up(take(at + "gate", model.intermediate_size, hidden),
                                      take(at + "up", model.intermediate_size, hidden), options_.widen, pool_, team_);
      bytes += layer.gate_up.bytes();
    } else {
      layer.gate_up = pack_linear({take(at + "up", model.intermediate_size, hidden)});
    }
    layer.down = pack_linear({take(at + "down", hidden, model.intermediate_size)});
    layer.q_bias = take_vector(at + "q_bias", model.q_size(), false);
    layer.k_bias = take_vector(at + "k_bias", model.k_size(), false);
    layer.v_bias = take_vector(at + "v_bias", model.v_size(), false);
    layer.o_bias = take_vector(at + "o_bias", hidden, false);
    layer.gate_bias = take_vector(at + "gate_bias", model.intermediate_size, false);
    layer.up_bias = take_vector(at + "up_bias", model.intermediate_size, false);
    layer.down_bias = take_vector(at + "down_bias", hidden, false);
    take_norm(model.pre_attention_norm, at + "pre_attention_norm", hidden);
    take_norm(model.post_attention_norm, at + "post_attention_norm", hidden);
    take_norm(model.pre_mlp_norm, at + "pre_mlp_norm", hidden);
    take_norm(model.post_mlp_norm, at + "post_mlp_norm", hidden);
    take_norm(model.q_norm, at + "q_norm", model.head_dim_k);
    take_norm(model.k_norm, at + "k_norm", model.head_dim_k);
  }
}

int64_t Decoder::finalize() {
  pack_layers(layers_.size());
  take_norm(model_.final_norm, "final_norm", model_.hidden_size);
  if ((model_.tied_head ? head_ : embedding_).empty()) throw std::invalid_argument("the weight embedding is missing");
  if (!model_.tied_head) {
    head_ = Linear({take("head", model_.vocab_size, model_.hidden_size)}, options_.widen, pool_, team_);
    packed_bytes_ += head_.bytes();
  }
  if (!stored_.empty()) throw std::invalid_argument("the model has no place for the weight " + stored_.begin()->first);
  allocate_buffers();
  finalized_ = true;
  return packed_bytes_;
}

void Decoder::allocate_buffers() {
  const auto floats = [](int64_t n) { return MemoryMap(static_cast<size_t>(std::max<int64_t>(n, 1)) * sizeof(float)); };
  const int64_t rows = options_.max_rows, hidden = model_.hidden_size;
  int64_t intermediate = 0, scratch = 2 * hidden, angles = 0;
  for (size_t i = 0; i < layers_.size(); ++i) {
    const LayerModel& model = model_.layers[i];
    const Layer& layer = layers_[i];
    qkv_width_ = std::max(qkv_width_, layer.qkv.n());
    o_width_ = std::max(o_width_, model.o_size());
    intermediate = std::max(intermediate, model.intermediate_size);
    if (model.gated && layer.gate_up.interleaved() == 0) gate_width_ = std::max(gate_width_, layer.gate_up.n());
    const int64_t stripe = std::max<int64_t>(1, 2 * layer.gate_up.interleaved()) * kBlockWidth;
    scratch = std::max({scratch, paged_attention_scratch(model), rows * stripe, kGateScratch});
  }
  for (const Rotary& r : model_.rotaries) angles += r.dim;
  scratch_floats_ = (scratch + 15) / 16 * 16 + 16;
  x_ = floats(rows * hidden);
  h_ = floats(std::max(rows, options_.max_drawn) * hidden);
  out_ = floats(rows * hidden);
  qkv_ = floats(rows * qkv_width_);
  attended_ = floats(rows * o_width_);
  act_ = floats(rows * intermediate);
  gate_ = floats(rows * gate_width_);
  angles_ = floats(rows * angles);
  logits_ = floats(options_.max_drawn * model_.vocab_size);
  prompt_logits_ = floats(kPromptRows * model_.vocab_size);
  scratch_ = floats(scratch_floats_ * team_.size());
  sampling_.resize(static_cast<size_t>(team_.size()));
}

}  // namespace octavo
