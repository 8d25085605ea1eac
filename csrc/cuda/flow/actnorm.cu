// ActNorm: a scale and a shift per channel with its log-determinant, and their gradients. Numbers are seen as lines of
// neighbours: the pixels of one channel, or the channels of one sample.
#include <algorithm>

#include "cuda/device/block_sum.cuh"
#include "cuda/ops.h"

namespace irf::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kLanes = kWarp;               // channels of a block that adds up samples of [B, C]
constexpr int kRows = kThreads / kLanes;    // and the samples it takes at a time
constexpr int64_t kSamplesPerPiece = 64;    // of [B, C], added up by one block
constexpr int64_t kNumbersPerPiece = 4096;  // of a channel of images, at least

bool dense(const ChannelSizes& sizes) { return sizes.pixels == 1; }

int64_t samples_per_piece(const ChannelSizes& sizes) {
  constexpr int64_t kMostPieces = 65535;  // rows of a grid
  const int64_t enough = dense(sizes) ? kSamplesPerPiece : ceil_div(kNumbersPerPiece, sizes.pixels);
  return std::max(enough, ceil_div(sizes.batch, kMostPieces));
}

template <class T>
bool aligned(const T* p) {
  return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}

// Whether every line is made of whole, aligned vectors; null pointers do no harm.
template <class T, class... Pointers>
bool whole_vectors(int64_t line, Pointers... pointers) {
  return line % kVector<T> == 0 && (aligned(static_cast<const T*>(pointers)) && ...);
}

// Each thread takes a vector of a line, or as many numbers. `count`: of all threads that have work.
template <class T, bool DENSE, bool WHOLE>
__global__ void __launch_bounds__(kThreads)
    actnorm_kernel(const T* x, const T* bias, const T* log_scale, int channels, int line, int64_t count, T* z) {
  const int64_t thread = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (thread >= count) return;
  const int per_line = ceil_div(line, kVector<T>);
  const int64_t row = thread / per_line;
  const int column = static_cast<int>(thread - row * per_line) * kVector<T>;
  const int64_t at = row * line + column;
  const int channel = DENSE ? column : static_cast<int>(row % channels);
  Vector<T> v;
  if (WHOLE) {
    v = load16_readonly(x + at);
  } else {
#pragma unroll
    for (int i = 0; i < kVector<T>; ++i) v[i] = column + i < line ? __ldg(x + at + i) : T(0);
  }
  T shift = DENSE ? T(0) : __ldg(bias + channel), scale = DENSE ? T(0) : exp(__ldg(log_scale + channel));
#pragma unroll
  for (int i = 0; i < kVector<T>; ++i) {
    if (DENSE && column + i < line) {
      shift = __ldg(bias + channel + i);
      scale = exp(__ldg(log_scale + channel + i));
    }
    v[i] = (v[i] + shift) * scale;
  }
  if (WHOLE) {
    store16(z + at, v);
  } else {
#pragma unroll
    for (int i = 0; i < kVector<T>; ++i)
      if (column + i < line) z[at + i] = v[i];
  }
}

// logdet[b] = pixels * sum of log_scale, the same for every sample; every block adds up by itself.
template <class T>
__global__ void __launch_bounds__(kThreads)
    actnorm_logdet_kernel(const T* log_scale, int channels, T pixels, int64_t batch, T* logdet) {
  __shared__ T partial[kThreads / kWarp];
  T sum = T(0);
  for (int c = threadIdx.x; c < channels; c += kThreads) sum += __ldg(log_scale + c);
  sum = block_sum(sum, partial) * pixels;
  const int64_t sample = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (sample < batch) logdet[sample] = sum;
}

