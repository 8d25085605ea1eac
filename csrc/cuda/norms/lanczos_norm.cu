// Lanczos iteration on A^T A of every layer of a model in one launch, a block per layer, or on A A^T where u is the
// shorter vector: the largest singular value, and its residual. Products run where those of the power iteration do; the
// basis is in the workspace; one thread solves the small eigenproblem, and the stop is decided on the GPU, so the host
// waits for nothing.
#include <algorithm>
#include <climits>

#include "cuda/norms/lanczos_block.cuh"
#include "cuda/norms/norm_layers.cuh"
#include "cuda/ops.h"

namespace irf::cuda {
namespace {

constexpr int kStaticShared = 2048;  // bytes, more than the kernel declares

template <class T>
__global__ __launch_bounds__(kNormThreads) void lanczos_iteration(const NormTask<T>* table, const LanczosRow<T>* rows,
                                                                  T* packed, const int64_t* seed, int most, T tolerance,
                                                                  T* sigma, T* residual, int64_t* iterations) {
  extern __shared__ __align__(16) unsigned char memory[];
  __shared__ LanczosBlock<T> block;
  static_assert(sizeof block + sizeof(Direction) <= kStaticShared, "what the plan leaves for it");
  T* shared = reinterpret_cast<T*>(memory);
  if (threadIdx.x == 0) {
    block.task = table[blockIdx.x];
    block.row = rows[blockIdx.x];
    block.seed = seed;
    block.partial = shared;
  }
  __syncthreads();
  const LanczosNorm<T> norm = block.task.layer.height == 0
                                  ? block.run(MatrixMap<T>(block.task, shared), most, tolerance)
                                  : block.run(ConvolutionMap<T>{block.task, shared, packed}, most, tolerance);
  if (threadIdx.x == 0) {
    sigma[block.task.index] = norm.sigma;
    residual[block.task.index] = norm.residual;
    iterations[block.task.index] = norm.steps;
  }
}

template <class T>
struct LanczosIteration {
  LanczosNormOperands<T> op;
  NormPlan<T> plan;
  std::vector<Buffer<T>> bases;  // in the order of the tasks
  Buffer<NormTask<T>> table;
  Buffer<LanczosRow<T>> row_table;
  Buffer<T> packed;

  LanczosIteration(const LanczosNormOperands<T>& op_, const Card& card, Workspace& workspace)
      : op(op_), plan(plan_norms(op, card, kStaticShared)) {
    for (const NormTask<T>& task : plan.tasks) {
      const int64_t size = std::min(task.u_size, task.v_size);
      const int64_t vectors = std::min({op.max_iterations, size, int64_t(kLargestBasis)}) + 1;
      bases.push_back(workspace.take<T>(vectors * size));
    }
    table = workspace.take<NormTask<T>>(op.layers);
    row_table = workspace.take<LanczosRow<T>>(op.layers);
    packed = workspace.take<T>(plan.workspace);
  }

  cudaError_t launch(const Context& context) const {
    if (op.layers == 0) return cudaSuccess;
    const Memory& memory = context.memory;
    std::vector<LanczosRow<T>> rows;
    for (int i = 0; i < op.layers; ++i) {
      const int index = plan.tasks[i].index;
      rows.push_back({op.companion_hint[index], op.companion[index], memory[bases[i]]});
    }
    prepare_layers(plan, memory[table], memory[packed], context.stream);
    upload(rows.data(), op.layers, memory[row_table], context.stream);
    const int most = static_cast<int>(std::min<int64_t>(op.max_iterations, INT_MAX));
    if (const cudaError_t error = allow_shared(lanczos_iteration<T>, context.card, kStaticShared)) return error;
    const int shared = static_cast<int>(plan.shared * sizeof(T));
    lanczos_iteration<T>
        <<<op.layers, kNormThreads, shared, context.stream>>>(memory[table], memory[row_table], memory[packed], op.seed,
                                                              most, op.tolerance, op.sigma, op.residual, op.iterations);
    return cudaGetLastError();
  }
};

}  // namespace

template <class T>
Operation lanczos_norm(const LanczosNormOperands<T>& op, const Target& target) {
  Workspace workspace;
  LanczosIteration<T> iteration(op, target.card, workspace);
  return Operation(target, workspace, std::move(iteration));
}

template Operation lanczos_norm(const LanczosNormOperands<float>&, const Target&);
template Operation lanczos_norm(const LanczosNormOperands<double>&, const Target&);

}  // namespace irf::cuda
