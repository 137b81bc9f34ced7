#include "sampler.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <limits>

namespace octavo {
namespace {

constexpr float kBanned = -std::numeric_limits<float>::infinity();
using Candidate = SamplerScratch::Candidate;

bool precedes(const Candidate& a, const Candidate& b) {
  return a.value > b.value || (a.value == b.value && a.token < b.token);
}

// How many of the candidates, in order, stay under top_p of `total`; they need not be sorted and are reordered. Like
// a quickselect, each round halves what is in question.
size_t nucleus(std::vector<Candidate>& all, double needed) {
  size_t from = 0, to = all.size();
  double before = 0.0;
  while (to - from > 32) {
    const auto middle = static_cast<std::ptrdiff_t>(from + (to - from) / 2);
    std::nth_element(all.begin() + static_cast<std::ptrdiff_t>(from), all.begin() + middle,
                     all.begin() + static_cast<std::ptrdiff_t>(to), precedes);
    double left = 0.0;
    for (size_t i = from; i < static_cast<size_t>(middle); ++i) left += all[i].weight;
    if (before + left >= needed) {
      to = static_cast<size_t>(middle);
    } else {
      before += left;
      from = static_cast<size_t>(middle);
    }
  }
  std::sort(all.begin() + static_cast<std::ptrdiff_t>(from), all.begin() + static_cast<std::ptrdiff_t>(to), precedes);
  size_t kept = from;
  while (kept < to && (kept == 0 || before < needed)) before += all[kept++].weight;
  return kept;
}

}  // namespace

void Sampler::process(float* x, const Request& request, const uint8_t* mask) const {
  const Sampling& s = request.sampling;
  const auto drawn = static_cast<int32_t>(request.tokens.size()) - request.prompt_size;
  for (const auto& [token, bias] : s.logit_bias) x[token] += bias;
  if (!s.allowed_tokens.empty()) {
    std::vector<std::pair<int32_t, float>> kept;
    kept.reserve(s.allowed_tokens.size());
    for (const int32_t token : s.allowed_tokens) kept.emplace_back(token, x[token]);
    std::fill_n(x, vocab_, kBanned);
    for (const auto& [token, value] : kept) x[token] = value;
  }
  if (mask != nullptr) {
    for (int64_t i = 0; i < vocab_; ++i) {
      if (!(mask[i / 8] >> (i % 8) & 1)) x[i] = kBanned;
    }
  }
  if (drawn < s.min_tokens) {
    for (const int32_t token : s.stop_tokens) {
      if (token >= 0 && token < vocab_) x[token] = kBanned;
    }
  }
  for (const auto& word : s.bad_words) {
    const auto prefix = static_cast<std::ptrdiff_t>(word.size()) - 1;
    if (prefix > drawn) continue;
    if (std::equal(word.begin(), word.end() - 1, request.tokens.end() - prefix)) x[word.back()] = kBanned;
  }
  if (!s.penalizes()) return;
  for (const auto& [token, count] : request.counts) {
    float value = x[token];
    if (value == kBanned) continue;
    if (s.repetition_penalty != 1.0F) {
      value = value > 0 ? value / s.repetition_penalty : value * s.repetition_penalty;
    }
    if (count > 0) value -= s.frequency_penalty * static_cast<float>(count) + s.presence_penalty;
    x[token] = std::clamp(value, -FLT_MAX, FLT_MAX);
  }
}

void Sampler::gather(const float* x, float threshold, SamplerScratch& scratch) const {
  scratch.ids.resize(static_cast<size_t>(vocab_));
  const int64_t count = ops_.collect(x, vocab_, threshold, scratch.ids.data(), vocab_);
  scratch.candidates.clear();
  for (int64_t i = 0; i < count; ++i) {
    const int32_t token = scratch.ids[static_cast<size_t>(i)];
    scratch.candidates.push_back({x[token], token, 0.0});
  }
}

void Sampler::best(const float* x, float maximum, float floor, int64_t k, SamplerScratch& scratch) const {
  // Widen the stretch below the maximum until it holds k; all of them at last.
  float threshold = floor;
  for (int doubling = 0; doubling < 14; ++doubling) {
    const float at = maximum - static_cast<float>(1 << doubling);
    if (at <= floor) break;
    if (ops_.count_above(x, vocab_, at) >= k) {
      threshold = at;
      break;
    }
  }
  gather(x, threshold, scratch);
  auto& all = scratch.candidates;
  const auto kept = static_cast<std::ptrdiff_t>(std::min<size_t>(static_cast<size_t>(k), all.size()));
  std::partial_sort(all.begin(), all.begin() + kept, all.end(), precedes);
  all.resize(static_cast<size_t>(kept));
}

int32_t Sampler::choose(float* x, const Request& request, BestToken likeliest, SamplerScratch& scratch,
                        Kept& kept_all) const {
  const Sampling& s = request.sampling;
  ops_.divide_below(x, vocab_, likeliest.value, s.temperature);
  const float maximum = x[likeliest.token];
  float& threshold = kept_all.threshold;
  int32_t& last_tie = kept_all.last_tie;
  if (s.min_p > 0.0F) threshold = maximum + std::log(s.min_p);
  if (s.top_k > 0 && s.top_k < vocab_) {
    best(x, maximum, threshold, s.top_k, scratch);
    auto& kept = scratch.candidates;
    if (s.top_p < 1.0F) {
      double total = 0.0;
      for (Candidate& c : kept) total += c.weight = std::exp(static_cast<double>(c.value) - maximum);
      kept.resize(nucleus(kept, static_cast<double>(s.top_p) * total));
    }
    const Candidate& last = *std::max_element(kept.begin(), kept.end(), precedes);
    threshold = last.value;
    last_tie = last.token;
  } else if (s.top_p < 1.0F) {
    const double needed = static_cast<double>(s.top_p) * ops_.exp_sum(x, vocab_, maximum, threshold);
    for (float depth = 8.0F;; depth *= 2.0F) {
      const float at = std::max(maximum - depth, threshold);
      double total = ops_.exp_sum(x, vocab_, maximum, at);
      if (total < needed && at > threshold && depth < 1e4F) continue;
      gather(x, depth < 1e4F ? at : threshold, scratch);
      auto& all = scratch.candidates;
      for (Candidate& c : all) c.weight = std::exp(static_cast<double>(c.value) - maximum);
      const size_t kept = nucleus(all, needed);
      const auto end = all.begin() + static_cast<std::ptrdiff_t>(kept);
      const Candidate& last = *std::max_element(all.begin(), end, precedes);
      threshold = last.value;
      last_tie = last.token;
      break;
    }
  }
  const PhiloxKey key{s.seed, static_cast<uint32_t>(request.tokens.size())};
  return ops_.gumbel_argmax(x, vocab_, likeliest.token, threshold, last_tie, key).token;
}

Drawn Sampler::draw(float* logits, const Request& request, const uint8_t* mask, SamplerScratch& scratch) const {
  Drawn drawn;
  if (!ops_.finite(logits, vocab_, false)) {
    drawn.error = "the model's logits are not finite numbers";
    return drawn;
  }
  float* x = logits;
  if (request.sampling.logprobs >= 0) {
    scratch.row.resize(static_cast<size_t>(vocab_));
    std::copy_n(logits, vocab_, scratch.row.data());
    x = scratch.row.data();
  }
  process(x, request, mask);
  const BestToken likeliest = ops_.argmax(x, vocab_);
  if (!(likeliest.value > kBanned)) {
    drawn.every_token_banned = true;
    return drawn;
  }
  const bool greedy = request.sampling.temperature == 0.0F;
  Kept kept;
  drawn.token = greedy ? likeliest.token : choose(x, request, likeliest, scratch, kept);
  if (request.sampling.logprobs < 0) return drawn;
  drawn.has_logprob = true;
  const float* scored = logits;
  if (request.sampling.scores_processed) {
    if (!greedy) restore(x, static_cast<double>(likeliest.value) / request.sampling.temperature, kept);
    scored = x;
  }
  score(scored, request.sampling, scratch, drawn);
  return drawn;
}

void Sampler::restore(float* x, double largest, const Kept& kept) const {
  for (int32_t i = 0; i < vocab_; ++i) {
    const bool stays = x[i] > kept.threshold || (x[i] == kept.threshold && i <= kept.last_tie);
    x[i] = stays ? static_cast<float>(std::clamp<double>(x[i] + largest, -FLT_MAX, FLT_MAX)) : kBanned;
  }
}

void Sampler::score(const float* scored, const Sampling& s, SamplerScratch& scratch, Drawn& drawn) const {
  TokenLogprob& out = drawn.logprob;
  const Scale scale = s.scores_logits ? Scale::kLogits : Scale::kLogprobs;
  logprob(scored, drawn.token, s.logprob_tokens.empty() ? s.logprobs : 0, scratch, out, scale, s.scores_processed);
  if (s.logprob_tokens.empty()) return;
  const double normalizer = static_cast<double>(scored[out.token]) - out.logprob;
  out.top.emplace_back(out.token, out.logprob);
  for (const int32_t token : s.logprob_tokens) {
    if (token != out.token) out.top.emplace_back(token, static_cast<float>(scored[token] - normalizer));
  }
}

bool Sampler::logprob(const float* logits, int32_t token, int32_t top, SamplerScratch& scratch, TokenLogprob& out,
                      Scale scale, bool banned) const {
  if (!ops_.finite(logits, vocab_, banned)) return false;
  const float maximum = ops_.argmax(logits, vocab_).value;
  double normalizer = 0.0;
  if (scale == Scale::kLogprobs) normalizer = maximum + std::log(ops_.exp_sum(logits, vocab_, maximum, -FLT_MAX));
  out.token = token;
  out.logprob = static_cast<float>(logits[token] - normalizer);
  out.rank = static_cast<int32_t>(ops_.count_above(logits, vocab_, logits[token])) + 1;
  out.top.clear();
  if (top > 0) {
    best(logits, maximum, -FLT_MAX, top, scratch);
    for (const Candidate& c : scratch.candidates) {
      out.top.emplace_back(c.token, static_cast<float>(c.value - normalizer));
    }
  }
  return true;
}

}  // namespace octavo