// Sums of grad and grad * z of channel blockIdx.x over the samples of piece blockIdx.y, and grad_x. sums:
// [pieces][2][C].
template <class T, bool WHOLE>
__global__ void __launch_bounds__(kThreads)
    add_up_images_kernel(const T* grad, const T* z, const T* log_scale, int channels, int pixels, int64_t batch,
                         int samples_per_piece, T* grad_x, T* sums) {
  __shared__ T partial[kThreads / kWarp];
  constexpr int kStep = WHOLE ? kVector<T> : 1;
  const int channel = blockIdx.x, per_line = pixels / kStep;
  const int64_t first = int64_t(blockIdx.y) * samples_per_piece;
  const int samples = static_cast<int>(batch - first < samples_per_piece ? batch - first : samples_per_piece);
  const T scale = exp(__ldg(log_scale + channel));
  T sum = T(0), product = T(0);
  // Places go on by kThreads steps without a division, which takes many registers.
  int sample = threadIdx.x / per_line, step = threadIdx.x % per_line;
  const int next_sample = kThreads / per_line, next_step = kThreads % per_line;
  for (; sample < samples; sample += next_sample, step += next_step) {
    if (step >= per_line) {
      step -= per_line;
      if (++sample == samples) break;
    }
    const int64_t at = ((first + sample) * channels + channel) * pixels + step * kStep;
    if (WHOLE) {
      Vector<T> upstream = load16_readonly(grad + at);
      const Vector<T> value = load16_readonly(z + at);
#pragma unroll
      for (int i = 0; i < kVector<T>; ++i) {
        sum += upstream[i];
        product += upstream[i] * value[i];
        upstream[i] *= scale;
      }
      if (grad_x) store16(grad_x + at, upstream);
    } else {
      const T upstream = __ldg(grad + at);
      sum += upstream;
      product += upstream * __ldg(z + at);
      if (grad_x) grad_x[at] = upstream * scale;
    }
  }
  sum = block_sum(sum, partial);
  product = block_sum(product, partial);
  if (threadIdx.x != 0) return;
  T* own = sums + int64_t(blockIdx.y) * 2 * channels;
  own[channel] = sum;
  own[channels + channel] = product;
}

// The same of [B, C], for kLanes channels: each thread adds up one of them over every kRows-th sample.
template <class T>
__global__ void __launch_bounds__(kThreads)
    add_up_vectors_kernel(const T* grad, const T* z, const T* log_scale, int channels, int64_t batch,
                          int samples_per_piece, T* grad_x, T* sums) {
  __shared__ T partial[2][kRows][kLanes];
  const int lane = threadIdx.x % kLanes, row = threadIdx.x / kLanes, channel = blockIdx.x * kLanes + lane;
  const int64_t first = int64_t(blockIdx.y) * samples_per_piece;
  const int samples = static_cast<int>(batch - first < samples_per_piece ? batch - first : samples_per_piece);
  T sum = T(0), product = T(0);
  if (channel < channels) {
    const T scale = exp(__ldg(log_scale + channel));
#pragma unroll 4
    for (int s = row; s < samples; s += kRows) {
      const int64_t at = (first + s) * channels + channel;
      const T upstream = __ldg(grad + at);
      sum += upstream;
      product += upstream * __ldg(z + at);
      if (grad_x) grad_x[at] = upstream * scale;
    }
  }
  partial[0][row][lane] = sum;
  partial[1][row][lane] = product;
  __syncthreads();
  if (row > 1 || channel >= channels) return;
  T total = T(0);  // row 0 adds up the gradients, row 1 the products
#pragma unroll
  for (int r = 0; r < kRows; ++r) total += partial[row][r][lane];
  sums[(int64_t(blockIdx.y) * 2 + row) * channels + channel] = total;
}

// Adds up the pieces, in order, and what the log-determinants bring.
template <class T>
__global__ void __launch_bounds__(kThreads)
    finish_actnorm_kernel(const T* sums, const T* log_scale, const T* weight, int channels, T pixels, int64_t batch,
                          int pieces, T* grad_bias, T* grad_log_scale) {
  __shared__ T partial[kThreads / kWarp];
  T total = T(0);
  for (int64_t b = threadIdx.x; weight && b < batch; b += kThreads) total += __ldg(weight + b);
  total = block_sum(total, partial) * pixels;
  const int channel = blockIdx.x * kThreads + threadIdx.x;
  if (channel >= channels) return;
  T sum = T(0), product = T(0);
  for (int i = 0; i < pieces; ++i) {
    sum += __ldg(sums + int64_t(i) * 2 * channels + channel);
    product += __ldg(sums + (int64_t(i) * 2 + 1) * channels + channel);
  }
  grad_bias[channel] = sum * exp(__ldg(log_scale + channel));
  grad_log_scale[channel] = product + total;
}

