// One step of the decoder: the phases that all threads walk through together.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "decoder.h"

namespace octavo {
namespace {

constexpr float kRootOfHalf = 0.70710678F;

}  // namespace

void Decoder::forward(const std::vector<Scheduled>& batch) {
  if (!finalized_) throw std::logic_error("weights come before the first step");
  std::vector<int32_t> num_blocks;
  for (const Group& group : groups_) {
    if (group.blocks.data() == nullptr) throw std::logic_error("blocks come before the first step");
    num_blocks.push_back(group.num_blocks);
  }
  timer_.start();
  plan_.build(batch, requests_, model_, shapes_, num_blocks, options_.block_size, options_.max_rows, options_.max_drawn,
              team_.size());
  low_rank_.clear();
  for (const SequenceRows& s : plan_.sequences) {
    if (s.request->adapter != nullptr) low_rank_.add(s.request->adapter.get(), s.first_row, s.count);
  }
  int64_t part_floats = 0;
  for (const AttentionPlan& plan : plan_.attention) part_floats = std::max(part_floats, plan.part_floats);
  if (static_cast<size_t>(part_floats) * sizeof(float) > parts_.size()) {
    parts_ = MemoryMap(static_cast<size_t>(part_floats) * 2 * sizeof(float));
  }
  prompt_logprobs_.resize(plan_.prompt.size());
  prompt_failed_.assign(plan_.prompt.size(), 0);
  mark(Phase::Plan);
  if (plan_.rows() > 0) team_.run([this](Member& me) { step(me); });
}

void Decoder::step(Member& me) {
  embed(me);
  if (model_.per_layer_count > 0) embed_layers(me);
  if (model_.more_streams() > 0) spread_streams(me);
  Residual residual;
  for (size_t i = 0; i < layers_.size(); ++i) {
    if (model_.more_streams() > 0) predict_streams(me, i);
    attention_layer(me, i, residual);
    mlp_layer(me, i, residual);
    end_layer(me, i, residual);
  }
  if (model_.more_streams() > 0) merge_streams(me);
  model_.pools() ? pool(me, residual) : heads(me, residual);
}

RotaryView Decoder::rotary(int32_t index) const {
  if (index < 0) return {};
  const float* at = angles_.floats();
  for (int32_t i = 0; i < index; ++i) at += options_.max_rows * model_.rotaries[static_cast<size_t>(i)].dim;
  const Rotary& r = model_.rotaries[static_cast<size_t>(index)];
  return {at, at + options_.max_rows * (r.dim / 2), r.dim, r.interleaved};
}

void Decoder::embed(Member& me) {
  const Matrix& table = model_.tied_head ? head_.first() : embedding_.first();
  const int64_t width = model_.embedding_size, m = plan_.rows();
  const bool projected = model_.projected();
  team_.each(me, m, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float* x = (projected ? narrow_ : x_).floats() + row * width;
      table.row(plan_.tokens[static_cast<size_t>(row)], x);
      if (model_.embedding_multiplier != 1.0F) ops_.scale(x, width, model_.embedding_multiplier);
      if (!projected) finish_embedding(row, scratch(me));
      for (size_t i = 0; i < model_.rotaries.size(); ++i) {
        const Rotary& r = model_.rotaries[i];
        const RotaryView view = rotary(static_cast<int32_t>(i));
        const int64_t at = row * (r.dim / 2);
        fill_angles(r, plan_.positions[static_cast<size_t>(row)], const_cast<float*>(view.cos) + at,
                    const_cast<float*>(view.sin) + at);
      }
    }
    if (projected) project_in_.prepare(narrow_.floats(), width, begin, end);
  });
  if (projected) {
    multiply(me, project_in_, m, x_.floats());
    team_.each(me, m, 1, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) finish_embedding(row, scratch(me));
    });
  }
  mark(me, Phase::Embed);
}

void Decoder::finish_embedding(int64_t row, float* scratch) {
  const int64_t hidden = model_.hidden_size;
  float* x = x_.floats() + row * hidden;
  if (model_.num_positions > 0) {
    positions_.first().row(plan_.positions[static_cast<size_t>(row)] + model_.position_offset, scratch);
    ops_.add_scaled(x, scratch, hidden, 1.0F);
  }
  if (model_.num_token_types > 0) {
    token_types_.first().row(plan_.segments[static_cast<size_t>(row)], scratch);
    ops_.add_scaled(x, scratch, hidden, 1.0F);
  }
  if (model_.embedding_norm.present) ops_.norm(x, hidden, model_.embedding_norm.view(), x);
}

