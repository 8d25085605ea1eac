#include "cuda/plan.h"

#include <algorithm>
#include <cstdint>

#include "cuda/plan_model.h"

namespace irf::cuda {
namespace {

int ceil_div(int n, int m) { return (n + m - 1) / m; }
int round_up(int n, int m) { return ceil_div(n, m) * m; }

bool is_dense(Family family) { return family <= Family::kDense32 || family == Family::kTensorDense; }

TileShape simt_tile(int element_bytes, int rows, int columns, int row_lanes) {
  const int width = 16 / element_bytes;
  return {rows * row_lanes, columns * (32 / row_lanes), rows, columns / width, width};
}
TileShape tensor_tile(int fragment_rows, int fragment_columns) {
  return {16 * fragment_rows, 8 * fragment_columns, 2 * fragment_rows, fragment_columns, 2};
}

// One way among many: what plan_resident enumerates.
struct Way {
  Family family;
  int items, threads, most_splits, chunk;
  int weights, derivatives;  // in shared memory: kNone, as many stages as fit, or all
};
enum { kNone, kSome, kAll };

// The walk as products in order of execution.
void list_products(const BranchShape& shape, const WalkRequest& request, Precision precision, ResidentPlan& plan) {
  const bool transposed = request.kind == WalkKind::kTransposed,
             chain = transposed || request.kind == WalkKind::kTangent;
  plan.stages = shape.stages;
  for (int e = 0; e < shape.stages; ++e) {
    const int i = transposed ? shape.stages - 1 - e : e;
    const int K = shape.channels[transposed ? i + 1 : i], N = shape.channels[transposed ? i : i + 1];
    StagePlan& stage = plan.stage[e];
    stage.K = K;
    stage.N = N;
    stage.kernel = shape.kernel[i];
    stage.K_padded = channel_pad(K, precision);
    stage.N_padded = channel_pad(N, precision);
    stage.flat_rows = stage.kernel * stage.kernel * stage.K_padded;
    stage.column_pitch = column_pitch(N, precision);
    stage.chunk = stage.flat_rows;
    const int activation = transposed ? i : i + 1;  // whose derivatives the epilogue multiplies by
    stage.scaled = chain && activation < shape.stages && !shape.identity[activation];
  }
}

// Positions of the state: images one below the other, with `radius` rows of zeros between them and as many zeros right
// of each row, which are also what lies left of the next.
void lay_out_state(const BranchShape& shape, int element_bytes, ResidentPlan& plan) {
  const bool dense = shape.height == 0;
  int radius = 0, widest = 0;
  for (int i = 0; i < plan.stages; ++i) {
    radius = std::max(radius, plan.stage[i].kernel / 2);
    widest = std::max({widest, plan.stage[i].K_padded, plan.stage[i].N_padded});
  }
  plan.height = dense ? 1 : shape.height;
  plan.width = dense ? 1 : shape.width;
  plan.pixels = plan.height * plan.width;
  plan.row_positions = plan.width + radius;
  plan.image_positions = (plan.height + radius) * plan.row_positions;
  plan.origin = radius * plan.row_positions + radius;
  plan.positions = plan.origin + plan.items * plan.image_positions;
  const int vector = 16 / element_bytes, vectors = ceil_div(widest, vector);
  plan.pitch = vector * (vectors + 1 - vectors % 2);  // odd in vectors: neighbouring positions in different banks
  const bool ragged = radius > 0 && plan.width % 8 != 0 && 2 * round_up(plan.width, 8) <= 3 * plan.width;
  plan.lane_width = ragged ? round_up(plan.width, 8) : plan.width;
}

// The cheapest tile of a product that leaves a warp for each; false if there is none.
bool choose_tile(ResidentPlan& plan, StagePlan& stage, int most_splits, int element_bytes, const Card& card) {
  const int warps = plan.threads / 32;
  double best = -1;
  StagePlan chosen = stage;
  for (const TileKind kind : {TileKind::kWide, TileKind::kMid, TileKind::kNarrow}) {
    const TileShape tile = tile_shape(plan.family, kind, element_bytes);
    const bool narrow = kind == TileKind::kNarrow;
    if (narrow && stage.N > 8) continue;
    const int rows = plan.items * plan.height * (narrow ? plan.lane_width : plan.width);
    stage.tile = kind;
    stage.row_tiles = ceil_div(rows, tile.rows);
    stage.column_tiles = ceil_div(stage.N_padded, tile.columns);
    const int tiles = stage.row_tiles * stage.column_tiles;
    if (tiles > warps) continue;
    stage.splits = std::min({warps / tiles, most_splits, stage.flat_rows / depth_of(plan.precision)});
    const double cycles = stage_cycles(plan, stage, plan.blocks_per_multiprocessor, element_bytes, card);
    if (best < 0 || cycles < best) {
      best = cycles;
      chosen = stage;
    }
  }
  stage = chosen;
  return best >= 0;
}

// Hands out shared memory in elements; every region starts on 16 bytes.
class SharedMemory {
 public:
  SharedMemory(int element_bytes, int limit) : element_bytes_(element_bytes), left_(limit) {}

