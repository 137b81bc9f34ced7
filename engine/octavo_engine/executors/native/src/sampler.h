// Draws tokens from rows of logits. Independent of batches: one thread works on one row.
//
// The order of processing, of ties and the random numbers are those of kernels/reference_sampling.py: candidates are
// ordered by logit, equals by token id with the lowest first; top_k keeps the first k of them, top_p a token while the
// probability before it is below top_p.
#pragma once
#include <cfloat>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "operations/operations.h"
#include "requests.h"

namespace octavo {

struct TokenLogprob {
  int32_t token = -1;
  float logprob = 0.0F;
  int32_t rank = 0;
  std::vector<std::pair<int32_t, float>> top;
};

struct Drawn {
  int32_t token = -1;
  bool every_token_banned = false;  // by the request itself: nothing is drawn
  std::string error;                // not empty: nothing is drawn, for the model's logits are wrong
  bool has_logprob = false;
  TokenLogprob logprob;
};

// One thread's working memory.
struct SamplerScratch {
  std::vector<float> row;
  std::vector<int32_t> ids;
  struct Candidate {
    float value;
    int32_t token;
    double weight;
  };
  std::vector<Candidate> candidates;
};

class Sampler {
 public:
  Sampler(const Operations& operations, int64_t vocab_size) : ops_(operations), vocab_(vocab_size) {}

  // Draws one token from `logits` [vocab_size], which are overwritten. `mask` has a bit for each token that may be
  // drawn; null: all may.
  Drawn draw(float* logits, const Request& request, const uint8_t* mask, SamplerScratch& scratch) const;
  enum class Scale { kLogprobs, kLogits };
  // Computes from logits [vocab_size] the log-probability (or the logit) of `token`, its rank and the `top` best
  // tokens. Returns false if a logit is not a number; some may be minus infinity where tokens are `banned`.
  bool logprob(const float* logits, int32_t token, int32_t top, SamplerScratch& scratch, TokenLogprob& out,
               Scale scale = Scale::kLogprobs, bool banned = false) const;

 private:
  void process(float* x, const Request& request, const uint8_t* mask) const;
  // What a draw chooses among, of logits that are divided by the temperature with the largest at 0: those above
  // `threshold`, which lies above banned tokens, and of those that equal it the ones up to `last_tie`.
  struct Kept {
    float threshold = -FLT_MAX;
    int32_t last_tie = std::numeric_limits<int32_t>::max();
  };
  int32_t choose(float* x, const Request& request, BestToken likeliest, SamplerScratch& scratch, Kept& kept_all) const;
  // Adds `largest` to the logits that a draw has chosen among; the others become minus infinity.
  void restore(float* x, double largest, const Kept& kept) const;
  void score(const float* scored, const Sampling& s, SamplerScratch& scratch, Drawn& drawn) const;
  // The best k of x >= floor into scratch.candidates, in order; fewer if there are fewer.
  void best(const float* x, float maximum, float floor, int64_t k, SamplerScratch& scratch) const;
  void gather(const float* x, float threshold, SamplerScratch& scratch) const;

  const Operations& ops_;
  int64_t vocab_;
};

}  // namespace octavo
