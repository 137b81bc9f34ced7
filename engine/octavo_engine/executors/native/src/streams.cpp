// What a layer has beside attention and MLP: an input of its own, residual streams beside the first, a learned
// augmented residual and a factor (Gemma 3n and 4).
#include <algorithm>
#include <cmath>
#include <cstring>

#include "decoder.h"

namespace octavo {
namespace {

constexpr float kRootOfHalf = 0.70710678F;
constexpr float kSmallestSquare = 1e-5F;  // that a stream's mean square is taken for

float mean_square(const float* x, int64_t n) {
  float sum = 0.0F;
  for (int64_t i = 0; i < n; ++i) sum += x[i] * x[i];
  return sum / static_cast<float>(n);
}

}  // namespace

// Where a row's stream `index` is; the first is what layers compute.
float* Decoder::stream(int64_t row, int64_t index) {
  const int64_t hidden = model_.hidden_size;
  if (index == 0) return x_.floats() + row * hidden;
  return streams_.floats() + (row * model_.more_streams() + index - 1) * hidden;
}

// All layers' inputs, from what the first of them reads.
void Decoder::embed_layers(Member& me) {
  const int64_t hidden = model_.hidden_size, size = model_.per_layer_size(), m = plan_.rows();
  const int64_t width = per_layer_projection_.n();
  team_.each(me, m, 1,
             [&](int64_t begin, int64_t end) { per_layer_projection_.prepare(x_.floats(), hidden, begin, end); });
  multiply(me, per_layer_projection_, m, per_layer_.floats());
  team_.each(me, m, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float *own = per_layer_.floats() + row * width, *table = scratch(me);
      ops_.scale(own, width, 1.0F / std::sqrt(static_cast<float>(hidden)));
      for (int64_t at = 0; at < width; at += size) ops_.norm(own + at, size, model_.per_layer_norm.view(), own + at);
      const int32_t token = plan_.tokens[static_cast<size_t>(row)];
      per_layer_embedding_.first().row(token < model_.per_layer_count ? token : 0, table);
      ops_.add_scaled(own, table, width, std::sqrt(static_cast<float>(size)));
      ops_.scale(own, width, kRootOfHalf);
    }
  });
  mark(me, Phase::Embed);
}

// x becomes as large as `like`, by the root of the mean square.
void Decoder::match_magnitude(float* x, const float* like) const {
  const int64_t hidden = model_.hidden_size;
  const float own = std::max(mean_square(x, hidden), kSmallestSquare);
  ops_.scale(x, hidden, std::sqrt(mean_square(like, hidden)) / std::sqrt(own));
}

void Decoder::spread_streams(Member& me) {
  const int64_t hidden = model_.hidden_size, m = plan_.rows(), num = model_.more_streams();
  team_.each(me, m, 1, [&](int64_t begin, int64_t end) { streams_in_.prepare(x_.floats(), hidden, begin, end); });
  multiply(me, streams_in_, m, streams_.floats());
  team_.each(me, m, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t i = 1; i <= num; ++i) match_magnitude(stream(row, i), stream(row, 0));
    }
  });
  mark(me, Phase::Embed);
}

// The mean of all streams, each projected, in place of the first.
void Decoder::merge_streams(Member& me) {
  const int64_t hidden = model_.hidden_size, m = plan_.rows(), num = model_.more_streams();
  const float share = 1.0F / static_cast<float>(num + 1);
  for (int64_t i = 1; i <= num; ++i) {
    const Linear& out = streams_out_[static_cast<size_t>(i - 1)];
    team_.each(me, m, 1, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        if (i == 1) std::fill_n(predicted_.floats() + row * hidden, hidden, 0.0F);
        std::copy_n(stream(row, i), hidden, h_.floats() + row * hidden);
      }
      out.prepare(h_.floats(), hidden, begin, end);
    });
    multiply(me, out, m, out_.floats());
    team_.each(me, m, 1, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        float *x = stream(row, 0), *sum = predicted_.floats() + row * hidden, *part = out_.floats() + row * hidden;
        match_magnitude(part, x);
        ops_.add_scaled(sum, part, hidden, 1.0F);
        if (i < num) continue;
        ops_.add_scaled(x, sum, hidden, 1.0F);
        ops_.scale(x, hidden, share);
      }
    });
  }
  mark(me, Phase::Head);
}

// The layer's modes of the first stream, [rows][streams], in small_. Each row's stream is final when it is normed.
void Decoder::modes(Member& me, const Layer& layer) {
  const int64_t m = plan_.rows(), num = model_.more_streams() + 1;
  multiply(me, layer.altup_router, m, small_.floats());
  team_.each(me, m, 1, [&](int64_t begin, int64_t end) {
    const float share = 1.0F / static_cast<float>(model_.hidden_size);
    for (int64_t k = begin * num; k < end * num; ++k) small_.floats()[k] = std::tanh(small_.floats()[k] * share);
  });
}

