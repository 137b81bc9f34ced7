// A whole decoder: packed weights, KV blocks, requests, and the step that runs through all of them in one call.
//
// Not thread-safe: calls come one after another. Every step runs in the decoder's own threads.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "by_head.h"
#include "experts.h"
#include "linear.h"
#include "low_rank.h"
#include "memory_map.h"
#include "mlp.h"
#include "model.h"
#include "paged_attention.h"
#include "parallel.h"
#include "plan.h"
#include "requests.h"
#include "sampler.h"
#include "stored_weights.h"
#include "timer.h"

namespace octavo {

struct DecoderOptions {
  int threads = 1;
  Isa isa = Isa::Scalar;
  bool kv_bf16 = true;
  int32_t block_size = 16;
  int64_t max_rows = 2048;  // tokens of a step
  int64_t max_drawn = 128;  // tokens that a step draws
  int32_t widen = -1;       // a Format that every matrix is turned into; -1: as stored
};

constexpr int64_t kPromptRows = 32;  // rows of prompt logits held at a time

// A bit for each token that may be drawn, in rows of whole 32-bit words.
struct GrammarMask {
  const uint8_t* bits = nullptr;  // null: all may
  int64_t bytes = 0;
  std::vector<int32_t> rows;  // of each request of the batch; -1: it has none
};

struct StepResult {
  std::vector<std::pair<int32_t, std::string>> errors;   // index in the batch, reason
  std::vector<int32_t> undrawable;                       // indices in the batch: every token is banned
  std::vector<std::pair<int32_t, Drawn>> drawn;          // index in the batch
  std::vector<std::pair<int32_t, TokenLogprob>> prompt;  // index in the batch, in the order of positions
};

class Decoder {
 public:
  Decoder(DecoderModel model, DecoderOptions options);

  // `data` must stay readable until it is packed. Throws std::invalid_argument naming the weight.
  void add_weight(const std::string& name, int32_t format, int64_t rows, int64_t cols, const uint8_t* data);
  // Packs everything; afterwards no byte that was added is needed. Returns the resident bytes of the weights.
  int64_t finalize();
  // Packs the embedding, if it was added, and the layers before `end`, all of whose weights were: their bytes may then
  // be released. finalize() packs the rest.
  void pack_layers(size_t end);

  // Blocks of one KV group as this decoder lays them out.
  int64_t block_bytes(size_t group) const { return groups_.at(group).block_bytes; }
  // `num_host_blocks` are those to swap to; none, or one number a group.
  void init_kv(const std::vector<int32_t>& num_blocks, const std::vector<int32_t>& num_host_blocks);
  // Commits all of that memory now, so that a shortage of memory fails the start rather than a request.
  void touch_kv();
  void copy_block(size_t group, int32_t from, int32_t to);
  void swap_out(size_t group, int32_t block, int32_t host_block);
  void swap_in(size_t group, int32_t host_block, int32_t block);

  // Keeps a low-rank adapter for requests to come, packed like the blocks: bf16 or float. Returns its bytes. Throws
  // std::invalid_argument as LowRankAdapter.
  int64_t add_adapter(int64_t id, const std::vector<LowRankWeight>& weights);
  // Frees it once no request has it; an unknown one is ignored.
  void remove_adapter(int64_t id) { adapters_.erase(id); }
  // Gives a request, before its first step, an adapter. Throws std::invalid_argument for an unknown one.
  void set_adapter(int32_t slot, int64_t id);

  RequestTable& requests() { return requests_; }
  Team& team() { return team_; }
  StepTimer& timer() { return timer_; }
  // Counts up `beats`, which outlives this, as a step moves on; another process may read it.
  void beat_into(uint64_t* beats) { beats_ = beats; }

  // Runs the batch up to the logits of the rows to draw from, which stay inside.
  void forward(const std::vector<Scheduled>& batch);
  // Draws, appends what was drawn to its requests, and returns all that the step made.
  StepResult sample(const GrammarMask& mask);
  // Of a model that pools: the vectors of the step's prompts, [num_pooled][pooled_size], until the next forward; and
  // which of the batch they are.
  const float* pooled() const { return pooled_.floats(); }
  std::vector<int32_t> pooled_indices() const;
  int64_t pooled_size() const { return model_.pooled_size(); }
  // Logits of the rows to draw from, [rows][vocab], until the next forward or sample. For tests.
  const float* logits() const { return logits_.floats(); }
  int64_t num_drawn() const { return static_cast<int64_t>(plan_.drawn.size()); }
  int64_t vocab_size() const { return model_.vocab_size; }

 private:
  struct Layer {
    Linear qkv, o;  // qkv: queries, keys, values and the output's gates
    Linear q_b;     // of latent attention, as the next two
    ByHead k_b, v_b;
    LayerModel absorbed;
    std::vector<float> q_bias, k_bias, v_bias, o_bias, sinks;
    Linear laurel_left, laurel_right, altup_router, per_layer_gate, per_layer_out;
    std::vector<float> altup_prediction, altup_correction, altup_scale;  // [n * n][n], [n][n], [hidden_size]
    float scale = 1.0F;
    Mlp mlp;  // or experts
    Experts experts;
    KvView kv;
    int32_t shape = 0;
  };
  struct Group {
    int64_t block_bytes = 0;
    int32_t num_blocks = 0, num_host_blocks = 0;
    MemoryMap blocks, host_blocks;
    uint8_t* block(int32_t number) const;
    uint8_t* host_block(int32_t number) const;
  };
  struct Residual {  // what is still to be added to x: the output of the matrix before
    const std::vector<float>* bias = nullptr;
    const Norm* post = nullptr;
    bool norms_sum = false;  // `post` is a norm of the sum
    bool pending = false;
    const float* more = nullptr;  // [rows][hidden_size], added too
    float scale = 1.0F;           // of the sum
  };