void Decoder::multiply(Member& me, const Linear& linear, int64_t m, float* y, const LowRankTerm* term) {
  team_.each(me, linear.blocks(), 1, [&](int64_t begin, int64_t end) {
    linear.multiply({0, m}, begin, end, y, linear.n());
    if (term == nullptr) return;
    const int64_t column = linear.column(begin);
    term->add(column, linear.column(end), y + column, linear.n());
  });
}

void Decoder::add_residual(const Residual& residual, int64_t row, float* scratch) {
  if (!residual.pending) return;
  const int64_t hidden = model_.hidden_size;
  float* x = x_.floats() + row * hidden;
  ops_.add_residual(x, out_.floats() + row * hidden, or_null(*residual.bias), hidden, model_.residual_multiplier,
                    residual.norms_sum ? NormView{} : residual.post->view(), scratch);
  if (residual.norms_sum && residual.post->present) ops_.norm(x, hidden, residual.post->view(), x);
  if (residual.more != nullptr) ops_.add_scaled(x, residual.more + row * hidden, hidden, 1.0F);
  if (residual.scale != 1.0F) ops_.scale(x, hidden, residual.scale);
}

void Decoder::attention_layer(Member& me, size_t i, Residual& residual) {
  const LayerModel& model = model_.layers[i];
  const Layer& layer = layers_[i];
  const int64_t hidden = model_.hidden_size, m = plan_.rows();
  team_.each(me, m, 1, [&](int64_t begin, int64_t end) {
    const float* input = x_.floats();
    for (int64_t row = begin; row < end; ++row) {
      add_residual(residual, row, scratch(me));
      if (model.pre_attention_norm.present) {
        ops_.norm(x_.floats() + row * hidden, hidden, model.pre_attention_norm.view(), h_.floats() + row * hidden);
        input = h_.floats();
      }
    }
    layer.qkv.prepare(input, hidden, begin, end);
    low_rank_in(i, LowRankPlace::Qkv, input, hidden, begin, end);
    if (model.laurel.rank > 0) layer.laurel_left.prepare(input, hidden, begin, end);
  });
  mark(me, Phase::Norm);
  const LowRankTerm of_qkv{low_rank_, ops_, i, LowRankPlace::Qkv}, of_o{low_rank_, ops_, i, LowRankPlace::Output};
  multiply(me, layer.qkv, m, qkv_.floats(), low_rank_.empty() ? nullptr : &of_qkv);
  if (model.laurel.rank > 0) go_around(me, i);
  mark(me, Phase::Qkv);

  model.is_latent() ? attend_latent(me, i) : attend(me, i);
  team_.each(me, m, 1, [&](int64_t begin, int64_t end) {
    const int64_t size = model.o_size(), gate = layer.qkv.n() - size;
    for (int64_t row = begin; model.output_gate && row < end; ++row) {
      ops_.gate(attended_.floats() + row * size, qkv_.floats() + row * layer.qkv.n() + gate, size);
    }
    layer.o.prepare(attended_.floats(), size, begin, end);
    low_rank_in(i, LowRankPlace::Output, attended_.floats(), size, begin, end);
  });
  mark(me, Phase::Attention);
  multiply(me, layer.o, m, out_.floats(), low_rank_.empty() ? nullptr : &of_o);
  mark(me, Phase::Output);
  residual = {&layer.o_bias, &model.post_attention_norm, model.post_norms_sum, true};
  if (model.laurel.rank > 0) {
    residual.more = around_.floats();
    residual.scale = kRootOfHalf;
  }
}

// From queries, keys and values to each head's result.
void Decoder::attend(Member& me, size_t i) {
  const LayerModel& model = model_.layers[i];
  const Layer& layer = layers_[i];
  const PagedAttention attention{ops_,
                                 model,
                                 layer.kv,
                                 rotary(model.rotary),
                                 or_null(layer.q_bias),
                                 or_null(layer.k_bias),
                                 or_null(layer.v_bias),
                                 or_null(layer.sinks)};
  attention.prepare(me, plan_, qkv_.floats(), layer.qkv.n());
  if (model.kv_from < 0) attention.write(me, plan_, qkv_.floats() + model.q_size(), layer.qkv.n(), scratch(me));
  mark(me, Phase::KvWrite);
  attention.attend(me, plan_, plan_.attention[static_cast<size_t>(layer.shape)], qkv_.floats(), layer.qkv.n(),
                   parts_.floats(), {attended_.floats(), model.o_size(), model.head_dim_v}, scratch(me));
}

