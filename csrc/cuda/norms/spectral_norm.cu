// Power iteration on every layer of a model in one launch, a block per layer: v <- A^T u / |A^T u|, u <- A v / |A v|,
// sigma = |A v| (arXiv 1804.04368). Everything an iteration reads stays on the SM if its shared memory has room; the
// stop is decided there, so the host waits for nothing.
#include <algorithm>
#include <climits>

#include "cuda/device/block_sum.cuh"
#include "cuda/norms/convolution_map.cuh"
#include "cuda/norms/largest_entry.cuh"
#include "cuda/norms/matrix_map.cuh"
#include "cuda/norms/norm_layers.cuh"
#include "cuda/ops.h"
#include "iresnet_fast/lanczos.h"

namespace irf::cuda {
namespace {

constexpr int kStaticShared = 512;  // bytes, more than the kernel declares

// How many elements of two arrays can be taken by 16 bytes.
template <class T>
__device__ __forceinline__ int whole_vectors(const T* a, const T* b, int size) {
  return (reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b)) % 16 == 0 ? size / kVector<T> * kVector<T>
                                                                                     : 0;
}

template <class T>
__device__ __forceinline__ T dot(const T* a, const T* b, int size, T* partial) {
  const int whole = whole_vectors(a, b, size);
  T sum = T(0);
#pragma unroll 2
  for (int i = kVector<T> * threadIdx.x; i < whole; i += kVector<T> * kNormThreads) {
    const Vector<T> left = load16(a + i), right = load16(b + i);
#pragma unroll
    for (int j = 0; j < kVector<T>; ++j) sum += left[j] * right[j];
  }
  for (int i = whole + threadIdx.x; i < size; i += kNormThreads) sum += a[i] * b[i];
  return block_sum(sum, partial);
}

// target = factor * source / length; `fallback` where there is no direction to take. The factor is a power of two.
template <class T>
__device__ IRF_NOINLINE void normalize(const T* source, T length, const T* fallback, int size, T* target, T factor) {
  if (!(length > T(0))) source = fallback, length = T(1);
  const int whole = whole_vectors(source, target, size);
#pragma unroll 2
  for (int i = kVector<T> * threadIdx.x; i < whole; i += kVector<T> * kNormThreads) {
    Vector<T> vector = load16(source + i);
#pragma unroll
    for (int j = 0; j < kVector<T>; ++j) vector[j] = vector[j] / length * factor;
    store16(target + i, vector);
  }
  for (int i = whole + threadIdx.x; i < size; i += kNormThreads) target[i] = source[i] / length * factor;
}

template <class T>
__device__ __forceinline__ void copy(const T* source, int size, T* target, T factor) {
  if (source != target || factor != T(1)) normalize(source, T(1), source, size, target, factor);
}

// `before` is 0 at the first iteration, so a tolerance always takes two unless the weight is zero.
template <class T>
__device__ __forceinline__ bool settled(T sigma, T before, T tolerance) {
  const T change = sigma > before ? sigma - before : before - sigma;
  return tolerance >= T(0) && change <= tolerance * sigma;
}

// The power of two by which a large or small weight is of ordinary size; 1 for others, and for those that are not
// finite. A function of its own, as `normalize`, takes no registers from the products.
template <class T>
__device__ IRF_NOINLINE void find_factor(const NormTask<T>* task, T* partial, T* factor) {
  const T entry = largest_entry(task->layer, partial);
  if (threadIdx.x == 0) *factor = entry > T(0) && entry <= Lanczos<T>::kLargest ? weight_factor(entry) : T(1);
  __syncthreads();
}

// Results go to the task's u and v, and to sigma in shared memory. Returns the number of iterations.
template <class T, class Map>
__device__ __forceinline__ int iterate(Map map, int most, T tolerance, T* partial, T* sigma) {
  const NormTask<T>& task = map.task;
  int step = most > 0 ? 0 : 1;  // even: A^T u, odd: A v
  // In shared memory, since registers are for the products. factor: of u and v between products, with which those of
  // any weight are of ordinary size; exact: were the lengths of all A^T u; lengths: of A v, at even and odd iterations.
  __shared__ T factor;
  __shared__ T lengths[2];
  __shared__ bool exact;
  if (threadIdx.x == 0) factor = T(1), exact = true, lengths[0] = T(0);
  map.prepare();
  if (most > 0)
    copy(task.layer.u, task.u_size, map.u(), T(1));
  else
    copy(task.layer.v, task.v_size, map.v(), T(1));
  for (;; ++step) {
    const bool transposed = step % 2 == 0;
    const int iteration = step / 2 + 1;
    __syncthreads();
    map.apply(transposed, factor == T(1) && (transposed ? step > 0 : iteration < most));
    __syncthreads();
    const int size = transposed ? task.v_size : task.u_size;
    const T* product = transposed ? map.image() : map.u();
    const T* given = transposed ? task.layer.v : task.layer.u;
    const T sum = dot(product, most == 0 ? given : product, size, partial);
    if (most == 0) {
      if (threadIdx.x == 0) *sigma = sum;
      break;
    }
    const T length = sqrt(sum);
    normalize(product, length, given, size, transposed ? map.v() : map.u(), factor);
    if (transposed) {
      if (threadIdx.x == 0 && !exact_square(sum)) exact = false;
      continue;
    }
    if (threadIdx.x == 0) lengths[iteration % 2] = length;
    if (iteration < most && !settled(length, lengths[1 - iteration % 2], tolerance)) continue;
    if (threadIdx.x == 0) *sigma = length / factor;
    if ((exact && exact_square(sum)) || factor != T(1)) break;
    // Once more from the start, if the weight is large or small.
    find_factor(&task, partial, &factor);
    if (factor == T(1)) break;
    if (threadIdx.x == 0) lengths[0] = T(0);
    copy(task.layer.u, task.u_size, map.u(), factor);
    step = -1;
  }
  __syncthreads();  // copies may be cut into other pieces than the loop above
  copy<T>(most == 0 ? task.layer.u : map.u(), task.u_size, task.u, T(1) / factor);
  copy<T>(map.v(), task.v_size, task.v, T(1) / factor);
  return most == 0 ? 0 : step / 2 + 1;
}

template <class T>
__global__ __launch_bounds__(kNormThreads) void power_iteration(const NormTask<T>* table, T* workspace, int most,
                                                                T tolerance, T* sigma, int64_t* iterations) {
  extern __shared__ __align__(16) unsigned char memory[];
  __shared__ NormTask<T> task;
  if (threadIdx.x == 0) task = table[blockIdx.x];
  __syncthreads();
  T* shared = reinterpret_cast<T*>(memory);
  __shared__ T norm;
  const int count = task.layer.height == 0
                        ? iterate(MatrixMap<T>(task, shared), most, tolerance, shared, &norm)
                        : iterate(ConvolutionMap<T>{task, shared, workspace}, most, tolerance, shared, &norm);
  if (threadIdx.x == 0) {
    sigma[task.index] = norm;
    iterations[task.index] = count;
  }
}

template <class T>
struct PowerIteration {
  SpectralNormOperands<T> op;
  NormPlan<T> plan;
  Buffer<NormTask<T>> table;
  Buffer<T> packed;

