#include "by_head.h"

#include <algorithm>

namespace octavo {
namespace {

// Enough for products of a few dozen rows with each of a hundred heads.
constexpr int64_t kMostSlots = 8192;

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

}  // namespace

ByHead::ByHead(const StoredWeight& all, int64_t heads, const Packing& packing) {
  matrices_.reserve(static_cast<size_t>(heads));
  for (int64_t head = 0; head < heads; ++head) {
    matrices_.emplace_back(std::vector<StoredWeight>{all.part(head, heads)}, packing);
  }
}

int64_t ByHead::slots(const std::vector<LayerModel>& layers, int64_t max_rows, Isa isa) {
  const int64_t align = row_alignment(isa), rows = round_up(max_rows, align);
  int64_t most = 0;
  for (const LayerModel& layer : layers) {
    if (!layer.is_latent()) continue;
    const int64_t heads = layer.num_heads;
    most = std::max(most, std::max(heads * align, std::min(heads * rows, kMostSlots)));
  }
  return most;
}

HeadSlice ByHead::slice(int64_t first, int64_t rows, int64_t slots, Isa isa) const {
  const int64_t align = row_alignment(isa), most = slots / heads() / align * align;
  const int64_t count = std::min(most, rows - first);
  return {first, count, round_up(count, align)};
}

int64_t ByHead::bytes() const {
  int64_t total = 0;
  for (const Linear& matrix : matrices_) total += matrix.bytes();
  return total;
}

void ByHead::prepare(const HeadSlice& slice, int64_t head, int64_t row, const float* x) const {
  matrices_[static_cast<size_t>(head)].prepare_row(x, head * slice.stride + row);
}

void ByHead::multiply(const HeadSlice& slice, int64_t begin, int64_t end, float* y, int64_t ldy,
                      int64_t head_out) const {
  const int64_t each = matrices_.front().blocks();
  while (begin < end) {
    const int64_t head = begin / each, first = head * each, last = std::min(end, first + each);
    const int64_t row = head * slice.stride;
    matrices_[static_cast<size_t>(head)].multiply({row, row + slice.count}, begin - first, last - first,
                                                  y + head * head_out, ldy);
    begin = last;
  }
}

}  // namespace octavo
