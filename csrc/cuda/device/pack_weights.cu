#include "cuda/device/operand.cuh"
#include "cuda/device/pack_weights.h"

namespace irf::cuda {
namespace {

constexpr int kStagesAtOnce = 16;  // the parameters of a launch travel by value
constexpr int kTile = 32, kTileRows = 8;

template <class T>
struct PackStage {
  const T* weight;  // [out][in][taps]
  T* packed;        // flat rows tap * depth + k of pitch columns
  int out, in, taps;
  int depth, pitch;
  int first_block, column_tiles;
};

template <class T>
struct PackStages {
  PackStage<T> stage[kStagesAtOnce];
  int count;
  bool transposed;
  Precision rounding;  // of operands; kFull: none
};

// A block packs 32 k x 32 columns of all taps: the strided reads of one tap bring the next taps into the cache. They
// run along the input channels, the writes along the columns, and a tile in shared memory turns one into the other.
template <class T>
__global__ void __launch_bounds__(kTile* kTileRows, 1) pack_kernel(const PackStages<T> stages) {
  __shared__ T tile[kTile][kTile + 1];  // [out][in]
  int which = 0;
  while (which + 1 < stages.count && static_cast<int>(blockIdx.x) >= stages.stage[which + 1].first_block) ++which;
  const PackStage<T> stage = stages.stage[which];
  const int block = static_cast<int>(blockIdx.x) - stage.first_block;
  const int first_k = block / stage.column_tiles * kTile, first_column = block % stage.column_tiles * kTile;
  const int first_out = stages.transposed ? first_k : first_column;
  const int first_in = stages.transposed ? first_column : first_k;
  const int lane = static_cast<int>(threadIdx.x) % kTile, first_row = static_cast<int>(threadIdx.x) / kTile;
  for (int tap = 0; tap < stage.taps; ++tap) {
    for (int row = first_row; row < kTile; row += kTileRows) {
      const int out = first_out + row, in = first_in + lane;
      const bool real = out < stage.out && in < stage.in;
      const int from = stages.transposed ? stage.taps - 1 - tap : tap;
      tile[row][lane] = real ? __ldg(stage.weight + (int64_t(out) * stage.in + in) * stage.taps + from) : T(0);
    }
    __syncthreads();
    for (int row = first_row; row < kTile; row += kTileRows) {
      const int k = first_k + row, column = first_column + lane;
      if (k < stage.depth && column < stage.pitch)
        store_operand(stage.packed, packed_at(int64_t(tap) * stage.depth + k, column, stage.pitch, stages.rounding),
                      stages.transposed ? tile[row][lane] : tile[lane][row], stages.rounding);
    }
    __syncthreads();
  }
}

}  // namespace

template <class T>
cudaError_t PackedWeights<T>::launch(const Context& context) const {
  const Precision precision = context.precision;
  PackStages<T> stages;
  stages.transposed = form_ == Form::kTransposed;
  stages.rounding = packing_ == Packing::kOperands ? precision : Precision::kFull;
  const int all = static_cast<int>(stages_.size());
  for (int first = 0; first < all; first += kStagesAtOnce) {
    stages.count = all - first < kStagesAtOnce ? all - first : kStagesAtOnce;
    int blocks = 0;
    for (int i = 0; i < stages.count; ++i) {
      const Stage<T>& from = stages_[first + i];
      PackStage<T>& to = stages.stage[i];
      to.weight = from.weight;
      to.packed = context.memory[packed_[first + i]];
      to.out = from.out_channels;
      to.in = from.in_channels;
      to.taps = from.kernel * from.kernel;
      to.depth = channel_pad(stages.transposed ? to.out : to.in, precision);
      to.pitch = column_pitch(stages.transposed ? to.in : to.out, precision, packing_);
      to.first_block = blocks;
      to.column_tiles = ceil_div(to.pitch, kTile);
      blocks += ceil_div(to.depth, kTile) * to.column_tiles;
    }
    pack_kernel<T><<<blocks, kTile * kTileRows, 0, context.stream>>>(stages);
  }
  return cudaGetLastError();
}

template class PackedWeights<float>;
template class PackedWeights<double>;

}  // namespace irf::cuda
