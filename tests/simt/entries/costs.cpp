// The kernels of a step of the log-determinant and what they are modelled to cost, as text.
#include "cuda/plan/costs.h"

#include <cstdio>

#include "entry.h"

namespace {

struct CostsCase {
  irf::cuda::LogdetStep step;
  int libraries;  // whether the card has those of torch
  char* text;
  int64_t text_bytes;
};

}  // namespace

// A line for each kernel in the order of launches: its name, blocks, slots, bytes and microseconds with tabs between.
extern "C" SIMT_EXPORT const char* kernel_costs(const irf::Branch<float>* branch, CostsCase* c, simt::Target target) {
  return simt::guarded([&] {
    irf::cuda::Card card = simt::find_card(target.card);
    card.libraries = c->libraries != 0;
    std::string all;
    for (const irf::cuda::LaunchedKernel& kernel :
         irf::cuda::logdet_kernels(*branch, c->step, static_cast<irf::cuda::Precision>(target.precision), card)) {
      char line[200];
      std::snprintf(line, sizeof line, "%s\t%lld\t%.17g\t%.17g\t%.17g\n", kernel.name.c_str(),
                    static_cast<long long>(kernel.blocks), kernel.cost.slots, kernel.cost.bytes,
                    kernel.cost.microseconds);
      all += line;
    }
    if (all.size() >= static_cast<size_t>(c->text_bytes))
      throw std::length_error("more kernels than text has room for");
    std::snprintf(c->text, c->text_bytes, "%s", all.c_str());
  });
}

extern "C" SIMT_EXPORT const char* card_sizes(const char* name, int64_t* multiprocessors, int64_t* l2_bytes) {
  return simt::guarded([&] {
    const irf::cuda::Card card = simt::find_card(name);
    *multiprocessors = card.multiprocessors;
    *l2_bytes = card.l2_bytes;
  });
}
