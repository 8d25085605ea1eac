// Plain structs that carry a residual branch and the operands of each op from csrc/torch to the kernels. Torch-free.
// Letters: B batch, d event size, L stages, n terms, m probes. All arrays are contiguous.
#pragma once

#include <cstdint>

#include "iresnet_fast/activations.h"
#include "iresnet_fast/macros.h"

namespace irf {

// How an operand of a stage is spread over the batch.
enum class Spread : int {
  kShared,  // [channels]
  kSample,  // [B, channels]: the same at every pixel
  kPixel    // [B, channels, height, width]
};

// A[i](factor phi_i(a)) + bias: one activation, times a given factor if there is one, followed by one linear map.
template <class T>
struct Stage {
  Activation activation;
  int in_channels, out_channels;
  int kernel;                             // odd side of the square kernel; 1 for a dense stage
  const T* weight;                        // [out, in, kernel, kernel]
  const T* bias;                          // of out channels, or null
  const T* beta;                          // the activation's learnable parameter, one element, or null
  const T* factor = nullptr;              // of in channels, never shared, or null
  T constant = T(0);                      // of the activation
  Spread bias_spread = Spread::kShared;   // dense: never kPixel
  Spread factor_spread = Spread::kPixel;  // dense: kSample

  // Whether phi'' vanishes everywhere, factor or not.
  IRF_HOST_DEVICE IRF_ALWAYS_INLINE bool straight() const { return piecewise_linear(activation); }
  // Whether h is a itself.
  IRF_HOST_DEVICE IRF_ALWAYS_INLINE bool identity() const { return activation == Activation::kIdentity && !factor; }
};

// A branch over events [d] (dense: height = width = 0) or [C, height, width] (convolutions, stride 1, same padding).
template <class T>
struct Branch {
  int stages;
  const Stage<T>* stage;  // [L]
  int height, width;
  int64_t batch;

  bool dense() const { return height == 0; }
  int64_t pixels() const { return dense() ? 1 : int64_t(height) * width; }
  int64_t in_size() const { return stage[0].in_channels * pixels(); }
};

// How a CPU kernel runs: on which threads, and how exactly it multiplies.
struct Parallel {
  int threads;
  // Runs task(0) .. task(count - 1), possibly at the same time.
  void (*run)(int64_t count, void (*task)(int64_t index, void* context), void* context);
  // The products of a branch may round float32 operands to bfloat16, with float32 sums; only if bf16_available().
  bool bf16 = false;
};

// tr J^power of a sample, as a sum over pixels p that is exact (docs/mathematics.md, 3a):
//   sum_p <D_left[:, p], (map D_right)[:, p]>, the map a convolution with zero padding (a matrix if dense), or,
//   sum_p <D_left[:, p], map[:, p]> without a right stage.
// The stages are no identities: they have derivatives D.
template <class T>
struct Trace {
  int left, right;  // right: -1 if there is none
  int kernel;       // side of the map's kernel, at most that of any stage; 1 if dense or without a right stage
  const T* map;     // [C_left, C_right, kernel, kernel], or [C_left, height, width]
  int64_t size;     // of the map
};

// The first terms of the log-determinant's series that are exact: term k is (-1)^(k+1) q_k / k tr J^k.
template <class T>
struct Traces {
  int count = 0;                    // 0, 1 or 2
  const Trace<T>* trace = nullptr;  // [count]: of tr J, tr J^2
  const T* coefficients = nullptr;  // q_k as in Series, at least `count` of them
  int terms = 0;
  bool per_sample = false;

