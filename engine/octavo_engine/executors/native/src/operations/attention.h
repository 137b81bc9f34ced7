// Attention over blocks where they lie, and the writing of blocks. See KvView for how a block is laid out.
#pragma once
#include <cstdint>
#include <type_traits>

#include "elementary.h"
#include "kv_elements.h"
#include "latent_values.h"
#include "operations.h"
#include "rows.h"
#include "simd.h"

namespace octavo {
namespace {

inline uint32_t* tile_at(const KvView& kv, int32_t block, int32_t head, int32_t tile) {
  const int64_t tiles = kv.block_size / 16;
  uint8_t* start = kv.blocks + block * kv.block_bytes + kv.layer_offset;
  return reinterpret_cast<uint32_t*>(start) + (head * tiles + tile) * kv.tile_units;
}

template <class Element>
inline void kv_write_with(const KvWriteArgs& args, const KvRun& run, float* scratch) {
  const KvView& kv = args.kv;
  uint32_t* keys = tile_at(kv, run.block, args.kv_head, run.tile);
  uint32_t* values = keys + kv.key_units;
  const int64_t units = kv.head_dim_k / Element::kPack;
  float* head = scratch;
  uint32_t* encoded = reinterpret_cast<uint32_t*>(scratch + kv.head_dim_k + kv.head_dim_v);
  for (int32_t j = 0; j < run.count; ++j) {
    const int64_t row = run.first_row + j;
    const int64_t slot = run.slot + j;
    prepare_head(args.k + row * args.ld, args.k_bias, kv.head_dim_k, args.key, row, head);
    Element::encode(head, kv.head_dim_k, encoded);
    for (int64_t i = 0; i < units; ++i) keys[i * 16 + slot] = encoded[i];
    if (kv.values_from >= 0) continue;

    prepare_head(args.v + row * args.ld, args.v_bias, kv.head_dim_v, args.value, row, head);
    Element::encode(head, kv.head_dim_v, encoded);
    if constexpr (Element::kPack == 1) {
      __builtin_memcpy(values + slot * kv.padded_v, encoded, static_cast<size_t>(kv.head_dim_v) * 4);
    } else {
      // The first token of a pair clears the second's half, so that no value of the block's last owner is left where
      // attention multiplies it by zero.
      uint32_t* pair = values + (slot / 2) * kv.padded_v;
      const uint16_t* halves = reinterpret_cast<const uint16_t*>(encoded);
      if (slot % 2 == 0) {
        for (int32_t d = 0; d < kv.head_dim_v; ++d) pair[d] = halves[d];
      } else {
        for (int32_t d = 0; d < kv.head_dim_v; ++d) {
          pair[d] = (pair[d] & 0xffffU) | (static_cast<uint32_t>(halves[d]) << 16);
        }
      }
    }
  }
}

// scores[r][16 t + i] = q[r] · key i of tile t, for R rows and T tiles.
template <class Element, int R, int T>
inline void score(const uint32_t* q, int64_t units, const uint32_t* const* tiles, float* scores) {
  constexpr int kVectors = 16 / kWidth;
  Vec acc[R][T][kVectors];
  OCTAVO_UNROLL
  for (int r = 0; r < R; ++r) {
    OCTAVO_UNROLL
    for (int t = 0; t < T; ++t) {
      OCTAVO_UNROLL
      for (int v = 0; v < kVectors; ++v) acc[r][t][v] = set(0.0F);
    }
  }
  for (int64_t i = 0; i < units; ++i) {
    OCTAVO_UNROLL
    for (int t = 0; t < T; ++t) {
      OCTAVO_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        const Units k = load_units(tiles[t] + i * 16 + v * kWidth);
        OCTAVO_UNROLL
        for (int r = 0; r < R; ++r) acc[r][t][v] = Element::mac(acc[r][t][v], k, every_unit(q + r * units + i));
      }
    }
  }
  OCTAVO_UNROLL
  for (int r = 0; r < R; ++r) {
    OCTAVO_UNROLL
    for (int t = 0; t < T; ++t) {
      OCTAVO_UNROLL
      for (int v = 0; v < kVectors; ++v) store(scores + r * kAttentionChunk + t * 16 + v * kWidth, acc[r][t][v]);
    }
  }
}

// out[r][d] += sum over the chunk's units of p[r] · values, for R rows and C vectors of d.
template <class Element, int R, int C>
inline void mix(const uint32_t* p, const uint32_t* const* tiles, int64_t units, int64_t padded_v, float* out) {
  constexpr int kUnitsOfTile = 16 / Element::kPack;
  constexpr int kRowUnits = kAttentionChunk / Element::kPack;
  Vec acc[R][C];
  OCTAVO_UNROLL
  for (int r = 0; r < R; ++r) {
    OCTAVO_UNROLL
    for (int c = 0; c < C; ++c) acc[r][c] = load(out + r * padded_v + c * kWidth);
  }
  for (int64_t u = 0; u < units; ++u) {
    const uint32_t* row = tiles[u / kUnitsOfTile] + (u % kUnitsOfTile) * padded_v;
    Units v[C];
    OCTAVO_UNROLL
    for (int c = 0; c < C; ++c) v[c] = load_units(row + c * kWidth);
    OCTAVO_UNROLL
    for (int r = 0; r < R; ++r) {
      const Units weight = every_unit(p + r * kRowUnits + u);
      OCTAVO_UNROLL
      for (int c = 0; c < C; ++c) acc[r][c] = Element::mac(acc[r][c], v[c], weight);
    }
  }
  OCTAVO_UNROLL
  for (int r = 0; r < R; ++r) {
    OCTAVO_UNROLL
    for (int c = 0; c < C; ++c) store(out + r * padded_v + c * kWidth, acc[r][c]);
  }
}

constexpr int kMostRows = kWidth == 16 ? 8 : 4;
constexpr int kMixVectors = kWidth == 16 ? 4 : 2;

template <class Element, int R>
inline void score_rows(const uint32_t* q, int64_t units, const uint32_t* const* tiles, int count, float* scores) {
  constexpr int kTiles = kWidth < 16 ? 1 : (R <= 4 ? 4 : 2);
  int t = 0;
  for (; t + kTiles <= count; t += kTiles) score<Element, R, kTiles>(q, units, tiles + t, scores + t * 16);
  for (; t < count; ++t) score<Element, R, 1>(q, units, tiles + t, scores + t * 16);
}

template <class Element, int R>
inline void mix_rows(const uint32_t* p, const uint32_t* const* tiles, int64_t units, int64_t padded_v, float* out) {
  const uint32_t* at[kAttentionChunk / 16];
  const int used = static_cast<int>((units * Element::kPack + 15) / 16);
  for (int64_t d = 0; d < padded_v;) {
    for (int t = 0; t < used; ++t) at[t] = tiles[t] + d;
    if (padded_v - d >= kMixVectors * kWidth) {
      mix<Element, R, kMixVectors>(p, at, units, padded_v, out + d);
      d += kMixVectors * kWidth;
    } else {
      mix<Element, R, 1>(p, at, units, padded_v, out + d);
      d += kWidth;
    }
  }
}

// Calls body with the number of rows as a constant, over blocks of at most Most rows.
template <int Most, class Body>
inline void for_row_blocks(int rows, Body&& body) {
  int r = 0;
  for (; r + Most <= rows; r += Most) body(r, std::integral_constant<int, Most>{});
  if constexpr (Most > 1) {
    const int rest = rows - r;
    if (rest > 0) {
      for_row_blocks<Most - 1>(rest, [&](int at, auto n) { body(r + at, n); });
    }
  }
}

struct RowState {
  float maximum;
  float weight;
};

// A score's change by its key's distance from the query: slope * (first + i) is added to the i-th.
struct DistanceBias {
  float slope;  // 0: none
  int32_t first;
};

// The running softmax of one row over one chunk: scores become weights, encoded into p; out is corrected.
template <class Element>
inline void soften(float* scores, int from, int to, int padded, float soft_cap, const DistanceBias& bias,
                   RowState& state, float* out, int64_t padded_v, uint32_t* p) {
  if (from >= to) {
    for (int i = 0; i < padded; i += kWidth) Element::put(p, i, set(0.0F));
    return;
  }
  if (soft_cap > 0.0F) {
    const Vec cap = set(soft_cap), inverse = set(1.0F / soft_cap);
    for (int i = 0; i < padded; i += kWidth) store(scores + i, cap * tanh(load(scores + i) * inverse));
  }
  if (bias.slope != 0.0F) {
    const Vec slope = set(bias.slope), first = set(static_cast<float>(bias.first));
    for (int i = 0; i < padded; i += kWidth) {
      const Vec distance = to_float(count_from(static_cast<uint32_t>(i))) + first;
      store(scores + i, fma(slope, distance, load(scores + i)));
    }
  }
  const float never = -__builtin_inff();
  for (int i = 0; i < from; ++i) scores[i] = never;
  for (int i = to; i < padded; ++i) scores[i] = never;
  Vec highest = load(scores);
  for (int i = kWidth; i < padded; i += kWidth) highest = max(highest, load(scores + i));
  const float maximum = max(highest);
  if (maximum > state.maximum) {
    if (state.weight > 0.0F) {
      const Vec factor = exp(set(state.maximum - maximum));
      for (int64_t d = 0; d < padded_v; d += kWidth) store(out + d, load(out + d) * factor);
      float first[kWidth];
      store(first, factor);
      state.weight *= first[0];
    }
    state.maximum = maximum;
  }
  const Vec base = set(state.maximum);
  Vec total = set(0.0F);
  for (int i = 0; i < padded; i += kWidth) {
    const Vec e = exp(load(scores + i) - base);
    total = total + e;
    Element::put(p, i, e);
  }
  state.weight += sum(total);
}

// Adds a stretch's sums to those of the stretches before it.
inline void join(const float* part, const RowState& state, int64_t n, float* out, RowState& total) {
  if (state.weight == 0.0F) return;  // the row sees none of its keys
  if (total.weight == 0.0F) {
    for_vectors(n, [&](int64_t d, auto get, auto put) { put(out + d, get(part + d)); });
    total = state;
    return;
  }
  const float maximum = state.maximum > total.maximum ? state.maximum : total.maximum;
  const Vec old = exp(set(total.maximum - maximum)), added = exp(set(state.maximum - maximum));
  for_vectors(n, [&](int64_t d, auto get, auto put) { put(out + d, fma(get(part + d), added, get(out + d) * old)); });
  float weight[kWidth];
  store(weight, fma(set(state.weight), added, set(total.weight) * old));
  total = {maximum, weight[0]};
}

// What a row's sums are multiplied by in the end: one over their weight, with that of a sink (negative infinity: none).
inline float normalizer(const RowState& total, float sink) {
  float weight[kWidth];
  store(weight, exp(set(sink - total.maximum)));
  return 1.0F / (total.weight + weight[0]);
}

struct AttentionScratch {
  uint32_t* q;       // [rows][units]
  float* scores;     // [rows][kAttentionChunk]
  uint32_t* p;       // [rows][kAttentionChunk / pack]
  float* out;        // [rows][padded_v], of the stretch
  float* whole;      // [rows][padded_v], of all stretches
  float* head;       // [head_dim_k]
  uint32_t* values;  // [kAttentionChunk / pack][padded_v], where they are elements of the keys
};

inline AttentionScratch carve(float* scratch, int32_t head_dim_k, int32_t padded_v) {
  AttentionScratch s;
  s.scores = scratch;
  s.p = reinterpret_cast<uint32_t*>(s.scores + kAttentionRows * kAttentionChunk);
  s.out = reinterpret_cast<float*>(s.p + kAttentionRows * kAttentionChunk);
  s.whole = s.out + kAttentionRows * padded_v;
  s.q = reinterpret_cast<uint32_t*>(s.whole + kAttentionRows * padded_v);
  s.head = reinterpret_cast<float*>(s.q + kAttentionRows * head_dim_k);
  s.values = reinterpret_cast<uint32_t*>(s.head + head_dim_k);
  return s;
}

template <class Element>
inline void attention_with(const AttentionArgs& args, float* scratch) {
  const KvView& kv = args.kv;
  const AttentionScratch s = carve(scratch, kv.head_dim_k, kv.padded_v);
  const int rows = args.tokens * args.group;
  const int64_t units = kv.head_dim_k / Element::kPack;
  constexpr int kRowUnits = kAttentionChunk / Element::kPack;
  RowState state[kAttentionRows], whole[kAttentionRows];

  for (int r = 0; r < rows; ++r) {
    const int64_t token = r / args.group, head = r % args.group;
    const float* bias = args.q_bias == nullptr ? nullptr : args.q_bias + head * kv.head_dim_k;
    HeadView query = args.query;
    if (args.norm_stride > 0) query.norm = of_head(query.norm, head * args.norm_stride);
    prepare_head(args.q + token * args.ldq + head * kv.head_dim_k, bias, kv.head_dim_k, query, args.rotary_row + token,
                 s.head);
    const float factor = args.query_factors == nullptr ? 1.0F : args.query_factors[token];
    scale_row(s.head, kv.head_dim_k, args.scale * factor);
    Element::encode(s.head, kv.head_dim_k, s.q + r * units);
    whole[r] = {-__builtin_inff(), 0.0F};
  }

  const int32_t tiles_of_block = kv.block_size / 16;
  for (int32_t begin = args.key_begin, next; begin < args.key_end; begin = next) {
    if (begin == args.key_begin || begin % args.stretch == 0) {
      for (int r = 0; r < rows; ++r) state[r] = {-__builtin_inff(), 0.0F};
      for (int64_t i = 0; i < int64_t{rows} * kv.padded_v; i += kWidth) store(s.out + i, set(0.0F));
    }
    // Chunks are counted from the sequence's first key, as stretches are.
    next = begin / kAttentionChunk * kAttentionChunk + kAttentionChunk;
    next = next < args.key_end ? next : args.key_end;
    const int32_t n = next - begin;
    const int count = (n + 15) / 16, padded = count * 16;
    const uint32_t* keys[kAttentionChunk / 16];
    const uint32_t* values[kAttentionChunk / 16];
    for (int t = 0; t < count; ++t) {
      const int32_t tile = begin / 16 + t;
      keys[t] = tile_at(kv, args.blocks[tile / tiles_of_block], args.kv_head, tile % tiles_of_block);
      values[t] = keys[t] + kv.key_units;
    }
    // Decoding reads each block once, and from memory: the values come while the scores are computed.
    if (kv.values_from >= 0) {
      turn_keys<Element>(kv, keys, n, s.values, values);
    } else if (rows <= kMostRows) {
      for (int t = 0; t < count; ++t) prefetch(values[t], (kv.tile_units - kv.key_units) * 4);
    }
    for_row_blocks<kMostRows>(rows, [&](int r, auto n_rows) {
      score_rows<Element, n_rows.value>(s.q + r * units, units, keys, count, s.scores + r * kAttentionChunk);
    });
    for (int r = 0; r < rows; ++r) {
      const int32_t position = args.position + r / args.group;
      int32_t from = args.window > 0 ? position - args.window + 1 - begin : 0;
      if (args.chunk > 0) from = position / args.chunk * args.chunk - begin;
      const DistanceBias bias{args.slopes == nullptr ? 0.0F : args.slopes[r % args.group], begin - position};
      int32_t to = position + 1 + args.ahead - begin;
      from = from < 0 ? 0 : from;
      to = to > n ? n : to;
      soften<Element>(s.scores + r * kAttentionChunk, from, to, padded, args.soft_cap, bias, state[r],
                      s.out + r * kv.padded_v, kv.padded_v, s.p + r * kRowUnits);
    }
    const int64_t used = (n + Element::kPack - 1) / Element::kPack;
    for_row_blocks<4>(rows, [&](int r, auto n_rows) {
      mix_rows<Element, n_rows.value>(s.p + r * kRowUnits, values, used, kv.padded_v, s.out + r * kv.padded_v);
    });
    if (args.partial || (next < args.key_end && next % args.stretch != 0)) continue;
    for (int r = 0; r < rows; ++r) {
      join(s.out + r * kv.padded_v, state[r], kv.padded_v, s.whole + r * kv.padded_v, whole[r]);
    }
  }

  for (int r = 0; r < rows; ++r) {
    if (args.partial) {
      float* to = args.out + int64_t{r} * args.ldo;
      __builtin_memcpy(to, s.out + r * kv.padded_v, static_cast<size_t>(kv.head_dim_v) * 4);
      to[kv.head_dim_v] = state[r].maximum;
      to[kv.head_dim_v + 1] = state[r].weight;
    } else {
      const float* from = s.whole + r * kv.padded_v;
      float* to = args.out + (r / args.group) * args.ldo + (r % args.group) * args.head_out;
      const Vec inverse =
          set(normalizer(whole[r], args.sinks == nullptr ? -__builtin_inff() : args.sinks[r % args.group]));
      for_vectors(kv.head_dim_v, [&](int64_t d, auto get, auto put) { put(to + d, get(from + d) * inverse); });
    }
  }
}

// parts[i]: n sums, then maximum and weight.
inline void join_parts(const float* parts, int64_t stride, int count, int64_t n, float sink, float* out) {
  RowState total{-__builtin_inff(), 0.0F};
  for (int i = 0; i < count; ++i) {
    const float* part = parts + i * stride;
    join(part, {part[n], part[n + 1]}, n, out, total);
  }
  scale_row(out, n, normalizer(total, sink));
}

}  // namespace
}  // namespace octavo
