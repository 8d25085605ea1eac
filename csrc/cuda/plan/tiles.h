// The register tiles of the resident kernels, one row per kernel instance. The plan counts with this table and the
// kernels are made of it (resident/tiles.cuh).
#pragma once

namespace irf::cuda {

// A family is the tiles of one kernel instance. The number in its name is how many items a block owns at least (dense),
// or how many rows a thread owns (images).
enum class Family : int { kDense4, kDense8, kDense16, kDense32, kImage7, kImage8, kTensorDense, kTensorImage };

// Each product of a walk takes the tile of its family that is cheapest for it. A narrow one is for up to 8 columns.
enum class TileKind : int { kWide, kMid, kNarrow };

// The sums that a warp computes together. A thread owns `thread_rows` rows, and in each of them `groups` groups of
// `width` adjacent columns, which are loaded and stored together.
struct TileShape {
  int rows, columns;  // of the warp
  int thread_rows, groups, width;
};

// On FMA units: `row_lanes` of the 32 lanes lie side by side along the rows, the others along the columns.
constexpr TileShape fma_tile(int element_bytes, int thread_rows, int thread_columns, int row_lanes) {
  const int width = 16 / element_bytes;
  return {thread_rows * row_lanes, thread_columns * (32 / row_lanes), thread_rows, thread_columns / width, width};
}

// On tensor cores, of fragments of 16 x 8, in which a thread owns two rows of two columns.
constexpr TileShape tensor_tile(int fragment_rows, int fragment_columns) {
  return {16 * fragment_rows, 8 * fragment_columns, 2 * fragment_rows, fragment_columns, 2};
}

// A kernel instance: the numbers of items that a block of it may own, powers of two, and its tiles. A tile of zeros is
// one that the family does not have.
struct FamilyTiles {
  Family family;
  int element_bytes;
  bool dense, tensor_cores;
  int least_items, most_items;
  TileShape wide, mid, narrow;

  constexpr const TileShape& tile(TileKind kind) const {
    return kind == TileKind::kWide ? wide : kind == TileKind::kMid ? mid : narrow;
  }
};

// Family, bytes of an element, dense, on tensor cores, least and most items; the wide, the middle and the narrow tile.
constexpr FamilyTiles kFamilyTiles[] = {
    {Family::kDense4, 4, true, false, 4, 4, fma_tile(4, 4, 4, 1), {}, fma_tile(4, 1, 4, 4)},
    {Family::kDense8, 4, true, false, 8, 8, fma_tile(4, 8, 4, 1), {}, fma_tile(4, 1, 4, 8)},
    {Family::kDense16, 4, true, false, 16, 16, fma_tile(4, 8, 8, 2), {}, fma_tile(4, 1, 4, 16)},
    {Family::kDense32, 4, true, false, 32, 64, fma_tile(4, 8, 8, 4), {}, fma_tile(4, 1, 4, 32)},
    {Family::kImage7, 4, false, false, 1, 8, fma_tile(4, 7, 8, 4), fma_tile(4, 7, 4, 4), fma_tile(4, 7, 4, 32)},
    {Family::kImage8, 4, false, false, 1, 16, fma_tile(4, 8, 8, 4), fma_tile(4, 8, 4, 4), fma_tile(4, 8, 4, 32)},
    {Family::kDense16, 8, true, false, 16, 64, fma_tile(8, 4, 4, 4), {}, fma_tile(8, 1, 4, 16)},
    {Family::kImage8, 8, false, false, 1, 16, fma_tile(8, 8, 4, 4), {}, fma_tile(8, 8, 4, 32)},
    {Family::kTensorDense, 4, true, true, 32, 64, tensor_tile(2, 8), tensor_tile(2, 4), {}},
    {Family::kTensorImage, 4, false, true, 1, 8, tensor_tile(2, 8), tensor_tile(2, 4), {}},
};

// The row of a family that exists for this element type.
constexpr const FamilyTiles& tiles_of(Family family, int element_bytes) {
  const FamilyTiles* row = kFamilyTiles;
  while (row->family != family || row->element_bytes != element_bytes) ++row;
  return *row;
}

constexpr TileShape tile_shape(Family family, TileKind kind, int element_bytes) {
  return tiles_of(family, element_bytes).tile(kind);
}

}  // namespace irf::cuda
