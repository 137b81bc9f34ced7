// What executor.py sees of the decoder.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "decoder.h"

namespace nb = nanobind;

namespace octavo {
namespace {

using Bytes = nb::ndarray<const uint8_t, nb::c_contig, nb::device::cpu>;
using Factor = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

// A list as copies, for references to its items would outlive them as soon as another list is assigned.
template <class Model, class Item>
void def_list(nb::class_<Model>& model, const char* name, std::vector<Item> Model::* list) {
  model.def_prop_rw(
      name, [list](const Model& m) { return m.*list; },
      [list](Model& m, std::vector<Item> items) { m.*list = std::move(items); }, nb::rv_policy::move);
}

void bind_layer(nb::module_& module) {
  nb::class_<LayerModel>(module, "LayerModel")
      .def(nb::init<>())
      .def_rw("num_heads", &LayerModel::num_heads)
      .def_rw("num_kv_heads", &LayerModel::num_kv_heads)
      .def_rw("head_dim_k", &LayerModel::head_dim_k)
      .def_rw("head_dim_v", &LayerModel::head_dim_v)
      .def_rw("scale", &LayerModel::scale)
      .def_rw("causal", &LayerModel::causal)
      .def_rw("window", &LayerModel::window)
      .def_rw("chunk", &LayerModel::chunk)
      .def_rw("soft_cap", &LayerModel::soft_cap)
      .def_rw("qkv_clip", &LayerModel::qkv_clip)
      .def_rw("alibi_slopes", &LayerModel::alibi_slopes)
      .def_prop_rw(
          "qk_norm_span", [](const LayerModel& l) { return static_cast<int32_t>(l.qk_norm_span); },
          [](LayerModel& l, int32_t span) { l.qk_norm_span = static_cast<QkNormSpan>(span); })
      .def_rw("qk_norm_after_rotary", &LayerModel::qk_norm_after_rotary)
      .def_prop_rw(
          "query_scaling",
          [](const LayerModel& l) {
            return std::make_tuple(l.query_scaling.beta, l.query_scaling.period, l.query_scaling.offset);
          },
          [](LayerModel& l, const std::tuple<float, int32_t, int32_t>& s) {
            l.query_scaling = {std::get<0>(s), std::get<1>(s), std::get<2>(s)};
          })
      .def_rw("output_gate", &LayerModel::output_gate)
      .def_rw("sinks", &LayerModel::sinks)
      .def_rw("rotary", &LayerModel::rotary)
      .def_rw("kv_group", &LayerModel::kv_group)
      .def_rw("kv_from", &LayerModel::kv_from)
      .def_rw("values_from", &LayerModel::values_from)
      .def_rw("latent", &LayerModel::latent)
      .def_rw("router", &LayerModel::router)
      .def_rw("mlp", &LayerModel::mlp)
      .def_rw("shared", &LayerModel::shared)
      .def_rw("shared_gate", &LayerModel::shared_gate)
      .def_rw("beside", &LayerModel::beside)
      .def_rw("laurel", &LayerModel::laurel)
      .def_rw("altup", &LayerModel::altup)
      .def_rw("per_layer", &LayerModel::per_layer)
      .def_rw("scaled", &LayerModel::scaled)
      .def_rw("parallel_residual", &LayerModel::parallel_residual)
      .def_rw("post_norms_sum", &LayerModel::post_norms_sum)
      .def_rw("pre_attention_norm", &LayerModel::pre_attention_norm)
      .def_rw("post_attention_norm", &LayerModel::post_attention_norm)
      .def_rw("pre_mlp_norm", &LayerModel::pre_mlp_norm)
      .def_rw("post_mlp_norm", &LayerModel::post_mlp_norm)
      .def_rw("q_norm", &LayerModel::q_norm)
      .def_rw("k_norm", &LayerModel::k_norm)
      .def_rw("v_norm", &LayerModel::v_norm);
}

void bind_model(nb::module_& module) {
  nb::class_<Norm>(module, "Norm")
      .def(nb::init<>())
      .def_rw("present", &Norm::present)
      .def_rw("weighted", &Norm::weighted)
      .def_prop_rw(
          "kind", [](const Norm& n) { return static_cast<int32_t>(n.kind); },
          [](Norm& n, int32_t kind) { n.kind = static_cast<NormKind>(kind); })
      .def_rw("eps", &Norm::eps)
      .def_rw("offset", &Norm::offset);
  nb::class_<Rotary>(module, "Rotary")
      .def(nb::init<>())
      .def_rw("dim", &Rotary::dim)
      .def_rw("interleaved", &Rotary::interleaved)
      .def_rw("factor", &Rotary::factor)
      .def_rw("inverse_frequencies", &Rotary::inverse_frequencies);
  nb::class_<MlpModel>(module, "MlpModel")
      .def(nb::init<>())
      .def_rw("intermediate_size", &MlpModel::intermediate_size)
      .def_prop_rw(
          "activation", [](const MlpModel& m) { return static_cast<int32_t>(m.activation); },
          [](MlpModel& m, int32_t activation) { m.activation = static_cast<Activation>(activation); })
      .def_rw("gated", &MlpModel::gated)
      .def_rw("sparse", &MlpModel::sparse)
      .def_rw("cutoff", &MlpModel::cutoff);
  nb::class_<RouterModel>(module, "RouterModel")
      .def(nb::init<>())
      .def_rw("num_experts", &RouterModel::num_experts)
      .def_rw("num_chosen", &RouterModel::num_chosen)
      .def_prop_rw(
          "scoring", [](const RouterModel& r) { return static_cast<int32_t>(r.scoring); },
          [](RouterModel& r, int32_t scoring) { r.scoring = static_cast<Scoring>(scoring); })
      .def_rw("renormalize", &RouterModel::renormalize)
      .def_rw("bias", &RouterModel::bias)
      .def_rw("correction", &RouterModel::correction)
      .def_rw("num_groups", &RouterModel::num_groups)
      .def_rw("top_groups", &RouterModel::top_groups)
      .def_rw("group_by_top2", &RouterModel::group_by_top2)
      .def_rw("scale", &RouterModel::scale)
      .def_rw("jitter", &RouterModel::jitter)
      .def_rw("weighs_input", &RouterModel::weighs_input)
      .def_rw("logits_multiplier", &RouterModel::logits_multiplier)
      .def_rw("expert_scales", &RouterModel::expert_scales);
  nb::class_<BesideModel>(module, "BesideModel")
      .def(nb::init<>())
      .def_rw("router", &BesideModel::router)
      .def_rw("before", &BesideModel::before)
      .def_rw("after", &BesideModel::after)
      .def_rw("after_shared", &BesideModel::after_shared);
  nb::class_<PerLayerModel>(module, "PerLayerModel")
      .def(nb::init<>())
      .def_rw("size", &PerLayerModel::size)
      .def_prop_rw(
          "activation", [](const PerLayerModel& p) { return static_cast<int32_t>(p.activation); },
          [](PerLayerModel& p, int32_t activation) { p.activation = static_cast<Activation>(activation); })
      .def_rw("norm", &PerLayerModel::norm);
  nb::class_<AltUpModel>(module, "AltUpModel")
      .def(nb::init<>())
      .def_rw("num", &AltUpModel::num)
      .def_rw("norm", &AltUpModel::norm);
  nb::class_<LaurelModel>(module, "LaurelModel")
      .def(nb::init<>())
      .def_rw("rank", &LaurelModel::rank)
      .def_rw("norm", &LaurelModel::norm);
  nb::class_<LatentModel>(module, "LatentModel")
      .def(nb::init<>())
      .def_rw("rank", &LatentModel::rank)
      .def_rw("rotary_dim", &LatentModel::rotary_dim)
      .def_rw("q_rank", &LatentModel::q_rank)
      .def_rw("q_norm", &LatentModel::q_norm)
      .def_rw("kv_norm", &LatentModel::kv_norm);
  bind_layer(module);
  nb::class_<DenseModel>(module, "DenseModel")
      .def(nb::init<>())
      .def_rw("in_size", &DenseModel::in_size)
      .def_rw("out_size", &DenseModel::out_size)
      .def_rw("bias", &DenseModel::bias)
      .def_prop_rw(
          "activation", [](const DenseModel& d) { return static_cast<int32_t>(d.activation); },
          [](DenseModel& d, int32_t activation) { d.activation = static_cast<DenseActivation>(activation); })
      .def_rw("norm", &DenseModel::norm);
  nb::class_<PoolingModel> pooling(module, "PoolingModel");
  pooling.def(nb::init<>())
      .def_prop_rw(
          "kind", [](const PoolingModel& p) { return static_cast<int32_t>(p.kind); },
          [](PoolingModel& p, int32_t kind) { p.kind = static_cast<PoolingKind>(kind); });
  def_list(pooling, "dense", &PoolingModel::dense);
  nb::class_<DecoderModel> decoder(module, "DecoderModel");
  decoder.def(nb::init<>())
      .def_rw("vocab_size", &DecoderModel::vocab_size)
      .def_rw("hidden_size", &DecoderModel::hidden_size)
      .def_rw("embedding_size", &DecoderModel::embedding_size)
      .def_rw("per_layer_count", &DecoderModel::per_layer_count)
      .def_rw("per_layer_norm", &DecoderModel::per_layer_norm)
      .def_rw("num_positions", &DecoderModel::num_positions)
      .def_rw("position_offset", &DecoderModel::position_offset)
      .def_rw("num_token_types", &DecoderModel::num_token_types)
      .def_rw("tied_head", &DecoderModel::tied_head)
      .def_rw("head_bias", &DecoderModel::head_bias)
      .def_rw("embedding_multiplier", &DecoderModel::embedding_multiplier)
      .def_rw("residual_multiplier", &DecoderModel::residual_multiplier)
      .def_rw("logits_multiplier", &DecoderModel::logits_multiplier)
      .def_rw("logits_soft_cap", &DecoderModel::logits_soft_cap)
      .def_rw("embedding_norm", &DecoderModel::embedding_norm)
      .def_rw("final_norm", &DecoderModel::final_norm)
      .def_rw("group_windows", &DecoderModel::group_windows)
      .def_rw("pooling", &DecoderModel::pooling);
  def_list(decoder, "rotaries", &DecoderModel::rotaries);
  def_list(decoder, "layers", &DecoderModel::layers);
}

void bind_requests(nb::module_& module) {
  nb::class_<Sampling> sampling(module, "Sampling");
  nb::list numbers;
  Sampling::numbers([&](const char* name, float Sampling::* member) {
    sampling.def_rw(name, member);
    numbers.append(name);
  });
  sampling.attr("NUMBERS") = nb::tuple(numbers);
  sampling.def(nb::init<>())
      .def_rw("top_k", &Sampling::top_k)
      .def_rw("seed", &Sampling::seed)
      .def_rw("min_tokens", &Sampling::min_tokens)
      .def_rw("logprobs", &Sampling::logprobs)
      .def_rw("scores_processed", &Sampling::scores_processed)
      .def_rw("scores_logits", &Sampling::scores_logits)
      .def_rw("prompt_logprobs", &Sampling::prompt_logprobs)
      .def_rw("stop_tokens", &Sampling::stop_tokens)
      .def_rw("logit_bias", &Sampling::logit_bias)
      .def_rw("allowed_tokens", &Sampling::allowed_tokens)
      .def_rw("bad_words", &Sampling::bad_words)
      .def_rw("logprob_tokens", &Sampling::logprob_tokens);
  nb::class_<TokenLogprob>(module, "TokenLogprob")
      .def_ro("token", &TokenLogprob::token)
      .def_ro("logprob", &TokenLogprob::logprob)
      .def_ro("rank", &TokenLogprob::rank)
      .def_ro("top", &TokenLogprob::top);
}

// (errors, undrawable, drawn, logprobs, prompt): each entry is, or begins with, an index in the batch.
nb::tuple as_tuple(StepResult&& result) {
  nb::list errors, undrawable, drawn, logprobs, prompt;
  for (auto& [index, reason] : result.errors) errors.append(nb::make_tuple(index, reason));
  for (const int32_t index : result.undrawable) undrawable.append(index);
  for (auto& [index, token] : result.drawn) {
    drawn.append(nb::make_tuple(index, token.token));
    if (token.has_logprob) logprobs.append(nb::make_tuple(index, std::move(token.logprob)));
  }
  for (auto& [index, logprob] : result.prompt) prompt.append(nb::make_tuple(index, std::move(logprob)));
  return nb::make_tuple(errors, undrawable, drawn, logprobs, prompt);
}

void forward(Decoder& decoder, const std::vector<int32_t>& slots, const std::vector<int32_t>& computed,
             const std::vector<int32_t>& counts, const std::vector<int32_t>& wanted,
             const std::vector<int32_t>& draws) {
  const size_t n = slots.size();
  if (computed.size() != n || counts.size() != n || wanted.size() != n || draws.size() != n) {
    throw std::invalid_argument("the batch's lists differ in length");
  }
  std::vector<Scheduled> batch(n);
  for (size_t i = 0; i < n; ++i) batch[i] = {slots[i], computed[i], counts[i], wanted[i], draws[i] != 0};
  const nb::gil_scoped_release release;
  decoder.forward(batch);
}

// `parts` are (name, a, b): a is [rank, in_features], b [out_features, rank].
int64_t add_adapter(Decoder& decoder, int64_t id, const std::vector<std::tuple<std::string, Factor, Factor>>& parts) {
  std::vector<LowRankWeight> weights;
  for (const auto& [name, a, b] : parts) {
    if (a.shape(0) != b.shape(1)) throw std::invalid_argument(name + ": its two factors differ in rank");
    weights.push_back({name, static_cast<int64_t>(a.shape(0)), static_cast<int64_t>(a.shape(1)),
                       static_cast<int64_t>(b.shape(0)), a.data(), b.data()});
  }
  const nb::gil_scoped_release release;
  return decoder.add_adapter(id, weights);
}

StepResult sample(Decoder& decoder, const nb::object& mask, std::vector<int32_t> mask_rows) {
  GrammarMask grammar{nullptr, 0, std::move(mask_rows)};
  nb::bytes held;
  if (!mask.is_none()) {
    held = nb::cast<nb::bytes>(mask);
    grammar.bits = reinterpret_cast<const uint8_t*>(held.c_str());
    grammar.bytes = static_cast<int64_t>(held.size());
  }
  const nb::gil_scoped_release release;
  return decoder.sample(grammar);
}

}  // namespace

void bind_decoder(nb::module_& module) {
  bind_model(module);
  bind_requests(module);
  nb::class_<Decoder>(module, "Decoder")
      .def(
          "__init__",
          [](Decoder* self, const DecoderModel& model, int threads, int32_t isa, bool kv_bf16, int32_t block_size,
             int64_t max_rows, int64_t max_drawn, int32_t widen) {
            new (self)
                Decoder(model, {threads, static_cast<Isa>(isa), kv_bf16, block_size, max_rows, max_drawn, widen});
          },
          nb::arg("model"), nb::kw_only(), nb::arg("threads"), nb::arg("isa"), nb::arg("kv_bf16"),
          nb::arg("block_size"), nb::arg("max_rows"), nb::arg("max_drawn"), nb::arg("widen"))
      .def(
          "add_weight",
          [](Decoder& d, const std::string& name, int32_t format, int64_t rows, int64_t cols, const Bytes& data) {
            if (static_cast<int64_t>(data.size()) != rows * row_bytes(static_cast<Format>(format), cols)) {
              throw std::invalid_argument(name + ": " + std::to_string(data.size()) + " bytes aren't " +
                                          std::to_string(rows) + " × " + std::to_string(cols));
            }
            d.add_weight(name, format, rows, cols, data.data());
          },
          nb::arg("name"), nb::arg("number"), nb::arg("rows"), nb::arg("cols"),
          nb::arg("data").noconvert())  // a copy made for the call would be gone before it is packed
      .def("pack_layers", &Decoder::pack_layers, nb::arg("end"), nb::call_guard<nb::gil_scoped_release>())
      .def("finalize", &Decoder::finalize, nb::call_guard<nb::gil_scoped_release>())
      .def("block_bytes", &Decoder::block_bytes)
      .def("init_kv", &Decoder::init_kv)
      .def("touch_kv", &Decoder::touch_kv, nb::call_guard<nb::gil_scoped_release>())
      .def("copy_block", &Decoder::copy_block)
      .def("swap_out", &Decoder::swap_out)
      .def("swap_in", &Decoder::swap_in)
      .def(
          "add_request",
          [](Decoder& d, std::vector<int32_t> prompt, const std::vector<int32_t>& drawn, const Sampling& sampling,
             int32_t second_segment) { return d.requests().add(std::move(prompt), drawn, sampling, second_segment); },
          nb::arg("prompt"), nb::arg("drawn"), nb::arg("sampling"), nb::arg("second_segment") = 0)
      .def("add_adapter", &add_adapter, nb::arg("adapter_id"), nb::arg("parts"))
      .def("remove_adapter", &Decoder::remove_adapter)
      .def("set_adapter", &Decoder::set_adapter)
      .def("remove_request", [](Decoder& d, int32_t slot) { d.requests().remove(slot); })
      .def("append_blocks", [](Decoder& d, int32_t slot, size_t group,
                               const std::vector<int32_t>& blocks) { d.requests().append_blocks(slot, group, blocks); })
      .def("clear_blocks", [](Decoder& d, int32_t slot) { d.requests().clear_blocks(slot); })
      .def("tokens", [](Decoder& d, int32_t slot) { return d.requests().at(slot).tokens; })
      .def_prop_ro("num_requests", [](Decoder& d) { return d.requests().size(); })
      .def("forward", &forward, nb::arg("slots"), nb::arg("computed"), nb::arg("counts"), nb::arg("wanted"),
           nb::arg("draws"))
      .def(
          "sample",
          [](Decoder& d, const nb::object& mask, std::vector<int32_t> mask_rows) {
            return as_tuple(sample(d, mask, std::move(mask_rows)));
          },
          nb::arg("mask").none() = nb::none(), nb::arg("mask_rows") = std::vector<int32_t>{})
      .def(
          "logits",
          [](const Decoder& d) {
            const auto rows = static_cast<size_t>(d.num_drawn()), vocab = static_cast<size_t>(d.vocab_size());
            return nb::ndarray<nb::numpy, const float, nb::ndim<2>>(d.logits(), {rows, vocab}, nb::handle());
          },
          nb::rv_policy::copy)
      .def("pooled",
           [](const Decoder& d) {
             const std::vector<int32_t> indices = d.pooled_indices();
             const size_t rows = indices.size(), size = static_cast<size_t>(d.pooled_size());
             nb::ndarray<nb::numpy, const float, nb::ndim<2>> vectors(d.pooled(), {rows, size}, nb::handle());
             return nb::make_tuple(indices, nb::cast(vectors, nb::rv_policy::copy));
           })
      .def(
          "beat_into",
          [](Decoder& d, const nb::ndarray<uint64_t, nb::shape<1>, nb::device::cpu>& beats) {
            d.beat_into(beats.data());
          },
          nb::keep_alive<1, 2>())
      .def("time_phases", [](Decoder& d, bool on) { d.timer().enable(on); })
      .def("phase_seconds", [](Decoder& d) {
        nb::dict spent;
        for (size_t i = 0; i < kPhaseNames.size(); ++i) spent[kPhaseNames[i]] = d.timer().spent()[i];
        return spent;
      });
}

}  // namespace octavo
