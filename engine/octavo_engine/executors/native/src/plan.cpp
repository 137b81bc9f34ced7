#include "plan.h"

#include <algorithm>

namespace octavo {
namespace {

int32_t round_down(int32_t n, int32_t to) { return n / to * to; }

}  // namespace

std::string StepPlan::check(const Scheduled& work, const Request& request, const DecoderModel& model,
                            const std::vector<int32_t>& num_blocks, int32_t block_size) const {
  const int64_t end = int64_t{work.computed} + work.count;
  if (work.computed < 0 || work.count <= 0 || end > static_cast<int64_t>(request.tokens.size())) {
    return "positions " + std::to_string(work.computed) + " to " + std::to_string(end - 1) +
           " are scheduled, but the request has " + std::to_string(request.tokens.size()) + " tokens";
  }
  if (model.num_positions > 0 && end + model.position_offset > model.num_positions) {
    return "position " + std::to_string(end - 1) + " is beyond the model's " +
           std::to_string(model.num_positions - model.position_offset) + " learned ones";
  }
  if (work.wanted < 0 || work.wanted > work.count) {
    return "logits of " + std::to_string(work.wanted) + " positions are wanted, but " + std::to_string(work.count) +
           " are scheduled";
  }
  if (!model.pools()) return check_tables(work, request, model, num_blocks, block_size);
  if (work.computed != 0 || end != static_cast<int64_t>(request.tokens.size()) || work.draws) {
    return "a prompt that is pooled is computed whole, in one step";
  }
  return {};
}

std::string StepPlan::check_tables(const Scheduled& work, const Request& request, const DecoderModel& model,
                                   const std::vector<int32_t>& num_blocks, int32_t block_size) const {
  const int64_t end = int64_t{work.computed} + work.count;
  for (size_t g = 0; g < request.tables.size(); ++g) {
    const auto& table = request.tables[g];
    if ((end - 1) / block_size >= static_cast<int64_t>(table.size())) {
      return "KV group " + std::to_string(g) + " has " + std::to_string(table.size()) + " blocks for " +
             std::to_string(end) + " tokens";
    }
    const int32_t window = model.group_windows[g];
    const int32_t first_seen = window > 0 ? std::max(0, work.computed - window + 1) : 0;
    for (int64_t at = first_seen / block_size; at <= (end - 1) / block_size; ++at) {
      const int32_t block = table[static_cast<size_t>(at)];
      if (block <= 0 || block >= num_blocks[g]) {
        return "entry " + std::to_string(at) + " of the block table of KV group " + std::to_string(g) + " is block " +
               std::to_string(block) + ", outside 1 to " + std::to_string(num_blocks[g] - 1);
      }
    }
  }
  return {};
}

void StepPlan::add_runs(const SequenceRows& sequence, size_t group, int32_t block_size) {
  for (int32_t done = 0; done < sequence.count;) {
    const int32_t position = sequence.position + done;
    const int32_t slot = position % 16;
    const int32_t count = std::min(16 - slot, sequence.count - done);
    const int32_t block = sequence.request->tables[group][static_cast<size_t>(position / block_size)];
    runs[group].push_back({sequence.first_row + done, count, block, position % block_size / 16, slot});
    done += count;
  }
}

void StepPlan::add_tiles(AttentionPlan& plan, int threads) {
  plan.tiles.clear();
  plan.split_tiles.clear();
  plan.part_floats = 0;
  const AttentionShape& shape = plan.shape;
  const int32_t group = shape.group();
  const int32_t tokens_of_tile = std::max(1, kAttentionRows / group);
  int64_t pieces = 0;
  for (const SequenceRows& s : sequences) pieces += (s.count + tokens_of_tile - 1) / tokens_of_tile;
  pieces *= int64_t{shape.num_kv_heads} * shape.pieces();
  if (pieces == 0) return;
  // Few pieces leave threads idle, or one with twice the work of another: then each stretch is a piece.
  const bool split = threads > 1 && pieces < 4 * threads;
  for (size_t i = 0; i < sequences.size(); ++i) {
    const SequenceRows& s = sequences[i];
    for (int32_t offset = 0, tokens; offset < s.count; offset += tokens) {
      const int32_t first = s.position + offset, length = s.position + s.count;
      // In both directions all rows of a sequence have the stretches of its last one.
      const int32_t stretch = attention_stretch(shape.causal ? first : length - 1);
      tokens = std::min({tokens_of_tile, s.count - offset, 16 * stretch - first});
      const int32_t end = shape.end_key(first + tokens - 1, length);
      const int32_t begin = round_down(shape.first_key(first), 16);
      const int32_t first_split = begin / stretch, splits = (end - 1) / stretch - first_split + 1;
      const auto sequence = static_cast<int32_t>(i);
      if (splits == 1 || !split) {
        plan.tiles.push_back({sequence, offset, tokens, begin, end, stretch, -1, 0, 1});
        continue;
      }
      plan.split_tiles.push_back(static_cast<int32_t>(plan.tiles.size()));
      for (int32_t k = 0; k < splits; ++k) {
        const int32_t from = (first_split + k) * stretch;
        plan.tiles.push_back({sequence, offset, tokens, std::max(begin, from), std::min(end, from + stretch), stretch,
                              plan.part_floats, k, splits});
      }
      plan.part_floats += int64_t{shape.num_kv_heads} * splits * tokens * group * (shape.head_dim_v + 2);
    }
  }
}

void StepPlan::build(const std::vector<Scheduled>& batch, RequestTable& requests, const DecoderModel& model,
                     const std::vector<AttentionShape>& shapes, const std::vector<int32_t>& num_blocks,
                     int32_t block_size, int64_t max_rows, int64_t max_drawn, int threads) {
  sequences.clear();
  tokens.clear();
  positions.clear();
  segments.clear();
  drawn.clear();
  prompt.clear();
  errors.clear();
  int32_t next_block = 1;  // of a model that pools: its prompts' blocks follow one another
  runs.resize(num_blocks.size());
  for (auto& group : runs) group.clear();

  for (size_t i = 0; i < batch.size(); ++i) {
    const Scheduled& work = batch[i];
    Request& request = requests.at(work.slot);
    std::string error = check(work, request, model, num_blocks, block_size);
    if (error.empty() && rows() + work.count > max_rows) {
      error = "the step has more than " + std::to_string(max_rows) + " tokens, which --max-num-batched-tokens sets";
    }
    if (error.empty() && work.draws && static_cast<int64_t>(drawn.size()) >= max_drawn) {
      error = "the step draws more than " + std::to_string(max_drawn) + " tokens, which --max-num-seqs sets";
    }
    if (error.empty() && model.pools() && static_cast<int64_t>(sequences.size()) >= max_drawn) {
      error = "the step has more than " + std::to_string(max_drawn) + " prompts, which --max-num-seqs sets";
    }
    if (!error.empty()) {
      errors.emplace_back(static_cast<int32_t>(i), std::move(error));
      continue;
    }
    const auto first_row = static_cast<int32_t>(rows());
    const auto sequence = static_cast<int32_t>(sequences.size());
    sequences.push_back({&request, static_cast<int32_t>(i), first_row, work.count, work.computed});
    for (int32_t k = 0; k < work.count; ++k) {
      tokens.push_back(request.tokens[static_cast<size_t>(work.computed) + static_cast<size_t>(k)]);
      positions.push_back(work.computed + k);
      segments.push_back(request.second_segment > 0 && work.computed + k >= request.second_segment ? 1 : 0);
    }
    if (model.pools()) {
      auto& table = request.tables[0];
      table.resize(static_cast<size_t>((work.count + block_size - 1) / block_size));
      for (int32_t& block : table) block = next_block++;
    }
    for (int32_t k = work.count - work.wanted; k < work.count; ++k) {
      const int32_t next = work.computed + k + 1;
      if (work.draws && k == work.count - 1) {
        drawn.push_back({first_row + k, sequence, -1});
      } else if (next < request.prompt_size && request.sampling.prompt_logprobs >= 0) {
        prompt.push_back({first_row + k, sequence, request.tokens[static_cast<size_t>(next)]});
      }
    }
    for (size_t g = 0; g < num_blocks.size(); ++g) add_runs(sequences.back(), g, block_size);
  }

  attention.resize(shapes.size());
  for (size_t i = 0; i < shapes.size(); ++i) {
    attention[i].shape = shapes[i];
    add_tiles(attention[i], threads);
  }
}

}  // namespace octavo
