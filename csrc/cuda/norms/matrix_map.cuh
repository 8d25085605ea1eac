// A matrix as an operator on one vector. A warp takes whole rows, its lanes keep their columns of v and of the sums in
// registers, so one pass over the rows yields A v and A^T (A v) together: an iteration reads the matrix once.
#pragma once

#include "cuda/device/device.cuh"
#include "cuda/norms/norm_plan.h"

namespace irf::cuda {
namespace {

enum class RowAccess { kShared, kVectors, kElements };

// N vectors of columns per lane. Rows that allow no 16-byte access are read element by element, lanes along columns.
template <class T, int N, RowAccess kAccess>
struct RowPass {
  static constexpr int kColumns = N * kVector<T>;    // of a lane
  static constexpr int kRows = 4 / N;                // a warp takes at once, to hide the latency of loads and sums
  static constexpr int kSpan = kColumns * kWarp;     // columns of one pass
  static constexpr int kSlots = kVector<T> * kWarp;  // elements of one vector in each lane

  // Element k of a lane is column first_column(lane) + step(k).
  static __device__ __forceinline__ int first_column(int lane) {
    return kAccess == RowAccess::kElements ? lane : lane * kVector<T>;
  }
  static constexpr IRF_HOST_DEVICE int step(int k) {
    return kAccess == RowAccess::kElements ? k * kWarp : k / kVector<T> * kSlots + k % kVector<T>;
  }

  // The columns [0, columns) of the rows: u_i = (w v)_i (added to u_i if `accumulate`), or with v = null u as it is;
  // then image = w^T u unless null.
  static __device__ __forceinline__ void run(const T* w, int rows, int columns, int pitch, const T* v, bool accumulate,
                                             T* u, T* image, T* lane_sums) {
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const int start = first_column(lane), room = columns - start;
    T right[kColumns], sum[kColumns];
#pragma unroll
    for (int k = 0; k < kColumns; ++k) {
      right[k] = v && step(k) < room ? v[start + step(k)] : T(0);
      sum[k] = T(0);
    }
    for (int first = warp * kRows; first < rows; first += kNormWarps * kRows) {
      T a[kRows][kColumns], left[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r)
        load_row(w + int64_t(first + r) * pitch + start, first + r < rows ? room : 0, a[r]);
      if (v) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          left[r] = T(0);
#pragma unroll
          for (int k = 0; k < kColumns; ++k) left[r] += a[r][k] * right[k];
        }
#pragma unroll
        for (int r = 0; r < kRows; ++r) left[r] = sum_lanes(left[r]);
#pragma unroll
        for (int r = 0; r < kRows; ++r)
          if (lane == r && first + r < rows) u[first + r] = accumulate ? u[first + r] + left[r] : left[r];
      } else {
#pragma unroll
        for (int r = 0; r < kRows; ++r) left[r] = first + r < rows ? u[first + r] : T(0);
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r)
#pragma unroll
        for (int k = 0; k < kColumns; ++k) sum[k] += left[r] * a[r][k];
    }
    if (image) add_warps(sum, lane, warp, columns, image, lane_sums);
  }

  static __device__ __forceinline__ void load_row(const T* row, int room, T (&a)[kColumns]) {
    if constexpr (kAccess == RowAccess::kElements) {
#pragma unroll
      for (int k = 0; k < kColumns; ++k) a[k] = step(k) < room ? __ldg(row + step(k)) : T(0);
    } else {
#pragma unroll
      for (int j = 0; j < N; ++j) {
        Vector<T> vector = zero16<T>();
        if (j * kSlots < room)
          vector = kAccess == RowAccess::kShared ? load16(row + j * kSlots) : load16_readonly(row + j * kSlots);
#pragma unroll
        for (int i = 0; i < kVector<T>; ++i) a[j * kVector<T> + i] = vector[i];
      }
    }
  }

