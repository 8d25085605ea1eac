// The tile types of each resident kernel instance, made of the table in plan/tiles.h, and the way from a plan to its
// instance.
#pragma once

#include "cuda/device/tensor_tile.cuh"
#include "cuda/device/tile.cuh"
#include "cuda/plan/plan.h"

namespace irf::cuda {
namespace {

// The plan and the kernel must agree on which sums a tile has, and which of them a thread owns.
template <class Tile>
constexpr bool has_shape(TileShape shape) {
  return Tile::kRows == shape.rows && Tile::kColumns == shape.columns && Tile::kThreadRows == shape.thread_rows &&
         Tile::kGroups == shape.groups && Tile::kWidth == shape.width;
}

template <class T, Family FAMILY, TileKind KIND>
struct FmaTileOf {
  static constexpr TileShape kShape = tile_shape(FAMILY, KIND, sizeof(T));
  using Type = SimtTile<T, kShape.thread_rows, kShape.groups * kShape.width, kShape.rows / kShape.thread_rows>;
  static_assert(has_shape<Type>(kShape), "the shape in plan/tiles.h");
};

template <Precision PRECISION, Family FAMILY, TileKind KIND>
struct TensorTileOf {
  static constexpr TileShape kShape = tile_shape(FAMILY, KIND, sizeof(float));
  using Type = TensorTile<PRECISION, kShape.rows / 16, kShape.columns / 8>;
  static_assert(has_shape<Type>(kShape), "the shape in plan/tiles.h");
};

// The tiles of a family: Tile<kind>, for the kinds that it has.
template <class T, Family FAMILY>
struct FmaTiles {
  using Element = T;
  static constexpr bool kHasMid = tile_shape(FAMILY, TileKind::kMid, sizeof(T)).rows > 0;
  static constexpr bool kHasNarrow = tile_shape(FAMILY, TileKind::kNarrow, sizeof(T)).rows > 0;
  template <TileKind KIND>
  using Tile = typename FmaTileOf<T, FAMILY, KIND>::Type;
};

template <Precision PRECISION, Family FAMILY>
struct TensorTiles {
  using Element = float;
  static constexpr bool kHasMid = tile_shape(FAMILY, TileKind::kMid, sizeof(float)).rows > 0;
  static constexpr bool kHasNarrow = tile_shape(FAMILY, TileKind::kNarrow, sizeof(float)).rows > 0;
  template <TileKind KIND>
  using Tile = typename TensorTileOf<PRECISION, FAMILY, KIND>::Type;
};

// Each calls launch(tiles) with the tiles of the plan's family. They are three, so that a source file compiles only one
// kind of kernel.
template <class Launch>
cudaError_t with_float_tiles(const ResidentPlan& plan, const Launch& launch) {
  switch (plan.family) {
    case Family::kDense4:
      return launch(FmaTiles<float, Family::kDense4>{});
    case Family::kDense8:
      return launch(FmaTiles<float, Family::kDense8>{});
    case Family::kDense16:
      return launch(FmaTiles<float, Family::kDense16>{});
    case Family::kDense32:
      return launch(FmaTiles<float, Family::kDense32>{});
    case Family::kImage7:
      return launch(FmaTiles<float, Family::kImage7>{});
    default:
      return launch(FmaTiles<float, Family::kImage8>{});
  }
}

template <class Launch>
cudaError_t with_double_tiles(const ResidentPlan& plan, const Launch& launch) {
  return plan.family == Family::kDense16 ? launch(FmaTiles<double, Family::kDense16>{})
                                         : launch(FmaTiles<double, Family::kImage8>{});
}

template <class Launch>
cudaError_t with_tensor_tiles(const ResidentPlan& plan, const Launch& launch) {
  const bool dense = plan.family == Family::kTensorDense;
  if (plan.precision == Precision::kTf32)
    return dense ? launch(TensorTiles<Precision::kTf32, Family::kTensorDense>{})
                 : launch(TensorTiles<Precision::kTf32, Family::kTensorImage>{});
  return dense ? launch(TensorTiles<Precision::kBf16, Family::kTensorDense>{})
               : launch(TensorTiles<Precision::kBf16, Family::kTensorImage>{});
}

}  // namespace
}  // namespace irf::cuda
