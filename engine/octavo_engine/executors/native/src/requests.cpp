#include "requests.h"

#include <stdexcept>

namespace octavo {

void RequestTable::check(int32_t token, const char* field) const {
  if (token < 0 || token >= vocab_size_) {
    throw std::invalid_argument(std::string(field) + ": token id " + std::to_string(token) +
                                " is outside the model's vocabulary of " + std::to_string(vocab_size_));
  }
}

int32_t RequestTable::add(std::vector<int32_t> prompt, const std::vector<int32_t>& drawn, Sampling sampling,
                          int32_t second_segment) {
  for (const int32_t token : prompt) check(token, "prompt");
  for (const int32_t token : drawn) check(token, "output");
  for (const auto& bias : sampling.logit_bias) check(bias.first, "logit_bias");
  for (const int32_t token : sampling.allowed_tokens) check(token, "allowed_token_ids");
  for (const int32_t token : sampling.logprob_tokens) check(token, "logprob_token_ids");
  for (const auto& word : sampling.bad_words) {
    if (word.empty()) throw std::invalid_argument("bad_words: an entry is empty");
    for (const int32_t token : word) check(token, "bad_words");
  }
  auto request = std::make_unique<Request>();
  request->prompt_size = static_cast<int32_t>(prompt.size());
  request->tokens = std::move(prompt);
  request->sampling = std::move(sampling);
  request->second_segment = second_segment;
  request->tables.resize(groups_);
  if (request->sampling.penalizes()) {
    for (const int32_t token : request->tokens) request->counts.emplace(token, 0);
  }
  for (const int32_t token : drawn) request->draw(token);
  if (free_.empty()) {
    slots_.push_back(std::move(request));
    return static_cast<int32_t>(slots_.size() - 1);
  }
  const int32_t slot = free_.back();
  free_.pop_back();
  slots_[static_cast<size_t>(slot)] = std::move(request);
  return slot;
}

Request& RequestTable::at(int32_t slot) {
  if (slot < 0 || static_cast<size_t>(slot) >= slots_.size() || !slots_[static_cast<size_t>(slot)]) {
    throw std::out_of_range("no request has the slot " + std::to_string(slot));
  }
  return *slots_[static_cast<size_t>(slot)];
}

void RequestTable::remove(int32_t slot) {
  at(slot);
  slots_[static_cast<size_t>(slot)].reset();
  free_.push_back(slot);
}

void RequestTable::append_blocks(int32_t slot, size_t group, const std::vector<int32_t>& blocks) {
  auto& table = at(slot).tables.at(group);
  table.insert(table.end(), blocks.begin(), blocks.end());
}

void RequestTable::clear_blocks(int32_t slot) {
  for (auto& table : at(slot).tables) table.clear();
}

}  // namespace octavo
