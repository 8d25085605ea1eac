// One product of the layered way by a route of the caller's choice, followed by what follows it in a chain: times D.
#include "cuda/layered/chain_step.cuh"
#include "cuda/layered/launch_product.cuh"
#include "entry.h"

namespace {

using irf::cuda::ProductPlan;
using irf::cuda::ProductRoute;

// The mirror is in one_product.py.
struct ProductCase {
  irf::cuda::ProductShape shape;
  int height, width, route;
  const float *rows, *weights, *derivatives;  // rows null: only the plan is wanted
  float* out;
  double microseconds;  // written: modelled, of this route; 0 where there is none, and nothing runs
  int fastest;          // written: the route that the model takes
};

}  // namespace

extern "C" SIMT_EXPORT const char* one_product(ProductCase* c, simt::Target target) {
  return simt::guarded([&] {
    irf::cuda::Card card = simt::find_card(target.card);
    card.libraries = true;  // to be modelled; they are not called from here
    const auto precision = static_cast<irf::cuda::Precision>(target.precision);
    const ProductPlan plan = plan_route(c->shape, static_cast<ProductRoute>(c->route), precision, sizeof(float), card);
    c->microseconds = plan.splits ? plan.microseconds() : 0;
    c->fastest = static_cast<int>(
        model_product(c->shape, precision, sizeof(float), card, irf::cuda::model_constants(card.architecture)).route);
    if (!c->rows || !plan.splits) return;

    const simt::Workspace sums(gathered_elements(plan, c->shape, precision) * sizeof(float));
    const simt::OnStream on(card.shared_per_block);
    irf::cuda::StageProduct<float> product{};
    product.a = c->rows;
    product.b = c->weights;
    product.depth = irf::cuda::channel_pad(c->shape.K, precision);
    product.pitch = irf::cuda::column_pitch(c->shape.N, precision, irf::cuda::Packing::kOperands);
    product.columns = irf::cuda::channel_pad(c->shape.N, precision);
    product.kernel = c->shape.kernel;
    product.height = c->height;
    product.width = c->width;
    product.items = product.samples = c->shape.rows / product.pixels();
    irf::cuda::ChainStep<float> times_derivatives{};
    times_derivatives.pitch = product.columns;
    times_derivatives.d = c->derivatives;
    times_derivatives.result = c->out;
    const irf::cuda::Target on_card{card, precision};
    const irf::cuda::Context context{on_card, irf::cuda::Memory(sums.data(), 0), on.stream, nullptr, nullptr};
    const cudaError_t error = launch_product(product, times_derivatives, plan, context);
    if (error != cudaSuccess) throw std::runtime_error(std::string("returned: ") + cudaGetErrorString(error));
  });
}