  Linear pack_linear(const std::vector<StoredWeight>& weights);
  void pack_front();
  void pack_head();
  void pack_attention(LayerModel& model, Layer& layer, const std::string& at);
  void pack_latent(LayerModel& model, Layer& layer, const std::string& at);
  void pack_beside(LayerModel& model, Layer& layer, const std::string& at);
  void pack_mlp(const LayerModel& model, Layer& layer, const std::string& at);
  void lay_out_blocks();
  void allocate_buffers();

  void step(Member& me);
  void embed(Member& me);
  void finish_embedding(int64_t row, float* scratch);
  // streams.cpp: what the embedding gives each layer, and what a layer has beside its two halves.
  void embed_layers(Member& me);
  void spread_streams(Member& me);
  void predict_streams(Member& me, size_t i);
  void go_around(Member& me, size_t i);
  void end_layer(Member& me, size_t i, Residual& residual);
  void merge_streams(Member& me);
  void modes(Member& me, const Layer& layer);
  void correct_streams(int64_t row, const Layer& layer);
  void take_in_own(Member& me, size_t i);
  void match_magnitude(float* x, const float* like) const;
  float* stream(int64_t row, int64_t index);
  void attention_layer(Member& me, size_t i, Residual& residual);
  void norm_latents(const LayerModel& model, const Layer& layer, int64_t row, float* scratch);
  void attend(Member& me, size_t i);
  void attend_latent(Member& me, size_t i);
  template <class Input>
  void each_head(Member& me, const ByHead& weight, float* y, int64_t ldy, int64_t head_out, Input&& input);
  void mlp_layer(Member& me, size_t i, Residual& residual);
  void dense_layer(Member& me, size_t i);
  // Of the step's adapters, first factors of rows [begin, end) of a layer's input.
  void low_rank_in(size_t i, LowRankPlace place, const float* x, int64_t ldx, int64_t begin, int64_t end) {
    if (!low_rank_.empty()) low_rank_.in(ops_, i, place, x, ldx, begin, end);
  }
  ExpertsStep experts_step(const Member& me);
  void multiply(Member& me, const Linear& linear, int64_t m, float* y, const LowRankTerm* term = nullptr);
  void add_residual(const Residual& residual, int64_t row, float* scratch);
  void heads(Member& me, const Residual& residual);
  void pool(Member& me, const Residual& residual);
  void pool_rows(const SequenceRows& sequence, float* out) const;
  void head_rows(Member& me, const Residual& residual, const WantedRow* wanted, int64_t count, float* logits);
  // The layer as its blocks are written and read.
  const LayerModel& over_blocks(size_t i) const {
    return model_.layers[i].is_latent() ? layers_[i].absorbed : model_.layers[i];
  }
  RotaryView rotary(int32_t index) const;
  float* scratch(const Member& me) const { return scratch_.floats() + me.id * scratch_floats_; }
  // Time since the last mark goes to `what`; only the calling thread's clock counts.
  void mark(const Member& me, Phase what) {
    if (me.id == 0) mark(what);
  }
  void mark(Phase what) {
    if (beats_ != nullptr) __atomic_fetch_add(beats_, 1, __ATOMIC_RELAXED);
    timer_.mark(what);
  }

  DecoderModel model_;
  DecoderOptions options_;
  const Operations& ops_;
  Team team_;
  StepTimer timer_;
  uint64_t* beats_ = nullptr;
  ExpertsWorkspace experts_;
  ActivationPool pool_;
  int64_t head_slots_;
  ActivationPool head_pool_;
  RequestTable requests_;
  Sampler sampler_;
  StoredWeights stored_;
  std::vector<Layer> layers_;
  std::vector<Group> groups_;
  std::vector<AttentionShape> shapes_;
  Linear per_layer_embedding_, per_layer_projection_, streams_in_;
  std::vector<Linear> streams_out_;
  Linear embedding_, positions_, token_types_, project_in_, project_out_, head_;
  std::vector<float> head_bias_;
  std::vector<Linear> dense_;
  std::vector<std::vector<float>> dense_bias_;
  StepPlan plan_;
  std::map<int64_t, std::shared_ptr<const LowRankAdapter>> adapters_;
  LowRankStep low_rank_;
  size_t packed_layers_ = 0;
  int64_t packed_bytes_ = 0;
  bool finalized_ = false;

  int64_t scratch_floats_ = 0;  // of each thread
  MemoryMap x_, h_, narrow_, qkv_, queries_, absorbed_, attended_, out_, act_, logits_, prompt_logits_, scratch_,
      parts_, angles_, pooled_;
  // Of all layers' own inputs, [rows][layers][size]; a product of one layer's, or of streams; streams beside the first,
  // [rows][streams][hidden_size]; what the first was predicted to be; what goes around attention; gates with their ups.
  MemoryMap per_layer_, small_, streams_, predicted_, around_, gate_up_;
  std::vector<SamplerScratch> sampling_;
  std::vector<TokenLogprob> prompt_logprobs_;
  std::vector<uint8_t> prompt_failed_;
  std::vector<Drawn> drawn_;
};

}  // namespace octavo
