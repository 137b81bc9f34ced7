// What tests see of the operations, one at a time and in the instruction set that they name.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <numeric>
#include <thread>

#include "memory_map.h"
#include "paged_attention.h"
#include "sampler.h"

namespace nb = nanobind;

namespace octavo {
namespace {

using Vector = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Table = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

const Operations& of(int32_t isa) {
  if (!isa_available(static_cast<Isa>(isa))) throw std::invalid_argument("this CPU lacks that instruction set");
  return operations(static_cast<Isa>(isa));
}

NormView norm_view(const Norm& norm, const Vector& weight, const nb::object& bias) {
  NormView view = norm.view();
  view.present = true;
  view.weight = norm.weighted ? weight.data() : nullptr;
  if (!bias.is_none()) view.bias = nb::cast<Vector>(bias).data();
  return view;
}

// One attention layer with its blocks, run as the decoder runs it.
class AttentionLayer {
 public:
  AttentionLayer(const LayerModel& model, const Rotary& rotary, int32_t isa, int threads, bool bf16, int32_t block_size,
                 int32_t num_blocks)
      : ops_(of(isa)), team_(threads), requests_(1, 1), num_blocks_(num_blocks) {
    model_.vocab_size = 1;
    model_.layers = {model};
    model_.rotaries = {rotary};
    model_.group_windows = {model.window};
    kv_ = lay_out(model, block_size, bf16, 0);
    kv_.block_bytes = layer_bytes(model, kv_);
    blocks_ = MemoryMap(static_cast<size_t>(num_blocks) * static_cast<size_t>(kv_.block_bytes));
    kv_.blocks = blocks_.data();
  }

  void set_norms(const std::vector<float>& q, const std::vector<float>& k) {
    LayerModel& model = model_.layers[0];
    model.q_norm.present = model.k_norm.present = true;
    model.q_norm.weight = q;
    model.k_norm.weight = k;
  }
  void set_norm_biases(const std::vector<float>& q, const std::vector<float>& k) {
    model_.layers[0].q_norm.bias = q;
    model_.layers[0].k_norm.bias = k;
  }
  void set_sinks(std::vector<float> sinks) { sinks_ = std::move(sinks); }
  void set_biases(std::vector<float> q, std::vector<float> k, std::vector<float> v) {
    q_bias_ = std::move(q);
    k_bias_ = std::move(k);
    v_bias_ = std::move(v);
  }
  // Every byte of every block becomes `value`: what a block's last owner may leave.
  void fill_blocks(uint8_t value) { std::fill_n(blocks_.data(), blocks_.size(), value); }

  // A sequence a row of `tables`; its rows of qkv are `counts` from `positions` on. Returns the splits that were made.
  size_t run(const Table& qkv, const std::vector<std::vector<int32_t>>& tables, const std::vector<int32_t>& positions,
             const std::vector<int32_t>& counts, const Table& out) {
    const LayerModel& model = model_.layers[0];
    std::vector<Scheduled> batch;
    for (size_t i = 0; i < tables.size(); ++i) {
      const std::vector<int32_t> tokens(static_cast<size_t>(positions[i] + counts[i]), 0);
      const int32_t slot = requests_.add(tokens, {}, Sampling{});
      requests_.append_blocks(slot, 0, tables[i]);
      batch.push_back({slot, positions[i], counts[i], 0, false});
    }
    const AttentionShape shape = AttentionShape::of(model);
    StepPlan plan;
    plan.build(batch, requests_, model_, {shape}, {num_blocks_}, kv_.block_size, 1 << 20, 1, team_.size());
    if (!plan.errors.empty()) throw std::invalid_argument(plan.errors.front().second);
    if (plan.rows() != static_cast<int64_t>(qkv.shape(0))) throw std::invalid_argument("rows of qkv");
    const Rotary& rotary = model_.rotaries[0];
    const int64_t half = rotary.dim / 2;
    std::vector<float> cos(static_cast<size_t>(plan.rows() * half)), sin(cos.size());
    for (int64_t row = 0; row < plan.rows(); ++row) {
      fill_angles(rotary, plan.positions[static_cast<size_t>(row)], cos.data() + row * half, sin.data() + row * half);
    }
    const int64_t scratch = paged_attention_scratch(model);
    std::vector<float> memory(static_cast<size_t>(scratch * team_.size()));
    std::vector<float> parts(static_cast<size_t>(plan.attention[0].part_floats));
    const RotaryView view{cos.data(), sin.data(), rotary.dim, rotary.interleaved};
    const PagedAttention attention{
        ops_, model, kv_, view, or_null(q_bias_), or_null(k_bias_), or_null(v_bias_), or_null(sinks_)};
    const auto ld = static_cast<int64_t>(qkv.shape(1));
    std::vector<float> rows(qkv.data(), qkv.data() + qkv.size());
    team_.run([&](Member& me) {
      float* mine = memory.data() + me.id * scratch;
      attention.prepare(me, plan, rows.data(), ld);
      attention.write(me, plan, rows.data() + model.q_size(), ld, mine);
      const HeadRows results{out.data(), model.o_size(), model.head_dim_v};
      attention.attend(me, plan, plan.attention[0], rows.data(), ld, parts.data(), results, mine);
    });
    for (const Scheduled& work : batch) requests_.remove(work.slot);
    return plan.attention[0].split_tiles.size();
  }

 private:
  const Operations& ops_;
  Team team_;
  DecoderModel model_;
  RequestTable requests_;
  KvView kv_;
  MemoryMap blocks_;
  int32_t num_blocks_;
  std::vector<float> q_bias_, k_bias_, v_bias_, sinks_;
};

// A team as a step uses it, for what happens when a thread fails.
class TestTeam {
 public:
  explicit TestTeam(int threads) : team_(threads) {}

