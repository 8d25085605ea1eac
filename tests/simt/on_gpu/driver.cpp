// Calls every family of kernels on the GPU without Python or torch, so that compute-sanitizer and Nsight Compute start
// at once: gpu_driver [NAME ...], no name for all. Buffers have exactly the size of their operands; results start
// uninitialised. Nothing is compared here: tests do that.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "cuda/ops.h"

namespace {

using irf::cuda::Card;
using irf::cuda::Operation;
using irf::cuda::Precision;
using irf::cuda::Target;

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::printf("gpu_driver: %s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

int attribute(cudaDeviceAttr which) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, 0), "cudaDeviceGetAttribute");
  return value;
}

Card this_card() {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  return {"this GPU",
          10 * attribute(cudaDevAttrComputeCapabilityMajor) + attribute(cudaDevAttrComputeCapabilityMinor),
          attribute(cudaDevAttrMultiProcessorCount),
          attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin),
          attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor),
          int64_t(properties.totalGlobalMem)};
}

// Device memory of one case.
class Memory {
 public:
  Memory() = default;
  Memory(const Memory&) = delete;
  ~Memory() {
    for (void* piece : pieces_) cudaFree(piece);
  }

  template <class T>
  T* result(int64_t count) {
    void* piece = nullptr;
    check(cudaMalloc(&piece, sizeof(T) * std::max<int64_t>(count, 1)), "cudaMalloc");
    pieces_.push_back(piece);
    return static_cast<T*>(piece);
  }

  // Uniform in [-scale, scale], the same on every run.
  template <class T>
  T* numbers(int64_t count, double scale = 1) {
    std::vector<T> host(count);
    for (T& v : host) {
      state_ = state_ * 6364136223846793005u + 1442695040888963407u;
      v = T(scale * (double(state_ >> 33) / double(1u << 30) - 1));
    }
    return copied(host);
  }

  template <class T>
  T* copied(const std::vector<T>& host) {
    T* piece = result<T>(host.size());
    check(cudaMemcpy(piece, host.data(), sizeof(T) * host.size(), cudaMemcpyHostToDevice), "cudaMemcpy");
    return piece;
  }

 private:
  std::vector<void*> pieces_;
  uint64_t state_ = 1;
};

struct Shape {
  std::vector<int> channels, kernels;
  int height, width;  // 0: dense
  int64_t batch;
};

void run(const char* op, Memory& memory, const Operation& operation) {
  check(operation.launch(memory.result<char>(operation.workspace_bytes()), nullptr), op);
  check(cudaDeviceSynchronize(), op);
}

template <class T>
void branch_ops(const Shape& shape, const Card& card, Precision precision) {
  const Target target{card, precision};
  Memory memory;
  const int stages = int(shape.kernels.size());
  std::vector<irf::Stage<T>> stage(stages);
  int64_t parameters = 0;
  for (int i = 0; i < stages; ++i) {
    const int in = shape.channels[i], out = shape.channels[i + 1], kernel = shape.kernels[i];
    const int64_t size = int64_t(in) * out * kernel * kernel;
    const double scale = 0.8 / std::sqrt(double(std::max(in, out)) * kernel * kernel);
    stage[i] = {i ? irf::Activation::kElu : irf::Activation::kIdentity,
                in,
                out,
                kernel,
                memory.numbers<T>(size, scale),
                memory.numbers<T>(out),
                nullptr};
    parameters += size + out;
  }
  const irf::Branch<T> branch{stages, stage.data(), shape.height, shape.width, shape.batch};
  const int64_t batch = shape.batch, event = batch * branch.in_size();
  const T* x = memory.numbers<T>(event);

  irf::BranchOperands<T> forward{};
  forward.x = x;
  forward.g = memory.result<T>(batch * shape.channels.back() * branch.pixels());
  run("branch", memory, irf::cuda::branch(branch, forward, target));

  irf::ResidualLogdetOperands<T> logdet{};
  logdet.x = x;
  logdet.probes = 1;
  logdet.probe = memory.numbers<T>(event);
  logdet.series.terms = 3;
  logdet.series.coefficients = memory.copied(std::vector<T>(3, T(1)));
  logdet.z = memory.result<T>(event);
  logdet.series.value = memory.result<T>(batch);
  logdet.series.neumann = memory.result<T>(event);
  logdet.series.norms = memory.result<T>(batch);
  logdet.series.terms_used = memory.result<int64_t>(batch);
  const auto series = [&](const char* what) { run(what, memory, irf::cuda::residual_logdet(branch, logdet, target)); };
  series("residual_logdet");
  logdet.series.tail = memory.copied(std::vector<T>(3, T(1)));
  logdet.series.tolerance = T(0.3);
  logdet.series.relative = true;
  series("residual_logdet with a stop");
  logdet.series.tail = nullptr;
  const int64_t kept_size = irf::cuda::residual_logdet_kept(branch, logdet, target);
  if (kept_size) logdet.kept = memory.result<T>(kept_size);
  series("residual_logdet that keeps");
  // Any numbers will do for the maps: one of the last stage alone, and one that takes it to itself.
  const int last = stages - 1, channels = stage[last].in_channels, kernel = shape.kernels[last];
  const int64_t alone = channels * branch.pixels(), square = int64_t(channels) * channels * kernel * kernel;
  const irf::Trace<T> trace[] = {{last, -1, 1, memory.numbers<T>(alone), alone},
                                 {last, last, kernel, memory.numbers<T>(square), square}};
  if (stages > 1) {
    logdet.series.traces = {2, trace, logdet.series.coefficients, logdet.series.terms, false};
    series("residual_logdet with traces");
  }

  irf::BranchBackwardOperands<T> backward{};
  backward.x = x;
  backward.grad = memory.numbers<T>(event);
  backward.pairs = 1;
  backward.tangents = logdet.probe;
  backward.cotangents = memory.numbers<T>(event);
  backward.weight = memory.numbers<T>(batch);
  backward.residual = true;
  backward.grad_x = memory.result<T>(event);
  backward.grad_parameters = memory.result<T>(parameters);
  const auto gradient = [&](const char* what) {
    run(what, memory, irf::cuda::branch_backward(branch, backward, target));
  };
  gradient("branch_backward");
  backward.kept = logdet.kept;
  backward.kept_size = kept_size;
  if (kept_size) gradient("branch_backward of what was kept");
  if (stages > 1) {
    backward.traces = logdet.series.traces;
    backward.grad_parameters = memory.result<T>(parameters + alone + square);
    gradient("branch_backward with traces");
  }

  irf::ResidualInverseOperands<T> inverse{};
  inverse.z = x;
  inverse.residual_limit = T(1e-3);
  inverse.max_iterations = inverse.captured_iterations = 5;
  inverse.lipschitz = T(0.9);
  inverse.x = memory.result<T>(event);
  inverse.iterations = memory.result<int64_t>(batch);
  inverse.residual = memory.result<T>(batch);
  run("residual_inverse", memory, irf::cuda::residual_inverse(branch, inverse, target));
}