  // The factor of trace[i] in the log-determinant of a sample.
  IRF_HOST_DEVICE IRF_ALWAYS_INLINE T factor(int64_t sample, int i) const {
    const T q = coefficients[(per_sample ? sample * terms : 0) + i];
    return (i % 2 ? -q : q) / static_cast<T>(i + 1);
  }
};

template <class T>
struct BranchOperands {
  const T* x;     // [B, d]
  T* g;           // [B, d']
  bool residual;  // add x itself: g is x + g(x)
};

// Gradient of  <grad, g(x)> + sum_b weight_b (1 / m sum_j <cotangent_j, J tangent_j> + sum_i factor_i trace_i).
template <class T>
struct BranchBackwardOperands {
  const T* x;           // [B, d]
  const T* grad;        // [B, d'] or null
  int pairs;            // m
  const T* tangents;    // [m, B, d]
  const T* cotangents;  // [m, B, d]
  const T* weight;      // [B]
  bool residual;        // add `grad` itself to grad_x: the gradient of x + g(x)
  T* grad_x;            // [B, d] or null
  T* grad_parameters;   // per stage: weight, bias, beta, factor (those there are), each of its own shape; then the maps
                        // of the traces
  const T* kept;        // [kept_size] from residual_logdet at the same x and tangent, or null; of another size: unused
  int64_t kept_size;
  Traces<T> traces = {};  // only with pairs
};

// The term a series with coefficients q_1 .. q_n ends with: the last that is not zero, at least the first (0 if n = 0).
// How deep a roulette went may be known here only.
template <class T>
IRF_HOST_DEVICE IRF_ALWAYS_INLINE int last_term(const T* q, int n) {
  while (n > 1 && q[n - 1] == T(0)) --n;
  return n;
}

// The power series sum_k (-1)^(k+1) q_k / k <w_k, v> of log|det(I + J)| along w_k = (J^T)^k v for every probe v: when
// it ends, and where its results go. In the first `traces.count` terms the trace itself takes the place of <w_k, v>:
// they are no part of the Neumann vector.
template <class T>
struct Series {
  int terms = 0;                    // n
  const T* coefficients = nullptr;  // q_k, [n] or [B, n]; a sample's series ends with its last one that is not zero
  bool per_sample = false;          // coefficients are [B, n]
  const T* tail = nullptr;          // [n]: a sample stops after term k if |w_k| tail_k <= its tolerance; null: never
  T tolerance = T(0);               // relative: tolerance * |v|, else tolerance / |v|
  bool relative = false;
  T* value = nullptr;             // [B], the mean over probes
  T* neumann = nullptr;           // [m, B, d] sum_k (-1)^k q_{k+1} w_k, or null
  T* norms = nullptr;             // [m, B] |w_k| of the last term used
  int64_t* terms_used = nullptr;  // [m, B]
  Traces<T> traces = {};          // their coefficients are those above

  // q_1 .. q_n of a sample.
  IRF_HOST_DEVICE IRF_ALWAYS_INLINE const T* coefficients_of(int64_t sample) const {
    return coefficients + (per_sample ? sample * terms : 0);
  }
};

template <class T>
struct ResidualLogdetOperands {
  const T* x;      // [B, d]
  int probes;      // m
  const T* probe;  // [m, B, d]
  Series<T> series;
  T* z;  // [B, d] x + g(x), or null
  // [kept_size] what branch_backward would compute again (then m = 1, no stop, and norms hold |w_{n-1}|), or null.
  T* kept;
};

template <class T>
struct JacobianPowersOperands {
  const T* x;      // [B, d]
  const T* start;  // [B, d]
  int count;       // n
  bool transpose;
  T* powers;  // [n, B, d]: J^k start (or (J^T)^k start), k = 1 .. n
};

template <class T>
struct JacobianOperands {
  const T* x;   // [B, d]
  T* jacobian;  // [B, d, d], row = output
};

template <class T>
struct ResidualLogdetExactOperands {
  const T* x;  // [B, d]
  T* z;        // [B, d] x + g(x)
  T* logdet;   // [B]
  T* kept;     // [exact_kept_size] what the backward pass would compute again, or null
};

// Gradient of  <grad_z, z> + sum_b grad_logdet_b logdet_b.
template <class T>
struct ResidualLogdetExactBackwardOperands {
  const T* x;            // [B, d]
  const T* grad_z;       // [B, d] or null
  const T* grad_logdet;  // [B] or null
  T* grad_x;             // [B, d] or null
  T* grad_parameters;    // per stage: weight, bias, beta, factor (those there are), each of its own shape
  const T* kept;         // [kept_size] from residual_logdet_exact at the same x, or null; of another size: unused
  int64_t kept_size;
};

template <class T>
struct ResidualInverseOperands {
  const T* z;        // [B, d]
  T residual_limit;  // tol * (1 - Lipschitz constant)
  int64_t max_iterations;
  int64_t captured_iterations;  // the most that a CUDA graph records, where every iteration is launched by itself
  T lipschitz;                  // of the branch: the safeguard of Anderson's method; 0: the plain iteration
  T* x;                         // [B, d]
  int64_t* iterations;          // [B]
  T* residual;                  // [B]
};

// One linear map whose operator norm is wanted. A matrix has height = 0 (and kernel, stride ... unused).
template <class T>
struct NormLayer {
  int out_channels, in_channels;  // in_channels: of the whole input, not per group
  int height, width, kernel_height, kernel_width;
  int stride_height, stride_width, padding_height, padding_width, dilation_height, dilation_width, groups;
  const T* weight;  // [out, in / groups, kernel_height, kernel_width]
  const T* u;       // [out, output height, output width]
  const T* v;       // [in, height, width]

