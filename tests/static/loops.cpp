// The inner loops of the CPU kernels and nothing else, for one instruction set: what tests/static/cpu.py reads.
#if IRF_WITH_NEON
#define IRF_NEON
#endif
#include "cpu/contract_bf16.h"
#include "cpu/product_bf16.h"

namespace irf {
namespace IRF_ISA {
namespace {

template <class T>
struct Loops {
  void (*product)(const PackedWeights<T>&, const T*, const Layout<T>&, const EpilogueOperands<T>&, T*);
  void (*contract)(const WeightSums<T>&, const OperandPair<T>*, int, const Layout<T>&);
};

}  // namespace

// Through tables, so that they are compiled for any caller.
__attribute__((used)) static const Loops<float> kFloatLoops = {product<float>, contract<float>};
__attribute__((used)) static const Loops<double> kDoubleLoops = {product<double>, contract<double>};

}  // namespace IRF_ISA
}  // namespace irf
