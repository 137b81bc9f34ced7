// The decoder's operations other than matrix products, one table an instruction set. Plain data and pointers: the
// translation units behind the table are compiled with flags that this machine may lack, so they share no code.
#pragma once
#include <cstdint>

#include "../matmul.h"

namespace octavo {

enum class NormKind : int32_t { Rms = 0, Layer = 1 };
enum class Activation : int32_t {
  Silu = 0,
  Gelu = 1,
  GeluTanh = 2,
  Relu = 3,
  Relu2 = 4,
  QuickGelu = 5,
  Xielu = 6,
  SwigluClamped = 7
};

// An MLP's nonlinearity. Xielu has the two factors: of the square of what is positive, and of what is not.
struct Nonlinearity {
  Activation kind = Activation::Silu;
  float positive = 0.0F;
  float negative = 0.0F;
};

// A norm over `n` elements, or none.
struct NormView {
  bool present = false;
  const float* weight = nullptr;  // [n], or null: it normalizes alone
  const float* bias = nullptr;    // [n] or null
  float eps = 0.0F;
  float offset = 0.0F;
  NormKind kind = NormKind::Rms;
};

// The part of `norm`'s weights that begins `offset` behind. Static, as all that each instruction set compiles.
static inline NormView of_head(NormView norm, int64_t offset) {
  if (norm.weight != nullptr) norm.weight += offset;
  if (norm.bias != nullptr) norm.bias += offset;
  return norm;
}

// cos and sin of one step's tokens, [tokens][dim / 2] each.
struct RotaryView {
  const float* cos = nullptr;
  const float* sin = nullptr;
  int dim = 0;  // 0: no rotary
  bool interleaved = false;
};

// What is done to one head of queries or keys: clipped, normed, turned by its position; with `norm_last` turned, then
// normed.
struct HeadView {
  float clip = 0.0F;  // 0: none
  NormView norm;
  RotaryView rotary;
  bool norm_last = false;
};

// How one layer's keys and values lie in a block. A block of the layer and KV head is block_size / 16 tiles, and a tile
// holds 16 tokens: keys as [units of head_dim_k][16 tokens], then values as [units of 16 tokens][head_dim_v], where a
// unit is four bytes: one float, or two neighbours in bf16 (of the head for keys, of the tokens for values). So one
// load brings a unit of 16 tokens' keys, or of 16 elements' values, and one instruction multiplies and adds them.
//
// Where values are elements of the keys (`values_from`), a tile holds the keys alone, and attention brings a chunk of
// them into the order of values, once for all of its rows.
struct KvView {
  uint8_t* blocks = nullptr;  // of the group
  int64_t block_bytes = 0;    // from a block to the next
  int64_t layer_offset = 0;   // this layer's part of a block
  int64_t tile_units = 0;     // units of a tile, keys and values
  int64_t key_units = 0;      // of which keys: units of head_dim_k * 16
  int32_t block_size = 16;    // tokens of a block
  int32_t head_dim_k = 0, head_dim_v = 0;
  int32_t padded_v = 0;      // head_dim_v rounded up to 16
  int32_t values_from = -1;  // the values' first element in the keys, even; -1: they are apart
  bool bf16 = false;
};

// Up to 16 tokens of one request that lie in one tile: their keys and values are normed, turned and written.
struct KvRun {
  int32_t first_row;  // in the batch
  int32_t count;
  int32_t block;  // block number
  int32_t tile;   // in the block
  int32_t slot;   // of the first token, in the tile
};

struct KvWriteArgs {
  KvView kv;
  HeadView key, value;
  const float* k;  // [rows][ld], this head's first element of row 0
  const float* v;
  int64_t ld;
  const float* k_bias;  // this head's, or null
  const float* v_bias;
  int32_t kv_head;
};

// Query rows of one request against one KV head, over some of its keys.
//
// A row's keys are summed in stretches of attention_stretch(its position) keys, counted from the sequence's first, and
// the stretches joined in order; whether one thread does all of it, or several a stretch each, and which rows are in
// one call, changes no bit of the result.
struct AttentionArgs {
  KvView kv;
  HeadView query;
  int64_t norm_stride;  // from a head's weights of the norm to the next one's; 0: all have the same
  const float* q;       // first query row, the group's first head
  int64_t ldq;
  const float* q_bias;  // of the group's first head, or null
  float* out;           // like q, [tokens][ldo]; or, when partial, [tokens * group][head_dim_v + 2]
  int64_t ldo;
  int64_t head_out;       // from a head's to the next one's in `out`; of a partial one head_dim_v + 2
  const int32_t* blocks;  // the request's block table
  int32_t rotary_row;     // of the first query row in cos and sin
  int32_t tokens;         // query rows
  int32_t group;          // query heads that share the KV head
  int32_t kv_head;
  int32_t position;            // of the first query row
  int32_t key_begin, key_end;  // keys to look at; begin is a multiple of 16
  int32_t stretch;             // of every row here
  int32_t window;              // 0: none
  int32_t chunk;               // 0: none
  int32_t ahead;               // keys behind its own that a query sees; 0: it is causal
  float scale;
  const float* query_factors;  // of each query row, or null
  const float* slopes;         // of the group's first head, or null
  const float* sinks;          // of the group's first head, or null
  float soft_cap;              // 0: none
  bool partial;                // the keys lie in one stretch: leave its sum, with maximum and weight behind it
};

// Most rows (tokens * group) of one call of `attention`, and the scratch it needs.
constexpr int kAttentionRows = 32;
constexpr int kAttentionChunk = 128;  // keys between two corrections of the running softmax

// The shortest that is worth a piece of work of its own; longer from 4096 keys on, so that there are at most 16.
constexpr int32_t attention_stretch(int32_t position) {
  int32_t stretch = 256;
  while (position / stretch >= 16) stretch *= 2;
  return stretch;
}
int64_t attention_scratch_floats(int32_t head_dim_k, int32_t padded_v, bool values_in_keys);

// Some rows' inputs times an adapter's first factor: out[row][rank] = a · x[row].
struct LowRankIn {
  const void* a;  // [rank][lda], with zeros behind the k of a row up to whole vectors
  bool bf16;      // or float
  int64_t rank, k, lda;
  const int32_t* rows;  // numbers of the rows of x and out
  int64_t count;
  const float* x;
  int64_t ldx;
  float* out;
  int64_t ldo;
};

// The same numbers times its second factor, added to columns [begin, end) of the output: y[row] += b · t[row].
struct LowRankOut {
  const void* b;  // [blocks of columns][rank][kLowRankBlock]
  bool bf16;
  int64_t rank;
  int64_t begin, end;   // begin is a multiple of half a block
  const int32_t* rows;  // numbers of the rows of t and y
  int64_t count;
  const float* t;
  int64_t ldt;
  float* y;  // column `begin` of row 0
  int64_t ldy;
};
constexpr int64_t kLowRankBlock = 32;

struct PhiloxKey {
  uint64_t seed;
  uint32_t position;
};

struct BestToken {
  float value;
  int32_t token;  // -1: none
};

struct Operations {
  const char* name;

