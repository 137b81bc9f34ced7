#include "routing.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace octavo {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();
constexpr float kTiny = 1e-20F;  // in a divisor that may be zero: sigmoids of very negative numbers

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

float sigmoid(float x) { return 1.0F / (1.0F + std::exp(-x)); }

void softmax(float* x, int64_t n) {
  const float highest = *std::max_element(x, x + n);
  float sum = 0.0F;
  for (int64_t i = 0; i < n; ++i) {
    x[i] = std::exp(x[i] - highest);
    sum += x[i];
  }
  for (int64_t i = 0; i < n; ++i) x[i] /= sum;
}

// The index of the largest of x that is not `taken`, the first of equal ones; some index even where all are NaN.
int32_t largest(const std::vector<float>& x, const std::vector<uint8_t>& taken) {
  int32_t best = -1;
  for (size_t i = 0; i < x.size(); ++i) {
    if (taken[i] == 0 && (best < 0 || x[i] > x[static_cast<size_t>(best)])) best = static_cast<int32_t>(i);
  }
  return best;
}

// Marks the experts of all but the best groups as taken.
void limit_groups(const RouterModel& router, const std::vector<float>& worth, std::vector<uint8_t>& taken) {
  const size_t groups = static_cast<size_t>(router.num_groups), size = worth.size() / groups;
  std::vector<float> of_group(groups);
  for (size_t g = 0; g < groups; ++g) {
    float first = kNever, second = kNever;
    for (size_t i = g * size; i < (g + 1) * size; ++i) {
      second = std::max(second, std::min(first, worth[i]));
      first = std::max(first, worth[i]);
    }
    of_group[g] = router.group_by_top2 ? first + second : first;
  }
  std::vector<uint8_t> kept(groups, 0);
  for (int32_t i = 0; i < router.top_groups; ++i) kept[static_cast<size_t>(largest(of_group, kept))] = 1;
  for (size_t g = 0; g < groups; ++g) {
    std::fill_n(taken.begin() + static_cast<int64_t>(g * size), size, kept[g] != 0 ? uint8_t{0} : uint8_t{1});
  }
}

// Phi-3.5-MoE: each choice's weight is its softmax among those left that are within the jitter of the largest of them.
void choose_sparsely(const RouterModel& router, const float* logits, Choice* out) {
  const std::vector<float> x(logits, logits + router.num_experts);
  std::vector<uint8_t> taken(x.size(), 0);
  for (int32_t k = 0; k < router.num_chosen; ++k) {
    const auto best = static_cast<size_t>(largest(x, taken));
    float sum = 0.0F;
    for (size_t i = 0; i < x.size(); ++i) {
      const float distance = (x[best] - x[i]) / std::max(std::fabs(x[i]), x[best]);
      if (taken[i] == 0 && !(distance > 2 * router.jitter)) sum += std::exp(x[i] - x[best]);
    }
    taken[best] = 1;
    out[k] = {static_cast<int32_t>(best), router.scale / sum};
  }
}

void choose_largest(const RouterModel& router, const float* logits, const float* correction, Choice* out) {
  const auto n = static_cast<size_t>(router.num_experts);
  std::vector<float> scores(logits, logits + n);
  if (router.scoring == Scoring::Softmax) softmax(scores.data(), router.num_experts);
  if (router.scoring == Scoring::Sigmoid) std::transform(scores.begin(), scores.end(), scores.begin(), sigmoid);
  std::vector<float> worth = scores;
  for (size_t i = 0; correction != nullptr && i < n; ++i) worth[i] += correction[i];
  std::vector<uint8_t> taken(n, 0);
  if (router.num_groups > 1) limit_groups(router, worth, taken);
  std::vector<float> weights;
  float sum = 0.0F;
  for (int32_t k = 0; k < router.num_chosen; ++k) {
    const int32_t expert = largest(worth, taken);
    taken[static_cast<size_t>(expert)] = 1;
    out[k].expert = expert;
    weights.push_back(scores[static_cast<size_t>(expert)]);
    sum += weights.back();
  }
  float factor = router.scale;
  if (router.scoring == Scoring::SoftmaxOfChosen) {
    softmax(weights.data(), router.num_chosen);
  } else if (router.renormalize) {
    factor /= sum + kTiny;
  }
  for (int32_t k = 0; k < router.num_chosen; ++k) out[k].weight = weights[static_cast<size_t>(k)] * factor;
}

}  // namespace

