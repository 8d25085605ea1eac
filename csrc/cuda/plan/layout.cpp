// Where everything lies in a block's shared memory, and which warp does which tile.
#include "cuda/plan/layout.h"

#include <algorithm>
#include <cstdint>

#include "cuda/plan/model.h"

namespace irf::cuda {
namespace {

int ceil_div(int n, int m) { return (n + m - 1) / m; }
int round_up(int n, int m) { return ceil_div(n, m) * m; }

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
    stage.column_pitch = column_pitch(N, precision, Packing::kValues);
    stage.chunk = stage.flat_rows;
    const int activation = transposed ? i : i + 1;  // whose derivatives the epilogue multiplies by
    stage.scaled = chain && activation < shape.stages && !shape.identity[activation];
  }
}

// Positions of the state (resident/block.cuh has an example): images one below the other, with `radius` lines of zeros
// between them and as many zeros right of each line, which are also the zeros left of the next line.
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
  // Idle lanes are worth it where they cost no tile, or few.
  const int tile = tile_shape(plan.family, TileKind::kNarrow, element_bytes).rows, lines = plan.items * plan.height;
  const int rounded = round_up(plan.width, 8);
  const bool free = tile > 0 && ceil_div(lines * rounded, tile) == ceil_div(lines * plan.width, tile);
  plan.lane_width = tile > 0 && radius > 0 && (free || 2 * rounded <= 3 * plan.width) ? rounded : plan.width;
  plan.positions += plan.lane_width - plan.width;  // that idle lanes read
}

// Chooses the cheapest tile of which a product has no more than there are warps; false if there is none.
bool choose_tile(ResidentPlan& plan, StagePlan& stage, int most_splits, int element_bytes,
                 const ModelConstants& model) {
  const int warps = plan.threads / 32;
  double best = -1;
  StagePlan chosen = stage;
  for (const TileKind kind : {TileKind::kWide, TileKind::kMid, TileKind::kNarrow}) {
    const TileShape tile = tile_shape(plan.family, kind, element_bytes);
    const bool narrow = kind == TileKind::kNarrow;
    if (tile.rows == 0 || (narrow && stage.N > 8)) continue;
    const int rows = plan.items * plan.height * (narrow ? plan.lane_width : plan.width);
    stage.tile = kind;
    stage.row_tiles = ceil_div(rows, tile.rows);
    stage.column_tiles = ceil_div(stage.N_padded, tile.columns);
    const int tiles = stage.row_tiles * stage.column_tiles;
    if (tiles > warps) continue;
    stage.splits = std::min({warps / tiles, most_splits, stage.flat_rows / depth_of(plan.precision)});
    const double cycles = stage_cycles(plan, stage, plan.blocks_per_multiprocessor, element_bytes, model);
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

void take_weights(const PlanCandidate& candidate, SharedMemory& shared, ResidentPlan& plan) {
  int streamed_pitch = 0, streamed_rows = 0;
  auto reserve = [&] {  // room for the two buffers, should the stage at hand be streamed
    return 2 * int64_t(candidate.chunk) * streamed_pitch;
  };
  for (int i = 0; i < plan.stages; ++i) streamed_pitch = std::max(streamed_pitch, plan.stage[i].column_pitch);
  for (int i = 0; i < plan.stages; ++i) {
    StagePlan& stage = plan.stage[i];
    const int64_t size = int64_t(stage.flat_rows) * stage.column_pitch;
    const bool keep = candidate.weights == kAll || (candidate.weights == kSome && shared.fits(size + reserve()));
    stage.weight = keep ? shared.take(size) : kNotShared;
    stage.chunk = stage.flat_rows;
  }
  streamed_pitch = 0;
  for (int i = 0; i < plan.stages; ++i) {
    if (plan.stage[i].weight != kNotShared) continue;
    streamed_pitch = std::max(streamed_pitch, plan.stage[i].column_pitch);
    streamed_rows = std::max(streamed_rows, plan.stage[i].flat_rows);
  }
  plan.stream_size = std::min(candidate.chunk, streamed_rows) * streamed_pitch;
  plan.stream = shared.take(2 * int64_t(plan.stream_size));
  for (int i = 0; i < plan.stages; ++i) {
    StagePlan& stage = plan.stage[i];
    if (stage.weight != kNotShared) continue;
    const int depth = depth_of(plan.precision);
    stage.chunk = std::min(stage.flat_rows, plan.stream_size / stage.column_pitch / depth * depth);
  }
}

void take_derivatives(const PlanCandidate& candidate, bool entry, SharedMemory& shared, ResidentPlan& plan) {
  const int64_t rows = int64_t(plan.items) * plan.pixels;
  auto take = [&](bool exists, int pitch) {
    const bool keep =
        exists && (candidate.derivatives == kAll || (candidate.derivatives == kSome && shared.fits(rows * pitch)));
    return keep ? shared.take(rows * pitch) : kNotShared;
  };
  for (int i = 0; i < plan.stages; ++i) plan.stage[i].derivative = take(plan.stage[i].scaled, plan.stage[i].N_padded);
  plan.entry = take(entry, plan.event_pitch);
}

// The tables of rows and the exchange of partial sums, as large as the largest stage needs.
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

}  // namespace

ResidentPlan make_plan(const BranchShape& shape, const WalkRequest& request, Precision precision, int element_bytes,
                       const Card& card, const PlanCandidate& candidate) {
  const ModelConstants& model = model_constants(card.architecture);
  const bool inverse = request.kind == WalkKind::kInverse, forward = inverse || request.kind == WalkKind::kForward;
  ResidentPlan plan{};
  plan.family = candidate.family;
  plan.precision = precision;
  plan.threads = candidate.threads;
  plan.items = candidate.items;
  plan.groups = (request.probes * shape.batch + candidate.items - 1) / candidate.items;
  plan.blocks_per_multiprocessor = kMaxThreads / candidate.threads;
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
    if (!choose_tile(plan, plan.stage[i], candidate.most_splits, element_bytes, model)) return plan;
  take_tables(element_bytes, shared, plan);
  take_weights(candidate, shared, plan);
  const bool entry = request.kind == WalkKind::kTangent && !shape.identity[0];
  take_derivatives(candidate, entry, shared, plan);
  if (shared.overflown()) return plan;

  plan.resident = true;
  plan.shared_bytes = shared.used();
  const int reserved = card.architecture < 80 ? 0 : kReservedPerBlock;
  plan.blocks_per_multiprocessor =
      std::min(plan.blocks_per_multiprocessor, card.shared_per_multiprocessor / (plan.shared_bytes + reserved));
  plan.blocks =
      static_cast<int>(std::min<int64_t>(plan.groups, int64_t(card.multiprocessors) * plan.blocks_per_multiprocessor));
  plan.microseconds = resident_microseconds(plan, request, element_bytes, card, model);
  return plan;
}

}  // namespace irf::cuda