void Decoder::mlp_layer(Member& me, size_t i, Residual& residual) {
  const LayerModel& model = model_.layers[i];
  const Layer& layer = layers_[i];
  const int64_t hidden = model_.hidden_size, m = plan_.rows();
  const bool dense = layer.experts.empty();
  const Norm& norm =
      model.parallel_residual && !model.pre_mlp_norm.present ? model.pre_attention_norm : model.pre_mlp_norm;
  team_.each(me, m, 1, [&](int64_t begin, int64_t end) {
    const float* input = x_.floats();
    for (int64_t row = begin; row < end; ++row) {
      float* x = x_.floats() + row * hidden;
      // In parallel, the MLP reads what attention read.
      if (!model.parallel_residual) add_residual(residual, row, scratch(me));
      if (norm.present) {
        ops_.norm(x, hidden, norm.view(), h_.floats() + row * hidden);
        input = h_.floats();
      } else if (!dense) {
        std::copy(x, x + hidden, h_.floats() + row * hidden);
      }
    }
    if (dense) {
      layer.mlp.gate_up().prepare(input, hidden, begin, end);
      low_rank_in(i, LowRankPlace::GateUp, input, hidden, begin, end);
    } else {
      layer.experts.prepare(experts_step(me), begin, end);
    }
    if (model.parallel_residual) {
      for (int64_t row = begin; row < end; ++row) add_residual(residual, row, scratch(me));
    }
  });
  mark(me, Phase::Norm);
  if (dense) {
    dense_layer(me, i);
  } else {
    layer.experts.route(me, experts_step(me));
    mark(me, Phase::Router);
    layer.experts.run(me, experts_step(me));
    mark(me, Phase::Down);
  }
  residual = {&layer.mlp.down_bias(), &model.post_mlp_norm, model.post_norms_sum, true};
}

ExpertsStep Decoder::experts_step(const Member& me) {
  return {ops_, experts_, plan_.rows(), model_.hidden_size, h_.floats(), out_.floats(), scratch(me), x_.floats()};
}

void Decoder::dense_layer(Member& me, size_t i) {
  const Mlp& mlp = layers_[i].mlp;
  const int64_t m = plan_.rows();
  const LowRankTerm of_gate_up{low_rank_, ops_, i, LowRankPlace::GateUp},
      of_down{low_rank_, ops_, i, LowRankPlace::Down};
  const LowRankTerm* term = low_rank_.empty() ? nullptr : &of_gate_up;
  if (mlp.sparse()) {
    multiply(me, mlp.gate_up(), m, gate_up_.floats(), term);
    team_.each(me, m, 1, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        mlp.activate_whole(ops_, gate_up_.floats() + row * mlp.gate_up().n(), act_.floats() + row * mlp.size());
      }
    });
  } else {
    team_.each(me, mlp.stripes(), 1, [&](int64_t begin, int64_t end) {
      mlp.activate(ops_, {0, m}, begin, end, act_.floats(), scratch(me), term);
    });
  }
  mark(me, Phase::GateUp);
  team_.each(me, m, 1, [&](int64_t begin, int64_t end) {
    mlp.down().prepare(act_.floats(), mlp.size(), begin, end);
    low_rank_in(i, LowRankPlace::Down, act_.floats(), mlp.size(), begin, end);
  });
  mark(me, Phase::Activation);
  multiply(me, mlp.down(), m, out_.floats(), low_rank_.empty() ? nullptr : &of_down);
  mark(me, Phase::Down);
}

void Decoder::heads(Member& me, const Residual& residual) {
  const auto prompt = static_cast<int64_t>(plan_.prompt.size());
  for (int64_t first = 0; first < prompt; first += kPromptRows) {
    const int64_t count = std::min(kPromptRows, prompt - first);
    head_rows(me, residual, plan_.prompt.data() + first, count, prompt_logits_.floats());
    team_.each(me, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        const auto at = static_cast<size_t>(first + k);
        const WantedRow& wanted = plan_.prompt[at];
        const Request& request = *plan_.sequences[static_cast<size_t>(wanted.sequence)].request;
        const bool good = sampler_.logprob(prompt_logits_.floats() + k * model_.vocab_size, wanted.next_token,
                                           request.sampling.prompt_logprobs, sampling_[static_cast<size_t>(me.id)],
                                           prompt_logprobs_[at]);
        prompt_failed_[at] = good ? 0 : 1;
      }
    });
    mark(me, Phase::Head);
  }
  head_rows(me, residual, plan_.drawn.data(), static_cast<int64_t>(plan_.drawn.size()), logits_.floats());
  mark(me, Phase::Head);
}