  int take(int64_t elements) {
    const int64_t rounded = (elements * element_bytes_ + 15) / 16 * 16;
    const int here = used_ / element_bytes_;
    if (rounded > left_) {
      overflown_ = true;
      return here;
    }
    used_ += static_cast<int>(rounded);
    left_ -= static_cast<int>(rounded);
    return here;
  }
  bool fits(int64_t elements) const { return elements * element_bytes_ + 15 <= left_; }
  bool overflown() const { return overflown_; }
  int used() const { return used_; }

 private:
  int element_bytes_, used_ = 0;
  int64_t left_;
  bool overflown_ = false;
};

void take_weights(const Way& way, SharedMemory& shared, ResidentPlan& plan) {
  int streamed_pitch = 0, streamed_rows = 0;
  auto reserve = [&] {  // room for the two buffers, should the stage at hand be streamed
    return 2 * int64_t(way.chunk) * streamed_pitch;
  };
  for (int i = 0; i < plan.stages; ++i) streamed_pitch = std::max(streamed_pitch, plan.stage[i].column_pitch);
  for (int i = 0; i < plan.stages; ++i) {
    StagePlan& stage = plan.stage[i];
    const int64_t size = int64_t(stage.flat_rows) * stage.column_pitch;
    const bool keep = way.weights == kAll || (way.weights == kSome && shared.fits(size + reserve()));
    stage.weight = keep ? shared.take(size) : kNotShared;
    stage.chunk = stage.flat_rows;
  }
  streamed_pitch = 0;
  for (int i = 0; i < plan.stages; ++i) {
    if (plan.stage[i].weight != kNotShared) continue;
    streamed_pitch = std::max(streamed_pitch, plan.stage[i].column_pitch);
    streamed_rows = std::max(streamed_rows, plan.stage[i].flat_rows);
  }
  plan.stream_size = std::min(way.chunk, streamed_rows) * streamed_pitch;
  plan.stream = shared.take(2 * int64_t(plan.stream_size));
  for (int i = 0; i < plan.stages; ++i) {
    StagePlan& stage = plan.stage[i];
    if (stage.weight != kNotShared) continue;
    const int depth = depth_of(plan.precision);
    stage.chunk = std::min(stage.flat_rows, plan.stream_size / stage.column_pitch / depth * depth);
  }
}

void take_derivatives(const Way& way, bool entry, SharedMemory& shared, ResidentPlan& plan) {
  const int64_t rows = int64_t(plan.items) * plan.pixels;
  auto take = [&](bool exists, int pitch) {
    const bool keep = exists && (way.derivatives == kAll || (way.derivatives == kSome && shared.fits(rows * pitch)));
    return keep ? shared.take(rows * pitch) : kNotShared;
  };
  for (int i = 0; i < plan.stages; ++i) plan.stage[i].derivative = take(plan.stage[i].scaled, plan.stage[i].N_padded);
  plan.entry = take(entry, plan.event_pitch);
}

// Tables of rows, exchange of partial sums: as large as the largest stage needs.
void take_tables(int element_bytes, SharedMemory& shared, ResidentPlan& plan) {
  int exchange = 0;
  plan.padded_rows = plan.items * plan.pixels;
  plan.padded_lane_rows = 0;
  for (int i = 0; i < plan.stages; ++i) {
    const StagePlan& stage = plan.stage[i];
    const TileShape tile = tile_shape(plan.family, stage.tile, element_bytes);
    int& padded = stage.tile == TileKind::kNarrow ? plan.padded_lane_rows : plan.padded_rows;
    padded = std::max(padded, stage.row_tiles * tile.rows);
    exchange = std::max(exchange, stage.row_tiles * stage.column_tiles * (stage.splits - 1) * tile.rows * tile.columns);
  }
  plan.exchange = shared.take(exchange);
  auto table = [&](int rows) { return shared.take((3 * rows * int(sizeof(int)) + element_bytes - 1) / element_bytes); };
  if (plan.lane_width == plan.width) plan.padded_rows = std::max(plan.padded_rows, plan.padded_lane_rows);
  plan.rows = table(plan.padded_rows);
  if (plan.lane_width == plan.width || plan.padded_lane_rows == 0) {
    plan.lane_rows = plan.rows;
    plan.padded_lane_rows = plan.padded_rows;
  } else {
    plan.lane_rows = table(plan.padded_lane_rows);
  }
}

ResidentPlan make_plan(const BranchShape& shape, const WalkRequest& request, Precision precision, int element_bytes,
                       const Card& card, const Way& way) {
  const bool inverse = request.kind == WalkKind::kInverse, forward = inverse || request.kind == WalkKind::kForward;
  ResidentPlan plan{};
  plan.family = way.family;
  plan.precision = precision;
  plan.threads = way.threads;
  plan.items = way.items;
  plan.groups = (request.probes * shape.batch + way.items - 1) / way.items;
  plan.blocks_per_multiprocessor = kMaxThreads / way.threads;
  plan.event_channels = shape.channels[0];
  plan.event_pitch = channel_pad(shape.channels[0], precision);
  list_products(shape, request, precision, plan);
  lay_out_state(shape, element_bytes, plan);

  SharedMemory shared(element_bytes, card.shared_per_block);
  const int64_t rows = int64_t(plan.items) * plan.pixels;
  plan.state = shared.take(int64_t(plan.positions) * plan.pitch);
  plan.first_vector = request.sums || inverse ? shared.take(rows * plan.event_pitch) : kNotShared;
  plan.second_vector = request.neumann || inverse ? shared.take(rows * plan.event_pitch) : kNotShared;
  plan.sums = shared.take(2 * plan.threads / 32);
  plan.slopes = shared.take(forward ? plan.stages : 0);
  for (int i = 0; i < plan.stages; ++i) plan.stage[i].bias = shared.take(forward ? plan.stage[i].N_padded : 0);
  if (shared.overflown()) return plan;
  for (int i = 0; i < plan.stages; ++i)
    if (!choose_tile(plan, plan.stage[i], way.most_splits, element_bytes, card)) return plan;
  take_tables(element_bytes, shared, plan);
  take_weights(way, shared, plan);
  const bool entry = request.kind == WalkKind::kTangent && !shape.identity[0];
  take_derivatives(way, entry, shared, plan);
  if (shared.overflown()) return plan;

  plan.resident = true;
  plan.shared_bytes = shared.used();
  const int reserved = card.architecture < 80 ? 0 : kReservedPerBlock;
  plan.blocks_per_multiprocessor =
      std::min(plan.blocks_per_multiprocessor, card.shared_per_multiprocessor / (plan.shared_bytes + reserved));
  plan.blocks =
      static_cast<int>(std::min<int64_t>(plan.groups, int64_t(card.multiprocessors) * plan.blocks_per_multiprocessor));
  plan.cycles = resident_cycles(plan, request, element_bytes, card);
  plan.microseconds = plan.cycles / kClockMegahertz + kLaunchMicroseconds;
  return plan;
}

// Families of tiles for a branch, and how many items a block of each may own.
template <class Visit>
void for_each_family(const BranchShape& shape, Precision precision, int element_bytes, Visit visit) {
  const bool dense = shape.height == 0;
  if (precision != Precision::kFull) {
    if (dense)
      for (int items : {32, 64}) visit(Family::kTensorDense, items);
    else
      for (int items = 1; items <= 32; items *= 2) visit(Family::kTensorImage, items);
  } else if (dense && element_bytes == 8) {
    for (int items : {16, 32, 64}) visit(Family::kDense16, items);
  } else if (dense) {
    visit(Family::kDense4, 4);
    visit(Family::kDense8, 8);
    visit(Family::kDense16, 16);
    for (int items : {32, 64}) visit(Family::kDense32, items);
  } else {
    for (int items = 1; items <= 32; items *= 2) {
      if (element_bytes == 4) visit(Family::kImage7, items);
      visit(Family::kImage8, items);
    }
  }
}

// What the kernels' 32-bit indices and the tables can hold.
bool countable(const BranchShape& shape, const WalkRequest& request) {
  constexpr int64_t kMost = INT32_MAX;
  const int64_t pixels = shape.height ? int64_t(shape.height) * shape.width : 1;
  return pixels <= 1 << 16 && shape.batch <= kMost / pixels && request.probes * shape.batch > 0;
}

}  // namespace

TileShape tile_shape(Family family, TileKind kind, int element_bytes) {
  const bool wide = kind == TileKind::kWide, narrow = kind == TileKind::kNarrow;
  if (family == Family::kTensorDense || family == Family::kTensorImage) {
    if (narrow) return simt_tile(4, family == Family::kTensorDense ? 1 : 8, 4, 32);
    return tensor_tile(2, wide ? 8 : 4);
  }
  if (element_bytes == 8) {
    if (is_dense(family)) return narrow ? simt_tile(8, 1, 4, 16) : simt_tile(8, 4, 4, 4);
    return narrow ? simt_tile(8, 8, 4, 32) : simt_tile(8, 8, 4, 4);
  }
  switch (family) {
    case Family::kDense4:
      return narrow ? simt_tile(4, 1, 4, 4) : simt_tile(4, 4, 4, 1);
    case Family::kDense8:
      return narrow ? simt_tile(4, 1, 4, 8) : simt_tile(4, 8, 4, 1);
    case Family::kDense16:
      return narrow ? simt_tile(4, 1, 4, 16) : simt_tile(4, 8, 8, 2);
    case Family::kDense32:
      return narrow ? simt_tile(4, 1, 4, 32) : simt_tile(4, 8, 8, 4);
    default: {
      const int rows = family == Family::kImage7 ? 7 : 8;
      return narrow ? simt_tile(4, rows, 4, 32) : simt_tile(4, rows, wide ? 8 : 4, 4);
    }
  }
}

Precision usable_precision(Precision wanted, int element_bytes, const Card& card) {
  return element_bytes == 8 || card.architecture < 80 ? Precision::kFull : wanted;
}

ResidentPlan plan_resident(const BranchShape& shape, const WalkRequest& request, Precision precision, int element_bytes,
                           const Card& card, const PlanChoice& choice) {
  ResidentPlan best{};
  if (shape.stages == 0 || !countable(shape, request)) return best;
  precision = usable_precision(precision, element_bytes, card);
  for_each_family(shape, precision, element_bytes, [&](Family family, int items) {
    if (choice.items && items != choice.items) return;
    if (choice.family >= 0 && static_cast<int>(family) != choice.family) return;
    for (int threads : {128, 256})
      for (int splits : {8, 4, 2, 1})
        for (int chunk : {128, 32})
          for (int weights : {kAll, kSome, kNone})
            for (int derivatives : {kAll, kSome, kNone}) {
              if (choice.threads && threads != choice.threads) continue;
              if (choice.weights_shared >= 0 && weights != (choice.weights_shared ? kAll : kNone)) continue;
              if (choice.derivatives_shared >= 0 && derivatives != (choice.derivatives_shared ? kAll : kNone)) continue;
              if (weights == kAll && chunk != 128) continue;  // no chunks
              const Way way{family, items, threads, splits, chunk, weights, derivatives};
              const ResidentPlan plan = make_plan(shape, request, precision, element_bytes, card, way);
              if (plan.resident && (!best.resident || plan.cycles < best.cycles)) best = plan;
            }
  });
  return best;
}

ResidentPlan plan_walk(const BranchShape& shape, const WalkRequest& request, Precision precision, int element_bytes,
                       const Card& card) {
  precision = usable_precision(precision, element_bytes, card);
  ResidentPlan plan = plan_resident(shape, request, precision, element_bytes, card);
  const double layered = layered_microseconds(shape, request, precision, element_bytes, card);
  if (plan.resident && plan.microseconds <= layered) return plan;
  plan = ResidentPlan{};
  plan.precision = precision;
  plan.microseconds = layered;
  return plan;
}

}  // namespace irf::cuda