// A matrix and a convolution.
void norm_ops(const Card& card) {
  const Target target{card, Precision::kFull};
  Memory memory;
  std::vector<irf::NormLayer<float>> layers(2);
  layers[0].out_channels = 70;
  layers[0].in_channels = 130;
  layers[1] = {24, 12, 16, 16, 3, 3, 1, 1, 1, 1, 1, 1, 1, nullptr, nullptr, nullptr};
  std::vector<float*> u, v, results;
  std::vector<const float*> gradients;
  for (irf::NormLayer<float>& layer : layers) {
    layer.weight = memory.numbers<float>(layer.weight_size());
    layer.u = memory.numbers<float>(layer.u_size(), 0.01);
    layer.v = memory.numbers<float>(layer.v_size(), 0.01);
    u.push_back(memory.result<float>(layer.u_size()));
    v.push_back(memory.result<float>(layer.v_size()));
    results.push_back(memory.result<float>(layer.weight_size()));
    gradients.push_back(memory.numbers<float>(layer.weight_size()));
  }
  irf::SpectralNormOperands<float> norm{};
  norm.layers = 2;
  norm.layer = layers.data();
  norm.max_iterations = 3;
  norm.tolerance = -1;
  norm.sigma = memory.result<float>(2);
  norm.iterations = memory.result<int64_t>(2);
  norm.u = u.data();
  norm.v = v.data();
  run("spectral_norm", memory, irf::cuda::spectral_norm(norm, target));

  std::vector<const float*> hints{layers[0].u, layers[1].v};
  std::vector<float*> companions{memory.result<float>(layers[0].u_size()), memory.result<float>(layers[1].v_size())};
  irf::LanczosNormOperands<float> lanczos{};
  lanczos.layers = 2;
  lanczos.layer = layers.data();
  lanczos.companion_hint = hints.data();
  lanczos.seed = memory.copied(std::vector<int64_t>{5});
  lanczos.max_iterations = 14;
  lanczos.tolerance = 1e-3f;
  lanczos.sigma = norm.sigma;
  lanczos.residual = memory.result<float>(2);
  lanczos.iterations = norm.iterations;
  lanczos.u = u.data();
  lanczos.v = v.data();
  lanczos.companion = companions.data();
  run("lanczos_norm", memory, irf::cuda::lanczos_norm(lanczos, target));

  const std::vector<const void*> weights{layers[0].weight, layers[1].weight};
  const std::vector<int64_t> bytes{4 * layers[0].weight_size(), 4 * layers[1].weight_size()};
  const irf::FingerprintOperands hashed{2, weights.data(), bytes.data(), memory.result<uint64_t>(2)};
  run("fingerprint", memory, irf::cuda::fingerprint(hashed, target));

  irf::SpectralNormalizeOperands<float> normalize{};
  normalize.layers = 2;
  normalize.layer = layers.data();
  normalize.sigma = norm.sigma;
  normalize.coeff = memory.copied(std::vector<float>(2, 0.9f));
  normalize.result = results.data();
  run("spectral_normalize", memory, irf::cuda::spectral_normalize(normalize, target));
  normalize.grad = gradients.data();
  normalize.through_sigma = true;
  run("spectral_normalize_backward", memory, irf::cuda::spectral_normalize_backward(normalize, target));
}

