// How the chain of the log-determinant is planned. Reads lines `batch height width terms stages channels[stages + 1]
// kernel[stages]` (the first stage's activation is the identity) and answers, for every known card, with its
// architecture and `resident family threads blocks shared_bytes`.
#include <iostream>

#include "cuda/plan/plan.h"

int main() {
  using namespace irf::cuda;
  BranchShape shape{};
  int terms;
  while (std::cin >> shape.batch >> shape.height >> shape.width >> terms >> shape.stages) {
    if (shape.stages < 1 || shape.stages > kMaxStages) return 1;
    for (int i = 0; i <= shape.stages; ++i) std::cin >> shape.channels[i];
    for (int i = 0; i < shape.stages; ++i) std::cin >> shape.kernel[i];
    shape.identity[0] = true;
    for (const Card& card : kKnownCards) {
      const WalkRequest request{WalkKind::kTransposed, 1, terms, true, false};
      const ResidentPlan plan = plan_walk(shape, request, Precision::kFull, sizeof(float), card);
      std::cout << card.architecture << ' ' << plan.resident;
      if (plan.resident)
        std::cout << ' ' << static_cast<int>(plan.family) << ' ' << plan.threads << ' ' << plan.blocks << ' '
                  << plan.shared_bytes;
      std::cout << '\n';
    }
  }
}