  // out[n] = norm(x[n]).
  void (*norm)(const float* x, int64_t n, const NormView& norm, float* out);
  // x[n] += (a + bias) * factor, where `post`, if it has a weight, is first applied to a + bias.
  void (*add_residual)(float* x, const float* a, const float* bias, int64_t n, float factor, const NormView& post,
                       float* scratch);
  // x = relu(x - mean - cutoff * deviation), of all n.
  void (*cut_off)(float* x, int64_t n, float cutoff);
  void (*scale)(float* x, int64_t n, float factor);
  // x *= sigmoid(gate)
  void (*gate)(float* x, const float* gate, int64_t n);
  // x += a * factor
  void (*add_scaled)(float* x, const float* a, int64_t n, float factor);
  // out = act(gate + gate_bias) * (up + up_bias); up null: not gated.
  void (*activate)(const Nonlinearity& act, const float* gate, const float* up, const float* gate_bias,
                   const float* up_bias, int64_t n, float* out);
  // All heads of a row as one: with their bias, clipped, normed together and turned each, in place.
  void (*prepare_width)(float* x, const float* bias, int32_t heads, int32_t head_dim, const HeadView& view,
                        int64_t row);
  void (*kv_write)(const KvWriteArgs& args, const KvRun& run, float* scratch);
  void (*attention)(const AttentionArgs& args, float* scratch);
  // out[n] = the softmax-weighted sum of the `parts` of one row, a stretch each, `stride` floats apart. The head's sink
  // takes part in the softmax without a value; negative infinity: none.
  void (*attention_join)(const float* parts, int64_t stride, int count, int64_t n, float sink, float* out);

  void (*low_rank_in)(const LowRankIn& args);
  void (*low_rank_out)(const LowRankOut& args);

  // logits[n] = soft_cap(multiplier * (logits + bias)); bias null: none
  void (*finish_logits)(float* logits, const float* bias, int64_t n, float multiplier, float soft_cap);
  // False if a value is NaN or infinite; negative infinity passes when `banned` says so.
  bool (*finite)(const float* x, int64_t n, bool banned);
  // The largest x and its index; the lowest index among equals.
  BestToken (*argmax)(const float* x, int64_t n);
  // The sum of exp(x - maximum) over those of x >= threshold.
  double (*exp_sum)(const float* x, int64_t n, float maximum, float threshold);
  // x = (x - maximum) / divisor: no finite x overflows, and the largest becomes 0.
  void (*divide_below)(float* x, int64_t n, float maximum, float divisor);
  // The number of x > threshold.
  int64_t (*count_above)(const float* x, int64_t n, float threshold);
  // Indices of x >= threshold, ascending, at most `room`; returns how many there are in all.
  int64_t (*collect)(const float* x, int64_t n, float threshold, int32_t* out, int64_t room);
  // The token with the largest x + noise among those of x > threshold, or x == threshold and token <= last_tie.
  // `likeliest` is the argmax of x, examined first, so that more of the others can be skipped.
  BestToken (*gumbel_argmax)(const float* x, int64_t n, int32_t likeliest, float threshold, int32_t last_tie,
                             PhiloxKey key);
};

const Operations& scalar_operations();
const Operations& avx2_operations();
const Operations& avx512_operations();
const Operations& operations(Isa isa);

}  // namespace octavo