// What stands between the blocks of a flow: of vectors, of images of whole vectors, and of ragged ones.
void flow_ops(const Card& card) {
  const Target target{card, Precision::kFull};
  for (const irf::ChannelSizes& sizes : {irf::ChannelSizes{200, 70, 1}, {3, 4, 196}, {70, 3, 35}}) {
    Memory memory;
    const int64_t size = sizes.event_size(), all = sizes.batch * size;
    irf::ActNormOperands<float> op{};
    op.sizes = sizes;
    op.x = memory.numbers<float>(all);
    op.bias = memory.numbers<float>(sizes.channels);
    op.log_scale = memory.numbers<float>(sizes.channels);
    op.z = memory.result<float>(all);
    op.logdet = memory.result<float>(sizes.batch);
    run("actnorm", memory, irf::cuda::actnorm(op, target));

    irf::ActNormBackwardOperands<float> backward{};
    backward.sizes = sizes;
    backward.z = op.x;
    backward.log_scale = op.log_scale;
    backward.grad = memory.numbers<float>(all);
    backward.weight = memory.numbers<float>(sizes.batch);
    backward.grad_x = memory.result<float>(all);
    backward.grad_bias = memory.result<float>(sizes.channels);
    backward.grad_log_scale = memory.result<float>(sizes.channels);
    run("actnorm_backward", memory, irf::cuda::actnorm_backward(backward, target));

    std::vector<int64_t> index(size);
    for (int64_t i = 0; i < size; ++i) index[i] = size - 1 - i;
    irf::RearrangeOperands<float> order{};
    order.batch = sizes.batch;
    order.event_size = size;
    order.x = op.x;
    order.index = memory.copied(index);
    order.z = memory.result<float>(all);
    for (bool transpose : {false, true}) {
      order.transpose = transpose;
      run("rearrange", memory, irf::cuda::rearrange(order, target));
    }
  }
  Memory memory;
  const irf::SumRowsOperands<float> sum{5, 300, memory.numbers<float>(1500), memory.result<float>(300)};
  run("sum_rows", memory, irf::cuda::sum_rows(sum, target));
}

}  // namespace

int main(int count, char** names) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::puts("gpu_driver: no CUDA device");
    return 1;
  }
  const Card card = this_card();
  Card layered = card;  // too little shared memory for anything to be resident
  layered.shared_per_block = 49152;
  layered.shared_per_multiprocessor = 0;
  const Shape dense{{2, 128, 128, 2}, {1, 1, 1}, 0, 0, 37}, image{{4, 32, 32, 4}, {3, 1, 3}, 14, 14, 3};
  const Shape wide{{12, 130, 130, 12}, {3, 1, 3}, 8, 8, 3};
  // Every op takes the fastest precision that is exact enough: only sizes like these run on tensor cores.
  const Shape many{{2, 128, 128, 2}, {1, 1, 1}, 0, 0, 4000}, thick{{12, 64, 64, 12}, {3, 1, 3}, 7, 7, 16};
  const Shape broad{{12, 512, 512, 12}, {3, 1, 3}, 16, 16, 4};
  const std::vector<std::string> wanted(names + 1, names + count);
  const auto chosen = [&](const std::string& name) {
    const bool run = wanted.empty() || std::find(wanted.begin(), wanted.end(), name) != wanted.end();
    if (run) std::printf("%s\n", name.c_str());
    return run;
  };
  // The quick ones first: under a tool the others may not come to an end in time.
  if (chosen("norms")) norm_ops(card);
  if (chosen("flow")) flow_ops(card);
  if (chosen("dense-float32")) branch_ops<float>(dense, card, Precision::kFull);
  if (chosen("image-float32")) branch_ops<float>(image, card, Precision::kFull);
  if (chosen("layered-float32")) branch_ops<float>(wide, layered, Precision::kFull);
  if (chosen("dense-float64")) branch_ops<double>(dense, card, Precision::kFull);
  if (chosen("layered-float64")) branch_ops<double>(wide, layered, Precision::kFull);
  if (chosen("dense-tf32")) branch_ops<float>(many, card, Precision::kTf32);
  if (chosen("dense-bf16")) branch_ops<float>(many, card, Precision::kBf16);
  if (chosen("image-tf32")) branch_ops<float>(thick, card, Precision::kTf32);
  if (chosen("image-bf16")) branch_ops<float>(thick, card, Precision::kBf16);
  if (chosen("layered-tf32")) branch_ops<float>(broad, layered, Precision::kTf32);
  if (chosen("layered-bf16")) branch_ops<float>(broad, layered, Precision::kBf16);
  std::puts("gpu_driver: done");
}
