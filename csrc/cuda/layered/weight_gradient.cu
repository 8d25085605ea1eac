// Which shape of block computes a weight gradient, and over how many splits of the rows.
#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cuda/layered/weight_gradient.cuh"
#include "cuda/plan/gradient.h"

namespace irf::cuda {
namespace {

// The shapes: wide (the whole block is one tile), and three for narrow stages, whose warps share the rows.
enum { kWide, kNarrow, kFewRows, kFewColumns, kShapes };

template <class T, Precision PRECISION, int SHAPE>
struct TileOf {
  static constexpr int kFragmentRows = SHAPE == kFewRows ? 1 : SHAPE == kFewColumns ? 8 : 2;
  using Type = FragmentOuterTile<PRECISION, kFragmentRows, 16 / kFragmentRows>;
};
template <class T, int SHAPE>
struct TileOf<T, Precision::kFull, SHAPE> {
  using Type = OuterTile<T, SHAPE == kFewRows ? 2 : SHAPE == kFewColumns ? 16 : 4>;
};
template <class T, Precision PRECISION, int SHAPE>
using ShapeOf =
    GradientShape<typename TileOf<T, PRECISION, SHAPE>::Type, SHAPE == kWide ? 2 : 1, SHAPE == kWide ? 2 : 1>;

// The shape that computes least in vain, and of those the earliest.
template <class T>
struct Plan {
  int shape = 0, row_tiles = 0, column_tiles = 0, depth = 0;
  int64_t area = INT64_MAX;

  explicit Plan(const WeightGradient<T>& op) {
    consider<kWide>(op);
    consider<kNarrow>(op);
    consider<kFewRows>(op);
    consider<kFewColumns>(op);
  }
  template <int SHAPE>
  void consider(const WeightGradient<T>& op) {
    using Shape = ShapeOf<T, Precision::kFull, SHAPE>;  // tensor-core tiles of float32 are as large
    constexpr GradientBlock kBlock = kGradientBlocks[SHAPE];
    static_assert(std::is_same_v<T, double> || (Shape::kRows == kBlock.rows && Shape::kColumns == kBlock.columns &&
                                                Shape::kDepth == kBlock.depth),
                  "what is counted with is what runs");
    const int rows = ceil_div(op.out_channels, Shape::kRows), columns = ceil_div(op.partial_columns(), Shape::kColumns);
    const int64_t computed = int64_t(rows) * Shape::kRows * columns * Shape::kColumns;
    if (computed < area) *this = Plan(SHAPE, rows, columns, Shape::kDepth, computed);
  }

 private:
  Plan(int shape_, int row_tiles_, int column_tiles_, int depth_, int64_t area_)
      : shape(shape_), row_tiles(row_tiles_), column_tiles(column_tiles_), depth(depth_), area(area_) {}
};

template <class T, Precision PRECISION, int SHAPE>
void launch(const WeightGradient<T>& op, const Plan<T>& plan, cudaStream_t stream) {
  const dim3 grid(plan.column_tiles, plan.row_tiles, op.splits);
  using Shape = ShapeOf<T, PRECISION, SHAPE>;
  weight_gradient_kernel<Shape><<<grid, Shape::kThreads, 0, stream>>>(op);
}

template <class T, Precision PRECISION>
void launch(const WeightGradient<T>& op, const Plan<T>& plan, cudaStream_t stream) {
  switch (plan.shape) {
    case kWide:
      return launch<T, PRECISION, kWide>(op, plan, stream);
    case kNarrow:
      return launch<T, PRECISION, kNarrow>(op, plan, stream);
    case kFewRows:
      return launch<T, PRECISION, kFewRows>(op, plan, stream);
    default:
      return launch<T, PRECISION, kFewColumns>(op, plan, stream);
  }
}

}  // namespace

template <class T>
int weight_gradient_splits(const WeightGradient<T>& op, const Card& card) {
  const Plan<T> plan(op);
  const int64_t chunks =
      ceil_div(op.pair[0].rows, int64_t(plan.depth)) + ceil_div(op.pair[1].rows, int64_t(plan.depth));
  const int64_t tiles = int64_t(plan.row_tiles) * plan.column_tiles;
  const int64_t wanted = kGradientBlocksAtOnce * card.multiprocessors / tiles;
  return static_cast<int>(std::max<int64_t>(1, std::min(wanted, chunks / kLeastGradientChunks)));
}

template <class T>
cudaError_t weight_gradient(const WeightGradient<T>& op, cudaStream_t stream) {
  const Plan<T> plan(op);
  if constexpr (std::is_same_v<T, float>) {
    if (op.precision == Precision::kTf32) launch<T, Precision::kTf32>(op, plan, stream);
    if (op.precision == Precision::kBf16) launch<T, Precision::kBf16>(op, plan, stream);
  }
  if (op.precision == Precision::kFull) launch<T, Precision::kFull>(op, plan, stream);
  return cudaPeekAtLastError();
}

template int weight_gradient_splits(const WeightGradient<float>&, const Card&);
template int weight_gradient_splits(const WeightGradient<double>&, const Card&);
template cudaError_t weight_gradient(const WeightGradient<float>&, cudaStream_t);
template cudaError_t weight_gradient(const WeightGradient<double>&, cudaStream_t);

}  // namespace irf::cuda
