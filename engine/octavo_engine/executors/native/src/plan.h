// One step's work, laid out before any thread begins: rows, where their keys and values go, and pieces of attention.
#pragma once
#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "model.h"
#include "requests.h"

namespace octavo {

// One request's work in a step.
struct Scheduled {
  int32_t slot;
  int32_t computed;  // position of the first token
  int32_t count;     // tokens
  int32_t wanted;    // of the last ones, how many need logits
  bool draws;
};

struct SequenceRows {
  Request* request;
  int32_t index;  // in the batch
  int32_t first_row;
  int32_t count;
  int32_t position;
};

// Attention of layers that share blocks, head counts, window, chunk and direction.
struct AttentionShape {
  int32_t kv_group, num_heads, num_kv_heads, window, chunk;
  int32_t head_dim_v;
  bool causal;

  static AttentionShape of(const LayerModel& layer) {
    return {layer.kv_group, layer.num_heads,  layer.num_kv_heads, layer.window,
            layer.chunk,    layer.head_dim_v, layer.causal};
  }
  int32_t group() const { return num_heads / num_kv_heads; }
  // Pieces of a group of query heads: no more rows than one call of `attention` takes.
  int32_t pieces() const { return (group() + kAttentionRows - 1) / kAttentionRows; }
  // The first key that a query at `position` sees.
  int32_t first_key(int32_t position) const {
    if (chunk > 0) return position / chunk * chunk;
    return window > 0 && position >= window ? position - window + 1 : 0;
  }
  // One more than the last key that a query at `position` of a sequence of `length` sees.
  int32_t end_key(int32_t position, int32_t length) const {
    if (causal) return position + 1;
    return window > 0 ? std::min(position + window, length) : length;
  }
  bool operator==(const AttentionShape& o) const {
    return kv_group == o.kv_group && num_heads == o.num_heads && num_kv_heads == o.num_kv_heads && window == o.window &&
           chunk == o.chunk && head_dim_v == o.head_dim_v && causal == o.causal;
  }
};

// Some query rows of a sequence, with stretches of one length, against their keys or one stretch of them, for each KV
// head.
struct AttentionTile {
  int32_t sequence;
  int32_t offset;  // of the first query, in the sequence's rows
  int32_t tokens;
  int32_t key_begin, key_end;
  int32_t stretch;
  int64_t part;   // where its partial sums go, in floats; -1: the keys aren't split
  int32_t split;  // which stretch
  int32_t splits;
};

struct AttentionPlan {
  AttentionShape shape;
  std::vector<AttentionTile> tiles;
  std::vector<int32_t> split_tiles;  // one a split tile: its first stretch; empty: nothing to join
  int64_t part_floats = 0;
};

// A row whose logits are looked at: to draw from, or for the log-probability of the prompt's next token.
struct WantedRow {
  int32_t row;
  int32_t sequence;
  int32_t next_token;  // -1: drawn
};

struct StepPlan {
  std::vector<SequenceRows> sequences;
  std::vector<int32_t> tokens, positions, segments;  // of each row
  std::vector<std::vector<KvRun>> runs;              // of each KV group
  std::vector<AttentionPlan> attention;              // of each shape
  std::vector<WantedRow> drawn, prompt;
  std::vector<std::pair<int32_t, std::string>> errors;  // index in the batch, reason

  int64_t rows() const { return static_cast<int64_t>(tokens.size()); }

  // Fills the plan; a request whose work contradicts its state goes to `errors` and is left out.
  void build(const std::vector<Scheduled>& batch, RequestTable& requests, const DecoderModel& model,
             const std::vector<AttentionShape>& shapes, const std::vector<int32_t>& num_blocks, int32_t block_size,
             int64_t max_rows, int64_t max_drawn, int threads);

 private:
  std::string check(const Scheduled& work, const Request& request, const DecoderModel& model,
                    const std::vector<int32_t>& num_blocks, int32_t block_size) const;
  std::string check_tables(const Scheduled& work, const Request& request, const DecoderModel& model,
                           const std::vector<int32_t>& num_blocks, int32_t block_size) const;
  void add_runs(const SequenceRows& sequence, size_t group, int32_t block_size);
  void add_tiles(AttentionPlan& plan, int threads);
};

}  // namespace octavo
