// A decoder's blocks. decoder_weights.cpp packs its weights, step.cpp runs it.
#include "decoder.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace octavo {
namespace {

std::vector<AttentionShape> shapes_of(const DecoderModel& model) {
  std::vector<AttentionShape> shapes;
  for (const LayerModel& l : model.layers) {
    const AttentionShape shape = AttentionShape::of(l.is_latent() ? l.absorbed() : l);
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
      experts_(model_.layers, model_.hidden_size, options.max_rows, options.isa),
      pool_(std::max({options.max_rows, options.max_drawn, experts_.routes.slots()}), options.isa),
      head_slots_(ByHead::slots(model_.layers, options_.max_rows, options.isa)),
      head_pool_(head_slots_, options.isa),
      requests_(model_.vocab_size, model_.group_windows.size()),
      sampler_(ops_, model_.vocab_size),
      layers_(model_.layers.size()),
      groups_(model_.group_windows.size()),
      shapes_(shapes_of(model_)) {
  lay_out_blocks();
}

void Decoder::lay_out_blocks() {
  for (size_t i = 0; i < layers_.size(); ++i) {
    if (model_.layers[i].is_latent()) layers_[i].absorbed = model_.layers[i].absorbed();
    const LayerModel& l = over_blocks(i);
    const AttentionShape shape = AttentionShape::of(l);
    layers_[i].shape = static_cast<int32_t>(std::find(shapes_.begin(), shapes_.end(), shape) - shapes_.begin());
    if (l.kv_from >= 0) {
      layers_[i].kv = layers_[static_cast<size_t>(l.kv_from)].kv;
      continue;
    }
    Group& group = groups_[static_cast<size_t>(l.kv_group)];
    const bool shared = model_.pools();  // no layer needs what another has written
    layers_[i].kv = lay_out(l, options_.block_size, options_.kv_bf16, shared ? 0 : group.block_bytes);
    const int64_t bytes = layer_bytes(l, layers_[i].kv);
    group.block_bytes = shared ? std::max(group.block_bytes, bytes) : group.block_bytes + bytes;
  }
}

void Decoder::init_kv(const std::vector<int32_t>& asked, const std::vector<int32_t>& num_host_blocks) {
  if (model_.pools() && !asked.empty()) throw std::invalid_argument("a model that pools has no KV groups");
  // Of a model that pools: what any step's prompts fit in.
  const auto whole = static_cast<int32_t>(options_.max_rows / options_.block_size + options_.max_drawn + 1);
  const std::vector<int32_t> num_blocks = model_.pools() ? std::vector<int32_t>{whole} : asked;
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

int64_t Decoder::add_adapter(int64_t id, const std::vector<LowRankWeight>& weights) {
  auto adapter = std::make_shared<const LowRankAdapter>(model_, weights, options_.kv_bf16);
  low_rank_.reserve(options_.max_rows, adapter->widest());
  const int64_t bytes = adapter->bytes();
  adapters_[id] = std::move(adapter);
  return bytes;
}

void Decoder::set_adapter(int32_t slot, int64_t id) {
  const auto found = adapters_.find(id);
  if (found == adapters_.end()) throw std::invalid_argument("the executor has no adapter " + std::to_string(id));
  requests_.at(slot).adapter = found->second;
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

}  // namespace octavo