void choose(const RouterModel& router, const float* logits, const float* correction, Choice* out) {
  if (router.scoring == Scoring::SparseMixer) {
    choose_sparsely(router, logits, out);
  } else {
    choose_largest(router, logits, correction, out);
  }
  std::sort(out, out + router.num_chosen, [](const Choice& a, const Choice& b) { return a.expert < b.expert; });
}

int64_t Routes::most_slots(const RouterModel& router, int64_t rows, int64_t align) {
  const int64_t pairs = rows * router.num_chosen;
  return round_up(pairs + std::min<int64_t>(pairs, router.num_experts) * (align - 1), align);
}

Routes::Routes(int64_t max_rows, int64_t max_chosen, int64_t align, int64_t slots)
    : align_(align),
      slots_(slots),
      choices_(static_cast<size_t>(max_rows * max_chosen)),
      pairs_(choices_.size()),
      pair_of_(choices_.size()),
      waves_(static_cast<size_t>(max_rows * max_chosen * align / slots + 1)) {}

int64_t Routes::num_waves(const RouterModel& router, int64_t rows) const {
  return (most_slots(router, rows, align_) + slots_ - 1) / slots_;
}

void Routes::build(const RouterModel& router, int64_t rows) {
  const int64_t chosen = router.num_chosen, count = rows * chosen;
  const auto experts = static_cast<size_t>(router.num_experts);
  firsts_.assign(experts + 1, 0);
  for (int64_t i = 0; i < count; ++i) ++firsts_[static_cast<size_t>(choices_[static_cast<size_t>(i)].expert) + 1];
  for (size_t e = 0; e < experts; ++e) firsts_[e + 1] += firsts_[e];

  pieces_.clear();
  size_t wave = 0;
  int64_t slot = 0, first_pair = 0, first_piece = 0;
  const auto close = [&](int64_t end) {
    const auto by_count = [](const ExpertPiece& a, const ExpertPiece& b) { return a.count < b.count; };
    std::stable_sort(pieces_.begin() + first_piece, pieces_.end(), by_count);
    const auto num_pieces = static_cast<int64_t>(pieces_.size());
    waves_[wave].first_pair = static_cast<int32_t>(first_pair);
    waves_[wave].num_pairs = static_cast<int32_t>(end - first_pair);
    waves_[wave].first_piece = static_cast<int32_t>(first_piece);
    waves_[wave].num_pieces = static_cast<int32_t>(num_pieces - first_piece);
    ++wave;
    slot = 0;
    first_pair = end;
    first_piece = num_pieces;
  };
  for (size_t e = 0; e < experts; ++e) {
    for (int64_t at = firsts_[e], end = firsts_[e + 1]; at < end;) {
      if (slot == slots_) close(at);
      const int64_t take = std::min(end - at, slots_ - slot);
      pieces_.push_back({static_cast<int32_t>(e), static_cast<int32_t>(slot), static_cast<int32_t>(take)});
      for (int64_t i = 0; i < take; ++i) pairs_[static_cast<size_t>(at + i)].slot = static_cast<int32_t>(slot + i);
      at += take;
      slot += round_up(take, align_);
    }
  }
  const auto waves = static_cast<size_t>(num_waves(router, rows));
  while (wave < waves) close(count);

  for (int64_t i = 0; i < count; ++i) {
    const Choice& choice = choices_[static_cast<size_t>(i)];
    const int64_t at = firsts_[static_cast<size_t>(choice.expert)]++;
    pair_of_[static_cast<size_t>(i)] = static_cast<int32_t>(at);
    pairs_[static_cast<size_t>(at)].row = static_cast<int32_t>(i / chosen);
    pairs_[static_cast<size_t>(at)].weight = choice.weight;
  }
}

}  // namespace octavo
