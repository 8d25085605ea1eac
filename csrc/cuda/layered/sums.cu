// The products that leave their sums in memory for the kernel of gather.cuh: by taps, with a split reduction, or by a
// library.
#include <type_traits>

#include "cuda/device/library.h"
#include "cuda/layered/gather.cuh"
#include "cuda/layered/product.cuh"

namespace irf::cuda {
namespace {

// An epilogue that only stores, each split to its own place.
template <class T>
struct StoreSums {
  static constexpr int kUnroll = 2;
  T* sums;
  int pitch;
  int64_t split_stride;
  __device__ void begin() { sums += blockIdx.y * split_stride; }
  template <int LANES>
  __device__ __forceinline__ void apply(const RowPlace& place, int column, bool inside, const Vector<T>& v) {
    if (inside) store16(sums + place.row * pitch + column, v);
  }
};

template <class T>
cudaError_t by_library(const StageProduct<T>& product, const Context& context) {
  if constexpr (std::is_same_v<T, float>) {
    return context.libraries->multiply(
        {product.a, product.b, product.depth, product.pitch, product.columns, product.kernel, product.height,
         product.width, product.items, context.precision == Precision::kTf32},
        static_cast<float*>(context.memory.shared()));
  } else {
    return cudaErrorInvalidValue;  // no plan chooses it
  }
}

}  // namespace

template <class T>
cudaError_t put_sums(const StageProduct<T>& product, const ProductPlan& plan, const Context& context,
                     GatheredSums<T>& sums) {
  sums = {static_cast<const T*>(context.memory.shared()), plan.splits, product.columns, 1};
  if (plan.route == ProductRoute::kLibrary) return by_library(product, context);
  StageProduct<T> all_taps = product;
  if (plan.route == ProductRoute::kByTaps) {
    sums.kernel = product.kernel;
    sums.pitch = product.kernel * product.kernel * product.columns;
    all_taps.taps = product.kernel * product.kernel;
    all_taps.kernel = 1;
    all_taps.columns = sums.pitch;
  }
  const StoreSums<T> store{static_cast<T*>(context.memory.shared()), sums.pitch, product.rows() * sums.pitch};
  return launch_tiles(all_taps, store, plan, context.precision, context.stream);
}

template cudaError_t put_sums(const StageProduct<float>&, const ProductPlan&, const Context&, GatheredSums<float>&);
template cudaError_t put_sums(const StageProduct<double>&, const ProductPlan&, const Context&, GatheredSums<double>&);

}  // namespace irf::cuda