  cudaError_t launch(const Context& context) const {
    if (op.layers == 0) return cudaSuccess;
    NormTask<T>* const tasks = context.memory[table];
    T* const workspace = context.memory[packed];
    prepare_layers(plan, tasks, workspace, context.stream);
    const int most = static_cast<int>(std::min<int64_t>(op.max_iterations, INT_MAX));
    if (const cudaError_t error = allow_shared(power_iteration<T>, context.card, kStaticShared)) return error;
    const int shared = static_cast<int>(plan.shared * sizeof(T));
    power_iteration<T><<<op.layers, kNormThreads, shared, context.stream>>>(tasks, workspace, most, op.tolerance,
                                                                            op.sigma, op.iterations);
    return cudaGetLastError();
  }
};

}  // namespace

template <class T>
Operation spectral_norm(const SpectralNormOperands<T>& op, const Target& target) {
  NormPlan<T> plan = plan_norms(op, target.card, kStaticShared);
  Workspace workspace;
  const auto table = workspace.take<NormTask<T>>(op.layers);
  const auto packed = workspace.take<T>(plan.workspace);
  return Operation(target, workspace, PowerIteration<T>{op, std::move(plan), table, packed});
}

template Operation spectral_norm(const SpectralNormOperands<float>&, const Target&);
template Operation spectral_norm(const SpectralNormOperands<double>&, const Target&);

}  // namespace irf::cuda
