// The C side of gpu.py.
#include "python_api.h"

#include <stdexcept>
#include <string>
#include <vector>

namespace simt {
namespace {

constexpr int kPoison = 0xff;  // a NaN, or -1
constexpr size_t kGuard = 4096;
constexpr int kWarmUps = 2;

std::string found;  // what went wrong in the running call where nothing can be thrown
int copies = 0, replays = 0;
double microseconds = 0;

void note(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();
  found += std::string(found.empty() ? "" : "; ") + what + ": " + cudaGetErrorString(error);
}
void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

int attribute(cudaDeviceAttr which) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}

void* guarded_memory(size_t bytes) {
  void* memory = nullptr;
  check(cudaMalloc(&memory, bytes + 2 * kGuard), "cudaMalloc of the workspace");
  check(cudaMemset(memory, kPoison, bytes + 2 * kGuard), "cudaMemset of the workspace");
  check(cudaDeviceSynchronize(), "cudaMemset of the workspace");  // the stream of the call does not wait for it
  return static_cast<char*>(memory) + kGuard;
}

void check_guard(const char* zone, const char* side) {
  std::vector<unsigned char> bytes(kGuard);
  const cudaError_t error = cudaMemcpy(bytes.data(), zone, kGuard, cudaMemcpyDeviceToHost);
  if (error != cudaSuccess) return note(error, "the guard zone of the workspace");
  for (size_t i = 0; i < kGuard; ++i)
    if (bytes[i] != kPoison) {
      found += std::string(found.empty() ? "" : "; ") + "written " + side + " the workspace, byte " +
               std::to_string(i) + " of its guard zone";
      return;
    }
}

cudaStream_t begin(size_t shared_limit) {
  const int most = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  if (shared_limit > size_t(most))
    throw std::runtime_error("not on this GPU: the plan is for a card with " + std::to_string(shared_limit) +
                             " bytes of shared memory for a block, this one has " + std::to_string(most));
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  if (replays) check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  return stream;
}

// Copies of the call in one graph, so that no launch of a graph is between them.
cudaGraphExec_t repeated(cudaGraph_t once) {
  cudaGraph_t all = nullptr;
  check(cudaGraphCreate(&all, 0), "cudaGraphCreate");
  cudaGraphNode_t before{}, node{};
  for (int i = 0; i < copies; ++i, before = node)
    check(cudaGraphAddChildGraphNode(&node, all, &before, i ? 1 : 0, once), "cudaGraphAddChildGraphNode");
  cudaGraphExec_t result = nullptr;
  check(cudaGraphInstantiate(&result, all, 0), "cudaGraphInstantiate");
  check(cudaGraphDestroy(all), "cudaGraphDestroy");
  return result;
}

void time_captured(cudaStream_t stream) {
  cudaGraph_t once = nullptr;
  check(cudaStreamEndCapture(stream, &once), "cudaStreamEndCapture");
  const cudaGraphExec_t graph = repeated(once);
  cudaEvent_t start = nullptr, stop = nullptr;
  check(cudaEventCreate(&start), "cudaEventCreate");
  check(cudaEventCreate(&stop), "cudaEventCreate");
  for (int i = 0; i < kWarmUps; ++i) check(cudaGraphLaunch(graph, stream), "cudaGraphLaunch");
  check(cudaEventRecord(start, stream), "cudaEventRecord");
  for (int i = 0; i < replays; ++i) check(cudaGraphLaunch(graph, stream), "cudaGraphLaunch");
  check(cudaEventRecord(stop, stream), "cudaEventRecord");
  check(cudaEventSynchronize(stop), "the timed calls");
  float milliseconds = 0;
  check(cudaEventElapsedTime(&milliseconds, start, stop), "cudaEventElapsedTime");
  microseconds = 1e3 * double(milliseconds) / (double(replays) * copies);
  cudaEventDestroy(start);
  cudaEventDestroy(stop);
  cudaGraphExecDestroy(graph);
  cudaGraphDestroy(once);
}

}  // namespace

const char* guarded(const std::function<void()>& body) {
  static std::string message;
  found.clear();
  cudaGetLastError();
  try {
    body();
  } catch (const std::exception& e) {
    found = e.what() + (found.empty() ? "" : "; " + found);
  }
  message = found;
  return message.empty() ? nullptr : message.c_str();
}

Workspace::Workspace(size_t bytes) : memory(bytes ? guarded_memory(bytes) : nullptr), bytes(bytes) {}
Workspace::~Workspace() {
  if (!memory) return;
  char* first = static_cast<char*>(memory);
  check_guard(first - kGuard, "before");
  check_guard(first + bytes, "behind");
  note(cudaFree(first - kGuard), "cudaFree");
}

OnStream::OnStream(size_t shared_limit) : stream(begin(shared_limit)) {}
OnStream::~OnStream() {
  try {
    if (replays) time_captured(stream);
  } catch (const std::exception& e) {
    found += std::string(found.empty() ? "" : "; ") + e.what();
  }
  note(cudaStreamSynchronize(stream), "the kernels");
  note(cudaStreamDestroy(stream), "cudaStreamDestroy");
}

// Null, or why this machine cannot run the entries. `name` has room for 256 characters.
extern "C" SIMT_EXPORT const char* gpu_open(char* name, int* architecture, int* multiprocessors) {
  return guarded([&] {
    cudaDeviceProp properties;
    int device = 0, count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
      cudaGetLastError();
      throw std::runtime_error("no CUDA device: a GPU and its driver are needed, or the emulator (--emulator cpu)");
    }
    check(cudaGetDevice(&device), "cudaGetDevice");
    check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
    if (!attribute(cudaDevAttrCanUseHostPointerForRegisteredMem))
      throw std::runtime_error(std::string("the tests give kernels pointers into host memory, which a ") +
                               properties.name + " on this machine cannot use as they are");
    std::string(properties.name).copy(name, 255);
    *architecture = 10 * properties.major + properties.minor;
    *multiprocessors = properties.multiProcessorCount;
  });
}

extern "C" SIMT_EXPORT const char* gpu_register(void* pages, size_t bytes) {
  return guarded([&] { check(cudaHostRegister(pages, bytes, cudaHostRegisterMapped), "cudaHostRegister"); });
}
extern "C" SIMT_EXPORT const char* gpu_unregister(void* pages) {
  return guarded([&] { check(cudaHostUnregister(pages), "cudaHostUnregister"); });
}

// Memory that host and GPU use by the same address, on the side that used it last: kernels run at full speed on it.
extern "C" SIMT_EXPORT const char* gpu_managed(size_t bytes, void** memory) {
  return guarded([&] { check(cudaMallocManaged(memory, bytes), "cudaMallocManaged"); });
}
extern "C" SIMT_EXPORT void gpu_free(void* memory) { cudaFree(memory); }

// From now on a call is captured, copied so often into one graph, and that replayed so often; 0: run as it is.
extern "C" SIMT_EXPORT void gpu_time_calls(int new_copies, int new_replays) {
  copies = new_copies;
  replays = new_replays;
  microseconds = 0;
}
extern "C" SIMT_EXPORT double gpu_microseconds() { return microseconds; }  // of one copy of the last timed call

// Whether an error has made the GPU useless for the rest of this process.
extern "C" SIMT_EXPORT bool gpu_lost() {
  const bool lost = cudaDeviceSynchronize() != cudaSuccess;
  cudaGetLastError();
  return lost;
}

}  // namespace simt