  bool matrix() const { return height == 0; }
  int out_height() const {
    return (height + 2 * padding_height - dilation_height * (kernel_height - 1) - 1) / stride_height + 1;
  }
  int out_width() const {
    return (width + 2 * padding_width - dilation_width * (kernel_width - 1) - 1) / stride_width + 1;
  }
  int64_t u_size() const { return matrix() ? out_channels : int64_t(out_channels) * out_height() * out_width(); }
  int64_t v_size() const { return matrix() ? in_channels : int64_t(in_channels) * height * width; }
  int64_t weight_size() const {
    return matrix() ? int64_t(out_channels) * in_channels
                    : int64_t(out_channels) * (in_channels / groups) * kernel_height * kernel_width;
  }
};

template <class T>
struct SpectralNormOperands {
  int layers;
  const NormLayer<T>* layer;  // [layers]
  int64_t max_iterations;
  T tolerance;          // relative change of sigma; negative: never stop early
  T* sigma;             // [layers]
  int64_t* iterations;  // [layers]
  T* const* u;          // per layer, as NormLayer::u
  T* const* v;
};

template <class T>
struct LanczosNormOperands {
  int layers;
  const NormLayer<T>* layer;       // [layers]; u and v are hints
  const T* const* companion_hint;  // per layer, as u or v, whichever is shorter (v if neither)
  const int64_t* seed;             // [1]
  int64_t max_iterations;
  T tolerance;          // of the residual relative to sigma
  T* sigma;             // [layers]
  T* residual;          // [layers]
  int64_t* iterations;  // [layers]
  T* const* u;          // per layer, as NormLayer::u
  T* const* v;
  T* const* companion;  // per layer, as companion_hint
};

template <class T>
struct SpectralNormalizeOperands {
  int layers;
  const NormLayer<T>* layer;
  const T* sigma;        // [layers]
  const T* coeff;        // [layers]
  const T* const* grad;  // backward: gradient of the normalised weights, per layer, or null
  bool through_sigma;
  T* const* result;  // forward: W / max(1, sigma / coeff); backward: gradient of W
};

// Numbers [B, C, pixels]; pixels is 1 for [B, C].
struct ChannelSizes {
  int64_t batch;
  int channels;
  int64_t pixels;

  int64_t event_size() const { return channels * pixels; }
};

// z = (x + bias) * exp(log_scale) per channel.
template <class T>
struct ActNormOperands {
  ChannelSizes sizes;
  const T* x;          // [B, C, pixels]
  const T* bias;       // [C]
  const T* log_scale;  // [C]
  T* z;                // [B, C, pixels]
  T* logdet;           // [B]
};

// Gradient of <grad, z> + sum_b weight_b logdet_b.
template <class T>
struct ActNormBackwardOperands {
  ChannelSizes sizes;
  const T* z;          // [B, C, pixels], of the forward pass
  const T* log_scale;  // [C]
  const T* grad;       // [B, C, pixels]
  const T* weight;     // [B], or null: zeros
  T* grad_x;           // [B, C, pixels] or null
  T* grad_bias;        // [C]
  T* grad_log_scale;   // [C]
};

// z[b][i] = x[b][index[i]], or its transpose z[b][index[i]] = x[b][i]. `index` holds every number below d once; an
// entry that is not below d is written as NaN, or skipped by the transpose.
template <class T>
struct RearrangeOperands {
  int64_t batch;
  int64_t event_size;    // d
  const T* x;            // [B, d]
  const int64_t* index;  // [d]
  bool transpose;
  T* z;  // [B, d]
};

// sum[b] = values[0][b] + values[1][b] + ..., in this order.
template <class T>
struct SumRowsOperands {
  int rows;
  int64_t columns;
  const T* values;  // [rows, columns]
  T* sum;           // [columns]
};

// The position of a word of 64 bits counts with this in a fingerprint: the golden ratio, odd.
constexpr uint64_t kFingerprintStep = 0x9e3779b97f4a7c15u;

struct FingerprintOperands {
  int layers;
  const void* const* weight;  // [layers] arrays of any floating point type
  const int64_t* bytes;       // [layers] their sizes
  uint64_t* result;           // [layers]
};

}  // namespace irf