  // The sum of [0, total), in three phases; thread `thrower` throws in its first chunk of the middle one (-1: none).
  int64_t sum(int64_t total, int thrower) {
    std::vector<int64_t> values(static_cast<size_t>(total)), sums(static_cast<size_t>(team_.size()));
    std::atomic<bool> thrown{thrower < 0};
    team_.run([&](Member& me) {
      const auto fill = [&](int64_t begin, int64_t end) {
        for (; begin < end; ++begin) values[static_cast<size_t>(begin)] = begin;
      };
      team_.each(me, total, 1, fill);
      team_.each(me, total, 1, [&](int64_t, int64_t) {
        if (me.id == thrower) {
          thrown = true;
          throw std::runtime_error("thread " + std::to_string(me.id) + " failed");
        }
        while (!thrown) std::this_thread::yield();  // so that a chunk is left for it
      });
      team_.each(me, total, 1, [&](int64_t begin, int64_t end) {
        for (; begin < end; ++begin) sums[static_cast<size_t>(me.id)] += values[static_cast<size_t>(begin)];
      });
    });
    return std::accumulate(sums.begin(), sums.end(), int64_t{0});
  }

  // Every thread throws outside of a phase.
  void fail_outside() {
    team_.run([](Member& me) { throw std::runtime_error("thread " + std::to_string(me.id) + " failed"); });
  }

 private:
  Team team_;
};

// Draw from a row of logits for a request with the tokens `prompt` + `drawn`; an error is raised as ValueError.
nb::tuple draw(int32_t isa, const Vector& logits, const std::vector<int32_t>& prompt, const std::vector<int32_t>& drawn,
               const Sampling& sampling, const nb::object& mask) {
  const auto vocab = static_cast<int64_t>(logits.shape(0));
  RequestTable requests(vocab, 0);
  const Request& request = requests.at(requests.add(prompt, drawn, sampling));
  std::vector<float> copy(logits.data(), logits.data() + vocab);
  const uint8_t* bits = mask.is_none() ? nullptr : reinterpret_cast<const uint8_t*>(nb::cast<nb::bytes>(mask).c_str());
  SamplerScratch scratch;
  Drawn result = Sampler(of(isa), vocab).draw(copy.data(), request, bits, scratch);
  if (result.every_token_banned) throw std::invalid_argument("no token can be drawn: every token is banned");
  if (!result.error.empty()) throw std::invalid_argument(result.error);
  return nb::make_tuple(result.token, result.has_logprob ? nb::cast(result.logprob) : nb::none());
}

}  // namespace

void bind_operations(nb::module_& module) {
  module.def(
      "norm",
      [](int32_t isa, const Vector& x, const Norm& norm, const Vector& weight, const nb::object& bias,
         const Vector& out) {
        of(isa).norm(x.data(), static_cast<int64_t>(x.shape(0)), norm_view(norm, weight, bias), out.data());
      },
      nb::arg("isa"), nb::arg("x"), nb::arg("norm"), nb::arg("weight"), nb::arg("bias").none(), nb::arg("out"));
  module.def("add_residual", [](int32_t isa, const Vector& x, const Vector& a, const Vector& bias, float factor,
                                const Norm& norm, const Vector& weight) {
    std::vector<float> scratch(x.shape(0));
    of(isa).add_residual(x.data(), a.data(), bias.data(), static_cast<int64_t>(x.shape(0)), factor,
                         norm_view(norm, weight, nb::none()), scratch.data());
  });
  module.def(
      "activate",
      [](int32_t isa, int32_t kind, const Vector& gate, const nb::object& up, const Vector& out, float positive,
         float negative) {
        of(isa).activate({static_cast<Activation>(kind), positive, negative}, gate.data(),
                         up.is_none() ? nullptr : nb::cast<Vector>(up).data(), nullptr, nullptr,
                         static_cast<int64_t>(gate.shape(0)), out.data());
      },
      nb::arg("isa"), nb::arg("kind"), nb::arg("gate"), nb::arg("up").none(), nb::arg("out"),
      nb::arg("positive") = 0.0F, nb::arg("negative") = 0.0F);
  module.def("finish_logits", [](int32_t isa, const Vector& x, float multiplier, float soft_cap) {
    of(isa).finish_logits(x.data(), nullptr, static_cast<int64_t>(x.shape(0)), multiplier, soft_cap);
  });
  module.def("draw", &draw, nb::arg("isa"), nb::arg("logits"), nb::arg("prompt"), nb::arg("drawn"), nb::arg("sampling"),
             nb::arg("mask").none() = nb::none());
  nb::class_<TestTeam>(module, "Team")
      .def(nb::init<int>())
      .def("sum", &TestTeam::sum, nb::arg("total"), nb::arg("thrower") = -1, nb::call_guard<nb::gil_scoped_release>())
      .def("fail_outside", &TestTeam::fail_outside, nb::call_guard<nb::gil_scoped_release>());
  nb::class_<AttentionLayer>(module, "AttentionLayer")
      .def(nb::init<const LayerModel&, const Rotary&, int32_t, int, bool, int32_t, int32_t>(), nb::arg("model"),
           nb::arg("rotary"), nb::kw_only(), nb::arg("isa"), nb::arg("threads"), nb::arg("bf16"), nb::arg("block_size"),
           nb::arg("num_blocks"))
      .def("set_norms", &AttentionLayer::set_norms)
      .def("set_norm_biases", &AttentionLayer::set_norm_biases)
      .def("set_biases", &AttentionLayer::set_biases)
      .def("set_sinks", &AttentionLayer::set_sinks)
      .def("fill_blocks", &AttentionLayer::fill_blocks)
      .def("run", &AttentionLayer::run);
}

}  // namespace octavo