unsigned blocks_of(int64_t threads) { return static_cast<unsigned>(ceil_div(threads, int64_t(kThreads))); }

template <class T>
struct Normalize {
  ActNormOperands<T> op;

  cudaError_t launch(const Context& context) const {
    const auto& [batch, channels, pixels] = op.sizes;
    const int line = dense(op.sizes) ? channels : static_cast<int>(pixels);
    const int64_t lines = dense(op.sizes) ? batch : batch * channels;
    const int64_t count = lines * ceil_div(line, kVector<T>);
    const bool whole = whole_vectors<T>(line, op.x, op.z);
    const auto kernel = dense(op.sizes) ? (whole ? actnorm_kernel<T, true, true> : actnorm_kernel<T, true, false>)
                                        : (whole ? actnorm_kernel<T, false, true> : actnorm_kernel<T, false, false>);
    kernel<<<blocks_of(count), kThreads, 0, context.stream>>>(op.x, op.bias, op.log_scale, channels, line, count, op.z);
    actnorm_logdet_kernel<T><<<blocks_of(batch), kThreads, 0, context.stream>>>(
        op.log_scale, channels, static_cast<T>(pixels), batch, op.logdet);
    return cudaGetLastError();
  }
};

template <class T>
struct NormalizeBackward {
  ActNormBackwardOperands<T> op;
  Buffer<T> sums;  // [pieces][2][C]

  cudaError_t launch(const Context& context) const {
    const auto& [batch, channels, pixels] = op.sizes;
    const int samples = static_cast<int>(samples_per_piece(op.sizes));
    const int pieces = static_cast<int>(ceil_div(batch, int64_t(samples)));
    T* room = context.memory[sums];
    if (dense(op.sizes)) {
      add_up_vectors_kernel<T><<<dim3(ceil_div(channels, kLanes), pieces), kThreads, 0, context.stream>>>(
          op.grad, op.z, op.log_scale, channels, batch, samples, op.grad_x, room);
    } else {
      const bool whole = whole_vectors<T>(pixels, op.grad, op.z, op.grad_x);
      const auto kernel = whole ? add_up_images_kernel<T, true> : add_up_images_kernel<T, false>;
      kernel<<<dim3(channels, pieces), kThreads, 0, context.stream>>>(
          op.grad, op.z, op.log_scale, channels, static_cast<int>(pixels), batch, samples, op.grad_x, room);
    }
    finish_actnorm_kernel<T><<<blocks_of(channels), kThreads, 0, context.stream>>>(
        room, op.log_scale, op.weight, channels, static_cast<T>(pixels), batch, pieces, op.grad_bias,
        op.grad_log_scale);
    return cudaGetLastError();
  }
};

}  // namespace

template <class T>
Operation actnorm(const ActNormOperands<T>& op, const Target& target) {
  return Operation(target, Workspace(), Normalize<T>{op});
}

template <class T>
Operation actnorm_backward(const ActNormBackwardOperands<T>& op, const Target& target) {
  Workspace workspace;
  const int64_t pieces = ceil_div(op.sizes.batch, samples_per_piece(op.sizes));
  const auto sums = workspace.take<T>(pieces * 2 * op.sizes.channels);
  return Operation(target, workspace, NormalizeBackward<T>{op, sums});
}

#define IRF_INSTANTIATE(T)                                              \
  template Operation actnorm(const ActNormOperands<T>&, const Target&); \
  template Operation actnorm_backward(const ActNormBackwardOperands<T>&, const Target&);
IRF_INSTANTIATE(float)
IRF_INSTANTIATE(double)
#undef IRF_INSTANTIATE

}  // namespace irf::cuda
