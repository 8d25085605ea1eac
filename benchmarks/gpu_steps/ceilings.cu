// Rates and latencies of this GPU that no kernel exceeds: a line "name value unit" each. Built and run by ceilings.py.
#include <cuda_runtime.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>

namespace {

constexpr int kThreads = 1024, kSteps = 32768, kLanes = 8;

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::printf("%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

__global__ void nothing() {}

extern __shared__ float dynamic[];
__global__ void much_shared() { dynamic[threadIdx.x] = 0; }

__device__ long long nanoseconds() {
  long long now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  return now;
}

// Independent chains of fused multiply-adds; the store keeps them alive. Counts the cycles and the time of each block.
__global__ void __launch_bounds__(kThreads)
    multiply_adds(float* out, float a, float b, long long* cycles, long long* times) {
  const long long first_time = nanoseconds(), first_cycle = clock64();
  float sums[kLanes];
  for (int j = 0; j < kLanes; ++j) sums[j] = threadIdx.x + j;
  for (int i = 0; i < kSteps; ++i)
#pragma unroll
    for (int j = 0; j < kLanes; ++j) sums[j] = fmaf(sums[j], a, b);
  float total = 0;
  for (int j = 0; j < kLanes; ++j) total += sums[j];
  out[blockIdx.x * kThreads + threadIdx.x] = total;
  if (threadIdx.x != 0) return;
  cycles[blockIdx.x] = clock64() - first_cycle;
  times[blockIdx.x] = nanoseconds() - first_time;
}

// Every block reads the same bytes, which stay in L2, past its L1; and counts the cycles.
__global__ void __launch_bounds__(kThreads)
    read_l2(const float4* data, int count, int rounds, float* out, long long* cycles) {
  const long long start = clock64();
  float total = 0;
  for (int round = 0; round < rounds; ++round)
    for (int i = threadIdx.x; i < count; i += kThreads) {
      const float4 v = __ldcg(data + i);
      total += v.x + v.y + v.z + v.w;
    }
  __syncthreads();
  out[blockIdx.x * kThreads + threadIdx.x] = total;
  if (threadIdx.x == 0) cycles[blockIdx.x] = clock64() - start;
}

// One lane follows a chain of addresses.
__global__ void chase(const int* next, int steps, int* out, long long* cycles) {
  int at = 0;
  const long long start = clock64();
  for (int i = 0; i < steps; ++i) at = __ldcg(next + at);
  *cycles = clock64() - start;
  *out = at;
}

template <class Launch>
double microseconds(int repeats, const Launch& launch) {
  cudaEvent_t start, stop;
  check(cudaEventCreate(&start), "cudaEventCreate");
  check(cudaEventCreate(&stop), "cudaEventCreate");
  launch();
  check(cudaDeviceSynchronize(), "warm-up");
  check(cudaEventRecord(start), "cudaEventRecord");
  for (int i = 0; i < repeats; ++i) launch();
  check(cudaEventRecord(stop), "cudaEventRecord");
  check(cudaEventSynchronize(stop), "cudaEventSynchronize");
  float milliseconds = 0;
  check(cudaEventElapsedTime(&milliseconds, start, stop), "cudaEventElapsedTime");
  return 1e3 * milliseconds / repeats;
}

double host_microseconds(int repeats, void (*call)()) {
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < repeats; ++i) call();
  const auto time = std::chrono::steady_clock::now() - start;
  return std::chrono::duration<double, std::micro>(time).count() / repeats;
}

double graph_node_microseconds() {
  constexpr int kNodes = 1000;
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t runnable;
  check(cudaStreamCreate(&stream), "cudaStreamCreate");
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  for (int i = 0; i < kNodes; ++i) nothing<<<1, 32, 0, stream>>>();
  check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  check(cudaGraphInstantiate(&runnable, graph, 0), "cudaGraphInstantiate");
  return microseconds(5, [&] { check(cudaGraphLaunch(runnable, nullptr), "cudaGraphLaunch"); }) / kNodes;
}

void set_limit() {
  check(cudaFuncSetAttribute(much_shared, cudaFuncAttributeMaxDynamicSharedMemorySize, 60000), "cudaFuncSetAttribute");
}

}  // namespace

int main() {
  int multiprocessors = 0;
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0), "cudaDeviceGetAttribute");
  const int blocks = 2 * multiprocessors, count = 1 << 18;  // 4 MiB of float4
  float* out = nullptr;
  float4* data = nullptr;
  long long *cycles = nullptr, *times = nullptr;
  int* next = nullptr;
  check(cudaMalloc(&out, sizeof(float) * blocks * kThreads), "cudaMalloc");
  check(cudaMalloc(&data, sizeof(float4) * count), "cudaMalloc");
  check(cudaMemset(data, 0, sizeof(float4) * count), "cudaMemset");
  check(cudaMallocManaged(&cycles, sizeof(long long) * blocks), "cudaMallocManaged");
  check(cudaMallocManaged(&times, sizeof(long long) * blocks), "cudaMallocManaged");
  check(cudaMallocManaged(&next, sizeof(int) * count), "cudaMallocManaged");

  const double fma = microseconds(20, [&] { multiply_adds<<<blocks, kThreads>>>(out, 0.5f, 1.0f, cycles, times); });
  std::printf("ffma %.4g TFLOP/s\n", 2e-6 * kSteps * kLanes * double(blocks) * kThreads / fma);
  double all_cycles = 0, all_times = 0;  // of the last launch, after tens of milliseconds under load
  for (int i = 0; i < blocks; ++i) all_cycles += double(cycles[i]), all_times += double(times[i]);
  std::printf("clock %.5g MHz\n", 1e3 * all_cycles / all_times);

  const int rounds = 8;
  microseconds(3, [&] { read_l2<<<multiprocessors, kThreads>>>(data, count, rounds, out, cycles); });
  double mean = 0;
  for (int i = 0; i < multiprocessors; ++i) mean += double(cycles[i]) / multiprocessors;
  std::printf("l2_bytes_per_cycle %.4g bytes/cycle/multiprocessor\n", rounds * double(count) * sizeof(float4) / mean);

  const int stride = 32 * 33;  // elements: another line and another slice at every step
  for (int i = 0; i < count; ++i) next[i] = int((i + stride) % count);
  microseconds(2, [&] { chase<<<1, 1>>>(next, 4096, reinterpret_cast<int*>(out), cycles); });
  std::printf("l2_latency %.4g cycles\n", double(cycles[0]) / 4096);

  std::printf("launch_gap %.4g us\n", microseconds(2000, [] { nothing<<<1, 32>>>(); }));
  std::printf("graph_node_gap %.4g us\n", graph_node_microseconds());
  set_limit();
  std::printf("set_shared_limit %.4g host_us\n", host_microseconds(10000, set_limit));
  std::printf("launch %.4g host_us\n", host_microseconds(500, [] { nothing<<<1, 32>>>(); }));
  check(cudaDeviceSynchronize(), "the end");
  return 0;
}