void Decoder::head_rows(Member& me, const Residual& residual, const WantedRow* wanted, int64_t count, float* logits) {
  const int64_t hidden = model_.hidden_size, vocab = model_.vocab_size;
  team_.each(me, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      const int64_t row = wanted[k].row;
      add_residual(residual, row, scratch(me));
      float* h = h_.floats() + k * hidden;
      if (model_.final_norm.present) {
        ops_.norm(x_.floats() + row * hidden, hidden, model_.final_norm.view(), h);
      } else {
        std::memcpy(h, x_.floats() + row * hidden, static_cast<size_t>(hidden) * sizeof(float));
      }
    }
    (model_.projected() ? project_out_ : head_).prepare(h_.floats(), hidden, begin, end);
  });
  if (count == 0) return;
  if (model_.projected()) {
    const int64_t width = model_.embedding_size;
    multiply(me, project_out_, count, narrow_.floats());
    team_.each(me, count, 1, [&](int64_t begin, int64_t end) { head_.prepare(narrow_.floats(), width, begin, end); });
  }
  multiply(me, head_, count, logits);
  if (model_.logits_multiplier != 1.0F || model_.logits_soft_cap > 0.0F || model_.head_bias) {
    team_.each(me, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        ops_.finish_logits(logits + k * vocab, or_null(head_bias_), vocab, model_.logits_multiplier,
                           model_.logits_soft_cap);
      }
    });
  }
}

StepResult Decoder::sample(const GrammarMask& mask) {
  const auto count = static_cast<int64_t>(plan_.drawn.size());
  const int64_t stride = (model_.vocab_size + 31) / 32 * 4;
  std::vector<const uint8_t*> masks(plan_.drawn.size(), nullptr);
  for (size_t k = 0; mask.bits != nullptr && k < masks.size(); ++k) {
    const int32_t row = mask.rows.at(static_cast<size_t>(plan_.sequences[plan_.drawn[k].sequence].index));
    if (row < 0) continue;
    if ((row + 1) * stride > mask.bytes) {
      throw std::invalid_argument("a grammar mask of " + std::to_string(mask.bytes) + " bytes has no row " +
                                  std::to_string(row) + " of " + std::to_string(stride));
    }
    masks[k] = mask.bits + row * stride;
  }
  timer_.start();
  const FlushDenormals flushed;  // for the one row that is drawn without the team, as it would be with it
  drawn_.resize(plan_.drawn.size());
  const auto draw = [&](int64_t begin, int64_t end, int id) {
    for (int64_t k = begin; k < end; ++k) {
      const WantedRow& wanted = plan_.drawn[static_cast<size_t>(k)];
      const Request& request = *plan_.sequences[static_cast<size_t>(wanted.sequence)].request;
      drawn_[static_cast<size_t>(k)] = sampler_.draw(logits_.floats() + k * model_.vocab_size, request,
                                                     masks[static_cast<size_t>(k)], sampling_[static_cast<size_t>(id)]);
    }
  };
  if (count == 1) {
    draw(0, 1, 0);
  } else if (count > 1) {
    team_.run(
        [&](Member& me) { team_.each(me, count, 1, [&](int64_t begin, int64_t end) { draw(begin, end, me.id); }); });
  }

  StepResult result;
  result.errors = std::move(plan_.errors);
  plan_.errors.clear();
  for (size_t k = 0; k < plan_.drawn.size(); ++k) {
    const SequenceRows& sequence = plan_.sequences[static_cast<size_t>(plan_.drawn[k].sequence)];
    if (drawn_[k].every_token_banned) {
      result.undrawable.push_back(sequence.index);
    } else if (drawn_[k].error.empty()) {
      sequence.request->draw(drawn_[k].token);
      result.drawn.emplace_back(sequence.index, std::move(drawn_[k]));
    } else {
      result.errors.emplace_back(sequence.index, std::move(drawn_[k].error));
    }
  }
  for (size_t k = 0; k < plan_.prompt.size(); ++k) {
    const int32_t index = plan_.sequences[static_cast<size_t>(plan_.prompt[k].sequence)].index;
    if (prompt_failed_[k] != 0) {
      result.errors.emplace_back(index, "the model's logits are not finite numbers");
    } else {
      result.prompt.emplace_back(index, std::move(prompt_logprobs_[k]));
    }
  }
  mark(Phase::Sample);
  return result;
}

}  // namespace octavo
