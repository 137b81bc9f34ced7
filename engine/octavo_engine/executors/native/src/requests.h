// What the executor keeps of each request between steps: its tokens, its blocks, how it is sampled.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace octavo {

class LowRankAdapter;

struct Sampling {
  float temperature = 1.0F, top_p = 1.0F, min_p = 0.0F;
  float presence_penalty = 0.0F, frequency_penalty = 0.0F, repetition_penalty = 1.0F;
  int32_t top_k = 0;
  uint64_t seed = 0;
  int32_t min_tokens = 0;
  int32_t logprobs = -1, prompt_logprobs = -1;  // -1: none
  bool scores_processed = false;                // log-probabilities are of what is drawn from, not of the raw logits
  bool scores_logits = false;                   // and are logits that nothing is subtracted from
  std::vector<int32_t> stop_tokens;             // banned until min_tokens
  std::vector<std::pair<int32_t, float>> logit_bias;
  std::vector<int32_t> allowed_tokens;  // empty: all
  std::vector<std::vector<int32_t>> bad_words;
  std::vector<int32_t> logprob_tokens;  // reported in place of the best, after the drawn token; empty: the best

  // Calls visit(name, member) for the parameters that are passed on unchanged, under their names in SamplingParams.
  template <typename Visit>
  static void numbers(Visit&& visit) {
    visit("temperature", &Sampling::temperature);
    visit("top_p", &Sampling::top_p);
    visit("min_p", &Sampling::min_p);
    visit("presence_penalty", &Sampling::presence_penalty);
    visit("frequency_penalty", &Sampling::frequency_penalty);
    visit("repetition_penalty", &Sampling::repetition_penalty);
  }

  bool penalizes() const { return presence_penalty != 0.0F || frequency_penalty != 0.0F || repetition_penalty != 1.0F; }
};

struct Request {
  std::vector<int32_t> tokens;  // the prompt and every token drawn
  int32_t prompt_size = 0;
  int32_t second_segment = 0;                // position of its first token; 0: there is one segment
  std::vector<std::vector<int32_t>> tables;  // block ids, one list a KV group
  Sampling sampling;
  std::shared_ptr<const LowRankAdapter> adapter;  // or null
  std::unordered_map<int32_t, int32_t> counts;    // of drawn tokens; prompt tokens have an entry too. Only if penalized

  void draw(int32_t token) {
    tokens.push_back(token);
    if (sampling.penalizes()) ++counts[token];
  }
};

// Requests by slot: a small number that executor.py keeps for each id.
class RequestTable {
 public:
  RequestTable(int64_t vocab_size, size_t groups) : vocab_size_(vocab_size), groups_(groups) {}

  // Throws std::invalid_argument, naming the field, where a token id is outside the vocabulary.
  // `drawn` are tokens that an earlier run of the request has already drawn.
  int32_t add(std::vector<int32_t> prompt, const std::vector<int32_t>& drawn, Sampling sampling,
              int32_t second_segment = 0);
  void remove(int32_t slot);
  void append_blocks(int32_t slot, size_t group, const std::vector<int32_t>& blocks);
  void clear_blocks(int32_t slot);
  Request& at(int32_t slot);
  size_t size() const { return slots_.size() - free_.size(); }

 private:
  void check(int32_t token, const char* field) const;

  int64_t vocab_size_;
  size_t groups_;
  std::vector<std::unique_ptr<Request>> slots_;
  std::vector<int32_t> free_;
};

}  // namespace octavo