void Decoder::predict_streams(Member& me, size_t i) {
  const LayerModel& model = model_.layers[i];
  const Layer& layer = layers_[i];
  const int64_t hidden = model_.hidden_size, m = plan_.rows(), num = model.altup.num;
  team_.each(me, m, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      ops_.norm(stream(row, 0), hidden, model.altup.norm.view(), h_.floats() + row * hidden);
    }
    layer.altup_router.prepare(h_.floats(), hidden, begin, end);
  });
  modes(me, layer);
  team_.each(me, m, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* modes = small_.floats() + row * num;
      float* made = scratch(me);  // [streams][hidden_size]
      for (int64_t q = 0; q < num; ++q) {
        std::copy_n(stream(row, q), hidden, made + q * hidden);
        for (int64_t p = 0; p < num; ++p) {
          const float* weights = layer.altup_prediction.data() + (q * num + p) * num;
          float factor = 0.0F;
          for (int64_t k = 0; k < num; ++k) factor += weights[k] * modes[k];
          ops_.add_scaled(made + q * hidden, stream(row, p), hidden, factor);
        }
      }
      for (int64_t q = 0; q < num; ++q) std::copy_n(made + q * hidden, hidden, stream(row, q));
      std::copy_n(made, hidden, predicted_.floats() + row * hidden);
    }
  });
  mark(me, Phase::Norm);
}

// What attention reads, and what the learned augmented residual makes of it, into around_.
void Decoder::go_around(Member& me, size_t i) {
  const LayerModel& model = model_.layers[i];
  const Layer& layer = layers_[i];
  const int64_t hidden = model_.hidden_size, m = plan_.rows(), rank = model.laurel.rank;
  multiply(me, layer.laurel_left, m, small_.floats());
  team_.each(me, m, 1,
             [&](int64_t begin, int64_t end) { layer.laurel_right.prepare(small_.floats(), rank, begin, end); });
  multiply(me, layer.laurel_right, m, around_.floats());
  team_.each(me, m, 1, [&](int64_t begin, int64_t end) {
    const float* read = model.pre_attention_norm.present ? h_.floats() : x_.floats();
    for (int64_t row = begin; row < end; ++row) {
      float* around = around_.floats() + row * hidden;
      ops_.norm(around, hidden, model.laurel.norm.view(), around);
      ops_.add_scaled(around, read + row * hidden, hidden, 1.0F);
    }
  });
}

// What is left of the streams once the layer has made x of the first, and modes_ of that.
void Decoder::correct_streams(int64_t row, const Layer& layer) {
  const int64_t hidden = model_.hidden_size, num = model_.more_streams() + 1;
  const float* modes = small_.floats() + row * num;
  float *x = stream(row, 0), *predicted = predicted_.floats() + row * hidden;
  ops_.add_scaled(x, predicted, hidden, -1.0F);  // what is new
  for (int64_t q = num - 1; q >= 0; --q) {
    float factor = 1.0F;
    for (int64_t k = 0; k < num; ++k) factor += layer.altup_correction[static_cast<size_t>(q * num + k)] * modes[k];
    if (q > 0) {
      ops_.add_scaled(stream(row, q), x, hidden, factor);
    } else {
      ops_.scale(x, hidden, factor);
      ops_.add_scaled(x, predicted, hidden, 1.0F);
    }
  }
}

// The layer's own input, gated by what was prepared, projected into out_.
void Decoder::take_in_own(Member& me, size_t i) {
  const LayerModel& model = model_.layers[i];
  const Layer& layer = layers_[i];
  const int64_t m = plan_.rows(), size = model.per_layer.size, width = per_layer_projection_.n();
  multiply(me, layer.per_layer_gate, m, small_.floats());
  team_.each(me, m, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float* gate = small_.floats() + row * size;
      const float* own = per_layer_.floats() + row * width + static_cast<int64_t>(i) * size;
      ops_.activate({model.per_layer.activation}, gate, own, nullptr, nullptr, size, gate);
    }
    layer.per_layer_out.prepare(small_.floats(), size, begin, end);
  });
  multiply(me, layer.per_layer_out, m, out_.floats());
}

void Decoder::end_layer(Member& me, size_t i, Residual& residual) {
  const LayerModel& model = model_.layers[i];
  const Layer& layer = layers_[i];
  const int64_t hidden = model_.hidden_size, m = plan_.rows();
  const bool streams = model.altup.num > 0;
  if (streams) {
    team_.each(me, m, 1, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        add_residual(residual, row, scratch(me));
        ops_.norm(stream(row, 0), hidden, model.altup.norm.view(), h_.floats() + row * hidden);
      }
      layer.altup_router.prepare(h_.floats(), hidden, begin, end);
    });
    residual = {};
    modes(me, layer);
  }
  if (model.per_layer.size > 0) {
    team_.each(me, m, 1, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        if (!streams) {
          add_residual(residual, row, scratch(me));
          continue;
        }
        correct_streams(row, layer);
        float *x = stream(row, 0), *scaled = h_.floats() + row * hidden;
        for (int64_t k = 0; k < hidden; ++k) scaled[k] = x[k] * layer.altup_scale[static_cast<size_t>(k)];
      }
      layer.per_layer_gate.prepare(streams ? h_.floats() : x_.floats(), hidden, begin, end);
    });
    take_in_own(me, i);
    if (streams) {
      team_.each(me, m, 1, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
          float* made = out_.floats() + row * hidden;
          ops_.norm(made, hidden, model.per_layer.norm.view(), made);
          for (int64_t q = 1; q < model.altup.num; ++q) ops_.add_scaled(stream(row, q), made, hidden, 1.0F);
        }
      });
      return;
    }
    static const std::vector<float> kNoBias;
    residual = {&kNoBias, &model.per_layer.norm, false, true};
  }
  if (model.scaled) residual.scale = layer.scale;
}

}  // namespace octavo