  static __device__ __forceinline__ void add_warps(const T (&sum)[kColumns], int lane, int warp, int columns, T* image,
                                                   T* lane_sums) {
#pragma unroll
    for (int j = 0; j < N; ++j) {
      Vector<T> vector;
#pragma unroll
      for (int i = 0; i < kVector<T>; ++i) vector[i] = sum[j * kVector<T> + i];
      store16(lane_sums + warp * kSlots + lane * kVector<T>, vector);
      __syncthreads();
      for (int slot = threadIdx.x; slot < kSlots; slot += kNormThreads) {
        T total = T(0);
        for (int i = 0; i < kNormWarps; ++i) total += lane_sums[i * kSlots + slot];
        const int k = first_column(slot / kVector<T>) + step(j * kVector<T> + slot % kVector<T>);
        if (k < columns) image[k] = total;
      }
      __syncthreads();
    }
  }
};

template <class T>
struct MatrixMap {
  const NormTask<T>& task;
  T* shared;

  __device__ MatrixMap(const NormTask<T>& task_, T* shared_) : task(task_), shared(shared_) {}

  __device__ T* u() const { return task.u_at == kElsewhere ? task.u : shared + task.u_at; }
  __device__ T* v() const { return task.v_at == kElsewhere ? task.v : shared + task.v_at; }
  // Where apply_transposed leaves its result.
  __device__ T* image() const { return task.image_at == kElsewhere ? v() : shared + task.image_at; }
  __device__ bool aligned() const {
    return task.layer.in_channels % kVector<T> == 0 && reinterpret_cast<uintptr_t>(task.layer.weight) % 16 == 0;
  }

  __device__ void prepare() {
    const int rows = task.layer.out_channels, columns = task.layer.in_channels;
    if (task.weight_at == kElsewhere) return;
    T* copy = shared + task.weight_at;
    if (aligned()) {
      copy_async(copy, task.layer.weight, rows * columns);
      __pipeline_commit();
      __pipeline_wait_prior(0);
      return;
    }
    const int pitch = round_up(columns, kVector<T>);
    for (int i = threadIdx.x / kWarp; i < rows; i += kNormWarps)
      for (int k = threadIdx.x % kWarp; k < pitch; k += kWarp)
        copy[i * pitch + k] = k < columns ? task.layer.weight[int64_t(i) * columns + k] : T(0);
  }

  // image = A^T u, or u = A v. `both`: the two follow each other, A v first, so that one pass over A can do for them:
  // then the image is A^T A v, not yet divided by |A v|.
  __device__ void apply(bool transposed, bool both) {
    both = both && task.image_at != kElsewhere;
    if (transposed && both) return;
    if (task.weight_at != kElsewhere)
      pass<RowAccess::kShared>(shared + task.weight_at, round_up(task.layer.in_channels, kVector<T>), transposed, both);
    else if (aligned())
      pass<RowAccess::kVectors>(task.layer.weight, task.layer.in_channels, transposed, both);
    else
      pass<RowAccess::kElements>(task.layer.weight, task.layer.in_channels, transposed, both);
  }

  template <RowAccess kAccess>
  __device__ void pass(const T* w, int pitch, bool transposed, bool both) {
    if (kAccess != RowAccess::kElements && task.layer.in_channels <= RowPass<T, 1, kAccess>::kSpan)
      pass<kAccess, 1>(w, pitch, transposed, both);
    else
      pass<kAccess, kWidestRow>(w, pitch, transposed, both);
  }

  // A matrix wider than the registers of a warp goes by panels of columns, and then never both ways at once.
  template <RowAccess kAccess, int N>
  __device__ void pass(const T* w, int pitch, bool transposed, bool both) {
    const int columns = task.layer.in_channels;
    using Pass = RowPass<T, N, kAccess>;
    for (int first = 0; first == 0 || first < columns; first += Pass::kSpan)  // without columns, u = 0
      Pass::run(w + first, task.layer.out_channels, min(columns - first, Pass::kSpan), pitch,
                transposed ? nullptr : v() + first, first > 0, u(), transposed || both ? image() + first : nullptr,
                shared + kSums);
  }
};

}  // namespace
}  // namespace irf::cuda
